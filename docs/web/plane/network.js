// A small network with two hidden layers, its gradients by hand, and Adam. All numbers are doubles.

const { cos, exp, sin, sqrt } = Math;
export const CLASSES = 3;
const WAVES = [0.5, 1, 2]; // of the noise level's angle
export const INPUTS = 2 + 2 * WAVES.length + CLASSES;
const OUTPUTS = 2;

/** Sizes of the layers' weights: [inputs, outputs] each. */
function layers(hidden) {
  return [[INPUTS, hidden], [hidden, hidden], [hidden, OUTPUTS]];
}

/** Fresh weights of all layers in one array: for each layer (in, out), then its bias (out). */
export function freshWeights(hidden, normal) {
  const parts = layers(hidden).flatMap(([n, m], i) => {
    const spread = sqrt((i < 2 ? 2 : 0.01) / n); // the last layer begins near zero
    return [...Array.from({ length: n * m }, () => spread * normal()), ...Array(m).fill(0)];
  });
  return Float64Array.from(parts);
}

/** What the network sees of each point: x_t, its noise level as an angle, and its class. */
export function inputsOf(x_t, bars, labels) {
  const found = new Float64Array((x_t.length / 2) * INPUTS);
  for (let n = 0; n < x_t.length / 2; n++) {
    const row = n * INPUTS;
    found[row] = x_t[2 * n];
    found[row + 1] = x_t[2 * n + 1];
    const angle = Math.atan2(sqrt(1 - bars[n]), sqrt(bars[n])); // 0 is clean, a right angle is noise
    WAVES.forEach((wave, k) => {
      found[row + 2 + 2 * k] = sin(2 * wave * angle);
      found[row + 3 + 2 * k] = cos(2 * wave * angle);
    });
    if (labels[n] >= 0) found[row + 2 + 2 * WAVES.length + labels[n]] = 1;
  }
  return found;
}

/** The outputs (two for each row of inputs), and what `backward` needs. */
export function forward(weights, hidden, inputs) {
  const kept = [];
  let [x, start] = [inputs, 0];
  layers(hidden).forEach(([n, m], i) => {
    const z = affine(weights, start, x, n, m);
    kept.push({ x, z, start, n, m });
    x = i < 2 ? z.map(silu) : z;
    start += (n + 1) * m;
  });
  return { output: x, kept };
}

/** The gradient of a loss by all weights, from its gradient by the outputs. */
export function backward(weights, kept, byOutput) {
  const gradient = new Float64Array(weights.length);
  let byZ = byOutput;
  for (let i = kept.length - 1; i >= 0; i--) {
    const { x, start, n, m } = kept[i];
    addOuter(gradient, start, x, byZ, n, m);
    if (i === 0) break;
    const { z } = kept[i - 1];
    byZ = timesTransposed(weights, start, byZ, n, m).map((value, k) => value * siluSlope(z[k]));
  }
  return gradient;
}

/** One update of the weights, in place. Source: Kingma & Ba 2015, algorithm 1. */
export function adam(weights, gradient, state, rate) {
  state.updates += 1;
  const [unbias1, unbias2] = [1 - 0.9 ** state.updates, 1 - 0.999 ** state.updates];
  for (let i = 0; i < weights.length; i++) {
    state.mean[i] += 0.1 * (gradient[i] - state.mean[i]);
    state.square[i] += 0.001 * (gradient[i] ** 2 - state.square[i]);
    weights[i] -= (rate * state.mean[i]) / unbias1 / (sqrt(state.square[i] / unbias2) + 1e-8);
  }
}

export function freshAdam(size) {
  return { updates: 0, mean: new Float64Array(size), square: new Float64Array(size) };
}

/** x (rows, n) times the layer's weights (n, m), plus its bias. */
function affine(weights, start, x, n, m) {
  const z = new Float64Array((x.length / n) * m);
  const bias = start + n * m;
  for (let row = 0; row < x.length / n; row++) {
    const at = row * m;
    for (let j = 0; j < m; j++) z[at + j] = weights[bias + j];
    for (let i = 0; i < n; i++) {
      const value = x[row * n + i];
      const from = start + i * m;
      for (let j = 0; j < m; j++) z[at + j] += value * weights[from + j];
    }
  }
  return z;
}

function addOuter(gradient, start, x, byZ, n, m) {
  const bias = start + n * m;
  for (let row = 0; row < x.length / n; row++) {
    const at = row * m;
    for (let j = 0; j < m; j++) gradient[bias + j] += byZ[at + j];
    for (let i = 0; i < n; i++) {
      const value = x[row * n + i];
      const to = start + i * m;
      for (let j = 0; j < m; j++) gradient[to + j] += value * byZ[at + j];
    }
  }
}

function timesTransposed(weights, start, byZ, n, m) {
  const byX = new Float64Array((byZ.length / m) * n);
  for (let row = 0; row < byZ.length / m; row++) {
    for (let i = 0; i < n; i++) {
      let total = 0;
      const from = start + i * m;
      for (let j = 0; j < m; j++) total += byZ[row * m + j] * weights[from + j];
      byX[row * n + i] = total;
    }
  }
  return byX;
}

function silu(z) {
  return z / (1 + exp(-z));
}

function siluSlope(z) {
  const s = 1 / (1 + exp(-z));
  return s * (1 + z * (1 - s));
}
