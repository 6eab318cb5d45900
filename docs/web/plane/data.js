// The points of the plane: presets, and points by hand with their form in the address. All lie in
// [-1, 1] in both coordinates, and have a class 0, 1 or 2.

import { uniforms } from "./training.js";

const { PI, cos, floor, hypot, log, max, min, round, sin, sqrt } = Math;
export const MOST_POINTS = 400;
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const GRID = 201; // coordinates -1.00, -0.99, … 1.00

const SIX = [[-0.85, 0.6], [-0.3, 0.9], [0.8, 0.7], [0.9, -0.2], [0.1, -0.85], [-0.8, -0.55]]; // of notebook 03
const LETTERS = [ // strokes of A, B and C, as points that a pen connects
  [[[-0.95, -0.5], [-0.7, 0.5], [-0.45, -0.5]], [[-0.86, -0.15], [-0.54, -0.15]]],
  [[[-0.2, -0.5], [-0.2, 0.5], [0.08, 0.5], [0.2, 0.38], [0.2, 0.14], [0.08, 0.02], [-0.2, 0.02]],
   [[0.08, 0.02], [0.24, -0.12], [0.24, -0.38], [0.1, -0.5], [-0.2, -0.5]]],
  [[[0.95, 0.34], [0.85, 0.47], [0.68, 0.5], [0.53, 0.36], [0.47, 0.12], [0.47, -0.12],
    [0.53, -0.36], [0.68, -0.5], [0.85, -0.47], [0.95, -0.34]]],
];

/** Presets: title, usual number of points, and (n, random) -> n rows [x, y, class]. */
export const PRESETS = {
  six: { title: "six points", n: 6, make: (n) => SIX.slice(0, n).map(([x, y]) => [x, y, 0]) },
  moons: { title: "two moons", n: 200, make: moons },
  ring: { title: "a ring", n: 12, make: ring },
  spiral: { title: "a spiral", n: 200, make: spiral },
  classes: { title: "three classes", n: 150, make: threeClasses },
  letters: { title: "letters", n: 240, make: letters },
};
export const BY_HAND = "hand";
export const RADIUS = 0.75; // of the ring

/** A preset's points {points, labels} for a number of points and a seed. */
export function preset(name, n, seed) {
  return fromRows(PRESETS[name].make(n, uniforms(seed)));
}

/** Other points of the same shape, which nobody trains on; null where there are none. */
export function newPoints(name, seed) {
  return name in PRESETS && name !== "six" ? preset(name, MOST_POINTS, seed + 1000) : null;
}

/** Rows [x, y, class] as {points, labels}, rounded to hundredths within [-1, 1]. */
export function fromRows(rows) {
  const inside = (value) => max(-1, min(1, round(value * 100) / 100));
  return {
    points: Float64Array.from(rows.flatMap(([x, y]) => [inside(x), inside(y)])),
    labels: Int8Array.from(rows, ([, , label]) => label),
  };
}

export function toRows({ points, labels }) {
  return Array.from(labels, (label, i) => [points[2 * i], points[2 * i + 1], label]);
}

/** Three characters for each point. */
export function encode({ points, labels }) {
  return Array.from(labels, (label, i) => {
    const [x, y] = [points[2 * i], points[2 * i + 1]].map((value) => round(value * 100) + 100);
    const code = (label * GRID + x) * GRID + y;
    return DIGITS[code >> 12] + DIGITS[(code >> 6) & 63] + DIGITS[code & 63];
  }).join("");
}

/** The points of `encode`; null if the text is not one of its results. */
export function decode(text) {
  if (text.length % 3 || text.length > 3 * MOST_POINTS) return null;
  const rows = [];
  for (let i = 0; i < text.length; i += 3) {
    const digits = [0, 1, 2].map((k) => DIGITS.indexOf(text[i + k]));
    const code = (digits[0] * 64 + digits[1]) * 64 + digits[2];
    if (min(...digits) < 0 || code >= 3 * GRID * GRID) return null;
    const [label, x] = [floor(code / GRID / GRID), floor(code / GRID) % GRID];
    rows.push([(x - 100) / 100, ((code % GRID) - 100) / 100, label]);
  }
  return fromRows(rows);
}

function moons(n, random) {
  return Array.from({ length: n }, (_, i) => {
    const [angle, upper] = [PI * random(), i % 2 === 0];
    const [x, y] = upper ? [cos(angle) - 0.5, sin(angle) - 0.25] : [0.5 - cos(angle), 0.25 - sin(angle)];
    return jitter([0.62 * x, 0.8 * y, upper ? 0 : 1], 0.035, random);
  });
}

function ring(n, random) {
  const start = random();
  return Array.from({ length: n }, (_, i) => {
    const angle = 2 * PI * ((i + 0.35 * (random() - 0.5)) / n + start);
    return [RADIUS * cos(angle), RADIUS * sin(angle), 0];
  });
}

function spiral(n, random) {
  return Array.from({ length: n }, () => {
    const way = sqrt(random());
    const angle = 3.4 * PI * way;
    return jitter([0.9 * way * cos(angle), 0.9 * way * sin(angle), 0], 0.015, random);
  });
}

function threeClasses(n, random) {
  const centres = [[-0.6, 0.4], [0.6, 0.4], [0, -0.6]];
  return Array.from({ length: n }, (_, i) => jitter([...centres[i % 3], i % 3], 0.15, random));
}

function letters(n, random) {
  return Array.from({ length: n }, (_, i) => jitter([...along(LETTERS[i % 3], random()), i % 3], 0.015, random));
}

/** The point at a share of the way along some strokes. */
function along(strokes, share) {
  const lines = strokes.flatMap((stroke) => stroke.slice(1).map((end, i) => [stroke[i], end]));
  const lengths = lines.map(([[x, y], [u, v]]) => hypot(u - x, v - y));
  let left = share * lengths.reduce((sum, length) => sum + length, 0);
  const k = lengths.findIndex((length) => (left -= length) <= 0);
  const [[x, y], [u, v]] = lines[k < 0 ? lines.length - 1 : k];
  const part = 1 + (k < 0 ? 0 : left / lengths[k]);
  return [x + part * (u - x), y + part * (v - y)];
}

function jitter([x, y, label], spread, random) {
  const [radius, angle] = [spread * sqrt(-2 * log(1 - random())), 2 * PI * random()];
  return [x + radius * cos(angle), y + radius * sin(angle), label];
}
