// The images as they come in: a tile for each that is asked for, or a plane for points.

import { coloured, drawn, made } from "./elements.js";

const SMALL = 128; // pixels up to which a picture is shown with its pixels
const MARGIN = "How much more the next student would cost by the rule that chose this one; 0 on the border";

export class Gallery {
  /** wanted: label and seed of each image. shape: [channels, height, width], or [dimensions] of points. */
  constructor(list, plane, wanted, shape) {
    this.list = list;
    this.small = Math.max(...shape) <= SMALL;
    this.tiles = shape.length > 1 ? wanted.map(tile) : [];
    this.plane = shape.length > 1 ? null : new Plane(plane);
    plane.toggleAttribute("hidden", shape.length > 1);
    list.classList.remove("stopped");
    list.replaceChildren(...this.tiles);
  }

  /** Shows an image in its place. label: of its class. */
  show(image, label) {
    const students = named(image.students);
    const took = milliseconds(image);
    const margin = image.prompt ? `margin ${image.margin < 0.005 ? "below 0.01" : image.margin.toFixed(2)}` : "";
    const by = margin ? `${students} (${margin})` : students;
    const times = `waited ${image.queue_ms.toFixed(1)} ms, made in ${image.compute_ms.toFixed(1)} ms`;
    const how = `${label}, seed ${image.seed}, by ${by}: ${times}`;
    if (this.plane) this.plane.show(image, how);
    else fill(this.tiles[image.index], image, { label, students, took, how, margin, small: this.small });
  }

  /** No more will come. */
  stop() {
    this.list.classList.add("stopped");
  }
}

/** What an image took at its student, waiting included. */
export function milliseconds(image) {
  return image.queue_ms + image.compute_ms;
}

function named(students) {
  const [first, last] = [students[0], students[students.length - 1]];
  return students.length === 1 ? `student ${first}` : `students ${last} to ${first}`;
}

function tile({ label, seed }) {
  const by = made("span", { textContent: "waiting" });
  return made("li", { className: "tile" }, [made("div", { className: "frame" }), ...captions(label, "…", by, seed)]);
}

function fill(place, image, { label, students, took, how, margin, small }) {
  const src = `data:image/${image.format};base64,${image.data}`;
  const picture = made("img", { src, alt: how, className: small ? "small" : "" });
  const download = `${label.slice(0, 60)}-${image.seed}.${image.format}`;
  const link = made("a", { href: src, download, title: `${how}. Click to save.` }, [picture]);
  const by = coloured(made("span", {}, [made("span", { className: "dot" }), students]), image.students[0]);
  const said = `${took.toFixed(0)} ms`;
  const lines = margin ? ofPrompt(label, said, by, image.seed, margin) : captions(label, said, by, image.seed);
  place.replaceChildren(link, ...lines);
}

function captions(label, took, by, seed) {
  const name = made("span", { className: "label", textContent: label, title: label });
  return [line([name, made("span", { textContent: took })]), line([by, numbered(seed)], "by")];
}

/** A prompt may be long, so it has a line of its own. */
function ofPrompt(prompt, took, by, seed, margin) {
  const about = made("span", { textContent: margin, title: MARGIN });
  return [
    made("p", { className: "prompt label", textContent: prompt, title: prompt }),
    line([by, numbered(seed)], "by"),
    line([about, made("span", { textContent: took })], "by"),
  ];
}

function line(parts, more = "") {
  return made("p", { className: `said ${more}` }, parts);
}

function numbered(seed) {
  return made("span", { textContent: `#${seed}`, title: `seed ${seed}` });
}

/** Points by their first and last coordinate, in the colours of their students. */
class Plane {
  constructor(element) {
    this.element = element;
    this.reach = 0.5;
    const axis = { class: "axis", "vector-effect": "non-scaling-stroke" };
    const axes = [
      drawn("line", { ...axis, x1: -1e6, x2: 1e6, y1: 0, y2: 0 }),
      drawn("line", { ...axis, y1: -1e6, y2: 1e6, x1: 0, x2: 0 }),
    ];
    element.replaceChildren(...axes);
    this.#fit();
  }

  show(image, how) {
    const [x, ...rest] = floats(image.data);
    const y = rest.length ? rest[rest.length - 1] : 0;
    const title = drawn("title", {}, [`${how}: ${x.toFixed(3)}, ${y.toFixed(3)}`]);
    this.element.append(coloured(drawn("circle", { cx: x, cy: -y }, [title]), image.students[0]));
    this.reach = Math.max(this.reach, Math.abs(x), Math.abs(y));
    this.#fit();
  }

  #fit() {
    const half = 1.08 * this.reach;
    this.element.setAttribute("viewBox", `${-half} ${-half} ${2 * half} ${2 * half}`);
    for (const circle of this.element.querySelectorAll("circle")) circle.setAttribute("r", half / 80);
  }
}

/** Little-endian float32 in base64. */
function floats(data) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
