// The playground: what a person chooses, and what becomes of it.

import { ensemble, students, stream } from "./api.js";
import { made } from "./elements.js";
import { Gallery, milliseconds } from "./gallery.js";
import { fromAddress, toAddress } from "./address.js";
import { PartitionMap } from "./map.js";

const LARGEST_SEED = (1n << 63n) - 1n;
const FEW = 20; // classes up to which all are selected at first
const at = (id) => document.getElementById(id);
const chosen = new Set();
let token = "";
let served; // what GET /v1/ensemble said
let version; // that is drawn
let map;
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

/** Draws a version, the main one without a name, and selects what it has of what was selected. */
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
  at("labels").replaceChildren(...version.labels.map((value) => made("option", { value })));
  for (const number of chosen) if (number >= version.labels.length) chosen.delete(number);
  map = new PartitionMap(at("map"), version, theirs, chosen, toggle);
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
  const first = asked.classes ?? (version.labels.length <= FEW ? [...version.labels.keys()] : []);
  for (const number of first) if (number < version.labels.length) chosen.add(number);
  if (asked.each) at("each").value = asked.each;
  if (asked.seed) at("seed").value = asked.seed;
  update();
  if (asked.classes) at("request").requestSubmit();
}

/** Selects these classes, or none of them if all are selected. */
function toggle(classes) {
  const all = classes.every((number) => chosen.has(number));
  for (const number of classes) all ? chosen.delete(number) : chosen.add(number);
  update();
}

function update() {
  map.show();
  const n = chosen.size * (at("each").valueAsNumber || 0);
  const most = served.limits.images;
  at("make").disabled = n === 0 || n > most;
  at("make").textContent = n > most ? `${n}: at most ${most}` : `Make ${n === 1 ? "1 image" : `${n} images`}`;
}

/** Selects the class that was typed, by its label or number. */
function add() {
  const typed = at("prompt").value.trim();
  if (!typed) return;
  const number = version.labels.includes(typed) ? version.labels.indexOf(typed) : Number(typed);
  if (!(number in version.labels)) return tell(`No class is called “${typed}”.`);
  chosen.add(number);
  at("prompt").value = "";
  tell("");
  update();
}

/** Each class with each seed. Throws where a seed cannot be. */
function wished() {
  const [each, first] = [at("each").valueAsNumber, BigInt(at("seed").value)];
  const seeds = Array.from({ length: each }, (_, i) => first + BigInt(i));
  if (seeds[each - 1] > LARGEST_SEED) throw new Error(`seeds go up to ${LARGEST_SEED}`);
  const classes = [...chosen].sort((a, b) => a - b);
  const conditions = classes.flatMap((number) => seeds.map(() => number));
  return { conditions, seeds: classes.flatMap(() => seeds), version: at("version").value };
}

async function make() {
  tell("");
  let request;
  try {
    request = wished();
  } catch (error) {
    return fail(error);
  }
  toAddress({ classes: [...new Set(request.conditions)], each: at("each").value, seed: at("seed").value });
  const wanted = request.conditions.map((number, i) => ({ label: version.labels[number], seed: request.seeds[i] }));
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
      gallery.show(image, version.labels[image.class_id]);
      if (image.version === version.name) map.count(image.students, milliseconds(image));
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
at("all").addEventListener("click", () => toggle([...version.labels.keys()].filter((number) => !chosen.has(number))));
at("none").addEventListener("click", () => toggle([...chosen]));
at("add").addEventListener("click", add);
at("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  add();
});
at("draw").addEventListener("click", () => {
  at("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
});
at("each").addEventListener("input", update);
at("version").addEventListener("change", () => draw(at("version").value).catch(fail));
start();
