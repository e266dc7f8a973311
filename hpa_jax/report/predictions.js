/* The predictions page: `data` is what report/predictions.py wrote. */
const data = JSON.parse(document.getElementById("data").textContent);
const images = data.images, classes = data.classes, thresholds = data.thresholds;
const HUES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
const $ = id => document.getElementById(id);

// A label's certainty: its score as a multiple of its threshold.
const ratio = (image, c) => thresholds[c] === null ? 0 : image.scores[c] / Math.max(thresholds[c], 1e-6);
const sorted = image => [...image.labels].sort((a, b) => ratio(image, b) - ratio(image, a));
images.forEach((image, place) => {
  image.place = place;
  image.order = sorted(image);
  image.best = Math.max(...classes.map((_, c) => ratio(image, c)));
});
const counts = classes.map((_, c) => images.filter(image => image.labels.includes(c)).length);
const frequent = counts.map((n, c) => [n, c]).filter(([n]) => n).sort((a, b) => b[0] - a[0]).map(([, c]) => c).slice(0, HUES.length);
const hue = c => frequent.includes(c) ? HUES[frequent.indexOf(c)] : "#8794a1";
const worth = c => data.f1[c] === null ? "–" : data.f1[c].toFixed(2);
const names = labels => labels.length ? labels.map(c => classes[c]).join(", ") : "no label";
const chosen = new Set();

/* ---- filters ---- */
for (const c of classes.map((_, c) => c).filter(c => counts[c]))
  $("class").append(element("option", {value: String(c)}, `${classes[c]} (${counts[c]})`));
if (images.some(image => !image.labels.length)) $("class").append(element("option", {value: "none"}, "no label"));
if (!images.some(image => image.flagged)) $("flag").closest("label").hidden = true;

const passes = image => {
  const text = $("search").value.trim().toLowerCase();
  const wanted = $("class").value, sure = $("sure").value, flag = $("flag").value;
  if (text && !image.id.toLowerCase().includes(text)) return false;
  if (wanted === "none" ? image.labels.length : wanted !== "" && !image.labels.includes(Number(wanted))) return false;
  if (sure === "clear" && image.best < 2) return false;
  if (sure === "doubtful" && image.best >= 1.25) return false;
  return !flag || (flag === "flagged") === image.flagged;
};
const ORDERS = {
  given: (a, b) => a.place - b.place,
  name: (a, b) => a.id.localeCompare(b.id, undefined, {numeric: true}),
  sure: (a, b) => b.best - a.best,
  unsure: (a, b) => a.best - b.best,
  many: (a, b) => b.labels.length - a.labels.length,
  score: (a, b) => ratio(b, Number($("class").value)) - ratio(a, Number($("class").value)),
};
let visible = [];
const PAGE = 600;  // cards that are made at once
const CHIPS = 6;  // labels on a card
let made = 0;

function refresh() {
  const one = $("class").value !== "" && $("class").value !== "none";
  $("order").querySelector("[value=score]").disabled = !one;
  if (!one && $("order").value === "score") $("order").value = "given";
  visible = images.filter(passes).sort(ORDERS[$("order").value]);
  $("grid").replaceChildren();
  made = 0;
  more();
  $("count").textContent = visible.length === images.length ? `${images.length} images` : `${visible.length} of ${images.length} images`;
  $("nothing").hidden = visible.length > 0;
  if (!$("map").hidden) drawMap();
  say();
}
function more() {
  const part = visible.slice(made, made + PAGE);
  $("grid").append(...part.map(card));
  made += part.length;
  $("more").hidden = made >= visible.length;
}
function say() {
  $("chosen").textContent = chosen.size ? `CSV of ${chosen.size} selected` : `CSV of ${visible.length} shown`;
  $("chosen").disabled = !chosen.size && !visible.length;
  $("clear").hidden = !chosen.size;
}
function chip(image, c) {
  const score = image.scores[c] === null ? "–" : image.scores[c].toFixed(2);
  const known = data.f1 ? `, probability ${image.probabilities[c].toFixed(2)}; F1 ${worth(c)} on ${data.support[c]} validation images` : "";
  return element("li", {class: "chip", style: `--hue: ${hue(c)}`,
    title: thresholds[c] === null ? "" : `score ${score}, threshold ${thresholds[c].toFixed(2)}${known}`}, `${classes[c]} `, element("b", {}, score));
}
function chips(image) {
  const list = element("ul", {class: "chips", "aria-label": "Labels"}, ...image.order.slice(0, CHIPS).map(c => chip(image, c)));
  if (image.order.length > CHIPS) list.append(element("li", {class: "chip more", title: names(image.order.slice(CHIPS))}, `and ${image.order.length - CHIPS} more`));
  if (!image.labels.length) list.append(element("li", {class: "chip"}, "no label"));
  return list;
}
function card(image) {
  const box = element("input", {type: "checkbox", checked: chosen.has(image), "aria-label": `Select ${image.id}`,
    onchange: () => { chosen[box.checked ? "add" : "delete"](image); item.classList.toggle("chosen", box.checked); say(); }});
  const item = element("li", {class: `card${image.flagged ? " flagged" : ""}${chosen.has(image) ? " chosen" : ""}`},
    element("button", {type: "button", class: "open", "aria-label": `Open ${image.id}: ${names(image.order)}`, onclick: () => open(visible, visible.indexOf(image))},
      cellsCanvas(image, 256, image.id)),
    element("div", {class: "text"}, element("div", {class: "name"}, box, element("span", {}, image.id)), chips(image),
      image.flagged ? element("p", {class: "flag"}, `unlike the training images: ${image.why}`) : null,
      image.unscaled ? element("p", {class: "flag"}, "scale unknown") : null));
  return item;
}

/* ---- large view ---- */
const open = viewer(image => ({name: image.id, cells: image, micrometres: image.um && image.um * image.w / Math.max(image.w, image.h),
  panel: setMap => {
    const parts = [];
    if (image.flagged) parts.push(element("p", {class: "flag"}, `Unlike the training images: ${image.why}. Its scores may mean little.`));
    if (image.unscaled) parts.push(element("p", {class: "flag"}, "Scale unknown: the file doesn't state its pixel size, so its magnification may not be the training images'."));
    const maps = Object.entries(image.maps || {});
    if (maps.length) {
      const buttons = [["", "none"], ...maps.map(([c]) => [c, classes[c]])].map(([c, name]) => element("button", {type: "button", "aria-pressed": String(c === ""),
        onclick: event => {
          for (const other of buttons) other.setAttribute("aria-pressed", String(other === event.currentTarget));
          setMap(c === "" ? null : {...data.maps, bytes: image.maps[c]});
        }}, name));
      parts.push(element("h3", {}, `Where the network sees the label (${data.maps.method})`), element("div", {class: "maps"}, ...buttons),
        element("p", {class: "note"}, data.maps.note));
    }
    const rows = classes.map((_, c) => c).sort((a, b) => ratio(image, b) - ratio(image, a) || image.scores[b] - image.scores[a]);
    const table = element("table", {class: "scores", "data-fold": "12"}, element("thead", {}, element("tr", {}, element("th", {class: "text"}, "class"), element("th", {}, "score"), element("th", {}, "threshold"),
      ...(data.f1 ? ["probability", "F1", "validation images"].map(name => element("th", {}, name)) : []), element("th", {class: "text"}, ""))),
      element("tbody", {}, ...rows.map(c => element("tr", {class: image.labels.includes(c) ? "assigned" : ""},
        element("td", {class: "text"}, `${image.labels.includes(c) ? "✓ " : ""}${classes[c]}`), element("td", {}, image.scores[c] === null ? "–" : image.scores[c].toFixed(3)),
        element("td", {}, thresholds[c] === null ? "never" : thresholds[c].toFixed(3)),
        ...(data.f1 ? [image.probabilities[c].toFixed(3), worth(c), String(data.support[c])].map(text => element("td", {}, text)) : []),
        element("td", {class: "bar-cell"}, element("div", {class: "meter"}, element("i", {style: `width: ${100 * Math.min(1, image.scores[c] || 0)}%`}),
          thresholds[c] === null ? null : element("u", {style: `left: ${100 * Math.min(1, thresholds[c])}%`})))))));
    const scroll = element("div", {class: "scroll"}, table);
    const holder = element("div", {}, element("h3", {}, "Scores and thresholds of all classes"), scroll,
      data.f1 ? element("p", {class: "note"}, "Probability: of the run's validation images with this score, so many have the class. F1 and images: of the class on validation.") : null);
    parts.push(holder);
    sortable(table);
    if (image.near?.length) {
      parts.push(element("h3", {}, "Nearest labelled images"), element("div", {class: "near"}, ...image.near.map(([g, similarity]) => {
        const other = data.gallery[g];
        return element("figure", {}, cellsCanvas(other, 160, other.id), element("figcaption", {}, element("b", {}, names(other.labels)), element("div", {class: "id"}, `${other.id}, similarity ${similarity.toFixed(2)}`)));
      })), element("p", {class: "note"}, "Labelled images of the run, nearest by the cosine of the network's embeddings."));
    }
    return parts;
  }}));

/* ---- the map of embeddings ---- */
function mark(context, kind, x, y, r) {
  context.beginPath();
  if (kind === 0) context.arc(x, y, r, 0, 7);
  else if (kind === 1) context.rect(x - r * .9, y - r * .9, r * 1.8, r * 1.8);
  else if (kind === 2) { context.moveTo(x, y - r * 1.2); context.lineTo(x + r * 1.1, y + r * .8); context.lineTo(x - r * 1.1, y + r * .8); context.closePath(); }
  else { context.moveTo(x, y - r * 1.25); context.lineTo(x + r * 1.25, y); context.lineTo(x, y + r * 1.25); context.lineTo(x - r * 1.25, y); context.closePath(); }
  context.fill();
}
const kind = c => frequent.includes(c) ? frequent.indexOf(c) % 4 : 0;
let points = [];
function drawMap() {
  const canvas = $("map"), dense = window.devicePixelRatio || 1, width = canvas.clientWidth, height = Math.max(300, Math.min(640, width * .6, window.innerHeight - 260));
  [canvas.width, canvas.height] = [width * dense, height * dense];
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(dense, dense);
  const known = images.filter(image => image.xy), kept = new Set(visible);
  const ends = k => [Math.min(...known.map(image => image.xy[k])), Math.max(...known.map(image => image.xy[k]))];
  const [[x0, x1], [y0, y1]] = [ends(0), ends(1)], margin = 22;
  points = known.map(image => ({image, x: margin + (width - 2 * margin) * (image.xy[0] - x0) / (x1 - x0 || 1), y: margin + (height - 2 * margin) * (1 - (image.xy[1] - y0) / (y1 - y0 || 1))}));
  for (const {image, x, y} of points.sort((a, b) => kept.has(a.image) - kept.has(b.image))) {
    const c = image.order[0];
    context.globalAlpha = kept.has(image) ? .9 : .12;
    context.fillStyle = c === undefined ? "#8794a1" : hue(c);
    mark(context, c === undefined ? 0 : kind(c), x, y, images.length > 2000 ? 3 : 5);
    if (image.flagged) { context.strokeStyle = "#8a3300"; context.lineWidth = 1.5; context.beginPath(); context.arc(x, y, 8, 0, 7); context.stroke(); }
  }
}
$("map").addEventListener("click", event => {
  const box = $("map").getBoundingClientRect();
  const near = points.filter(point => visible.includes(point.image)).map(point => [Math.hypot(point.x - event.clientX + box.left, point.y - event.clientY + box.top), point.image]).sort((a, b) => a[0] - b[0])[0];
  if (near && near[0] < 25) open(visible, visible.indexOf(near[1]));
});
for (const c of frequent) {
  const sample = element("canvas", {width: 32, height: 32, "aria-hidden": "true"}), context = sample.getContext("2d");
  context.fillStyle = hue(c);
  mark(context, kind(c), 16, 16, 9);
  $("legend").append(element("li", {}, sample, classes[c]));
}
$("legend").append(element("li", {}, "grey: other classes; ringed: unlike the training images"));

function show(view) {
  for (const name of ["grid", "map"]) $(`to-${name}`).setAttribute("aria-pressed", String(name === view));
  $("grid").hidden = view !== "grid";
  $("more").hidden = view !== "grid" || made >= visible.length;
  for (const id of ["map", "legend", "map-note"]) $(id).hidden = view !== "map";
  if (view === "map") drawMap();
}

/* ---- download ---- */
const cell = value => {
  let text = String(value);
  if (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`;  // no formula for a spreadsheet
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
function csv(rows) {
  const unscaled = images.some(image => image.unscaled);
  const head = ["id", "labels", "class_numbers", "unlike_training", "why", ...(unscaled ? ["scale_unknown"] : []), ...classes];
  const lines = rows.map(image => [image.id, image.labels.map(c => classes[c]).join("; "), image.labels.join(" "), image.flagged ? "True" : "False", image.why, ...(unscaled ? [image.unscaled ? "True" : "False"] : []), ...image.scores.map(s => s === null ? "" : s)]);
  return [head, ...lines].map(line => line.map(cell).join(",")).join("\r\n") + "\r\n";
}
$("chosen").addEventListener("click", () => {
  const rows = chosen.size ? images.filter(image => chosen.has(image)) : visible;
  const link = element("a", {href: URL.createObjectURL(new Blob(["\ufeff" + csv(rows)], {type: "text/csv"})), download: "predictions.csv"});
  link.click();
  URL.revokeObjectURL(link.href);
});
$("clear").addEventListener("click", () => { chosen.clear(); refresh(); });
$("all").addEventListener("click", () => { for (const image of visible) chosen.add(image); refresh(); });

for (const id of ["class", "sure", "flag", "order"]) $(id).addEventListener("change", refresh);
$("search").addEventListener("input", refresh);
$("more").addEventListener("click", more);
$("to-grid").addEventListener("click", () => show("grid"));
$("to-map").addEventListener("click", () => show("map"));
$("to-map").hidden = !images.some(image => image.xy);
$("switches").append(channelControls());
if (window.matchMedia("(max-width: 760px)").matches) $("filters").open = false;
document.addEventListener("keydown", event => {
  if (event.key === "/" && !event.target.matches("input, select") && !document.querySelector("dialog[open]")) { event.preventDefault(); $("filters").open = true; $("search").focus(); }
});
window.addEventListener("resize", () => { if (!$("map").hidden) drawMap(); });
refresh();
