"use strict";
// All of this is extra: the page is whole without it.  Nothing here is text from a result but by textContent.

const make = (name, properties, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

// --- tables: a click on a heading sorts, figures by what they amount to

const UNITS = {
  ns: 1e-9, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600, B: 1, kB: 1e3, MB: 1e6, GB: 1e9,
  KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, k: 1e3, M: 1e6, G: 1e9,
};

function amount(text) {
  const plain = text.replace(/,/g, "").replace(/\u2212/g, "-");
  const [first, second] = plain.matchAll(/([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*([a-zµ]*)/gi);
  const one = (found) => Number(found[1]) * (UNITS[found[2]] ?? 1);
  if (!first) return null;
  return one(first) + (second && ["h", "min"].includes(first[2]) ? one(second) : 0); // 4 min 31 s, but 19.1 to 20.2
}

function sort(table, column) {
  const headings = [...table.tHead.rows[0].cells];
  const heading = headings[column];
  const down = heading.ariaSort === "ascending";
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const figures = heading.classList.contains("n");
  const compare = figures ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", { numeric: true });
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const text = row.cells[column].textContent.trim();
    return [figures ? amount(text) : text || null, row];
  });
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last either way
    return down ? compare(b, a) : compare(a, b);
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table")) {
  if (!table.tHead) continue;
  const headings = [...table.tHead.rows[0].cells];
  for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, n) => (cell.dataset.of = headings[n].textContent));
  if (table.tBodies[0].rows.length < 2) continue;
  headings.forEach((heading, n) => {
    if (!heading.textContent.trim()) return;
    const button = make("button", { type: "button", title: "Sort" }, ...heading.childNodes);
    button.addEventListener("click", () => sort(table, n));
    heading.append(button);
  });
}
document.documentElement.classList.add("live");

// --- charts: the mark nearest to a finger, a pointer or the arrow keys says what it is

const REACH = 28; // CSS pixels
const tip = make("p", { className: "tip", hidden: true });
tip.setAttribute("role", "status");
document.body.append(tip);
let told = null;

function tell(mark) {
  if (told) told.element.classList.remove("told");
  told = mark;
  tip.hidden = !mark;
  if (!mark) return;
  mark.element.classList.add("told");
  tip.textContent = mark.text;
  tip.style.left = tip.style.top = "0";
  const at = mark.element.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const wanted = at.left + at.width / 2 - own.width / 2;
  const left = Math.max(8, Math.min(wanted, document.documentElement.clientWidth - own.width - 8));
  const above = at.top - own.height - 8;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(above < 4 ? at.bottom + 8 : above) + scrollY}px`;
}

function nearest(marks, x, y) {
  let best = null;
  let least = Infinity;
  for (const mark of marks) {
    const at = mark.element.getBoundingClientRect();
    const away = Math.hypot(Math.max(at.left - x, 0, x - at.right), Math.max(at.top - y, 0, y - at.bottom));
    const middle = Math.hypot((at.left + at.right) / 2 - x, (at.top + at.bottom) / 2 - y);
    if (away <= REACH && away + middle / 1e4 < least) [best, least] = [mark, away + middle / 1e4];
  }
  return best;
}

for (const chart of document.querySelectorAll("svg.chart, .icicle")) {
  const marks = [...chart.querySelectorAll("title, [title]")].map((found) => {
    const element = found.tagName === "title" ? found.parentElement : found;
    const text = found.tagName === "title" ? found.textContent : found.title;
    if (found === element) found.removeAttribute("title"); // else the browser's own tooltip covers this one
    else found.remove();
    return { element, text };
  });
  if (!marks.length) continue;
  chart.classList.add("answers");
  chart.tabIndex = 0;
  const here = (event) => tell(nearest(marks, event.clientX, event.clientY));
  chart.addEventListener("click", here);
  chart.addEventListener("pointermove", (event) => event.pointerType === "mouse" && here(event));
  chart.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && tell(null));
  chart.addEventListener("blur", () => tell(null));
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tell(null);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = marks.indexOf(told);
    tell(marks[at < 0 ? 0 : (at + step + marks.length) % marks.length]);
  });
}
document.addEventListener("click", (event) => event.target.closest(".answers") || tell(null));

// --- pictures: enlarged, compared by a slider or by blinking, and their difference

const BLINK = 700; // milliseconds
const views = []; // {name, images by side, box: [x, y, width, height] of a tile, null for the whole}

function collect(set) {
  const images = Object.fromEntries([...set.querySelectorAll("img")].map((image) => [image.dataset.side, image]));
  const start = views.length;
  const [width, height] = (set.dataset.tile ?? "").split(" ").map(Number);
  const columns = Number(set.dataset.columns);
  JSON.parse(set.dataset.names).forEach((name, n) => {
    const box = n ? [((n - 1) % columns) * (width + 1), Math.floor((n - 1) / columns) * (height + 1), width, height] : null;
    views.push({ name, images, box });
  });
  for (const image of Object.values(images)) {
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    image.title = "Enlarge";
    image.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open(start);
    });
    image.addEventListener("click", (event) => {
      const x = (event.offsetX * image.naturalWidth) / image.clientWidth;
      const y = (event.offsetY * image.naturalHeight) / image.clientHeight;
      const tile = views.findIndex(({ images: own, box }) => own === images && box && x >= box[0] && y >= box[1] &&
        x <= box[0] + box[2] && y <= box[1] + box[3]);
      open(tile < 0 ? start : tile);
    });
  }
}

const button = (text, action) => {
  const made = make("button", { type: "button" }, text);
  made.addEventListener("click", action);
  return made;
};
const canvases = { before: make("canvas"), after: make("canvas"), difference: make("canvas") };
const left = make("span", { className: "left" });
const right = make("span", { className: "right" });
const edge = make("i");
const stage = make("div", { className: "stage" }, ...Object.values(canvases), edge, left, right);
const what = make("h2", { id: "viewer-title" });
const slider = make("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: "Share of the picture before" });
const modes = Object.fromEntries(["slider", "blink", "difference"].map((name) => [name, button(name[0].toUpperCase() + name.slice(1), () => turn(name))]));
const group = make("div", { className: "modes", ariaLabel: "Compare by" }, ...Object.values(modes));
group.setAttribute("role", "group");
const close = button("Close", () => viewer.close());
const viewer = make(
  "dialog",
  { className: "viewer" },
  make("div", { className: "over" }, what, close),
  stage,
  slider,
  make("div", { className: "under" }, button("‹ Previous", () => go(-1)), group, button("Next ›", () => go(1))),
);
viewer.setAttribute("aria-labelledby", "viewer-title");
document.body.append(viewer);

let shown = 0;
let mode = "slider";
let blinking = null;

function open(index) {
  tell(null);
  shown = index;
  viewer.showModal();
  draw();
  (slider.hidden ? close : slider).focus();
}

function go(step) {
  shown = (shown + step + views.length) % views.length;
  draw();
}

function draw() {
  const { name, images, box } = views[shown];
  what.textContent = name[0].toUpperCase() + name.slice(1);
  for (const [side, canvas] of Object.entries(canvases)) {
    const image = images[side] ?? (side === "before" ? Object.values(images)[0] : null);
    canvas.hidden = !image;
    if (!image) continue;
    const [x, y, width, height] = box ?? [0, 0, image.naturalWidth, image.naturalHeight];
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
  }
  fit();
  group.hidden = !images.difference;
  turn(images.difference ? mode : "alone");
}

function fit() {
  const { width, height } = canvases.before;
  const scale = Math.min((viewer.clientWidth - 32) / width, (innerHeight * 0.94 - 190) / height);
  stage.style.width = `${width * scale}px`;
  stage.style.height = `${height * scale}px`;
  stage.classList.toggle("pixelated", scale > 1.5);
}

function turn(to) {
  if (to !== "alone") mode = to;
  clearInterval(blinking);
  Object.entries(modes).forEach(([name, one]) => one.setAttribute("aria-pressed", name === to));
  slider.hidden = edge.hidden = to !== "slider";
  const only = (side) => Object.entries(canvases).forEach(([name, canvas]) => {
    canvas.style.visibility = name === side ? "visible" : "hidden";
    canvas.style.clipPath = "";
  });
  left.textContent = right.textContent = "";
  only(to === "difference" ? "difference" : "before");
  if (to === "slider") wipe();
  if (to === "difference") left.textContent = views[shown].images.difference.alt.split(":")[0];
  if (to === "blink") {
    let after = false;
    const flip = () => {
      only(after ? "after" : "before");
      left.textContent = after ? "" : "Before";
      right.textContent = after ? "After" : "";
      after = !after;
    };
    flip();
    blinking = setInterval(flip, BLINK);
  }
}

function wipe() {
  canvases.after.style.visibility = "visible";
  canvases.after.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
  edge.style.left = `${slider.value}%`;
  left.textContent = "Before";
  right.textContent = "After";
}

slider.addEventListener("input", wipe);
const drag = (event) => {
  if (slider.hidden || !event.buttons) return;
  const at = stage.getBoundingClientRect();
  slider.value = (100 * (event.clientX - at.left)) / at.width;
  wipe();
};
stage.addEventListener("pointerdown", drag);
stage.addEventListener("pointermove", drag);
viewer.addEventListener("close", () => clearInterval(blinking));
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
viewer.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && event.target !== slider) go(step);
});
addEventListener("resize", () => viewer.open && fit());
document.querySelectorAll("[data-names]").forEach(collect);
