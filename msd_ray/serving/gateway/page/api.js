// The service's HTTP API.

/** Why there is no answer. code: the name of the gRPC status, such as INVALID_ARGUMENT. */
export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** The versions that are served, the newest first, and the limits of a request. */
export async function ensemble(token) {
  return (await reached("v1/ensemble", { headers: headers(token) })).json();
}

/** The students of a version. */
export async function students(version, token) {
  const path = `v1/students?version=${encodeURIComponent(version)}`;
  return (await (await reached(path, { headers: headers(token) })).json()).students;
}

/**
 * Each image as soon as it is made, in any order. request: conditions, seeds (BigInt), version.
 * Throws Refused where the service refuses, or does not make all of them.
 */
export async function* stream(request, token, signal) {
  const options = { method: "POST", body: written(request), headers: headers(token), signal };
  const answer = await reached("v1/generate/stream", options);
  let missing = request.conditions.length;
  for await (const line of lines(answer.body)) {
    const said = JSON.parse(line);
    if (said.error) throw new Refused(said.error.code, said.error.message);
    missing -= 1;
    yield said.image;
  }
  if (missing) throw new Refused("UNAVAILABLE", `the connection broke, ${missing} images are missing; try again`);
}

function headers(token) {
  return { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
}

/** As JSON. Seeds are written by hand: they may be larger than a number of JavaScript can be. */
function written({ conditions, seeds, version }) {
  const rest = JSON.stringify({ conditions, version });
  return `${rest.slice(0, -1)},"seeds":[${seeds.join(",")}]}`;
}

async function reached(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused("UNAVAILABLE", "the service cannot be reached; try again");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Refused(said.code ?? `HTTP ${answer.status}`, said.message ?? "the service gives no reason");
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(broken);
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

/** A connection that breaks ends the stream, unless it was us who ended it. */
function broken(error) {
  if (error.name === "AbortError") throw error;
  return { done: true };
}
