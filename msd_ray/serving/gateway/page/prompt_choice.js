// Prompts to choose: a box with one a line, and the map of the parts that they fall into.

import { PromptMap } from "./prompt_map.js";

const at = (id) => document.getElementById(id);

/** A choice for a version that takes prompts. */
export class PromptChoice {
  constructor(version, students, changed) {
    this.map = new PromptMap(at("map"), version, students);
    at("prompts").oninput = changed;
  }

  /** Each line that is not empty, once. */
  get conditions() {
    const lines = at("prompts").value.split("\n").map((line) => line.trim());
    return [...new Set(lines.filter(Boolean))];
  }

  /** Writes what the address asks for. Returns whether it asks. */
  restore(asked) {
    if (asked.prompts.length) at("prompts").value = asked.prompts.join("\n");
    return asked.prompts.length > 0;
  }

  labelOf(image) {
    return image.prompt;
  }

  /** Shows on the map who made an image, and where its prompt lies. milliseconds: that it took. */
  count(image, milliseconds) {
    this.map.count(image, milliseconds);
  }

  address() {
    return { prompts: this.conditions };
  }
}
