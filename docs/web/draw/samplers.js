// The samplers of ddpm_helpers/diffusion/samplers.py, line by line. Pictures are Float32Arrays or
// Float64Arrays, and stay what they are; the numbers beside them are doubles. `bar` is the table of
// alpha_bar, T + 1 long, with bar[0] = 1.
//
// Each sampler walks down the steps and yields {t, x_t, x_0} at every one: the picture at step t
// and the clean picture predicted from it. The last has t = 0, and x_t is the result.

const { sqrt, log, expm1, floor, max, min } = Math;
const HEUN_RATIO = 4; // steps over which the noise level falls by more than this are not corrected
const NO_LABEL = -1;

/** Ancestral sampling with the posterior variance. Source: Ho et al. 2020, algorithm 2. */
export async function* ddpm(bar, denoise, x_t, ts, noise) {
  for (const [t, s] of pairs(ts)) {
    const x_0 = await denoise(x_t, t);
    yield { t, x_t, x_0 };
    const { of_x_0, of_x_t, variance } = posterior(bar, t, s);
    x_t = sum([of_x_0, x_0], [of_x_t, x_t]);
    if (s > 0) x_t = sum([1, x_t], [sqrt(variance), noise()]);
  }
  yield { t: 0, x_t, x_0: x_t };
}

/** Implicit sampling: keep the noise in x_t. Source: Song et al. 2021 (DDIM), eq. 12. */
export async function* ddim(bar, denoise, x_t, ts) {
  for (const [t, s] of pairs(ts)) {
    const x_0 = await denoise(x_t, t);
    yield { t, x_t, x_0 };
    const eps = noiseIn(bar[t], x_t, x_0);
    x_t = sum([sqrt(bar[s]), x_0], [sqrt(1 - bar[s]), eps]);
  }
  yield { t: 0, x_t, x_0: x_t };
}

// The slopes are taken over sigma, or, if `time` is "flow", over the time of flow matching.
/** A DDIM step, then the same step with the mean of both slopes. Source: Karras et al. 2022. */
export async function* heun(bar, denoise, x_t, ts, noise, { time = "sigma" } = {}) {
  for (const [t, s] of pairs(ts)) {
    const x_0 = await denoise(x_t, t);
    yield { t, x_t, x_0 };
    const eps = noiseIn(bar[t], x_t, x_0);
    x_t = sum([sqrt(bar[s]), x_0], [sqrt(1 - bar[s]), eps]);
    if (isCorrected(bar[t], bar[s], time)) {
      const eps_s = noiseIn(bar[s], x_t, await denoise(x_t, s));
      const half = stride(bar[t], bar[s], time) / 2;
      x_t = sum([1, x_t], [half, eps_s], [-half, eps]);
    }
  }
  yield { t: 0, x_t, x_0: x_t };
}

/** DPM-Solver++ (2M), a line through the last two x_0. Source: Lu et al. 2022, algorithm 2. */
export async function* dpmPlusPlus(bar, denoise, x_t, ts) {
  let before = null; // x_0 and h of the step before
  for (const [t, s] of pairs(ts)) {
    const x_0 = await denoise(x_t, t);
    yield { t, x_t, x_0 };
    let [D, h] = [x_0, Infinity];
    const shrink = sqrt((1 - bar[s]) / (1 - bar[t]));
    if (s > 0 && bar[t] > 0) {
      h = 0.5 * log((bar[s] * (1 - bar[t])) / ((1 - bar[s]) * bar[t]));
      if (before) {
        const ahead = h / (2 * before.h);
        D = sum([1 + ahead, x_0], [-ahead, before.x_0]);
      }
    }
    x_t = sum([shrink, x_t], [sqrt(bar[s]) * -expm1(-h), D]);
    before = { x_0, h };
  }
  yield { t: 0, x_t, x_0: x_t };
}

export const SAMPLERS = { "dpm++": dpmPlusPlus, ddim, heun, ddpm };

/** The steps that a walk visits: k of them from T down, then 0 (the spacing called trailing). */
export function subSequence(T, k) {
  return Array.from({ length: k + 1 }, (_, i) => floor(((k - i) * T) / k));
}

/** Weights of x_0 and x_t in the mean of q(x_s | x_t, x_0), and its variance. Source: Ho, eq. 7. */
export function posterior(bar, t, s) {
  const alpha = bar[t] / bar[s];
  return {
    of_x_0: (sqrt(bar[s]) * (1 - alpha)) / (1 - bar[t]),
    of_x_t: (sqrt(alpha) * (1 - bar[s])) / (1 - bar[t]),
    variance: ((1 - bar[s]) / (1 - bar[t])) * (1 - alpha),
  };
}

/** A clean picture noised to step t in one jump. Source: Ho et al. 2020, eq. 4. */
export function addNoise(bar, x_0, t, eps) {
  return sum([sqrt(bar[t]), x_0], [sqrt(1 - bar[t]), eps]);
}

/**
 * The network as a function from x_t to the x_0 predicted from it, in [-1, 1].
 *
 * `network(pictures, t, labels)` takes one picture for each label, concatenated. Labels are null
 * for a network without classes. Source of the guidance: Ho & Salimans 2022, with w = guidance - 1.
 */
export function denoiser(network, { bar, prediction }, y, guidance) {
  async function output(x_t, t) {
    if (y === null || guidance === 1) return network(x_t, t, [y]);
    const both = new x_t.constructor(2 * x_t.length);
    both.set(x_t);
    both.set(x_t, x_t.length);
    const out = await network(both, t, [y, NO_LABEL]);
    const [withY, without] = [out.subarray(0, x_t.length), out.subarray(x_t.length)];
    return sum([guidance, withY], [1 - guidance, without]);
  }
  return async (x_t, t) => {
    const [signal, noise] = [sqrt(bar[t]), sqrt(1 - bar[t])];
    const out = await output(x_t, t);
    const x_0 = {
      eps: () => sum([1 / signal, x_t], [-noise / signal, out]),
      x_0: () => out,
      v: () => sum([signal, x_t], [-noise, out]),
      flow: () => sum([1 / (signal + noise), x_t], [-noise / (signal + noise), out]),
    }[prediction]();
    return x_0.map((value) => max(-1, min(1, value)));
  };
}

/** The noise in x_t, given the (clipped) x_0. */
function noiseIn(bar_t, x_t, x_0) {
  return sum([1 / sqrt(1 - bar_t), x_t], [-sqrt(bar_t / (1 - bar_t)), x_0]);
}

/** Whether Heun's step from t to s calls the network twice. */
export function isCorrected(bar_t, bar_s, time = "sigma") {
  if (time === "flow") return bar_s < 1;
  return bar_s < 1 && (1 - bar_t) * bar_s <= HEUN_RATIO ** 2 * (1 - bar_s) * bar_t;
}

/** How far x_t moves from t to s for a change of eps by 1. */
function stride(bar_t, bar_s, time) {
  const [a_t, b_t, a_s, b_s] = [sqrt(bar_t), sqrt(1 - bar_t), sqrt(bar_s), sqrt(1 - bar_s)];
  if (time === "sigma") return a_s * (b_s / a_s - b_t / a_t);
  return (a_s + b_s) * (b_s / (a_s + b_s) - b_t / (a_t + b_t)) * (1 + b_s / a_s);
}

/** A weighted sum of pictures: sum([a, x], [b, y]) is a * x + b * y. */
function sum(...terms) {
  return terms[0][1].map((_, i) => terms.reduce((total, [weight, x]) => total + weight * x[i], 0));
}

function pairs(ts) {
  return ts.slice(1).map((s, i) => [ts[i], s]);
}
