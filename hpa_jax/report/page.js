/* The report: its images enlarge, its tables sort and fold, a class row opens its images. */
const figures = [...document.querySelectorAll("figure[data-cells]")].map(figure => {
  const name = figure.dataset.name;
  return {figure, name, images: JSON.parse(figure.dataset.cells)};
});
const views = [];
for (const {figure, name, images} of figures) {
  const captions = () => [...figure.querySelectorAll("figcaption div")].map(line => line.cloneNode(true));
  const holder = figure.querySelector(".images");
  for (const cells of images) {
    const view = {name, cells, captions, group: figure.closest(".cards")};
    views.push(view);
    holder.append(element("button", {type: "button", class: "open", "aria-label": `Enlarge ${name}`,
      onclick: () => { const list = views.filter(other => other.group === view.group); open(list, list.indexOf(view)); }}, cellsCanvas(cells, 256, name)));
  }
}
const open = viewer(view => ({name: view.name, cells: view.cells, panel: () => view.captions()}));
const switches = document.getElementById("switches");
if (figures.length) switches.append(channelControls()); else switches.hidden = true;

for (const row of document.querySelectorAll("tr.detail")) {
  const owner = row.previousElementSibling, cell = owner.cells[0];
  const button = element("button", {type: "button", class: "row", "aria-expanded": "false", title: "show errors and examples",
    onclick: () => { row.hidden = !row.hidden; button.setAttribute("aria-expanded", String(!row.hidden)); }}, cell.textContent);
  cell.replaceChildren(button);
  owner.detail = row;
}
for (const table of document.querySelectorAll("table")) sortable(table);
if (window.matchMedia("(max-width: 900px)").matches) document.querySelector("nav details").open = false;
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => {
  if (window.matchMedia("(max-width: 900px)").matches) document.querySelector("nav details").open = false;
});
