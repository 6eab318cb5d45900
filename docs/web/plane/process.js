// What the noisy points x_t and the clean points x_0 say about each other at one timestep, as in
// ddpm_helpers/diffusion/forward.py. Points are flat arrays x, y, x, y, …

const { sqrt } = Math;

/** The kinds of prediction; each follows from x_t and x_0. */
export const KINDS = ["x_0", "eps", "score", "v", "velocity"];

/**
 * A prediction of x_0 in the other forms. Sources: Ho et al. 2020, eq. 4; v: Salimans & Ho 2022,
 * section 4; velocity (called flow in Python): Liu et al. 2023, eq. 1; score: Song et al. 2021.
 * At t = 0 there is no noise: eps is 0, and the score is not defined (NaN).
 */
export function express(kind, bar_t, x_t, x_0) {
  const [a, b] = [sqrt(bar_t), sqrt(1 - bar_t)];
  const eps = x_t.map((value, i) => (b > 0 ? (value - a * x_0[i]) / b : 0));
  return {
    x_0: () => x_0,
    eps: () => eps,
    score: () => eps.map((value) => (b > 0 ? -value / b : NaN)),
    v: () => eps.map((value, i) => a * value - b * x_0[i]),
    velocity: () => eps.map((value, i) => value - x_0[i]),
    flow: () => eps.map((value, i) => value - x_0[i]),
  }[kind]();
}
