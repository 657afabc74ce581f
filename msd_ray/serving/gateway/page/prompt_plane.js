// A plane with a region for each part of the prompts, and the prompts that were asked.

import { coloured, drawn, made } from "./elements.js";
import { cell } from "./regions.js";

const WIDTH = 100; // of the drawing, in its own units
const HEIGHT = 56;
const MARGIN = 0.25; // around all points, as a share of what they span
const ROOM = { x: 18, y: 2.6 }; // that the name of a prompt takes
const LONGEST = 22; // letters of a name

export class PromptPlane {
  constructor(version) {
    this.regions = version.map.regions;
    this.intervals = version.intervals;
    this.clusters = version.partition_kind === "kmeans";
    this.asked = new Map(); // prompt: its part, position and margin
    this.svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.svg.setAttribute("aria-label", "The parts as regions, and the prompts that were asked");
    this.names = made("div", { className: "names" });
    const drawing = made("div", { className: "plane" }, [this.svg, this.names]);
    this.element = made("div", {}, [drawing, made("p", { className: "about faint", textContent: this.#legend() })]);
    this.#draw();
  }

  /** Shows where the prompt of an image lies. */
  add({ prompt, position, margin }, part) {
    this.asked.set(prompt, { part, position, margin });
    this.#draw();
  }

  #draw() {
    const { corners, to } = this.#view();
    const areas = this.regions.map((_, part) => {
      const points = cell(this.regions, part, corners).map(to).join(" ");
      return this.#coloured("polygon", { points }, part, this.#student(part));
    });
    const centres = this.regions.map(({ x, y }, part) => {
      const [cx, cy] = to([x, y]);
      const cross = { d: `M${cx - 1},${cy}h2M${cx},${cy - 1}v2` };
      return this.#coloured("path", cross, part, `centre of ${this.#student(part)}`);
    });
    const dots = [...this.asked].map(([prompt, { part, position, margin }]) => {
      const [cx, cy] = to(position);
      const about = `${prompt}: ${this.#student(part)}, margin ${margin.toPrecision(3)}`;
      return this.#coloured("circle", { cx, cy, r: 1 }, part, about);
    });
    this.svg.replaceChildren(...areas, ...(this.clusters ? centres : []), ...dots);
    this.names.replaceChildren(...this.#labels(to));
  }

  #student(part) {
    return `student ${part * this.intervals}`;
  }

  #coloured(tag, attributes, part, about) {
    return coloured(drawn(tag, attributes, [drawn("title", {}, [about])]), part * this.intervals);
  }

  /** HTML rather than SVG, so that names keep their size. Those that would lie on others are left out. */
  #labels(to) {
    const named = [];
    for (const [prompt, { position }] of this.asked) {
      const [x, y] = to(position);
      const apart = (other) => Math.abs(other.x - x) > ROOM.x || Math.abs(other.y - y) > ROOM.y;
      if (named.every(apart)) named.push({ prompt, x, y });
    }
    return named.map(({ prompt, x, y }) => {
      const short = prompt.length > LONGEST ? `${prompt.slice(0, LONGEST - 1)}…` : prompt;
      const name = made("span", { className: x > 0.7 * WIDTH ? "left" : "", textContent: short });
      name.style.setProperty("left", `${(100 * x) / WIDTH}%`);
      name.style.setProperty("top", `${(100 * y) / HEIGHT}%`);
      return name;
    });
  }

  /** What is shown of the plane: its corners, and where a point of it is drawn. */
  #view() {
    const asked = [...this.asked.values()].map(({ position }) => position);
    const points = [...this.regions.map(({ x, y }) => [x, y]), ...asked];
    const [left, right] = span(points.map(([x]) => x));
    const [low, high] = span(points.map(([, y]) => y));
    const scale = Math.max((right - left) / WIDTH, (high - low) / HEIGHT);
    const middle = [(left + right) / 2, (low + high) / 2];
    const [dx, dy] = [(scale * WIDTH) / 2, (scale * HEIGHT) / 2];
    const around = [[-dx, -dy], [dx, -dy], [dx, dy], [-dx, dy]];
    const corners = around.map(([x, y]) => [middle[0] + x, middle[1] + y]);
    const to = ([x, y]) => [WIDTH / 2 + (x - middle[0]) / scale, HEIGHT / 2 - (y - middle[1]) / scale];
    return { corners, to };
  }

  #legend() {
    const dots = "Each dot is a prompt that was asked, in the colour of its student";
    if (!this.clusters) return `${dots}; the plane is that of the first two entries of its vector.`;
    const nearly = "A plane shows more than three of them only nearly: a prompt may lie beside its region.";
    return `${dots}; each cross is the centre of a student's prompts. ${this.regions.length > 3 ? nearly : ""}`;
  }
}

/** From the least to the greatest, with a margin. */
function span(numbers) {
  const [least, greatest] = [Math.min(...numbers), Math.max(...numbers)];
  const more = MARGIN * (greatest - least || 1);
  return [least - more, greatest + more];
}
