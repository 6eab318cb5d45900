// The state of the page in its address, after the #: `plane.html#data=six&t=300&x=0.4,0.1`. Only what
// differs from the defaults, or from the step of the tour, is written. docs/plane.md lists the names.

import { BY_HAND, MOST_POINTS, PRESETS, decode } from "./data.js";
import { BUGS } from "./broken.js";
import { KINDS } from "./process.js";
import { SCHEDULES } from "./schedules.js";
import { TOUR } from "./tour.js";

export const T = 500;
export const FIELDS = ["none", "exact", "learned"];
export const RACERS = ["ddpm", "ddim", "heun", "dpm++", "flow"];
export const WALKS = [0, 1, 5, 50]; // steps from x_t to t = 0
export const PANELS = ["learn", "race", "break", "share"];
export const REACH = 2.3; // the plane shows -REACH..REACH

/** Name -> [default, (text) -> value or undefined if it does not fit, what fits]. */
const NAMES = {
  data: ["six", among([...Object.keys(PRESETS), BY_HAND])],
  n: [null, whole(1, MOST_POINTS)],
  points: ["", [(text) => (decode(text) ? text : undefined), "three characters for each point"]],
  seed: [0, whole(0, 9999)], // of the data
  noise: [0, whole(0, 9999)], // seed of everything else that is random
  schedule: ["cosine", among(Object.keys(SCHEDULES))],
  t: [120, whole(0, T)],
  x: [[0.35, 0.25], pair()],
  show: ["x_0", among(KINDS)],
  field: ["none", among(FIELDS)],
  cloud: [0, whole(0, 1)],
  density: [1, whole(0, 1)],
  walk: [0, among(WALKS.map(String), Number)],
  open: ["", among(PANELS)],
  run: [0, whole(0, 1)], // start what is in the open panel
  samplers: [RACERS, several(RACERS)],
  calls: [10, whole(1, 100)],
  racers: [6, whole(1, 100)],
  class: [-1, whole(-1, 2)],
  guidance: [1, decimal(0, 8)],
  bug: ["last noise", among(Object.keys(BUGS))],
  tour: [0, whole(0, TOUR.length)], // step of the guided tour; an empty address begins at 1
};

/** The state of a step of the tour; without one, the defaults. */
export function initial(tour) {
  const first = Object.fromEntries(Object.entries(NAMES).map(([name, [value]]) => [name, value]));
  return { ...first, ...TOUR[tour - 1]?.state, tour };
}

/** The state that an address asks for, and a sentence for each part that cannot be used. */
export function parse(fragment) {
  const pairs = new URLSearchParams(fragment.replace(/^#/, "").replaceAll("+", "%2B"));
  const state = initial(fragment ? NAMES.tour[1][0](pairs.get("tour") ?? "0") ?? 0 : 1);
  const remarks = [];
  for (const [name, text] of pairs) {
    if (!Object.hasOwn(NAMES, name)) {
      remarks.push(`The address has an unknown name “${name.slice(0, 40)}”; it is ignored.`);
      continue;
    }
    const [read, fits] = NAMES[name][1];
    const found = read(text);
    if (found === undefined) {
      const used = shown(state[name]);
      remarks.push(`The address says ${name} = “${text.slice(0, 40)}”, but ${name} is ${fits}; the page uses ${used}.`);
    } else {
      state[name] = found;
    }
  }
  if (state.data === BY_HAND && !state.points) {
    remarks.push("The address has no points; draw some, or choose a preset.");
  }
  return { state, remarks };
}

/** What `parse` reads back. */
export function format(state) {
  const first = initial(state.tour);
  const parts = Object.keys(NAMES)
    .filter((name) => String(state[name]) !== String(first[name]) || (name === "tour" && state.tour))
    .map((name) => `${name}=${encodeURIComponent(String(state[name] ?? "")).replaceAll("%2C", ",")}`);
  return parts.length ? `#${parts.join("&")}` : "#data=six";
}

function shown(value) {
  if (value === null) return "the preset's own";
  return value === "" ? "none" : String(value);
}

function among(choices, convert = String) {
  return [(text) => (choices.includes(text) ? convert(text) : undefined), `one of ${choices.join(", ")}`];
}

function several(choices) {
  const read = (text) => {
    const found = text.split(",").filter(Boolean);
    return found.length && found.every((one) => choices.includes(one)) ? found : undefined;
  };
  return [read, `some of ${choices.join(", ")}`];
}

function whole(least, most) {
  const read = (text) => {
    const value = Number(text);
    return /^-?\d+$/.test(text) && value >= least && value <= most ? value : undefined;
  };
  return [read, `a whole number in ${least}..${most}`];
}

function decimal(least, most) {
  const read = (text) => {
    const value = text === "" ? NaN : Number(text);
    return value >= least && value <= most ? value : undefined;
  };
  return [read, `a number in ${least}..${most}`];
}

function pair() {
  const read = (text) => {
    const found = text.split(",").map((one) => (one.trim() ? Number(one) : NaN));
    return found.length === 2 && found.every((value) => Math.abs(value) <= REACH) ? found : undefined;
  };
  return [read, `two numbers in -${REACH}..${REACH}, with a comma between them`];
}
