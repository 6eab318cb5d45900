// Sampling loops with one mistake each, as in ddpm_helpers/doctor/bugs.py, and what the doctor says
// about them: its sentence and its repair, word for word.

const { max, min, sqrt } = Math;

export const BUGS = {
  "last noise": {
    title: "noise in the last step",
    doctor: "noise is added at the last step, standard deviation {sigma}",
    repair: "Add none in the step that ends at t = 0",
    seen: "Every end is a little off its data point, like grain on a good image.",
    ddpm: true,
  },
  "one ahead": {
    title: "t off by one",
    doctor: "t is off by one: the network is given a t one above that of the coefficients",
    repair: "Pass t - 1, or index the tables as in training",
    seen: "The network removes less noise than there is, so some of it stays: the ends are blurred.",
  },
  "root": {
    title: "a forgotten square root",
    doctor: "the direction is scaled by 1 - alpha_bar: the square root is missing",
    repair: "Put the square root where the formula has one",
    seen: "Each step keeps too little of the noise. The walks crowd together and reach only a few data points.",
    fewer: true,
  },
  "wraps": {
    title: "alpha_bar[-1]",
    doctor: "the last step uses alpha_bar[-1], which in Python is the noisiest entry",
    repair: "Use 1 where the index would be -1",
    seen: "The walk is right until its last step, which throws every point back into noise.",
  },
  "clipped mean": {
    title: "clipping after the mean",
    doctor: "x_{t-1} is clipped to [-1, 1], after the mean: its noise must reach beyond",
    repair: "Clip the predicted x_0 instead, before the mean is taken from it",
    seen: "The cloud cannot leave the square, so it is pressed together. Outer data points are drawn too rarely.",
    fewer: true,
  },
  "wrong kind": {
    title: "eps read as v",
    doctor: "the sampler treats the output as v, but it is eps",
    repair: "Convert eps to v before the step",
    seen: "Every step moves by a wrong amount. The cloud shrinks too early, and fewer data points are reached.",
    fewer: true,
  },
};

/**
 * All steps of DDIM, or of DDPM with sigma^2 = beta, from T to 0 with one mistake, or none.
 *
 * `network(x_t, t, [null])` predicts eps. Yields {t, x_t}; the last has t = 0.
 */
export function* brokenWalk(bug, bar, network, x_t, noise, { ddpm = false } = {}) {
  const T = bar.length - 1;
  for (let t = T; t > 0; t--) {
    yield { t, x_t };
    const s = t - 1;
    const out = network(x_t, bug === "one ahead" ? min(t + 1, T) : t, [null]);
    const [a, b] = [sqrt(bar[t]), sqrt(1 - bar[t])];
    let x_0 = out.map((value, i) => (x_t[i] - b * value) / a);
    if (bug === "wrong kind") x_0 = out.map((value, i) => a * x_t[i] - b * value);
    if (bug !== "clipped mean") x_0 = x_0.map(clip);
    const to = bug === "wraps" && s === 0 ? bar[T] : bar[s];
    const variance = ddpm && s > 0 ? ((1 - to) / (1 - bar[t])) * (1 - bar[t] / to) : 0;
    const along = bug === "root" ? 1 - to - variance : sqrt(max(0, 1 - to - variance));
    x_t = x_t.map((value, i) => sqrt(to) * x_0[i] + (along * (value - a * x_0[i])) / b);
    if (bug === "clipped mean" && s > 0) x_t = x_t.map(clip);
    if (ddpm && (s > 0 || bug === "last noise")) {
      const sigma = sqrt(s > 0 ? variance : 1 - bar[t]);
      const z = noise();
      x_t = x_t.map((value, i) => value + sigma * z[i]);
    }
  }
  yield { t: 0, x_t };
}

/** The standard deviation of the noise that "last noise" leaves. */
export function lastNoise(bar) {
  return sqrt(1 - bar[1]);
}

function clip(value) {
  return max(-1, min(1, value));
}
