"use strict";
/* The app's page: files up, ids and channels shown, answers in a frame. */
const $ = id => document.getElementById(id);
const session = document.body.dataset.session;
const headers = {"X-Requested-By": "hpa_jax"};

function tell(text) { $("status").textContent = text; }
function complain(text) { $("error").textContent = text; if (text) tell(""); }
function options() { return {pattern: $("pattern").value.trim(), channels: $("channels").value.trim(), planes: $("planes").value.trim(), yellow: $("yellow").value, table: $("table_name").value.trim()}; }

async function ask(verb) {
  const answer = await fetch(`/${session}/${verb}`, {method: "POST", headers, body: JSON.stringify(options())});
  const found = await answer.json();
  if (found.error) throw new Error(found.error);
  return found;
}

async function send(files) {
  complain("");
  $("answers").replaceChildren();
  const bar = $("progress");
  [bar.hidden, bar.max, bar.value] = [false, files.length, 0];
  try {
    for (const [name, file] of files) {
      tell(`${bar.value + 1} of ${files.length}: ${name}`);
      const answer = await fetch(`/${session}/file?name=${encodeURIComponent(name)}`, {method: "PUT", headers, body: file});
      const found = await answer.json();
      if (found.error) throw new Error(`${name}: ${found.error}`);
      bar.value += 1;
    }
    await look();
  } catch (error) { complain(error.message); $("check").hidden = false; } finally { bar.hidden = true; }
}

async function look() {
  complain("");
  $("check").hidden = false;
  try {
    const found = await ask("found");
    const rows = found.images.map(image => {
      const row = document.createElement("tr");
      for (const text of [image.id, image.channels.join(", ")]) { const cell = document.createElement("td"); cell.className = "text"; cell.textContent = text; row.append(cell); }
      return row;
    });
    const table = document.createElement("table");
    const head = document.createElement("tr");
    for (const text of ["image", "channels"]) { const cell = document.createElement("th"); cell.className = "text"; cell.textContent = text; head.append(cell); }
    table.append(head, ...rows);
    $("table").replaceChildren(table);
    $("count").textContent = `${found.count} images`;
    tell("");
    $("go").disabled = false;
  } catch (error) { $("count").textContent = "No images"; $("table").replaceChildren(); $("go").disabled = true; complain(error.message); }
}

async function label() {
  complain("");
  tell("Labelling; the first time takes longer, as the program is compiled …");
  $("go").disabled = true;
  try {
    const found = await ask("predict");
    tell(found.said);
    const frame = document.createElement("iframe");
    frame.src = `/${session}/result/index.html?${Date.now()}`;
    frame.title = "Predictions";
    $("answers").replaceChildren(frame);
    $("csv").href = `/${session}/result/predictions.csv`;
    $("csv").hidden = !found.csv;
    $("bad").hidden = !found.bad.length;
    $("bad").querySelector("summary").textContent = `${found.bad.length} problems with files`;
    $("bad").querySelector("ul").replaceChildren(...found.bad.map(line => { const item = document.createElement("li"); item.textContent = line; return item; }));
  } catch (error) { complain(error.message); } finally { $("go").disabled = false; }
}

/* Files of a drop, with the paths of folders. */
async function dropped(items) {
  const files = [];
  async function walk(entry, path) {
    if (entry.isFile) files.push([path + entry.name, await new Promise((done, failed) => entry.file(done, failed))]);
    if (entry.isDirectory) {
      const reader = entry.createReader();
      for (;;) {
        const part = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (!part.length) break;
        for (const inner of part) await walk(inner, `${path}${entry.name}/`);
      }
    }
  }
  const entries = [...items].map(item => item.webkitGetAsEntry?.() || null);
  const plain = [...items].map(item => item.getAsFile?.()).filter(Boolean);
  if (entries.every(entry => entry === null)) return plain.map(file => [file.name, file]);
  for (const entry of entries) if (entry) await walk(entry, "");
  return files;
}

const zone = $("drop");
for (const kind of ["dragover", "dragenter"]) zone.addEventListener(kind, event => { event.preventDefault(); zone.classList.add("over"); });
zone.addEventListener("dragleave", () => zone.classList.remove("over"));
zone.addEventListener("drop", async event => { event.preventDefault(); zone.classList.remove("over"); await send(await dropped(event.dataTransfer.items)); });
for (const id of ["files", "folder"]) $(id).addEventListener("change", event => send([...event.target.files].map(file => [file.webkitRelativePath || file.name, file])));
$("again").addEventListener("click", look);
$("go").addEventListener("click", label);
