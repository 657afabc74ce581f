// The partition as a map: which student owns which classes and, where they share them, which noise levels.

import { coloured, made } from "./elements.js";
import { Tallies } from "./tallies.js";

const MANY = 40; // classes from which on they are drawn small
const ENDS = [0.002, 80]; // where the scale of noise levels ends, if a student's has no end

/** Draws the map of a version into `element`. chosen: the Set of classes that are selected; toggle(classes) changes it. */
export class PartitionMap {
  constructor(element, version, students, chosen, toggle) {
    this.chosen = chosen;
    this.chips = new Map();
    this.tallies = new Tallies();
    element.classList.remove("of-prompts", "flat");
    element.classList.toggle("many", version.labels.length > MANY);
    element.style.setProperty("--card-width", `${Math.max(9.5, 8.5 * version.intervals)}rem`);
    element.replaceChildren(...parts(version, students).map((part) => this.#card(part, version, toggle)));
    this.show();
  }

  /** Shows what is selected. */
  show() {
    for (const [number, chip] of this.chips) chip.setAttribute("aria-pressed", this.chosen.has(number));
  }

  /** Counts an image for each student that had a hand in it. milliseconds: that it took. */
  count(students, milliseconds) {
    this.tallies.count(students, milliseconds);
  }

  #card(part, version, toggle) {
    const owners = part.map((student) => this.#owner(student, part.length > 1, toggle));
    const chips = part[0].classes.map((number) => this.#chip(number, version.labels[number], part[0], toggle));
    return made("div", { className: "part" }, [
      made("div", { className: "owners" }, owners),
      made("div", { className: "chips" }, chips),
    ]);
  }

  #owner(student, shares, toggle) {
    const tally = this.tallies.elementOf(student);
    const levels = shares ? [made("span", { className: "levels", textContent: levelsOf(student) })] : [];
    const name = made("strong", { textContent: `student ${student.index}` });
    const title = `Select the classes of student ${student.index}`;
    const button = made("button", { type: "button", className: "owner", title }, [name, ...levels, tally]);
    button.style.setProperty("--share", share(student));
    button.addEventListener("click", () => toggle(student.classes));
    return coloured(button, student.index);
  }

  #chip(number, label, student, toggle) {
    const title = `class ${number}: ${label}`;
    const chip = made("button", { type: "button", className: "chip", textContent: label, title });
    chip.addEventListener("click", () => toggle([number]));
    this.chips.set(number, chip);
    return coloured(chip, student.index);
  }
}

/** The students of each part, in the order in which a sample passes through them: the noisiest levels first. */
function parts(version, students) {
  const found = [];
  for (let first = 0; first < students.length; first += version.intervals) {
    found.push(students.slice(first, first + version.intervals).reverse());
  }
  return found;
}

function levelsOf({ sigma_low: low, sigma_high: high }) {
  const from = Number(low).toPrecision(2);
  const to = Number(high).toPrecision(2);
  if (Number(high) === Infinity) return `σ above ${Number(from)}`;
  return Number(low) ? `σ ${Number(from)} to ${Number(to)}` : `σ up to ${Number(to)}`;
}

/** The width of a student's noise levels on a logarithmic scale. */
function share({ sigma_low: low, sigma_high: high }) {
  const [least, most] = ENDS;
  return Math.log(Math.min(high, most) / Math.max(low, least)) || 1;
}
