// What is asked for, in the address of the page: who opens it gets the same images.

/** classes, each, seed of the address; undefined where it does not say. */
export function fromAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  const classes = said.get("classes")?.split(",").filter(digits).map(Number);
  return { classes, each: number(said.get("each")), seed: number(said.get("seed")) };
}

export function toAddress({ classes, each, seed }) {
  history.replaceState(null, "", `#classes=${classes.join(",")}&each=${each}&seed=${seed}`);
}

function number(text) {
  return digits(text ?? "") ? text : undefined;
}

function digits(text) {
  return /^\d+$/.test(text);
}
