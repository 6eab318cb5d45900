// The folded panels: train a network, race the samplers, break the sampler, link and image.

import { BUGS, brokenWalk, lastNoise } from "./broken.js";
import { drawErrors } from "./chart.js";
import { RADIUS } from "./data.js";
import { asNetwork } from "./ideal.js";
import { nearest, race, startNoise, untilTimestep } from "./race.js";
import { ringNetwork } from "./ring.js";
import { alphaBar } from "./schedules.js";
import { PANELS, RACERS, T } from "./state.js";
import { ENOUGH } from "./tour.js";
import { MOST_UPDATES, errorByTimestep, training } from "./training.js";

const FRAME_MS = 12; // of training in each frame
const CHART_MS = 900;
const RACE_MS = 3000;
const TIMESTEPS = [1, 10, 25, 50, 75, 100, 150, 200, 250, 300, 350, 400, 450, 475, 500];
const CROWD = 150; // walks of the broken sampler
const BROKEN_T = 25; // timesteps: few, so that a mistake of one of them is large enough to be seen
const MANY = 12; // racers: more are drawn with thin paths
const LOOKS = {
  ddpm: { colour: "ddpm", dash: [2, 5] },
  ddim: { colour: "ddim", dash: [] },
  heun: { colour: "heun", dash: [10, 5] },
  "dpm++": { colour: "dpm", dash: [4, 4] },
  flow: { colour: "flow", dash: [12, 4, 2, 4] },
};

export function panels(page) {
  const { $, world, change } = page;
  const radios = (name) => document.querySelectorAll(`input[name="${name}"]`);
  let running = 0; // the training that is going on
  let raced = null; // results of the last race
  let racedWith = 0; // updates of the network that it used; 0 for the exact mean
  let pace = null; // {began, from}: when the training that goes on began, and at which update
  let crowds = null; // walks of the healthy and of the broken loop
  let arrivals = []; // what `nearest` says of the ends of both
  let exactErrors = null;
  let asked = 0;

  fill();
  listen();

  // ---- train a network --------------------------------------------------------------------

  function train() {
    if (!world.data.labels.length) return page.fail("There are no data points to learn; draw some first.");
    world.trained ??= training(world.data, world.bar, page.state().noise);
    change({ field: "learned" });
    page.controls();
    if (world.trained.updates >= MOST_UPDATES) return pause();
    const mine = (running = performance.now());
    pace = { began: mine, from: world.trained.updates };
    $("train").textContent = "Pause";
    let charted = 0;
    const frame = (now) => {
      if (mine !== running) return;
      const until = performance.now() + FRAME_MS;
      do {
        if (!world.trained.update()) return diverged();
      } while (performance.now() < until && world.trained.updates < MOST_UPDATES);
      const due = now - charted > CHART_MS;
      if (due) charted = now;
      if (due) chart();
      if (due || !page.calm.matches) page.redraw();
      sayTrained();
      if (world.trained.updates < MOST_UPDATES) requestAnimationFrame(frame);
      else pause();
    };
    requestAnimationFrame(frame);
    return undefined;
  }

  /** Takes the network that comes with the page, if it has learned these data; else trains one. */
  function learn() {
    const { data, n, seed, schedule } = page.state();
    if (data === "ring" && !n && !seed && schedule === "cosine") {
      world.trained ??= training(world.data, world.bar, 0, ringNetwork());
    }
    train();
  }

  function pause() {
    running = 0;
    $("train").textContent = "Train";
    $("train").disabled = (world.trained?.updates ?? 0) >= MOST_UPDATES;
    chart();
    page.redraw();
  }

  function restart() {
    running = 0;
    world.trained = exactErrors = null;
    $("train").textContent = "Train";
    $("train").disabled = false;
    sayTrained();
    chart();
  }

  function diverged() {
    restart();
    page.controls();
    page.fail("Training gave a number that is not finite. The network starts again: press Train.");
  }

  function sayTrained() {
    const { updates = 0, loss } = world.trained ?? {};
    $("learned").textContent = updates
      ? `${updates} of ${MOST_UPDATES} updates, loss ${loss.toFixed(3)}. ${worthRacing(updates)}`
      : `Not trained yet. Training starts again when the data change. From ${ENOUGH} updates on, a race is worth a look.`;
    page.showTour();
  }

  function worthRacing(updates) {
    if (updates >= ENOUGH) return "Race it now.";
    const done = updates - (pace?.from ?? updates);
    if (!running || done < 20) return `Worth a race from ${ENOUGH} on.`;
    const seconds = ((performance.now() - pace.began) / 1000 / done) * (ENOUGH - updates);
    return `Worth a race from ${ENOUGH} on, in about ${Math.ceil(seconds / 5) * 5} seconds.`;
  }

  function chart() {
    const isNew = [...radios("measured")].find(({ checked }) => checked).value === "new";
    const canvas = $("errors");
    $("measured").hidden = !world.fresh;
    const points = isNew && world.fresh ? world.fresh.points : world.data.points;
    if (!points.length || !$("learn").open) return;
    if (exactErrors?.points !== points) {
      exactErrors = { points, values: errorByTimestep(world.ideal.mean, points, world.bar, TIMESTEPS) };
    }
    const exact = { values: exactErrors.values, colour: "text", title: "exact", dash: [] };
    const curves = [exact];
    if (world.trained?.updates) {
      const values = errorByTimestep(world.trained.mean, points, world.bar, TIMESTEPS);
      curves.push({ values, colour: "star", title: "learned", dash: [12, 8] });
    }
    drawErrors(canvas, TIMESTEPS, curves, T, page.colour());
    const told = curves.map(({ title, values }) => `${title} ${values[2].toFixed(4)} at t = 25 and ${values[9].toFixed(3)} at t = 300`);
    canvas.ariaLabel = `Squared error of x_0 by timestep: ${told.join("; ")}`;
    $("learn-help").textContent = `Squared error of x_0. At t = 25: ${curves.map(({ title, values }) => `${title} ${values[2].toFixed(4)}`).join(", ")}. `
      + "Lower is better. Two hidden layers of 64, Adam, the loss of Ho et al.";
  }

  // ---- race -------------------------------------------------------------------------------

  async function runRace({ still = false } = {}) {
    const mine = (asked += 1);
    const { samplers, calls, racers, noise: seed, guidance, schedule } = page.state();
    const y = page.state().class;
    if (!world.data.labels.length) return page.fail("There are no data points to end at; draw some first.");
    if (y >= 0 && !world.data.labels.includes(y)) return page.fail(`No data point has class ${y}; choose another class.`);
    page.fail("");
    const mean = page.source();
    const updates = mean === world.ideal.mean ? 0 : world.trained.updates;
    const common = { samplers, calls, racers, seed, schedule, data: world.data, T, mean };
    raced = await race({ ...common, y: y < 0 ? null : y, guidance: y < 0 ? 1 : guidance });
    if (mine !== asked) return undefined;
    racedWith = updates;
    table();
    page.showTour();
    page.state().run = 1;
    page.show("race");
    if (!still) begin();
    return undefined;
  }

  /** Shows the walks from T to 0, or at once their ends if motion is not wanted. */
  function begin() {
    $("plane").scrollIntoView({ block: "nearest" });
    if (page.calm.matches) change({ t: 0 });
    else page.play(T, RACE_MS);
  }

  function table() {
    const head = "<thead><tr><th scope=col>sampler</th><th scope=col>steps</th><th scope=col>sampler's error</th>"
      + "<th scope=col>from the data</th></tr></thead>";
    const rows = raced.map(({ name, steps, toExact, toData: { distance } }) => {
      const { colour } = LOOKS[name];
      return `<tr><th scope=row><span class=line style="color:var(--${colour})"></span>${name}</th><td>${steps}</td>`
        + `<td>${toExact === null ? "–" : toExact.toFixed(3)}</td><td>${distance.toFixed(3)}</td></tr>`;
    });
    const has = (sampler) => raced.some(({ name }) => name === sampler);
    const field = racedWith ? `the field of the network, after ${racedWith} updates` : "the exact field";
    const about = `Mean distances, in ${field}. Sampler's error: from where ${T} steps of heun lead in the same field.`
      + (racedWith ? " From the data: the network's error counts, too." : "")
      + (has("ddpm") ? " ddpm adds noise of its own, so it has no such end." : "")
      + (has("heun") ? " heun asks twice in most steps, so it takes fewer." : "")
      + " Every x_0 is clipped to the square, as images are to [-1, 1].";
    $("results").innerHTML = `<caption>${about}</caption>${head}<tbody>${rows.join("")}</tbody>`;
    $("results").hidden = false;
  }

  /** Each racer's path from T to the t of the slider. */
  function racePaths() {
    const { t, racers } = page.state();
    return raced.flatMap(({ name, path }) => {
      const xs = untilTimestep(path, t);
      const look = racers > MANY ? { width: 1.2, alpha: 0.35, mark: 0.9 } : { width: 2.5, alpha: 0.9, mark: 1.3 };
      return Array.from({ length: racers }, (_, i) => ({
        xs: xs.map((x) => [x[2 * i], x[2 * i + 1]]), ...LOOKS[name], ...look,
      }));
    });
  }

  // ---- break ------------------------------------------------------------------------------

  function runBroken({ still = false } = {}) {
    const { bug, noise: seed } = page.state();
    if (!world.data.labels.length) return page.fail("There are no data points to end at; draw some first.");
    page.fail("");
    const bar = alphaBar("cosine", BROKEN_T);
    const network = asNetwork(world.ideal.mean, { bar, prediction: "eps" });
    const walked = (mistake) => {
      const noise = startNoise(seed, CROWD);
      const options = { ddpm: BUGS[bug].ddpm };
      return [...brokenWalk(mistake, bar, network, noise(), noise, options)].map(({ x_t }) => x_t);
    };
    crowds = { healthy: walked(null), broken: walked(bug) };
    arrivals = [crowds.healthy, crowds.broken].map((path) => nearest(path.at(-1), world.data.points));
    endsTable();
    explain();
    page.state().run = 1;
    page.show("break");
    if (!still) begin();
    return undefined;
  }

  function endsTable() {
    const loop = BUGS[page.state().bug].ddpm ? "ddpm" : "ddim";
    const rows = [[`correct ${loop}`, "quiet"], ["broken", "broken"]].map(([title, colour], i) => {
      const { distance, reached } = arrivals[i];
      return `<tr><th scope=row><span class=line style="color:var(--${colour})"></span>${title}</th><td>${distance.toFixed(3)}</td><td>${reached}</td></tr>`;
    });
    $("ends").innerHTML = "<thead><tr><th scope=col>loop</th><th scope=col>distance from the data</th>"
      + `<th scope=col>data points reached, of ${world.data.labels.length}</th></tr></thead><tbody>${rows.join("")}</tbody>`;
    $("ends").hidden = false;
  }

  function brokenCrowds() {
    const i = BROKEN_T - Math.round((page.state().t / T) * BROKEN_T);
    return [
      { points: crowds.healthy[i], colour: "quiet", alpha: 0.7 },
      { points: crowds.broken[i], colour: "broken", alpha: 0.8 },
    ];
  }

  function explain() {
    const { doctor, repair, seen, fewer } = BUGS[page.state().bug];
    const sigma = lastNoise(alphaBar("cosine", BROKEN_T)).toFixed(4);
    const hidden = fewer && crowds && arrivals[1].reached > 0.85 * arrivals[0].reached;
    $("seen").textContent = seen + (hidden ? " These data have too few points to show it: choose three classes, or letters." : "");
    $("doctor").textContent = `The doctor says: ${doctor.replace("{sigma}", sigma)}. ${repair}.`;
  }

  // ---- controls ---------------------------------------------------------------------------

  function fill() {
    const choice = (kind, name, value, text, inner = "") =>
      `<label><input type="${kind}" name="${name}" value="${value}"> ${inner}${text}</label>`;
    const line = (name) => `<span class="line" style="color:var(--${LOOKS[name].colour})" aria-hidden="true"></span>`;
    $("samplers").innerHTML += RACERS.map((name) => choice("checkbox", "samplers", name, name, line(name))).join("");
    $("bugs").innerHTML += Object.entries(BUGS).map(([name, { title }]) => choice("radio", "bug", name, title)).join("");
  }

  function listen() {
    $("train").addEventListener("click", () => (running ? pause() : train()));
    $("retrain").addEventListener("click", () => (restart(), train()));
    radios("measured").forEach((radio) => radio.addEventListener("change", chart));
    $("start").addEventListener("click", () => runRace());
    $("reseed").addEventListener("click", () => (change({ noise: (page.state().noise + 1) % 10000 }), runRace()));
    for (const id of ["calls", "racers", "guidance"]) {
      $(id).addEventListener("input", () => (change({ [id]: Number($(id).value) }), controls(), raceAgain()));
    }
    $("class").addEventListener("change", () => (change({ class: Number($("class").value) }), controls(), raceAgain()));
    radios("samplers").forEach((box) => box.addEventListener("change", () => {
      const chosen = [...radios("samplers")].filter(({ checked }) => checked).map(({ value }) => value);
      if (!chosen.length) box.checked = true; // one has to run
      change({ samplers: chosen.length ? chosen : [box.value] });
      raceAgain();
    }));
    radios("bug").forEach((radio) => radio.addEventListener("change", () => (change({ bug: radio.value }), explain(), runBroken())));
    $("broken").addEventListener("click", () => runBroken());
    for (const name of PANELS) $(name).addEventListener("toggle", () => toggled(name));
    $("copy").addEventListener("click", copy);
    $("save").addEventListener("click", save);
  }

  function raceAgain() {
    if (raced) runRace({ still: true });
  }

  function toggled(name) {
    const { open } = $(name);
    if (open) change({ open: name });
    else if (page.state().open === name) change({ open: "" });
    if (name === "learn" && open) chart();
    if (!open && (name === "race" || name === "break")) page.show("point");
  }

  async function copy() {
    $("link").select();
    try {
      await navigator.clipboard.writeText($("link").value);
      $("copy").textContent = "Copied";
    } catch {
      $("copy").textContent = "Press Ctrl+C"; // the text is selected
    }
    setTimeout(() => ($("copy").textContent = "Copy the link"), 2000);
  }

  function save() {
    $("plane").toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "plane.png";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  function controls() {
    const state = page.state();
    for (const id of ["calls", "racers"]) $(id).value = $(`${id}-value`).value = state[id];
    $("guidance").value = state.guidance;
    $("guidance").disabled = state.class < 0;
    $("guidance-value").value = state.class < 0 ? "–" : state.guidance.toFixed(1);
    const classes = [...new Set(world.data.labels)].sort();
    $("class").replaceChildren(new Option("no class", -1), ...(classes.length > 1 ? classes : []).map((y) => new Option(`class ${y}`, y)));
    $("class").value = state.class;
    if (!$("class").value) $("class").value = -1;
    radios("samplers").forEach((box) => (box.checked = state.samplers.includes(box.value)));
    radios("bug").forEach((radio) => (radio.checked = radio.value === state.bug));
    explain();
    sayTrained();
  }

  // ---- what the page asks of the panels ---------------------------------------------------

  return {
    controls,
    /** Opens and runs what the state asks for. */
    load() {
      const { open, run, field, tour } = page.state();
      for (const name of PANELS) $(name).open = name === open;
      const beside = matchMedia("(min-width: 60rem)").matches; // then the plane stays in sight
      if (open && !tour && beside) $(open).scrollIntoView({ block: "nearest" });
      raced = crowds = null;
      $("results").hidden = $("ends").hidden = true;
      if ((run && open === "learn") || field === "learned") learn();
      page.controls();
      if (run && open === "race") runRace();
      if (run && open === "break") runBroken();
    },
    /** What the tour tells about: the race that is shown, by its first sampler. */
    raced() {
      if (!raced) return null;
      const [{ path, toData }] = raced;
      const ends = path.at(-1).x_t;
      const near = toData.distances.map((_, i) => Math.abs(Math.hypot(ends[2 * i], ends[2 * i + 1]) - RADIUS) < 0.1);
      const isRing = page.state().data === "ring";
      return {
        racers: near.length, points: world.data.labels.length, updates: racedWith,
        toData: toData.distance, farthest: toData.farthest,
        onRing: isRing ? near.filter(Boolean).length : null,
        between: isRing ? near.filter((one, i) => one && toData.distances[i] > 0.05).length : null,
      };
    },
    /** The data have changed. */
    renew() {
      raced = crowds = null;
      asked += 1;
      $("results").hidden = $("ends").hidden = true;
      restart();
    },
    chosen(name) {
      if (name !== "field" || page.state().field !== "learned" || world.trained?.updates) return;
      $("learn").open = true;
      learn();
    },
    walks: (view) => (view === "race" ? { paths: racePaths() } : { crowds: brokenCrowds() }),
    caption(view) {
      if (view === "race") return "walks from noise; move t to follow them, touch the plane to go back to x_t";
      return "walks of a correct loop (grey) and a broken one; move t to follow them";
    },
    link: (address) => ($("link").value = address),
    recolour: chart,
  };
}
