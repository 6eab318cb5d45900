// Walks of several points at once: the samplers that race, and the ends that they are measured by.

import { pictureNoise } from "../draw/noise.js";
import { SAMPLERS, denoiser, isCorrected, subSequence } from "../draw/samplers.js";
import { asNetwork } from "./ideal.js";
import { alphaBar } from "./schedules.js";

/** Standard normal points (flat, x, y, …); each call gives the next n. */
export function startNoise(seed, n) {
  const noise = pictureNoise(seed, 0, Math.max(16, 2 * n));
  return () => Float64Array.from(noise().subarray(0, 2 * n));
}

/**
 * Walks points down from x_t at step `from` with one sampler.
 *
 * `mean(x_t, alpha_bar, y)` is the exact or learned x_0. Returns the sampler's steps {t, x_t, x_0},
 * the last with t = 0. `flow` takes the steps of ddim on the schedule of flow matching.
 */
export async function walk({ name, mean, schedule, T, from = T, steps, x_t, noise, y = null, guidance = 1 }) {
  const own = name === "flow" ? "flow" : schedule;
  const process = { bar: alphaBar(own, T), prediction: "v" };
  const denoise = denoiser(asNetwork(mean, process), process, y, guidance);
  const run = SAMPLERS[name === "flow" ? "ddim" : name];
  const found = [];
  const options = { time: own === "flow" ? "flow" : "sigma" };
  for await (const step of run(process.bar, denoise, x_t, subSequence(from, steps), noise, options)) {
    found.push(step);
  }
  return found;
}

/** The x_t of a walk as far as timestep t, the last between two steps if t lies between them. */
export function untilTimestep(steps, t) {
  const k = steps.findIndex((step) => step.t <= t);
  const found = steps.slice(0, k + 1).map(({ x_t }) => x_t);
  if (k > 0 && steps[k].t < t) {
    const [above, below] = [steps[k - 1], steps[k]];
    const part = (above.t - t) / (above.t - below.t);
    found[k] = below.x_t.map((value, i) => above.x_t[i] + part * (value - above.x_t[i]));
  }
  return found;
}

/** The most steps of a sampler that need no more than `calls` calls of the network. */
export function stepsFor(name, schedule, T, calls) {
  if (name !== "heun") return calls;
  const bar = alphaBar(schedule, T);
  const time = schedule === "flow" ? "flow" : "sigma";
  for (let steps = calls; steps > 1; steps--) {
    const ts = subSequence(T, steps);
    const twice = ts.slice(1).filter((s, i) => isCorrected(bar[ts[i]], bar[s], time));
    if (steps + twice.length <= calls) return steps;
  }
  return 1;
}

/**
 * All chosen samplers from the same x_T with the same number of calls.
 *
 * Returns for each {name, steps, path, toExact, toData}: mean distances of the ends from the ends of
 * the exact path (heun with all T steps; null for ddpm, whose noise leads elsewhere), and what
 * `nearest` says of the ends.
 */
export async function race({ samplers, mean, data, schedule, T, calls, racers, seed, y, guidance }) {
  const common = { mean, schedule, T, y, guidance };
  const x_T = startNoise(seed, racers)();
  const exact = (await walk({ ...common, name: "heun", steps: T, x_t: x_T })).at(-1).x_t;
  const results = [];
  for (const name of samplers) {
    const noise = startNoise(seed, racers);
    noise(); // the first were x_T
    const steps = stepsFor(name, schedule, T, calls);
    const path = await walk({ ...common, name, steps, x_t: x_T, noise });
    const end = path.at(-1).x_t;
    const toExact = name === "ddpm" ? null : meanDistance(end, exact);
    results.push({ name, steps, path, toExact, toData: nearest(end, data.points) });
  }
  return results;
}

/** Distances to the nearest data point, their mean, the largest, and how many points are nearest to one. */
export function nearest(x, points) {
  const reached = new Set();
  const distances = [];
  for (let n = 0; n < x.length; n += 2) {
    let [best, which] = [Infinity, 0];
    for (let i = 0; i < points.length; i += 2) {
      const distance = Math.hypot(x[n] - points[i], x[n + 1] - points[i + 1]);
      if (distance < best) [best, which] = [distance, i];
    }
    reached.add(which);
    distances.push(best);
  }
  const distance = distances.reduce((sum, one) => sum + one, 0) / distances.length;
  return { distance, distances, farthest: Math.max(...distances), reached: reached.size };
}

function meanDistance(x, y) {
  let total = 0;
  for (let n = 0; n < x.length; n += 2) total += Math.hypot(x[n] - y[n], x[n + 1] - y[n + 1]);
  return total / (x.length / 2);
}
