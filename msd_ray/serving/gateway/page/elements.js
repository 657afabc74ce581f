// Making elements. Whatever the service says goes into text and attributes, never into markup.

const GOLDEN = 137.508; // degrees between the hues of neighbours: any number of students stay apart

/** An element with these properties and children. */
export function made(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** The same of SVG, which has attributes. */
export function drawn(tag, attributes = {}, children = []) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Gives an element the colour of a student, as --student. */
export function coloured(element, student) {
  element.classList.add("student-coloured");
  element.style.setProperty("--hue", ((235 + student * GOLDEN) % 360).toFixed(1));
  return element;
}
