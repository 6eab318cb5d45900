"""From noise to pictures: a sampler is a loop that walks down the steps and yields every `Step`.

Each one pairs a step t with the next, smaller step s, asks the network for x_0, and moves from
x_t towards it, with or without fresh noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ddpm_helpers.diffusion.utils import DiffusionUtils

VARIANCES = ("posterior", "beta")  # the two choices of Ho et al. 2020, section 3.2
HEUN_RATIO = 4.0  # a step over which the noise level falls by more than this stays a plain one


@dataclass(frozen=True, eq=False)
class Step:
    """One station on the way from noise to a picture.

    Attributes:
        t: its step: where the walk starts first (T as a rule), 0 last.
        x_t: the pictures at step t, (n, C, H, W); at t = 0 the result.
        x_0_pred: the clean pictures that the network sees in this x_t (clipped, if asked for);
            at t = 0 the result.
    """

    t: int
    x_t: Tensor
    x_0_pred: Tensor


Denoise = Callable[[Tensor, int], Tensor]  # (x_t, t) -> predicted x_0
Noise = Callable[[], Tensor]  # the next batch of standard normal noise


def ddpm(
    diffusion: DiffusionUtils,
    denoise: Denoise,
    x_t: Tensor,
    ts: list[int],
    noise: Noise,
    variance: str = "posterior",
) -> Iterator[Step]:
    """Ancestral sampling: draw x_s from q(x_s | x_t, x_0) with the predicted x_0.

    Source: Ho et al. 2020, algorithm 2. sigma_t^2 is the posterior variance of eq. 7, right for
    data that are a single picture, or beta_t, right for data that are pure noise.
    """
    bar = diffusion.alpha_bar.tolist()
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        mean, sigma_2 = diffusion.posterior_between(x_0, x_t, _full(t, x_t), _full(s, x_t))
        if variance == "beta":
            sigma_2 = torch.full_like(sigma_2, 1 - bar[t] / bar[s])
        # The last step is the mean alone: nobody would clean up its noise.
        x_t = mean + sigma_2.sqrt() * noise() if s > 0 else mean
    yield Step(0, x_t, x_t)


def ddim(
    diffusion: DiffusionUtils,
    denoise: Denoise,
    x_t: Tensor,
    ts: list[int],
    noise: Noise,
    eta: float = 0.0,
) -> Iterator[Step]:
    """Implicit sampling: keep the noise that x_t holds, at the level of step s.

        x_s = sqrt(bar_s) * x_0 + sqrt(1 - bar_s - sigma^2) * eps + sigma * z

    eps is what x_t and the (clipped) x_0 leave, so that the three always agree.
    Source: Song et al. 2021 (DDIM), eq. 12 and 16.
    """
    bar = diffusion.alpha_bar.tolist()
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        eps = (x_t - math.sqrt(bar[t]) * x_0) / math.sqrt(1 - bar[t])
        sigma = eta * math.sqrt((1 - bar[s]) / (1 - bar[t]) * (1 - bar[t] / bar[s]))
        along = math.sqrt(max(0.0, 1 - bar[s] - sigma**2))
        x_t = math.sqrt(bar[s]) * x_0 + along * eps
        if sigma > 0:
            x_t = x_t + sigma * noise()
    yield Step(0, x_t, x_t)


def heun(
    diffusion: DiffusionUtils, denoise: Denoise, x_t: Tensor, ts: list[int], noise: Noise
) -> Iterator[Step]:
    """A DDIM step to look ahead, then the same step with the mean of both slopes.

    In z = x_t / sqrt(bar_t), with sigma = sqrt(1 / bar_t - 1), DDIM is Euler's method for
    dz / dsigma = eps. Two network calls a step, one in the last. Steps over which sigma falls
    more than fourfold are plain ones, with one call: there the second slope says nothing about
    the first half. `network_calls` counts.
    Source: Karras et al. 2022 (EDM), algorithm 1.
    """
    bar = diffusion.alpha_bar.tolist()
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        eps = (x_t - math.sqrt(bar[t]) * x_0) / math.sqrt(1 - bar[t])
        ahead = math.sqrt(bar[s]) * x_0 + math.sqrt(1 - bar[s]) * eps
        if looks_ahead(bar[t], bar[s]):
            eps_s = (ahead - math.sqrt(bar[s]) * denoise(ahead, s)) / math.sqrt(1 - bar[s])
            d_sigma = math.sqrt(1 / bar[s] - 1) - math.sqrt(1 / bar[t] - 1)
            x_t = ahead + math.sqrt(bar[s]) * d_sigma * (eps_s - eps) / 2
        else:
            x_t = ahead
    yield Step(0, x_t, x_t)


def looks_ahead(bar_t: float, bar_s: float) -> bool:
    """Whether Heun's step from t to s takes a second look: sigma falls, but by HEUN_RATIO at most.

    Squared and free of divisions, since sigma is infinite at alpha_bar = 0.
    """
    return bar_s < 1 and (1 - bar_t) * bar_s <= HEUN_RATIO**2 * (1 - bar_s) * bar_t


def dpm_plus_plus(
    diffusion: DiffusionUtils, denoise: Denoise, x_t: Tensor, ts: list[int], noise: Noise
) -> Iterator[Step]:
    """DPM-Solver++ (2M): a straight line through the last two predicted x_0, one call a step.

        x_s = (noise_s / noise_t) * x_t + sqrt(bar_s) * (1 - exp(-h)) * D,   h = lambda_s - lambda_t
        D = x_0 + (h / 2 h_before) * (x_0 - x_0_before)

    lambda = log(sqrt(bar) / sqrt(1 - bar)). First and last step take D = x_0.
    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """
    bar = diffusion.alpha_bar.tolist()
    before: tuple[Tensor, float] | None = None  # x_0 and h of the step before
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        D, shrink, h = x_0, math.sqrt((1 - bar[s]) / (1 - bar[t])), math.inf
        if s > 0 and bar[t] > 0:
            h = 0.5 * math.log(bar[s] * (1 - bar[t]) / ((1 - bar[s]) * bar[t]))
            if before is not None:
                D = x_0 + h / (2 * before[1]) * (x_0 - before[0])
        x_t = shrink * x_t + math.sqrt(bar[s]) * -math.expm1(-h) * D
        before = (x_0, h)
    yield Step(0, x_t, x_t)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "heun": heun,
    "dpm++": dpm_plus_plus,
}


def _full(t: int, x_t: Tensor) -> Tensor:
    return torch.full((len(x_t),), t)
