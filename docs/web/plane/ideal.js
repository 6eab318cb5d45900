// The ideal denoiser of ddpm_helpers/diffusion/ideal.py: the exact E[x_0 | x_t] over a finite set of
// points, all equally likely. Points are flat arrays x, y, x, y, …; labels are whole numbers.

import { express } from "./process.js";

const NO_LABEL = -1;

/**
 * For data {points, labels}, functions of x_t (flat, any number of points), alpha_bar at t, and a
 * label y that restricts the set (null or -1: all of it).
 */
export function idealDenoiser({ points, labels }) {
  const all = Array.from(labels, (_, i) => i);
  const chosen = new Map(); // label -> indices of its points

  function members(y) {
    if (y === null || y === undefined || y === NO_LABEL) return all;
    if (!chosen.has(y)) chosen.set(y, all.filter((i) => labels[i] === y));
    return chosen.get(y);
  }

  /** Weights of all points for the one x_t = (x, y), and how many are still possible. */
  function weights([x, z], bar_t, y = null) {
    const each = new Float64Array(labels.length);
    const part = likelihoods(points, members(y), x, z, bar_t);
    members(y).forEach((i, k) => (each[i] = part[k]));
    const entropy = each.reduce((sum, w) => (w > 0 ? sum - w * Math.log(w) : sum), 0);
    return { weights: each, possible: Math.exp(entropy) };
  }

  /** E[x_0 | x_t], an array like x_t. */
  function mean(x_t, bar_t, y = null) {
    const found = new x_t.constructor(x_t.length);
    const indices = members(y);
    for (let n = 0; n < x_t.length; n += 2) {
      const part = likelihoods(points, indices, x_t[n], x_t[n + 1], bar_t);
      for (let k = 0; k < indices.length; k++) {
        found[n] += part[k] * points[2 * indices[k]];
        found[n + 1] += part[k] * points[2 * indices[k] + 1];
      }
    }
    return found;
  }

  return { weights, mean };
}

/**
 * A function from x_t to x_0 as a network for `denoiser` in samplers.js: it takes one group of
 * points for each label, concatenated, and answers with the wanted kind of prediction.
 */
export function asNetwork(mean, { bar, prediction }) {
  return (x_t, t, labels) => {
    const output = new x_t.constructor(x_t.length);
    const size = x_t.length / labels.length;
    labels.forEach((y, k) => {
      const part = x_t.subarray(k * size, (k + 1) * size);
      output.set(express(prediction, bar[t], part, mean(part, bar[t], y)), k * size);
    });
    return output;
  };
}

/** softmax(-|x_t - sqrt(bar) x_i|^2 / (2 (1 - bar))); at bar = 1 the nearest points share it all. */
function likelihoods(points, indices, x, y, bar_t) {
  const a = Math.sqrt(bar_t);
  const found = new Float64Array(indices.length);
  let least = Infinity;
  for (let k = 0; k < indices.length; k++) {
    const dx = x - a * points[2 * indices[k]];
    const dy = y - a * points[2 * indices[k] + 1];
    found[k] = dx * dx + dy * dy;
    if (found[k] < least) least = found[k];
  }
  const scale = 2 * (1 - bar_t);
  let total = 0;
  for (let k = 0; k < found.length; k++) {
    const over = found[k] - least;
    found[k] = over === 0 ? 1 : Math.exp(-over / scale); // exp(-Infinity) = 0 at bar = 1
    total += found[k];
  }
  for (let k = 0; k < found.length; k++) found[k] /= total;
  return found;
}
