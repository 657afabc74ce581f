"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

function text(value) {
  if (value === null || value === undefined) return "-";
  return typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(4) : String(value);
}

/* For axes, where there is little room. */
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const short = (value) => (typeof value === "number" ? compact.format(value) : text(value));

function add(parent, name, attributes, content) {
  const element = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (content !== undefined) element.textContent = content;
  parent.append(element);
  return element;
}

/* Places the values of a column between two ends: numbers by size, anything else at even distances. */
function scale(column, low, high) {
  const values = data.rows.map((row) => row[column]).filter((value) => value !== null && value !== undefined);
  const numeric = values.every((value) => typeof value === "number");
  const known = [...new Set(values)].sort(numeric ? (a, b) => a - b : undefined);
  const first = numeric ? known[0] : 0, last = numeric ? known.at(-1) : known.length - 1;
  const at = (value) => low + (high - low) * (last === first ? 0.5 : ((numeric ? value : known.indexOf(value)) - first) / (last - first));
  const quarters = [0, 1, 2, 3, 4].map((i) => first + ((last - first) * i) / 4);
  const ticks = numeric ? legible(known.length <= 6 ? known : quarters, at, Math.abs(high - low) / 16) : known;
  return { at, ticks };
}

function legible(ticks, at, apart) {
  const kept = [];
  for (const tick of ticks) {
    if (!kept.length || Math.abs(at(tick) - at(kept.at(-1))) >= apart) kept.push(tick);
  }
  return kept;
}

function point(trial) {
  for (const element of document.querySelectorAll(".hot")) element.classList.remove("hot");
  for (const element of document.querySelectorAll(`[data-trial="${trial}"]`)) element.classList.add("hot");
  const row = data.rows.find((candidate) => candidate.trial === trial);
  const figures = data.goals.map((metric) => `${metric} ${text(row[metric])}`).join(", ");
  document.getElementById("told").textContent = `Trial ${trial} (${row.said}), ${row.state} at ${row.images} images: ${figures}`;
}

function follow(element, trial) {
  element.dataset.trial = trial;
  element.addEventListener("mouseenter", () => point(trial));
}

/* The trials with a result that no other beats in both columns, from left to right. */
function edge(x, y) {
  const sign = (metric) => (data.modes[metric] === "max" ? -1 : 1);
  const sorted = data.rows.filter((row) => ["done", "stopped"].includes(row.state) && row[x] !== null && row[y] !== null)
    .sort((a, b) => sign(x) * (a[x] - b[x]) || sign(y) * (a[y] - b[y]));
  let best = Infinity;
  return sorted.filter((row) => sign(y) * row[y] < best && ((best = sign(y) * row[y]), true));
}

function drawPlot() {
  const svg = document.getElementById("plot");
  const x = document.getElementById("x").value, y = document.getElementById("y").value;
  const across = scale(x, 80, 880), up = scale(y, 370, 20);
  svg.replaceChildren();
  for (const tick of across.ticks) {
    add(svg, "line", { class: "axis", x1: across.at(tick), x2: across.at(tick), y1: 15, y2: 375 });
    add(svg, "text", { x: across.at(tick), y: 392, "text-anchor": "middle" }, short(tick));
  }
  for (const tick of up.ticks) {
    add(svg, "line", { class: "axis", x1: 75, x2: 885, y1: up.at(tick), y2: up.at(tick) });
    add(svg, "text", { x: 70, y: up.at(tick) + 4, "text-anchor": "end" }, short(tick));
  }
  add(svg, "text", { x: 480, y: 412, "text-anchor": "middle" }, x);
  add(svg, "text", { x: 12, y: 12 }, y);
  const line = edge(x, y).map((row) => `${across.at(row[x])},${up.at(row[y])}`).join(" ");
  add(svg, "polyline", { class: "edge", points: line });
  for (const row of data.rows) {
    if (row[x] === null || row[y] === null) continue;
    const kind = `dot ${row.state} ${row.front ? "front" : ""}`;
    const dot = add(svg, "circle", { class: kind, cx: across.at(row[x]), cy: up.at(row[y]), r: 6, tabindex: 0 });
    add(dot, "title", {}, `trial ${row.trial}: ${row.said}`);
    follow(dot, row.trial);
    dot.addEventListener("focus", () => point(row.trial));
  }
}

function drawParallel() {
  const svg = document.getElementById("parallel");
  const gap = 800 / Math.max(1, data.axes.length - 1);
  const axes = data.axes.map((column, i) => ({ column, x: 50 + i * gap, ...scale(column, 280, 40) }));
  for (const axis of axes) {
    add(svg, "line", { class: "axis", x1: axis.x, x2: axis.x, y1: 40, y2: 280 });
    add(svg, "text", { x: axis.x, y: 20, "text-anchor": "middle" }, axis.column);
    for (const tick of axis.ticks) add(svg, "text", { x: axis.x + 5, y: axis.at(tick) + 4 }, short(tick));
  }
  for (const row of data.rows) {
    const known = axes.filter((axis) => row[axis.column] !== null && row[axis.column] !== undefined);
    const points = known.map((axis) => `${axis.x},${axis.at(row[axis.column])}`).join(" ");
    follow(add(svg, "polyline", { class: `line ${row.front ? "front" : ""}`, points }), row.trial);
  }
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function drawRows(column, rising) {
  const body = document.querySelector("#table tbody");
  const missing = (row) => row[column] === null || row[column] === undefined;
  const rows = [...data.rows].sort((a, b) => missing(a) - missing(b) || (rising ? 1 : -1) * compare(a[column], b[column]));
  body.replaceChildren();
  for (const row of rows) {
    const line = add(body, "tr", { class: row.front ? "front" : "" });
    data.columns.forEach((name, i) => add(line, i ? "td" : "th", i ? {} : { scope: "row" }, text(row[name])));
    follow(line, row.trial);
  }
}

function drawTable() {
  const head = add(document.querySelector("#table thead"), "tr", {});
  let sorted = "trial", rising = true;
  for (const name of data.columns) {
    const cell = add(head, "th", { scope: "col" });
    add(cell, "button", { type: "button" }, name).addEventListener("click", () => {
      rising = sorted === name ? !rising : true;
      sorted = name;
      for (const other of head.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", rising ? "ascending" : "descending");
      drawRows(sorted, rising);
    });
  }
  drawRows(sorted, rising);
}

function choose(id, chosen) {
  const select = document.getElementById(id);
  for (const metric of data.metrics) {
    const option = document.createElement("option");
    option.value = option.textContent = metric;
    option.selected = metric === chosen;
    select.append(option);
  }
  select.addEventListener("change", drawPlot);
}

choose("y", data.goals[0]);
choose("x", data.goals[1] ?? "cpu_seconds");
if (data.rows.length) {
  drawPlot();
  drawParallel();
  drawTable();
}
