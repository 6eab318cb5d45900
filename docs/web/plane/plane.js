// The page: keeps its state, works out what x_t tells, and paints it.

import { BY_HAND, MOST_POINTS, PRESETS, decode, encode, fromRows, newPoints, preset, toRows } from "./data.js";
import { idealDenoiser } from "./ideal.js";
import { colours, densityPicture, paint } from "./paint.js";
import { panels } from "./panels.js";
import { express } from "./process.js";
import { nearest, startNoise, untilTimestep, walk } from "./race.js";
import { SCHEDULES, alphaBar } from "./schedules.js";
import { REACH, T, format, initial, parse } from "./state.js";
import { touching } from "./touch.js";
import { TOUR } from "./tour.js";

const $ = (id) => document.getElementById(id);
const { hypot, max, round, sqrt } = Math;
const CLOUD = 400; // points of the cloud, at most
const PLAY_MS = 5000;
const CALM_JUMPS = 10; // of t, where reduced motion is asked for
const ARROWS = 15; // of the field, in a row
const HELP = {
  x_0: "The star: E[x_0 | x_t], the sum of all data points times their weights w.",
  eps: "The noise in x_t: eps = (x_t − sqrt(alpha_bar) x_0) / sqrt(1 − alpha_bar). x_0 is the star, or what the network says if the field is learned.",
  score: "Where noisy points become likelier: score = −eps / sqrt(1 − alpha_bar). Long arrows are drawn shorter.",
  v: "v = sqrt(alpha_bar) eps − sqrt(1 − alpha_bar) x_0: a mixture that is useful at every t.",
  velocity: "How a point moves on the straight line from x_0 to its noise: velocity = eps − x_0, towards the noise. Flow matching learns it; sampling goes against it.",
};

let state = null;
let view = "point"; // or "race" or "break": what the plane shows
let colour = null;
let asked = false; // a frame
let walking = 0; // the walk from x_t that was asked for last
let playing = 0;
let following = null; // where x_t started, while it moves along its walk
let said = 0;
let removed = null; // all points, where somebody has just removed them
const world = {}; // what follows from the state: data, ideal, bar, cloud, density, walked
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const page = {
  $, world, calm, change, controls, redraw, fail, play, show, showTour,
  state: () => state,
  source,
  colour: () => colour,
};
const panel = panels(page);

start();

function start() {
  takeTheme();
  fill();
  listen();
  load();
  new ResizeObserver(fit).observe($("plane"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
}

/** Shows what the address asks for. */
function load() {
  const { state: wanted, remarks } = parse(location.hash);
  state = wanted;
  halt();
  recolour();
  rebuild();
  panel.load();
  fail(remarks.join(" "));
}

function takeTheme() {
  try {
    const theme = localStorage.getItem("theme"); // the book's switch
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // a browser may forbid storage; then the system's theme holds
  }
}

// ---- state --------------------------------------------------------------------------------

/** Changes some of the state and shows it. */
function change(part) {
  Object.assign(state, part);
  const keys = Object.keys(part);
  if (keys.some((key) => ["data", "n", "points", "seed", "schedule"].includes(key))) {
    state.run = 0;
    if (state.field === "learned") state.field = "exact"; // until the new data are learned
    rebuild();
  }
  redraw();
}

/** The data and tables that follow from the state. */
function rebuild() {
  const usual = PRESETS[state.data]?.n;
  world.data = state.data === BY_HAND ? decode(state.points) : preset(state.data, state.n ?? usual, state.seed);
  world.fresh = newPoints(state.data, state.seed);
  world.ideal = idealDenoiser(world.data);
  world.bar = alphaBar(state.schedule, T);
  world.T = T;
  world.density = world.walked = null;
  world.cloud = makeCloud();
  view = "point";
  panel.renew();
  redraw();
}

/** Fixed noise on the data points, several times on each if they are few. */
function makeCloud() {
  const { points, labels } = world.data;
  const n = labels.length && Math.floor(CLOUD / labels.length) * labels.length;
  const eps = startNoise(state.noise + 1, n)();
  return { eps, x_0: eps.map((_, i) => points[i % points.length]), labels: Int8Array.from({ length: n }, (_, i) => labels[i % labels.length]) };
}

/** The mean x_0 that walks and arrows use: the network's or the exact one. */
function source() {
  return state.field === "learned" && world.trained?.updates ? world.trained.mean : world.ideal.mean;
}

// ---- a frame ------------------------------------------------------------------------------

function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    tell();
    paintPlane();
    if (state.walk && view === "point") walkDown();
  });
}

function show(what) {
  view = what;
  world.walked = null;
  redraw();
}

function paintPlane() {
  const canvas = $("plane");
  const side = canvas.clientWidth;
  if (side) paint(canvas, side, scene(), colour);
  document.body.dataset.view = view;
}

function scene() {
  const { data, bar } = world;
  const bar_t = bar[state.t];
  const empty = !data.labels.length;
  const found = { data, paths: [], crowds: [], field: [], cursor: drawing() ? state.x : null };
  if (empty) return found;
  if (state.density) found.density = density(bar_t);
  if (state.field !== "none") found.field = field(bar_t);
  if (view !== "point") return { ...found, ...panel.walks(view) };
  const [a, b] = [sqrt(bar_t), sqrt(1 - bar_t)];
  if (state.cloud) {
    const { x_0, eps, labels } = world.cloud;
    found.cloud = { points: x_0.map((value, i) => a * value + b * eps[i]), labels };
  }
  if (drawing()) return found;
  if (world.walked) found.paths.push(...walkedPaths());
  const shrunk = { points: data.points.map((value) => a * value), labels: data.labels };
  return { ...found, ...world.point, x_t: state.x, shrunk };
}

/** The path of x_t, and that of the star. */
function walkedPaths() {
  const steps = world.walked.path;
  const stars = steps.slice(0, -1).map(({ x_0 }) => x_0);
  const paths = [{ xs: steps.map(({ x_t }) => x_t), colour: "text", width: 3, mark: 1.4 }];
  if (stars.length > 1) paths.unshift({ xs: stars, colour: "star", width: 2, dash: [2, 5], mark: 0 });
  return paths;
}

function density(bar_t) {
  if (world.density?.bar_t !== bar_t || world.density.colour !== colour.density) {
    world.density = { bar_t, colour: colour.density, picture: densityPicture(world.data, bar_t, colour) };
  }
  return world.density.picture;
}

/** Arrows of the chosen prediction on a grid; for x_0, they point from x_t to it. */
function field(bar_t) {
  const places = Array.from({ length: ARROWS }, (_, i) => (((i + 0.5) * 2) / ARROWS - 1) * REACH);
  const x_t = Float64Array.from(places.flatMap((y) => places.flatMap((x) => [x, y])));
  const vectors = vector(bar_t, x_t, source()(x_t, bar_t));
  const cell = (0.85 * 2 * REACH) / ARROWS;
  return Array.from({ length: x_t.length / 2 }, (_, i) => {
    const [dx, dy] = vectors.slice(2 * i, 2 * i + 2);
    const part = cell / max(1.5, hypot(dx, dy));
    return { x: x_t[2 * i], y: x_t[2 * i + 1], dx: part * dx, dy: part * dy };
  }).filter(({ dx, dy }) => Number.isFinite(dx + dy));
}

function vector(bar_t, x_t, x_0) {
  if (state.show === "x_0") return x_0.map((value, i) => value - x_t[i]);
  return express(state.show, bar_t, x_t, x_0);
}

/** The walk from x_t to t = 0 in the chosen number of steps. */
async function walkDown() {
  if (following) return;
  const mine = (walking += 1);
  const key = [state.x, state.t, state.walk, state.field, world.trained?.updates].join();
  if (!state.walk || !state.t || world.walked?.key === key || !world.data.labels.length) return;
  const path = await walk({
    name: "ddim", mean: source(), schedule: state.schedule, T, from: state.t,
    steps: Math.min(state.walk, state.t), x_t: Float64Array.from(state.x),
  });
  if (mine !== walking) return;
  const end = path.at(-1).x_t;
  world.walked = { key, path, end, ...nearest(end, world.data.points) };
  redraw();
}

// ---- numbers and words --------------------------------------------------------------------

function tell() {
  const { data, ideal, bar } = world;
  const bar_t = bar[state.t];
  const n = data.labels.length;
  $("t").value = $("t-value").value = state.t;
  $("t").ariaValueText = `t = ${state.t}`;
  if (!following && (!state.walk || !state.t)) world.walked = null;
  if (!n) {
    world.point = {};
    facts([["Data", "no points yet: choose a preset, or draw some with your finger, mouse or keys"]]);
  } else if (view === "point" && drawing()) {
    facts([
      ["Drawing", `class ${drawing() - 1}; the cross is at ${pair(state.x)}`],
      ["Data", `${n} points, at most ${MOST_POINTS}`],
    ]);
  } else if (view === "point") {
    const { x_t, t } = lastAsked();
    const bar_t = bar[t];
    const { weights, possible } = ideal.weights(x_t, bar_t);
    const mean = ideal.mean(x_t, bar_t);
    const used = source() === ideal.mean ? mean : source()(x_t, bar_t);
    const arrow = state.show === "x_0" && used === mean ? null : vector(bar_t, x_t, used);
    world.point = { weights, mean, vector: arrow?.every(Number.isFinite) ? arrow : null };
    facts([
      ["Still possible", `${possible.toFixed(possible < 10 ? 1 : 0)} of ${n} points`, "big"],
      ["x_t", pair(state.x)],
      ...(t === state.t ? [] : [["Last asked", `at t = ${t}, where x_t was ${pair(x_t)}`]]),
      ["E[x_0 | x_t]", `${pair(mean)}, the star`],
      ...(used === mean ? [] : [["network's x_0", pair(used)]]),
      ...(state.show === "x_0" ? [] : [[state.show, spelled(express(state.show, bar_t, x_t, used))]]),
      ["alpha_bar", `${bar_t.toFixed(4)}, signal ${sqrt(bar_t).toFixed(2)}, noise ${sqrt(1 - bar_t).toFixed(2)}`],
      ...walkFact(),
    ]);
  } else {
    facts([["Shown", panel.caption(view)], ["alpha_bar", bar_t.toFixed(4)]]);
  }
  sayLater();
  panel.link(location.href.split("#")[0] + format({ ...state, ...following }));
}

/** Where the walk that is played asked last: everything that is told is its answer there. */
function lastAsked() {
  const path = following && world.walked?.path;
  const step = path?.findLast(({ t }) => t > 0 && t >= state.t);
  return step ? { x_t: step.x_t, t: step.t } : { x_t: Float64Array.from(state.x), t: state.t };
}

function walkFact() {
  if (!state.walk) return [];
  if (!state.t && !following) return [["Walk", `t is 0: move x_t to start at t = ${T}, or move t up`]];
  if (!world.walked) return [];
  const { path, end, distance } = world.walked;
  const steps = path.length === 2 ? "1 step ends" : `${path.length - 1} steps end`;
  const off = distance < 0.005 ? "on a data point" : `${distance.toFixed(2)} from the nearest data point`;
  return [["Walk", `${steps} at ${pair(end)}, ${off}`]];
}

function spelled(value) {
  if (!value.every(Number.isFinite)) return "not defined at t = 0, where there is no noise";
  return `${pair(value)}, length ${hypot(...value).toFixed(2)}`;
}

function pair([x, y]) {
  return `(${number(x)}, ${number(y)})`;
}

function number(value) {
  return (round(value * 100) / 100 + 0).toFixed(2).replace("-", "−");
}

/** Shows rows [name, value, kind]; elements that are there already only change their text. */
function facts(rows) {
  const list = $("facts");
  while (list.children.length > 2 * rows.length) list.lastChild.remove();
  rows.forEach((row, i) => {
    if (!list.children[2 * i]) list.append(document.createElement("dt"), document.createElement("dd"));
    const [dt, dd] = [list.children[2 * i], list.children[2 * i + 1]];
    const [name, value, kind = ""] = row;
    if (dt.textContent !== name) dt.textContent = name;
    if (dd.textContent !== value) dd.textContent = value;
    if (dd.className !== kind) dd.className = kind;
  });
}

/** Tells screen readers, and the address, when things have come to rest. */
function sayLater() {
  clearTimeout(said);
  said = setTimeout(() => {
    const [first, ...rest] = [...$("facts").children].map((one) => one.textContent);
    $("status").textContent = `t = ${state.t}. ${[first, ...rest].join(" ")}`;
    $("plane").ariaLabel = `The plane at t = ${state.t}. ${first}: ${rest[0]}`;
    const link = format({ ...state, ...following }); // of a walk, its start
    if (location.hash !== link) history.replaceState(null, "", link);
  }, 350);
}

function fail(why) {
  $("error").textContent = why;
  $("error").hidden = !why;
}

// ---- time ---------------------------------------------------------------------------------

/** Moves t from a timestep to 0, and x_t along its walk, if it has one. */
function play(from = T, ms = PLAY_MS) {
  const mine = (playing += 1);
  const began = performance.now();
  const path = view === "point" && state.walk ? world.walked?.path : null;
  following = path ? { t: state.t, x: state.x } : null;
  $("play").textContent = "Stop";
  const frame = (now) => {
    if (mine !== playing) return;
    let part = Math.min(1, max(0, (now - began) / ms));
    if (calm.matches) part = Math.floor(part * CALM_JUMPS) / CALM_JUMPS;
    const t = round(from * (1 - part));
    change({ t, ...(path ? { x: hundredths(untilTimestep(path, t).at(-1)) } : {}) });
    if (part < 1) requestAnimationFrame(frame);
    else stop();
  };
  requestAnimationFrame(frame);
}

/** Play from here; at the end of a walk, from its start once more. */
function playAgain() {
  if ($("play").textContent === "Stop") return stop();
  const from = state.t || (view === "point" && following?.t) || T;
  if (following && !state.t) change(following);
  else if (!state.t) change({ t: from });
  following = null;
  return walkDown().then(() => play(from));
}

function stop() {
  playing += 1;
  $("play").textContent = "Play";
}

/** Ends what moves: somebody has touched x_t, t or the walk. */
function halt() {
  stop();
  following = null;
}

/** The t at which x_t starts where somebody moves it: T, if t = 0 has ended its walk or a race. */
function startOf() {
  return !state.t && (state.walk || view !== "point") ? T : state.t;
}

function hundredths(x) {
  return [...x].map((value) => round(value * 100) / 100);
}

// ---- controls -----------------------------------------------------------------------------

function fill() {
  const presets = Object.entries(PRESETS).map(([name, { title }]) => new Option(title, name));
  $("data").replaceChildren(...presets, new Option("drawn by hand", BY_HAND));
  $("schedule").replaceChildren(...Object.keys(SCHEDULES).map((name) => new Option(name, name)));
}

function listen() {
  addEventListener("hashchange", load);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("t").addEventListener("input", () => (halt(), change({ t: Number($("t").value) })));
  $("play").addEventListener("click", playAgain);
  $("data").addEventListener("change", () => choose($("data").value));
  $("n").addEventListener("input", () => (change({ n: Number($("n").value) }), controls()));
  $("schedule").addEventListener("change", () => change({ schedule: $("schedule").value }));
  for (const name of ["show", "field"]) {
    each(name, (radio) => (change({ [name]: radio.value }), controls(), panel.chosen(name)));
  }
  each("walk", (radio) => (halt(), (view = "point"), change({ walk: Number(radio.value) })));
  each("tool", () => ((view = "point"), redraw()));
  for (const name of ["cloud", "density"]) {
    $(name).addEventListener("change", () => change({ [name]: Number($(name).checked) }));
  }
  $("undo").addEventListener("click", () => edit((rows) => removed ?? rows.slice(0, -1)));
  $("clear").addEventListener("click", () => {
    const rows = toRows(world.data);
    edit(() => []);
    removed = rows;
    controls();
  });
  touching($("plane"), {
    drawing, place: () => state.x, ended: controls,
    moved: (x) => (halt(), change({ x, t: startOf(), run: 0 }), (view = "point")),
    drawn: ([x, y]) => {
      change({ x: [x, y] });
      edit((rows) => [...rows, [x, y, drawing() - 1]]);
    },
    turned: (n) => (halt(), change({ t: Math.min(T, max(0, state.t + n)) })),
    played: playAgain,
  });
  tourButtons();
}

function each(name, act) {
  for (const radio of document.querySelectorAll(`input[name="${name}"]`)) {
    radio.addEventListener("change", () => act(radio));
  }
}

/** 0, or 1 + the class that touching the plane draws. */
function drawing() {
  const tool = document.querySelector('input[name="tool"]:checked').value;
  return tool === "move" ? 0 : Number(tool) + 1;
}

function choose(name) {
  if (name === BY_HAND) return edit((rows) => rows);
  removed = null;
  change({ data: name, n: null, points: "" });
  return controls();
}

/** Changes the points by hand. */
function edit(how) {
  const rows = how(toRows(world.data));
  removed = null;
  if (rows.length > MOST_POINTS) return fail(`The plane holds ${MOST_POINTS} points; remove some first.`);
  fail("");
  change({ data: BY_HAND, points: encode(fromRows(rows)), n: null });
  return controls();
}

/** Sets every control to the state. */
function controls() {
  const { data, n } = state;
  $("data").value = data;
  const fixed = data === BY_HAND;
  $("n").disabled = fixed;
  $("n").max = data === "six" ? 6 : MOST_POINTS;
  $("n").value = $("n-value").value = fixed ? world.data.labels.length : n ?? PRESETS[data].n;
  $("schedule").value = state.schedule;
  $("cloud").checked = state.cloud;
  $("density").checked = state.density;
  $("clear").disabled = !world.data.labels.length;
  $("undo").disabled = $("clear").disabled && !removed;
  for (const name of ["show", "field", "walk"]) {
    for (const radio of document.querySelectorAll(`input[name="${name}"]`)) {
      radio.checked = radio.value === String(state[name]);
    }
  }
  $("kind-help").textContent = HELP[state.show];
  panel.controls();
  showTour();
}

function tourButtons() {
  const go = (step) => {
    history.pushState(null, "", `#tour=${step}`);
    load();
  };
  $("tour-next").addEventListener("click", () => (state.tour < TOUR.length ? go(state.tour + 1) : endTour()));
  $("tour-back").addEventListener("click", () => go(state.tour - 1));
  $("tour-end").addEventListener("click", endTour);
  $("tour-start").addEventListener("click", () => (go(1), $("tour-next").focus()));
}

/** Leaves the tour with the data, the network and the t that are there; t = 0 has nothing to show. */
function endTour() {
  const { t, x } = following ?? initial(0);
  halt();
  view = "point";
  change({ tour: 0, run: 0, ...(state.t ? {} : { t, x }) });
  history.pushState(null, "", format(state));
  controls();
  $("plane").focus();
}

function showTour() {
  const step = TOUR[state.tour - 1];
  $("tour").classList.toggle("closed", !step);
  $("tour-start").hidden = Boolean(step);
  if (!step) return;
  $("tour-title").textContent = step.title;
  $("tour-text").textContent = step.told ? step.told(panel.raced()) : step.text;
  $("tour-count").textContent = `step ${state.tour} of ${TOUR.length}`;
  $("tour-back").hidden = state.tour === 1;
  $("tour-next").hidden = $("tour-end").hidden = false;
  $("tour-next").textContent = state.tour === TOUR.length ? "Finish" : "Next";
  $("tour-end").hidden = state.tour === TOUR.length;
}

/** The canvas has as many pixels as the screen shows. */
function fit() {
  const canvas = $("plane");
  const side = Math.max(1, round(canvas.clientWidth * Math.min(3, devicePixelRatio || 1)));
  if (canvas.width !== side) canvas.width = canvas.height = side;
  redraw();
}

function recolour() {
  colour = colours();
  if (state && world.data) panel.recolour();
  redraw();
}
