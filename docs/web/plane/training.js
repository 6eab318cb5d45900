// Training of the small network on the points of the page, by the loss of Ho et al. 2020. The
// network's output is v, from which its eps follows, so that x_0 can be told at every timestep:
//
//     eps = sqrt(1 - alpha_bar) x_t + sqrt(alpha_bar) v
//     x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v

import { mersenneTwister, pictureNoise } from "../draw/noise.js";
import { adam, backward, forward, freshAdam, freshWeights, inputsOf } from "./network.js";

const { floor, sqrt } = Math;
export const MOST_UPDATES = 6000;
const HIDDEN = 64;
const BATCH = 128;
const RATE = 2e-3;
const UNLABELLED = 0.2; // share of points whose class is withheld, for guidance
const NO_LABEL = -1;
const DRAWS = 8; // of noise for each point, where errors are measured

/** The loss of Ho et al. 2020, eq. 14 (mean over points and coordinates), and its gradient. */
export function lossAndGradient(weights, hidden, { x_0, bars, eps, labels }) {
  const x_t = noised(x_0, bars, eps);
  const { output, kept } = forward(weights, hidden, inputsOf(x_t, bars, labels));
  const byOutput = new Float64Array(output.length);
  let loss = 0;
  for (let i = 0; i < output.length; i++) {
    const [a, b] = [sqrt(bars[i >> 1]), sqrt(1 - bars[i >> 1])];
    const error = b * x_t[i] + a * output[i] - eps[i];
    loss += error ** 2 / output.length;
    byOutput[i] = (2 * a * error) / output.length;
  }
  return { loss, gradient: backward(weights, kept, byOutput) };
}

/**
 * A network that learns the points; `update` is one update of the optimiser.
 *
 * `trained` is null or {weights, updates, loss} of a network that was trained before.
 */
export function training({ points, labels }, bar, seed, trained = null) {
  const random = uniforms(seed);
  const noise = pictureNoise(seed, 1, 2 * BATCH);
  const first = pictureNoise(seed, 2, 16);
  let ready = [];
  const normal = () => (ready.length ? ready : (ready = Array.from(first()))).pop();
  const weights = trained?.weights ?? freshWeights(HIDDEN, normal);
  const state = freshAdam(weights.length);
  const self = { weights, updates: trained?.updates ?? 0, loss: trained?.loss ?? NaN };

  self.update = () => {
    const rows = Array.from({ length: BATCH }, () => floor(random() * labels.length));
    const batch = {
      x_0: Float64Array.from(rows.flatMap((i) => [points[2 * i], points[2 * i + 1]])),
      bars: rows.map(() => bar[1 + floor(random() * (bar.length - 1))]),
      labels: rows.map((i) => (random() < UNLABELLED ? NO_LABEL : labels[i])),
      eps: Float64Array.from(noise()),
    };
    const { loss, gradient } = lossAndGradient(weights, HIDDEN, batch);
    adam(weights, gradient, state, RATE);
    self.updates += 1;
    self.loss = self.updates === 1 ? loss : self.loss + 0.02 * (loss - self.loss);
    return Number.isFinite(loss);
  };

  /** x_0 as the network predicts it, an array like x_t. */
  self.mean = (x_t, bar_t, y = null) => {
    const bars = new Float64Array(x_t.length / 2).fill(bar_t);
    const all = new Int8Array(x_t.length / 2).fill(y ?? NO_LABEL);
    const { output } = forward(weights, HIDDEN, inputsOf(x_t, bars, all));
    return x_t.map((value, i) => sqrt(bar_t) * value - sqrt(1 - bar_t) * output[i]);
  };
  return self;
}

/** Mean squared error of a predicted x_0 at some timesteps, with the same noise for everybody. */
export function errorByTimestep(mean, points, bar, timesteps) {
  const times = Math.max(1, Math.min(DRAWS, floor(800 / points.length)));
  const x_0 = Float64Array.from({ length: times * points.length }, (_, i) => points[i % points.length]);
  const eps = Float64Array.from(pictureNoise(7, 0, Math.max(16, x_0.length))().subarray(0, x_0.length));
  return timesteps.map((t) => {
    const x_t = noised(x_0, new Float64Array(x_0.length / 2).fill(bar[t]), eps);
    const found = mean(x_t, bar[t]);
    return found.reduce((sum, value, i) => sum + (value - x_0[i]) ** 2, 0) / found.length;
  });
}

/** x_t with its own alpha_bar for every point. */
function noised(x_0, bars, eps) {
  return x_0.map((value, i) => sqrt(bars[i >> 1]) * value + sqrt(1 - bars[i >> 1]) * eps[i]);
}

/** Uniform numbers in [0, 1) from a seed. */
export function uniforms(seed) {
  const random = mersenneTwister(seed);
  return () => random() / 2 ** 32;
}
