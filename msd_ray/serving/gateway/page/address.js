// What is asked for, in the address of the page: who opens it gets the same images.

/** classes, prompts, each, seed of the address; undefined where it does not say, and no prompts. */
export function fromAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  const classes = said.get("classes")?.split(",").filter(digits).map(Number);
  return { classes, prompts: said.getAll("prompt"), each: number(said.get("each")), seed: number(said.get("seed")) };
}

/** asked: classes or prompts. */
export function toAddress({ classes, prompts }, each, seed) {
  const said = classes ? `classes=${classes.join(",")}` : new URLSearchParams(prompts.map((each) => ["prompt", each]));
  history.replaceState(null, "", `#${said}&each=${each}&seed=${seed}`);
}

function number(text) {
  return digits(text ?? "") ? text : undefined;
}

function digits(text) {
  return /^\d+$/.test(text);
}
