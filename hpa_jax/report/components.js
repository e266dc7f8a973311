"use strict";
/* What both pages use: images whose channels switch, the large view, tables that sort and fold.

An image is one grey file of four planes, red | green over blue | yellow, each `w` x `h` pixels. It
is shown by compositing alone (multiply by the channel's colour, add up), which also works where the
page lies on a disk and may not read the pixels of a file beside it. */
const CHANNELS = ["red", "green", "blue", "yellow"];
const STAINS = ["microtubules", "protein", "nucleus", "ER"];
const COLOURS = {
  standard: ["#ff0000", "#00ff00", "#0000ff", "#ffff00"],
  safe: ["#d55e00", "#00ffb0", "#0050ff", "#9a9a9a"],
};
const shown = {on: [true, true, true, false], grey: false, bright: 1, palette: "standard"};
const redraw = new Set();  // functions that draw again what is on the screen

function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

const loaded = new Map();  // the last few images, decoded
function load(source) {
  if (!loaded.has(source)) {
    const image = new Image();
    loaded.set(source, new Promise((done, failed) => {
      image.onload = () => done(image);
      image.onerror = () => failed(new Error("image not readable"));
      image.src = source;
    }));
    if (loaded.size > 40) loaded.delete(loaded.keys().next().value);
  }
  return loaded.get(source);
}

/* Draws an image {src, w, h} on a canvas of its own number of pixels. */
async function draw(canvas, cells) {
  const image = await load(cells.src);
  const [width, height] = [canvas.width, canvas.height];
  const target = canvas.getContext("2d");
  const layer = element("canvas", {width, height});
  const paint = layer.getContext("2d");
  target.globalCompositeOperation = "source-over";
  target.fillStyle = "#000";
  target.fillRect(0, 0, width, height);
  const wanted = shown.grey ? [1] : [0, 1, 2, 3].filter(k => shown.on[k]);
  for (const k of wanted) {
    paint.globalCompositeOperation = "source-over";
    paint.drawImage(image, (k % 2) * cells.w, Math.floor(k / 2) * cells.h, cells.w, cells.h, 0, 0, width, height);
    if (!shown.grey) {
      paint.globalCompositeOperation = "multiply";
      paint.fillStyle = COLOURS[shown.palette][k];
      paint.fillRect(0, 0, width, height);
    }
    target.globalCompositeOperation = "lighter";
    target.drawImage(layer, 0, 0);
  }
  canvas.style.filter = shown.bright === 1 ? "" : `brightness(${shown.bright})`;
}

/* Buttons of the channels, brightness, colours; all of them on a page act together. */
function channelControls() {
  const group = element("span", {class: "channels", role: "group", "aria-label": "Channels"});
  const buttons = CHANNELS.map((name, k) => element("button", {
    type: "button", title: `${name}: ${STAINS[k]}`,
    onclick: () => { shown.on[k] = shown.grey ? true : !shown.on[k]; shown.grey = false; update(); },
  }, STAINS[k]));
  const grey = element("button", {type: "button", class: "plain", title: "the protein channel alone, in grey",
    onclick: () => { shown.grey = !shown.grey; update(); }}, "protein in grey");
  const bright = element("input", {type: "range", min: ".5", max: "4", step: ".1", "aria-label": "Brightness",
    oninput: () => { shown.bright = Number(bright.value); update(); }});
  const palette = element("button", {type: "button", class: "plain", title: "colours that colour-blind people tell apart",
    onclick: () => { shown.palette = shown.palette === "safe" ? "standard" : "safe"; update(); }}, "colour-blind safe");
  group.append(...buttons, grey, element("label", {}, "brightness ", bright), palette);
  function show() {
    buttons.forEach((button, k) => {
      button.setAttribute("aria-pressed", String(shown.on[k] && !shown.grey));
      button.style.setProperty("--channel", COLOURS[shown.palette][k]);
    });
    grey.setAttribute("aria-pressed", String(shown.grey));
    palette.setAttribute("aria-pressed", String(shown.palette === "safe"));
    bright.value = shown.bright;
  }
  function update() { for (const drawn of [...redraw]) drawn(); }
  redraw.add(show);
  show();
  return group;
}

/* A canvas that draws itself when it comes into view, and again when a channel is switched. */
const seen = typeof IntersectionObserver === "undefined" ? null : new IntersectionObserver(entries => {
  for (const entry of entries) {
    entry.target.inView = entry.isIntersecting;
    if (entry.isIntersecting) entry.target.show();
  }
}, {rootMargin: "300px"});

function cellsCanvas(cells, side, label) {
  const scale = side / Math.max(cells.w, cells.h);
  const canvas = element("canvas", {class: "cells", width: Math.max(1, Math.round(cells.w * scale)),
    height: Math.max(1, Math.round(cells.h * scale)), role: "img", "aria-label": label});
  let state = "";
  canvas.show = () => {
    const now = JSON.stringify(shown);
    if (state === now) return;
    state = now;
    draw(canvas, cells).catch(() => { canvas.setAttribute("aria-label", `${label}: image not readable`); canvas.dataset.broken = "1"; });
  };
  if (seen) seen.observe(canvas); else canvas.show();
  return canvas;
}
redraw.add(() => { for (const canvas of document.querySelectorAll("canvas.cells")) if (canvas.show && (canvas.inView || !seen)) canvas.show(); });

/* A length of 1, 2 or 5 times a power of ten that takes up to a quarter of the image's width. */
function scaleBar(micrometres) {
  if (!micrometres) return null;
  const most = micrometres / 4;
  const ten = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map(step => step * ten).find(step => step <= most);
  return element("div", {class: "scalebar", style: `width: ${100 * length / micrometres}%`}, `${Number(length.toPrecision(2))} µm`);
}

/* Heat of a map (bytes, row by row) over the square of the image that the network read. */
function overlay(map, cells) {
  const bytes = Uint8Array.from(atob(map.bytes), c => c.charCodeAt(0));
  const small = element("canvas", {width: map.w, height: map.h});
  const pixels = new ImageData(map.w, map.h);
  bytes.forEach((value, i) => {
    const x = value / 255;
    pixels.data.set([255 * Math.min(1, 1.6 * x), 255 * x * x * .85, 255 * (.55 * (1 - x)) * Math.min(1, 4 * x), 255 * Math.min(.6, x)], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const side = map.whole ? null : Math.min(cells.w, cells.h);
  const [width, height] = map.whole ? [cells.w, cells.h] : [side, side];
  const large = element("canvas", {class: "overlay", width: 256, height: 256, "aria-hidden": "true"});
  const context = large.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, 256, 256);
  large.style.cssText = `left: ${50 - 50 * width / cells.w}%; top: ${50 - 50 * height / cells.h}%; width: ${100 * width / cells.w}%; height: ${100 * height / cells.h}%;`;
  return large;
}

/* One dialog for all large views. fill(index) -> {title, cells, side}; it may be called again. */
function viewer(fill) {
  let place = 0, order = [];
  const title = element("h2", {tabIndex: -1, autofocus: true});
  const body = element("div", {class: "body"});
  const step = by => { if (place + by >= 0 && place + by < order.length) open(order, place + by); };
  const back = element("button", {type: "button", onclick: () => step(-1), "aria-label": "Previous image"}, "‹ previous");
  const on = element("button", {type: "button", onclick: () => step(1), "aria-label": "Next image"}, "next ›");
  const close = element("button", {type: "button", onclick: () => dialog.close()}, "close");
  const dialog = element("dialog", {"aria-label": "Image"}, element("div", {class: "bar"}, back, on, title, close), body);
  dialog.addEventListener("keydown", event => {
    if (event.target.matches("input, select")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  function open(list, number) {
    [order, place] = [list, number];
    const {name, cells, panel, micrometres} = fill(order[place]);
    title.textContent = `${name}  (${place + 1} of ${order.length})`;
    back.disabled = place === 0;
    on.disabled = place === order.length - 1;
    const view = element("div", {class: "view"});
    const canvas = element("canvas", {class: "cells", width: cells.w, height: cells.h, role: "img", "aria-label": name});
    canvas.show = () => draw(canvas, cells).catch(() => { canvas.dataset.broken = "1"; });
    canvas.inView = true;
    canvas.show();
    view.style.width = `min(100%, calc(70vh * ${cells.w} / ${cells.h}))`;
    view.append(canvas);
    const bar = scaleBar(micrometres);
    if (bar) view.append(bar);
    const left = element("div", {}, view, element("div", {class: "controls", style: "margin-top: .6rem"}, channelControls()));
    const setMap = map => { view.querySelector(".overlay")?.remove(); if (map) view.append(overlay(map, cells)); };
    body.replaceChildren(left, element("div", {}, ...panel(setMap)));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }
  return open;
}

/* Tables: a click on a column's name sorts; rows beyond data-fold are hidden until asked for. */
function sortable(table) {
  const head = table.querySelector("tr:not(.groups)");
  const rows = () => [...table.querySelectorAll("tr:not(.detail)")].filter(row => row.querySelector(":scope > td"));
  const value = (row, k) => {
    const text = row.cells[k]?.textContent.trim() ?? "";
    const number = parseFloat(text.replace(/,/g, "").replace("−", "-"));
    return Number.isNaN(number) ? text.toLowerCase() : number;
  };
  [...head.cells].forEach((cell, k) => {
    if (!cell.textContent.trim()) return;
    const button = element("button", {type: "button", class: "sort", title: "sort by this column"}, cell.textContent);
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") !== "descending" && !(cell.classList.contains("text") && cell.getAttribute("aria-sort") !== "ascending");
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = rows().map(row => [value(row, k), row]).sort(([a], [b]) => {
        const texts = (typeof a === "string") - (typeof b === "string");  // dashes and names last
        return texts || (down ? -1 : 1) * (a < b ? -1 : a > b ? 1 : 0);
      });
      sorted[0]?.[1].parentNode.append(...sorted.flatMap(([, row]) => row.detail ? [row, row.detail] : [row]));
      fold();
    });
  });
  const most = Number(table.dataset.fold || 0);
  let all = !most || rows().length <= most + 3;
  function fold() { rows().forEach((row, place) => {
    for (const part of [row, row.detail]) part?.classList.toggle("folded", !all && place >= most);
  }); }
  if (!all) {
    const more = element("button", {type: "button", onclick: () => { all = !all; more.textContent = text(); fold(); }});
    const text = () => all ? "show fewer rows" : `show all ${rows().length} rows`;
    more.textContent = text();
    table.closest(".scroll").after(more);
  }
  fold();
}
