// The page: reads the controls and shows pictures, which worker.js computes.

import { doodling } from "./doodle.js";
import { COLUMNS, pixels, show, showStrip } from "./pixels.js";
import { pythonFor } from "./python.js";
import { SAMPLERS } from "./samplers.js";

const $ = (id) => document.getElementById(id);
const NO_CLASS = -1;
const FRAME_MS = 160; // of the slow replay

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
let models = []; // what models.json says
let runtimeFiles = [];
let request = null; // the one that is being drawn, or the last one
let path = []; // its steps, {t, x_t, x_0}
let replaying = 0;
let stopped = null; // why the worker cannot be used any more
const doodle = doodling($, () => $("use-doodle").checked && draw());

start();

async function start() {
  const theme = localStorage.getItem("theme"); // the book's switch
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  say("Loading …");
  worker.onmessage = ({ data }) => data.id === request?.id && receive(data);
  worker.onerror = () => fail((stopped = "draw/worker.js could not be loaded, or stopped."));
  try {
    const response = await fetch(new URL("models/models.json", import.meta.url));
    if (!response.ok) throw new Error(`the server answers ${response.status}`);
    ({ models, runtime: runtimeFiles } = await response.json());
  } catch (error) {
    return fail(`models/models.json could not be loaded: ${error.message}.`);
  }
  options($("model"), models.map(({ name, title }) => [name, title]));
  options($("sampler"), Object.keys(SAMPLERS).map((name) => [name, name]));
  chooseModel();
  listen();
  draw();
}

function listen() {
  $("controls").addEventListener("submit", (event) => (event.preventDefault(), draw()));
  $("model").addEventListener("change", () => (chooseModel(), draw()));
  for (const id of ["class", "seed", "guidance", "steps", "sampler", "use-doodle", "from"]) {
    $(id).addEventListener("input", () => (tell(), draw()));
  }
  $("next").addEventListener("click", () => {
    $("seed").value = (Number($("seed").value) + 1) % 2 ** 32;
    draw();
  });
  $("path").addEventListener("input", () => ((replaying = 0), look(Number($("path").value))));
  $("replay").addEventListener("click", replay);
  $("strip").addEventListener("click", ({ offsetX }) => {
    const i = stations()[Math.floor((COLUMNS * offsetX) / $("strip").clientWidth)];
    if (!path[i]) return;
    replaying = 0;
    look(i);
  });
  $("take").addEventListener("click", () => {
    if (path.length) doodle.paste(pixels(path.at(-1).x_t, request.model));
  });
}

const model = () => models.find(({ name }) => name === $("model").value);

function chooseModel() {
  const { classes, T } = model();
  const before = $("class").value;
  options($("class"), [...classes.map((name, i) => [i, name]), [NO_CLASS, "no class"]]);
  if (before) $("class").value = before;
  if (!$("class").value) $("class").value = classes.length ? 0 : NO_CLASS;
  $("class").disabled = !classes.length;
  $("from").max = T;
  tell();
}

/** Shows the values of the sliders. */
function tell() {
  const unlabelled = Number($("class").value) === NO_CLASS;
  $("guidance").disabled = unlabelled;
  $("guidance-value").value = unlabelled ? "–" : Number($("guidance").value).toFixed(1);
  $("from-value").value = $("from").value;
  $("steps-value").value = stepsTaken();
}

/** A walk from step t visits at most t steps. */
function stepsTaken() {
  const most = $("use-doodle").checked ? Number($("from").value) : model().T;
  return Math.min(Number($("steps").value), most);
}

function draw() {
  if (stopped) return fail(stopped);
  if (!$("seed").reportValidity()) return;
  const chosen = Number($("class").value);
  const labelled = chosen !== NO_CLASS;
  const from = $("use-doodle").checked ? Number($("from").value) : null;
  request = {
    id: (request?.id ?? 0) + 1,
    model: model(),
    runtimeFiles,
    y: labelled ? chosen : model().classes.length ? NO_CLASS : null,
    seed: Number($("seed").value),
    steps: stepsTaken(),
    guidance: labelled ? Number($("guidance").value) : 1,
    sampler: $("sampler").value,
    doodle: from && doodle.picture(model()),
    from,
  };
  path = [];
  replaying = 0;
  $("error").hidden = true;
  busy(true);
  $("replay").disabled = true;
  $("code").textContent = pythonFor(request);
  worker.postMessage(request);
}

function receive({ loading, opening, step, done, error }) {
  if (error) return fail(error);
  $("loading").hidden = !(loading || opening);
  if (opening) {
    $("loading").removeAttribute("value");
    say("Opening the network …");
  } else if (loading) {
    $("loading").value = loading;
    say(`Loading the network: ${Math.floor(100 * loading)} %`);
  } else if (step) {
    path.push(step);
    $("path").max = request.steps;
    look(path.length - 1);
  } else if (done !== undefined) {
    busy(false);
    $("path").disabled = $("replay").disabled = false;
    showStrip($("strip"), stations().map((i) => path[i]), request.model);
    $("strip").ariaLabel = `The ${subject()} at ${stations().length} steps, from noise to picture`;
    say(`Drawn in ${(done / 1000).toFixed(2)} s. Move the slider to see the steps.`);
  }
}

/** Shows one step of the path. */
function look(i) {
  const { t, x_t, x_0 } = path[i];
  const what = subject();
  show($("noisy"), x_t, request.model);
  show($("clean"), x_0, request.model);
  $("noisy").ariaLabel = t ? `Noisy ${what} at step ${t}` : `The finished ${what}`;
  $("clean").ariaLabel = t ? `The ${what} predicted at step ${t}` : `The finished ${what}`;
  $("path").value = i;
  $("where").value = `t = ${t}, ${i} of ${request.steps}`;
  $("path").ariaValueText = $("where").value;
}

const subject = () => request.model.classes[request.y] ?? "picture";

/** Indices of the steps in the strip: at most COLUMNS, including the first and the last. */
function stations() {
  const last = path.length - 1;
  const n = Math.min(COLUMNS, path.length);
  return Array.from({ length: n }, (_, i) => Math.round((i * last) / Math.max(1, n - 1)));
}

/** Shows the path once more, slowly enough to watch. */
async function replay() {
  const mine = (replaying = performance.now());
  for (let i = 0; i < path.length; i++) {
    look(i);
    await new Promise((resolve) => setTimeout(resolve, FRAME_MS));
    if (replaying !== mine) return;
  }
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

function busy(yes) {
  $("pictures").ariaBusy = String(yes);
}

function say(text) {
  $("status").textContent = text;
}

function fail(why) {
  busy(false);
  $("loading").hidden = true;
  say("No picture.");
  const advice = "Reload the page; if that does not help, `make site` makes all its files again.";
  $("error").textContent = `${why} ${advice}`;
  $("error").hidden = false;
}
