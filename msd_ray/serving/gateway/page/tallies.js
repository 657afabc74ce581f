// How many images each student made, and in what time.

import { made } from "./elements.js";

export class Tallies {
  constructor() {
    this.tallies = new Map();
  }

  /** The element that says it; until there are images, how many weights the student has. */
  elementOf(student) {
    const element = made("span", { textContent: `${Number(student.parameters).toLocaleString("en")} weights` });
    this.tallies.set(student.index, { images: 0, milliseconds: 0, element });
    return element;
  }

  /** Counts an image for each student that had a hand in it. milliseconds: that it took. */
  count(students, milliseconds) {
    for (const index of students) {
      const tally = this.tallies.get(index);
      tally.images += 1;
      tally.milliseconds += milliseconds;
      const mean = (tally.milliseconds / tally.images).toFixed(0);
      tally.element.textContent = `${tally.images} ${tally.images === 1 ? "image" : "images"}, ${mean} ms`;
    }
  }
}
