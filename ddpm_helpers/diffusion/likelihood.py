"""The variational bound on the negative log-likelihood of images, in bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.diffusion.process import DiffusionUtils
from ddpm_helpers.diffusion.walk import Labels, Model, network_output, picture_noise

_HALF_LEVEL = 1 / 255  # half of the distance between two grey levels in [-1, 1]


@dataclass(frozen=True, eq=False)
class Bits:
    """The terms of the bound, in bits per dimension, for each image.

    Attributes:
        ts: measured timesteps, increasing, starting at 1.
        terms: (n, len(ts)): L_0 (the decoder) at t = 1, L_{t-1} at t.
        prior: (n,), L_T: information about the image that is left at T.
        total: (n,), the bound: prior plus all T terms; terms between measured timesteps are
            interpolated linearly.
    """

    ts: list[int]
    terms: Tensor
    prior: Tensor
    total: Tensor


@torch.no_grad()
def bits_per_dim(
    diffusion: DiffusionUtils,
    model: Model,
    x_0: Tensor,
    y: Labels | None = None,
    *,
    ts: Sequence[int] | None = None,
    clip: bool = True,
    seed: int = 0,
) -> Bits:
    """Compute the variational bound on -log2 p(x_0) / dimensions, with the posterior variance.

        bound = KL(q(x_T | x_0) || N(0, 1)) - log p(x_0 | x_1)
                + sum over t = 2..T of KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))

    Each image gets one noise per timestep. At t = 1 the posterior variance is 0, so the variance at
    t = 2 is used, and p gives each grey level the mass of its interval of width 2/255.

    Args:
        diffusion, model: as for `DiffusionUtils.sample`; T at least 2. If alpha_bar[T] = 0, the
            prior term is 0.
        x_0: images with 256 grey levels, (n, C, H, W) in [-1, 1].
        y: class labels, as for `DiffusionUtils.loss`; None passes no labels.
        ts: timesteps to measure, in 1..T; 1, 2 and T are added; None measures all. Each timestep
            needs one network call.
        clip: clip the predicted x_0 to [-1, 1].
        seed: noise seed.
    Returns:
        The terms and their sum, as `Bits`.
    Source: Ho et al. 2020, eq. 5 and 13; Nichol & Dhariwal 2021, section 3 and its code.
    """
    checks.images("x_0", x_0)
    T, n = diffusion.T, len(x_0)
    wanted = range(1, T + 1) if ts is None else ts
    asked = sorted({1, 2, T, *(checks.count("each of ts", t, most=T) for t in wanted)})
    noise = picture_noise(seed, n, x_0.shape[1:], x_0.device, x_0.dtype)
    terms = []
    for t in asked:
        t_all = torch.full((n,), t, device=x_0.device)
        x_t, _ = diffusion.add_noise(x_0, t_all, noise())
        output = network_output(model, x_t, t_all, y)
        guess = diffusion.predict_x_0(output, x_t, t_all)
        guess = guess.clamp(-1, 1) if clip else guess
        terms.append(_term(diffusion, x_0, x_t, guess, t_all).flatten(1).mean(1) / math.log(2))
    values, prior = torch.stack(terms, 1), _prior(diffusion, x_0)
    # The trapezoidal rule weights both ends by 1/2; the sum over 1..T weights them by 1.
    inside = torch.trapezoid(values, values.new_tensor(asked))
    return Bits(asked, values, prior, prior + inside + (values[:, 0] + values[:, -1]) / 2)


def _term(d: DiffusionUtils, x_0: Tensor, x_t: Tensor, guess: Tensor, t: Tensor) -> Tensor:
    """Compute the term of the bound at timestep t for every pixel, in nats: shape of x_0."""
    if int(t[0]) == 1:
        _, variance = d.posterior(x_0, x_t, t + 1)
        return -_log_mass(x_0, guess, variance.sqrt())
    right, variance = d.posterior(x_0, x_t, t)
    mean, _ = d.posterior(guess, x_t, t)
    return (right - mean) ** 2 / (2 * variance)  # KL of two Gaussians of the same variance


def _log_mass(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """Compute log p of x's grey level under N(mean, sigma^2); black and white get the tails."""
    above = torch.special.ndtr((x + _HALF_LEVEL - mean) / sigma).where(x < 0.999, 1.0)
    below = torch.special.ndtr((x - _HALF_LEVEL - mean) / sigma).where(x > -0.999, 0.0)
    return (above - below).clamp(min=1e-12).log()


def _prior(d: DiffusionUtils, x_0: Tensor) -> Tensor:
    """Compute KL(N(sqrt(bar) x_0, 1 - bar) || N(0, 1)) in bits per dimension, (n,)."""
    bar = d.alpha_bar[-1].item()
    square = bar * x_0.square().flatten(1).mean(1)  # (n,)
    return 0.5 * (square - bar - math.log1p(-bar)) / math.log(2)
