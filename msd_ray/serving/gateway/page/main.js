// The playground: what a person chooses, and what becomes of it.

import { ensemble, students, stream } from "./api.js";
import { made } from "./elements.js";
import { Gallery, milliseconds } from "./gallery.js";
import { fromAddress, toAddress } from "./address.js";
import { ClassChoice } from "./class_choice.js";
import { PromptChoice } from "./prompt_choice.js";

const LARGEST_SEED = (1n << 63n) - 1n;
const at = (id) => document.getElementById(id);
let token = "";
let served; // what GET /v1/ensemble said
let version; // that is drawn
let choice; // of its classes, or of prompts
let making; // an AbortController while images are made

async function start() {
  try {
    served = await ensemble(token);
    await draw(served.versions[0].name);
  } catch (error) {
    return fail(error);
  }
  at("sign-in").hidden = true;
  at("request").hidden = false;
  offerVersions();
  tell("");
  restore();
}

/** Draws a version, the main one without a name, and keeps what it has of what was chosen. */
async function draw(name) {
  const main = served.versions.reduce((best, each) => (each.weight > best.weight ? each : best));
  version = served.versions.find((each) => each.name === name) ?? main;
  const theirs = await students(version.name, token);
  const facts = [
    theirs.length === 1 ? "one student" : `${theirs.length} students`,
    `${Number(version.parameters).toLocaleString("en")} weights`,
    version.evaluations === 1 ? "one step" : `${version.evaluations} steps`,
    `version ${version.name}`,
  ];
  at("name").textContent = version.recipe || "Ensemble";
  at("facts").textContent = facts.join(" · ");
  document.title = `${version.recipe || "Ensemble"} · msd_ray playground`;
  for (const element of document.querySelectorAll("[data-for]")) {
    element.hidden = element.dataset.for !== (version.takes_prompts ? "prompts" : "classes");
  }
  at("of-each").textContent = version.takes_prompts ? "prompt" : "class";
  choice = version.takes_prompts
    ? new PromptChoice(version, theirs, update)
    : new ClassChoice(version, theirs, choice, update);
  update();
}

function offerVersions() {
  const offer = (value, textContent) => made("option", { value, textContent });
  const named = served.versions.map(({ name, weight }) => offer(name, `${name} (${Math.round(100 * weight)} %)`));
  at("version").replaceChildren(offer("", "as the traffic is split"), ...named);
  at("version-field").hidden = named.length < 2;
}

/** What the address of the page asks for is made at once. */
function restore() {
  const asked = fromAddress();
  if (asked.each) at("each").value = asked.each;
  if (asked.seed) at("seed").value = asked.seed;
  const asks = choice.restore(asked);
  update();
  if (asks) at("request").requestSubmit();
}

function update() {
  const n = choice.conditions.length * (at("each").valueAsNumber || 0);
  const most = served.limits.images;
  at("make").disabled = n === 0 || n > most;
  at("make").textContent = n > most ? `${n}: at most ${most}` : `Make ${n === 1 ? "1 image" : `${n} images`}`;
}

/** Selects the class that was typed, by its label or number. */
function add() {
  const typed = at("class").value.trim();
  if (!typed) return;
  const wrong = choice.add(typed);
  if (!wrong) at("class").value = "";
  tell(wrong);
}

/** Each class or prompt with each seed. Throws where a seed cannot be. */
function wished() {
  const [each, first] = [at("each").valueAsNumber, BigInt(at("seed").value)];
  const seeds = Array.from({ length: each }, (_, i) => first + BigInt(i));
  if (seeds[each - 1] > LARGEST_SEED) throw new Error(`seeds go up to ${LARGEST_SEED}`);
  const all = choice.conditions;
  const conditions = all.flatMap((condition) => seeds.map(() => condition));
  return { conditions, seeds: all.flatMap(() => seeds), version: at("version").value };
}

async function make() {
  tell("");
  let request;
  try {
    request = wished();
  } catch (error) {
    return fail(error);
  }
  toAddress(choice.address(), at("each").value, at("seed").value);
  const labels = request.conditions.map((asked) => version.labels[asked] ?? asked);
  const wanted = labels.map((label, i) => ({ label, seed: request.seeds[i] }));
  at("result").hidden = false;
  await fill(new Gallery(at("images"), at("plane"), wanted, version.sample_shape), request);
}

async function fill(gallery, request) {
  const [began, all] = [performance.now(), request.conditions.length];
  const seconds = () => `${((performance.now() - began) / 1000).toFixed(2)} s`;
  let n = 0;
  busy(new AbortController());
  try {
    for await (const image of stream(request, token, making.signal)) {
      gallery.show(image, choice.labelOf(image));
      if (image.version === version.name) choice.count(image, milliseconds(image));
      n += 1;
      at("progress").textContent = `${n} of ${all}, ${seconds()}`;
    }
    at("progress").textContent = `${all === 1 ? "1 image" : `${all} images`} in ${seconds()}`;
  } catch (error) {
    at("progress").textContent = `${n} of ${all}, then stopped`;
    fail(error);
  }
  gallery.stop();
  busy(null);
}

function busy(controller) {
  making = controller;
  at("make").hidden = making !== null;
  at("stop").hidden = making === null;
}

/** One clear line of what went wrong; who has no token is asked for one. */
function fail(error) {
  if (error.name === "AbortError") return;
  if (error.code === "UNAUTHENTICATED") {
    at("sign-in").hidden = false;
    at("request").hidden = true;
    at("token").focus();
    if (!token) return tell("");
  }
  tell(error.code ? `${error.message} (${error.code})` : error.message);
}

function tell(problem) {
  at("problem").textContent = problem;
  at("problem").hidden = !problem;
}

at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  start();
});
at("request").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!making) make();
});
at("stop").addEventListener("click", () => making?.abort());
at("all").addEventListener("click", () => choice.all());
at("none").addEventListener("click", () => choice.none());
at("add").addEventListener("click", add);
at("class").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  add();
});
at("prompts").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("request").requestSubmit();
});
at("draw").addEventListener("click", () => {
  at("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
});
at("each").addEventListener("input", update);
at("version").addEventListener("change", () => draw(at("version").value).catch(fail));
start();
