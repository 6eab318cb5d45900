"""The samplers: each goes down the timesteps from noise to images and yields a `Step` at each.

They do not depend on a network or schedule. All take the same arguments:

    denoise: function of x_t and t that returns the predicted x_0, shape of x_t.
    x_t: start images, (n, C, H, W), at timestep ts[0].
    ts: decreasing timesteps, ending with 0.
    bar: alpha_bar, float64 (T + 1,) on the CPU; bar[0] = 1, and bar[T] may be 0.
    noise: function that returns the next standard normal batch, shape of x_t.

At each timestep t, a sampler predicts x_0 and steps to the next timestep, s < t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, int], Tensor]
Noise = Callable[[], Tensor]

VARIANCES = ("posterior", "beta")  # the two choices of Ho et al. 2020, section 3.2
HEUN_RATIO = 4.0  # steps that reduce sigma by a larger factor are not corrected


@dataclass(frozen=True, eq=False)
class Step:
    """A step on the way from noise to images.

    Attributes:
        t: the timestep, from the first (usually T) down to 0.
        x_t: the images at timestep t, (n, C, H, W); at t = 0 the result.
        x_0_pred: the clean images predicted from x_t (clipped if `clip`); at t = 0 the result.
    """

    t: int
    x_t: Tensor
    x_0_pred: Tensor


def posterior_coefficients(bar_t: Tensor, bar_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the weights of x_0 and x_t in the mean of q(x_s | x_t, x_0), s < t, and its variance.

    Args:
        bar_t, bar_s: alpha_bar at t and at s, of any shape.
    Returns:
        Three tensors of the same shape. At s = 0 they are 1, 0 and 0.
    Source: Ho et al. 2020, eq. 7, on a sub-sequence (Nichol & Dhariwal 2021, eq. 19).
    """
    alpha = bar_t / bar_s  # how much of x_s is left in x_t; alphas[t] if s = t - 1
    of_x_0 = bar_s.sqrt() * (1 - alpha) / (1 - bar_t)
    of_x_t = alpha.sqrt() * (1 - bar_s) / (1 - bar_t)
    return of_x_0, of_x_t, (1 - bar_s) / (1 - bar_t) * (1 - alpha)


def ddpm(
    denoise: Denoise, x_t: Tensor, ts: list[int], bar: Tensor, noise: Noise,
    *, variance: str = "posterior",
) -> Iterator[Step]:  # fmt: skip
    """Ancestral sampling: draw x_s from q(x_s | x_t, x_0) with the predicted x_0.

    Source: Ho et al. 2020, algorithm 2. sigma^2 is the posterior variance of eq. 7, optimal if the
    data are a single image, or beta_t, optimal for standard normal data.
    """
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        of_x_0, of_x_t, sigma_2 = posterior_coefficients(bar[t], bar[s])
        if variance == "beta":
            sigma_2 = 1 - bar[t] / bar[s]
        x_t = of_x_0 * x_0 + of_x_t * x_t
        if s > 0:  # no later step would remove noise that is added at s = 0
            x_t = x_t + sigma_2.to(x_t.dtype).sqrt() * noise()
    yield Step(0, x_t, x_t)


def ddim(
    denoise: Denoise, x_t: Tensor, ts: list[int], bar: Tensor, noise: Noise, *, eta: float = 0.0
) -> Iterator[Step]:
    """Implicit sampling: keep the noise that x_t holds, scaled to the level of timestep s.

        x_s = sqrt(bar_s) * x_0 + sqrt(1 - bar_s - sigma^2) * eps + sigma * z

    eps is computed from x_t and the (clipped) x_0, so the three are always consistent.
    Source: Song et al. 2021 (DDIM), eq. 12 and 16.
    """
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        eps = (x_t - bar[t].sqrt() * x_0) / (1 - bar[t]).sqrt()
        sigma = eta * ((1 - bar[s]) / (1 - bar[t]) * (1 - bar[t] / bar[s])).sqrt()
        x_t = bar[s].sqrt() * x_0 + (1 - bar[s] - sigma**2).clamp(min=0).sqrt() * eps
        if sigma > 0:
            x_t = x_t + sigma * noise()
    yield Step(0, x_t, x_t)


def heun(
    denoise: Denoise, x_t: Tensor, ts: list[int], bar: Tensor, noise: Noise,
    *, time: str = "sigma",
) -> Iterator[Step]:  # fmt: skip
    """Heun's method: take a step of DDIM, then repeat it with the mean slope of both ends.

    With a = sqrt(bar_t) and b = sqrt(1 - bar_t), DDIM is Euler's method for dz / dsigma = eps,
    where z = x_t / a and sigma = b / a. It is also Euler's method for dz / ds = eps - x_0, where
    z = x_t / (a + b) and s = b / (a + b) is the time of flow matching. `time` sigma
    averages the slopes in sigma; `time` flow averages them in s, which is 1 if sigma is infinite.
    Steps with `is_corrected` need two network calls, other steps need one.
    Source: Karras et al. 2022 (EDM), algorithm 1.
    """
    a, b = bar.sqrt(), (1 - bar).sqrt()  # (T + 1,)
    sigma, flow_time = b / a, b / (a + b)
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        eps = (x_t - a[t] * x_0) / b[t]  # the slope at t
        x_t = a[s] * x_0 + b[s] * eps
        if is_corrected(bar[t], bar[s], time):
            eps_s = (x_t - a[s] * denoise(x_t, s)) / b[s]
            stride = a[s] * (sigma[s] - sigma[t])  # change of x_t if eps changes by 1
            if time == "flow":  # if eps changes by 1, eps - x_0 changes by 1 + b / a
                stride = (a[s] + b[s]) * (flow_time[s] - flow_time[t]) * (1 + sigma[s])
            x_t = x_t + stride * (eps_s - eps) / 2
    yield Step(0, x_t, x_t)


def is_corrected(bar_t: Tensor, bar_s: Tensor, time: str = "sigma") -> bool:
    """Return whether heun corrects a step from t to s > 0: if sigma falls <= HEUN_RATIO-fold.

    If sigma falls further, the step is too long for the slope at s to be a good estimate. The
    inequality is squared and has no division, because sigma is infinite at alpha_bar = 0. In the
    time of flow matching, all steps except the step to t = 0 are corrected.
    """
    if time == "flow":
        return bool(bar_s < 1)
    return bool(bar_s < 1 and (1 - bar_t) * bar_s <= HEUN_RATIO**2 * (1 - bar_s) * bar_t)


def dpm_plus_plus(
    denoise: Denoise, x_t: Tensor, ts: list[int], bar: Tensor, noise: Noise
) -> Iterator[Step]:
    """DPM-Solver++ (2M): extrapolate from the last two predicted x_0, with one call per step.

        x_s = (noise_s / noise_t) * x_t - sqrt(bar_s) * (exp(-h) - 1) * D,  h = lambda_s - lambda_t
        D = x_0 + (h / 2 h_last) * (x_0 - x_0_last)

    lambda = log(sqrt(bar) / sqrt(1 - bar)), noise = sqrt(1 - bar). The first step, and the last
    step, whose h is infinite, use D = x_0.
    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """
    lam = 0.5 * (bar / (1 - bar)).log()  # (T + 1,), inf at t = 0, -inf where bar = 0
    x_0_last, h_last = x_t, torch.tensor(math.inf)  # makes D = x_0 in the first step
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        h = lam[s] - lam[t]
        D = x_0 + h / (2 * h_last) * (x_0 - x_0_last) if h < math.inf else x_0
        x_t = ((1 - bar[s]) / (1 - bar[t])).sqrt() * x_t - bar[s].sqrt() * (-h).expm1() * D
        x_0_last, h_last = x_0, h
    yield Step(0, x_t, x_t)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "heun": heun,
    "dpm++": dpm_plus_plus,
}
