// The parts of prompts: a card for each, with its students and the words that choose it; where the vectors of prompts do,
// a plane beside the cards.

import { coloured, made } from "./elements.js";
import { PromptPlane } from "./prompt_plane.js";
import { Tallies } from "./tallies.js";

/** Draws the map of a version into `element`. */
export class PromptMap {
  constructor(element, version, students) {
    const { regions } = version.map;
    this.intervals = version.intervals;
    this.tallies = new Tallies();
    this.asked = new Set();
    this.plane = regions.length > 1 && regions.every(({ words }) => !words.length) ? new PromptPlane(version) : null;
    this.lists = regions.map(() => made("div", { className: "asked" }));
    const cards = regions.map((_, part) => this.#card(part, this.#of(part, students), wordsOf(regions, part)));
    element.classList.remove("many");
    element.classList.add("of-prompts");
    element.classList.toggle("flat", this.plane !== null);
    element.style.removeProperty("--card-width");
    element.replaceChildren(...(this.plane ? [this.plane.element] : []), made("div", { className: "cards" }, cards));
  }

  /** Counts an image for each student that had a hand in it, and shows where its prompt lies. */
  count(image, milliseconds) {
    this.tallies.count(image.students, milliseconds);
    if (this.asked.has(image.prompt)) return;
    this.asked.add(image.prompt);
    const part = Math.floor(image.students[0] / this.intervals);
    if (this.plane) this.plane.add(image, part);
    else this.lists[part].append(made("span", { className: "prompt", textContent: image.prompt, title: image.prompt }));
  }

  /** The students of a part, the noisiest levels first. */
  #of(part, students) {
    return students.slice(part * this.intervals, (part + 1) * this.intervals).reverse();
  }

  #card(part, students, words) {
    const owners = students.map((student) => {
      const name = made("strong", { textContent: `student ${student.index}` });
      return coloured(made("div", { className: "owner" }, [name, this.tallies.elementOf(student)]), student.index);
    });
    const more = this.plane ? [] : [made("div", { className: "words" }, words), this.lists[part]];
    return made("div", { className: "part" }, [made("div", { className: "owners" }, owners), ...more]);
  }
}

/** What chooses a part; the last one has what is left. */
function wordsOf(regions, part) {
  const { words } = regions[part];
  const left = regions.length === 1 ? "all prompts" : "all other prompts";
  if (!words.length) return [made("span", { className: "faint", textContent: left })];
  return words.map((word) => made("span", { className: "word", textContent: word }));
}
