// Classes to choose from: the partition as a map, and a field for labels.

import { made } from "./elements.js";
import { PartitionMap } from "./map.js";

const FEW = 20; // classes up to which all are selected at first
const at = (id) => document.getElementById(id);

/** A choice for a version with classes. before: the choice that this one follows, whose classes stay selected. */
export class ClassChoice {
  constructor(version, students, before, changed) {
    this.version = version;
    this.changed = changed;
    this.chosen = new Set([...(before?.chosen ?? [])].filter((number) => number < version.labels.length));
    at("labels").replaceChildren(...version.labels.map((value) => made("option", { value })));
    this.map = new PartitionMap(at("map"), version, students, this.chosen, (classes) => this.toggle(classes));
  }

  /** Rising. */
  get conditions() {
    return [...this.chosen].sort((a, b) => a - b);
  }

  /** Selects what the address asks for, else all if they are few. Returns whether it asks. */
  restore(asked) {
    const all = [...this.version.labels.keys()];
    for (const number of asked.classes ?? (all.length <= FEW ? all : [])) {
      if (number < all.length) this.chosen.add(number);
    }
    this.#update();
    return Boolean(asked.classes);
  }

  /** Selects these classes, or none of them if all are selected. */
  toggle(classes) {
    const all = classes.every((number) => this.chosen.has(number));
    for (const number of classes) all ? this.chosen.delete(number) : this.chosen.add(number);
    this.#update();
  }

  all() {
    this.toggle([...this.version.labels.keys()].filter((number) => !this.chosen.has(number)));
  }

  none() {
    this.toggle([...this.chosen]);
  }

  /** Selects the class that was typed, by its label or number. Returns what is wrong with it, if anything. */
  add(typed) {
    const labels = this.version.labels;
    const number = labels.includes(typed) ? labels.indexOf(typed) : Number(typed);
    if (!(number in labels)) return `No class is called “${typed}”.`;
    this.chosen.add(number);
    this.#update();
    return "";
  }

  labelOf(image) {
    return this.version.labels[image.class_id];
  }

  /** Shows on the map who made an image. milliseconds: that it took. */
  count(image, milliseconds) {
    this.map.count(image.students, milliseconds);
  }

  address() {
    return { classes: this.conditions };
  }

  #update() {
    this.map.show();
    this.changed();
  }
}
