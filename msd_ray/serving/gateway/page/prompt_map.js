// The parts of prompts as regions of a plane, each in the colours of its student, with the prompts that were asked; and
// a card for each part. Where words choose the part there is no plane, and the cards have the words.

import { coloured, drawn, made } from "./elements.js";

const WIDTH = 100; // of the drawing, in its own units
const HEIGHT = 56;
const MARGIN = 0.25; // around all points, as a share of what they span
const ROOM = { x: 18, y: 2.6 }; // that the name of a prompt takes
const LONGEST = 22; // letters of a name

/** Draws the map of a version into `element`. */
export class PromptMap {
  constructor(element, version, students) {
    this.regions = version.map.regions;
    this.intervals = version.intervals;
    this.clusters = version.partition_kind === "kmeans";
    this.flat = !this.regions.some(({ words }) => words.length) && this.regions.length > 1;
    this.asked = new Map(); // prompt: its position and part
    this.tallies = new Map();
    this.svg = drawn("svg", { class: "prompts", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.svg.setAttribute("aria-label", "The parts as regions, and the prompts that were asked");
    this.names = made("div", { className: "names" });
    const drawing = made("div", { className: "plane" }, [this.svg, this.names]);
    const about = made("p", { className: "about faint", textContent: legend(version) });
    const plane = this.flat ? [made("div", {}, [drawing, about])] : [];
    const cards = this.regions.map((region, part) => this.#card(region, part, students));
    element.classList.remove("many");
    element.classList.add("of-prompts");
    element.classList.toggle("flat", this.flat);
    element.style.removeProperty("--card-width");
    element.replaceChildren(...plane, made("div", { className: "cards" }, cards));
    if (this.flat) this.#draw();
  }

  /** Counts an image for each student that had a hand in it, and shows where its prompt lies. */
  count(image, milliseconds) {
    const part = Math.floor(image.students[0] / this.intervals);
    for (const index of image.students) this.#tally(index, milliseconds);
    if (this.asked.has(image.prompt)) return;
    this.asked.set(image.prompt, { part, position: image.position, margin: image.margin });
    if (this.flat) this.#draw();
    else this.#list(part, image.prompt);
  }

  #tally(index, milliseconds) {
    const tally = this.tallies.get(index);
    tally.images += 1;
    tally.milliseconds += milliseconds;
    const mean = (tally.milliseconds / tally.images).toFixed(0);
    tally.element.textContent = `${tally.images} ${tally.images === 1 ? "image" : "images"}, ${mean} ms`;
  }

  #card({ words }, part, students) {
    const first = part * this.intervals;
    const owners = students.slice(first, first + this.intervals).reverse().map((student) => this.#owner(student));
    const last = part === this.regions.length - 1;
    const rest = this.regions.length === 1 ? "all prompts" : "all other prompts";
    const said = words.length ? words : last ? [rest] : [];
    const chips = this.flat ? [] : said.map((word) => made("span", { className: words.length ? "word" : "faint", textContent: word }));
    this.lists ??= [];
    this.lists[part] = made("div", { className: "asked" });
    return made("div", { className: "part" }, [
      made("div", { className: "owners" }, owners),
      ...(this.flat ? [] : [made("div", { className: "words" }, chips), this.lists[part]]),
    ]);
  }

  #owner(student) {
    const tally = made("span", { textContent: `${Number(student.parameters).toLocaleString("en")} weights` });
    this.tallies.set(student.index, { images: 0, milliseconds: 0, element: tally });
    const name = made("strong", { textContent: `student ${student.index}` });
    return coloured(made("div", { className: "owner" }, [name, tally]), student.index);
  }

  #list(part, prompt) {
    this.lists[part].append(made("span", { className: "prompt", textContent: prompt, title: prompt }));
  }

  /** Regions, their centres, and the prompts that were asked. */
  #draw() {
    const view = this.#view();
    const { to } = view;
    const areas = this.regions.map((_, part) => {
      const corners = cell(this.regions, part, view.corners).map(to);
      const title = drawn("title", {}, [`student ${part * this.intervals}`]);
      return coloured(drawn("polygon", { points: corners.join(" ") }, [title]), part * this.intervals);
    });
    const centres = this.regions.map(({ x, y }, part) => {
      const [cx, cy] = to([x, y]);
      return coloured(drawn("path", { d: `M${cx - 1},${cy}h2M${cx},${cy - 1}v2` }), part * this.intervals);
    });
    const dots = [...this.asked].map(([prompt, { part, position, margin }]) => {
      const [cx, cy] = to(position);
      const title = drawn("title", {}, [`${prompt}: student ${part * this.intervals}, margin ${margin.toPrecision(3)}`]);
      return coloured(drawn("circle", { cx, cy, r: 1 }, [title]), part * this.intervals);
    });
    this.svg.replaceChildren(...areas, ...(this.clusters ? centres : []), ...dots);
    this.names.replaceChildren(...this.#labels(to));
  }

  /** HTML rather than SVG, so that names keep their size. Those that would lie on others are left out. */
  #labels(to) {
    const named = [];
    for (const [prompt, { position }] of this.asked) {
      const [x, y] = to(position);
      if (named.every((other) => Math.abs(other.x - x) > ROOM.x || Math.abs(other.y - y) > ROOM.y)) named.push({ prompt, x, y });
    }
    return named.map(({ prompt, x, y }) => {
      const left = x > 0.7 * WIDTH;
      const short = prompt.length > LONGEST ? `${prompt.slice(0, LONGEST - 1)}…` : prompt;
      const name = made("span", { className: left ? "left" : "", textContent: short });
      name.style.setProperty("left", `${(100 * x) / WIDTH}%`);
      name.style.setProperty("top", `${(100 * y) / HEIGHT}%`);
      return name;
    });
  }

  /** The part of the plane that is shown: its corners, and where a point of it is drawn. */
  #view() {
    const points = [...this.regions.map(({ x, y }) => [x, y]), ...[...this.asked.values()].map(({ position }) => position)];
    const [left, right] = span(points.map(([x]) => x));
    const [low, high] = span(points.map(([, y]) => y));
    const scale = Math.max((right - left) / WIDTH, (high - low) / HEIGHT);
    const middle = [(left + right) / 2, (low + high) / 2];
    const [dx, dy] = [(scale * WIDTH) / 2, (scale * HEIGHT) / 2];
    const corners = [[-dx, -dy], [dx, -dy], [dx, dy], [-dx, dy]].map(([x, y]) => [middle[0] + x, middle[1] + y]);
    const to = ([x, y]) => [WIDTH / 2 + (x - middle[0]) / scale, HEIGHT / 2 - (y - middle[1]) / scale];
    return { corners, to };
  }
}

function legend({ partition_kind: kind, map }) {
  const dots = "Each dot is a prompt that was asked, in the colour of its student";
  if (kind !== "kmeans") return `${dots}; the plane is that of the first two entries of its vector.`;
  const nearly = "A plane shows more than three of them only nearly: a prompt may lie beside its region.";
  return `${dots}; each cross is the centre of a student's prompts. ${map.regions.length > 3 ? nearly : ""}`;
}

/** From the least to the greatest, with a margin. */
function span(numbers) {
  const [least, greatest] = [Math.min(...numbers), Math.max(...numbers)];
  const more = MARGIN * (greatest - least || 1);
  return [least - more, greatest + more];
}

/** The corners of the region of a part within a polygon: what is left of it where all other parts cost more. */
function cell(regions, part, polygon) {
  const own = regions[part];
  return regions.reduce((left, other) => {
    // |p - own|² + own.weight <= |p - other|² + other.weight, as a·x + b·y <= c
    const [a, b] = [2 * (other.x - own.x), 2 * (other.y - own.y)];
    const c = other.x ** 2 + other.y ** 2 + other.weight - own.x ** 2 - own.y ** 2 - own.weight;
    return other === own ? left : clipped(left, ([x, y]) => c - a * x - b * y);
  }, polygon);
}

/** The part of a convex polygon where inside(point), which is linear, is not negative. */
function clipped(polygon, inside) {
  return polygon.flatMap((point, i) => {
    const before = polygon[(i + polygon.length - 1) % polygon.length];
    const [was, is] = [inside(before), inside(point)];
    const share = was / (was - is);
    const border = [before[0] + share * (point[0] - before[0]), before[1] + share * (point[1] - before[1])];
    if (was >= 0 !== is >= 0) return is >= 0 ? [border, point] : [border];
    return is >= 0 ? [point] : [];
  });
}
