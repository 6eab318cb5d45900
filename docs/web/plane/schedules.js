// The noise schedules of ddpm_helpers/diffusion/schedules.py: tables of alpha_bar, T + 1 long, with
// alpha_bar[0] = 1.

const { PI, cos, exp, log, min, sqrt } = Math;
const [BETA_START, BETA_END] = [1e-4, 0.02];
const COSINE_S = 0.008;
const BETA_MAX = 0.999;
const SHIFT = 2;

export const SCHEDULES = {
  cosine: (T) => betasOf(squaredCosine(T)),
  linear: (T) => fromTo(BETA_START, BETA_END, T),
  quadratic: (T) => fromTo(sqrt(BETA_START), sqrt(BETA_END), T).map((root) => root ** 2),
  exponential: (T) => fromTo(log(BETA_START), log(BETA_END), T).map(exp),
  sigmoid: (T) => fromTo(-6, 6, T).map((z) => BETA_START + (BETA_END - BETA_START) / (1 + exp(-z))),
  shifted_cosine: (T) => betasOf(shifted(squaredCosine(T))),
  flow,
};

/** alpha_bar of a named schedule. */
export function alphaBar(name, T) {
  const bar = new Float64Array(T + 1);
  bar[0] = 1;
  SCHEDULES[name](T).forEach((beta, i) => (bar[i + 1] = bar[i] * (1 - beta)));
  return bar;
}

/** Source: Nichol & Dhariwal 2021, eq. 17. */
function squaredCosine(T) {
  const f = (t) => cos(((t / T + COSINE_S) / (1 + COSINE_S)) * (PI / 2)) ** 2;
  return Float64Array.from({ length: T + 1 }, (_, t) => f(t));
}

/** SNR / SHIFT ** 2 at every step. Source: Hoogeboom et al. 2023, section 3.1. */
function shifted(f) {
  return f.map((value) => value / (value + SHIFT ** 2 * (f[0] - value)));
}

/** The straight path (1 - s) x_0 + s eps, scaled to variance 1. Source: Lipman et al. 2023. */
function flow(T) {
  const bar = Float64Array.from({ length: T + 1 }, (_, t) => {
    const s = t / T;
    return (1 - s) ** 2 / ((1 - s) ** 2 + s ** 2);
  });
  return Array.from(bar.subarray(1), (value, i) => 1 - value / bar[i]);
}

function betasOf(bar) {
  return Array.from(bar.subarray(1), (value, i) => min(1 - value / bar[i], BETA_MAX));
}

/** T numbers from start to end in equal steps. */
function fromTo(start, end, T) {
  return Array.from({ length: T }, (_, i) => start + ((end - start) * i) / Math.max(1, T - 1));
}
