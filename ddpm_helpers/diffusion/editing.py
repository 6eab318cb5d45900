"""Edit images with a trained network: interpolate, redraw, inpaint, and invert."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.diffusion.process import DiffusionUtils
from ddpm_helpers.diffusion.schedules import sub_sequence
from ddpm_helpers.diffusion.walk import Model, device_and_precision, picture_noise


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Interpolate between two noises along an arc, so that the norm hardly changes.

        (sin((1 - w) * angle) * a + sin(w * angle) * b) / sin(angle)

    Args:
        a, b: noises, (C, H, W).
        weights: (n,) floats; 0 gives a and 1 gives b.
    Returns:
        (n, C, H, W), to be used as x_T of `sample`.
    Raises:
        ValueError: the shapes differ, or the arc is not unique: b = -a, or a or b is 0.
    Source: Shoemake 1985; for noises, Song et al. 2021 (DDIM), appendix D.5.
    """
    checks.same_shape("a", a, "b", b)
    w = torch.as_tensor(weights).to(a).reshape(-1, *[1] * a.ndim)  # (n, 1, 1, 1)
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = cosine.clamp(-1, 1).acos()
    if not angle < math.pi - 1e-3:  # NaN too
        raise ValueError(f"no arc leads from a to b: the cosine of their angle is {cosine:.4f}")
    if angle < 1e-3:  # almost the same direction: use a line, which does not divide by a tiny sine
        return (1 - w) * a + w * b
    return (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()


def sdedit(
    diffusion: DiffusionUtils,
    model: Model,
    images: Tensor,
    t: int,
    *,
    steps: int | Sequence[int] | None = None,
    seed: int | None = None,
    first: int = 0,
    **options: Any,
) -> Tensor:
    """Redraw images: noise them to timestep t and sample from there.

    Args:
        diffusion, model: as for `DiffusionUtils.sample`.
        images: (n, C, H, W) in [-1, 1]: photographs, drawings, scribbles.
        t: the timestep to noise them to, 1..T: a small t keeps most of the image, T almost nothing.
        steps: number of steps from t down to 0, in 1..t; None means t. Or a decreasing list of
            timesteps to visit; the images are then noised to its first one, which is at most t.
        seed, first, options: as for `sample_steps`, without x_T, shape and spacing.
    Returns:
        (n, C, H, W).
    Source: Meng et al. 2022 (SDEdit).
    """
    checks.images("images", images)
    t = checks.count("t", t, most=diffusion.T)
    ts, n, shape = sub_sequence(t, steps)[:-1], len(images), images.shape[1:]
    noise = picture_noise(seed, n, shape, *device_and_precision(model), first)()
    x_t, _ = diffusion.add_noise(images.to(noise), torch.full((n,), ts[0]), noise)
    return diffusion.sample(
        model, n, x_T=x_t, shape=shape, steps=ts, seed=seed, first=first, **options
    )


def inpaint(
    diffusion: DiffusionUtils,
    model: Model,
    images: Tensor,
    mask: Tensor,
    *,
    steps: int | Sequence[int] | None = None,
    repeats: int = 5,
    seed: int | None = None,
    first: int = 0,
    **options: Any,
) -> Tensor:
    """Fill in the masked part of images so that it fits the rest.

    After every DDPM step from t to s, the known part is replaced by the given image, noised to s.
    To make both parts fit, each step but the last is taken `repeats` times: in between, noise takes
    x_s back to timestep t.

    Args:
        diffusion, model: as for `DiffusionUtils.sample`.
        images: (n, C, H, W) in [-1, 1]; masked pixels are ignored.
        mask: tensor, array or list whose nonzero values mark the pixels to fill in: (H, W), or
            another shape that broadcasts to the images.
        steps, seed, first: as for `sample_steps`.
        repeats: number of times each step is taken, at least 1.
        options: y, guidance, guidance_interval and clip, as for `sample_steps`.
    Returns:
        (n, C, H, W), the given images where the mask is 0.
    Source: Lugmayr et al. 2022 (RePaint), algorithm 1, with jumps of one step.
    """
    checks.images("images", images)
    repeats = checks.count("repeats", repeats)
    ts, n = sub_sequence(diffusion.T, steps), len(images)
    denoise = diffusion.denoiser(model, n, **options)
    noise = picture_noise(seed, n, images.shape[1:], *device_and_precision(model), first)
    x_s, bar = noise(), diffusion.alpha_bar.tolist()
    hidden = torch.as_tensor(mask, device=x_s.device).bool().expand(images.shape)
    x_0 = torch.where(hidden, 0.0, images.to(x_s))
    for t, s in pairwise(ts):
        x_t = x_s
        t_all, s_all = torch.full((n,), t), torch.full((n,), s)
        for repeat in range(repeats if s > 0 else 1):
            if repeat > 0:  # back from s to t: q(x_t | x_s)
                keep = bar[t] / bar[s]
                x_t = math.sqrt(keep) * x_s + math.sqrt(1 - keep) * noise()
            mean, variance = diffusion.posterior(denoise(x_t, t), x_t, t_all, s_all)
            drawn = mean + variance.sqrt() * noise() if s > 0 else mean
            known, _ = diffusion.add_noise(x_0, s_all, noise())
            x_s = torch.where(hidden, drawn, known)
    return x_s


def ddim_invert(
    diffusion: DiffusionUtils,
    model: Model,
    images: Tensor,
    *,
    steps: int | Sequence[int] | None = None,
    repeats: int = 3,
    clip: bool = False,
    **options: Any,
) -> Tensor:
    """Find the noise from which DDIM draws the given images: run its steps in reverse.

    In a reverse step from x_s to x_t, DDIM's equation has x_t on both sides: the network must be
    called with the unknown x_t. Fixed-point iteration solves it, beginning with x_t = x_s. Sampling
    from the result with sampler="ddim" and the same options recovers the images approximately.

    To reduce the effect of prediction errors, a step uses the predicted x_0 if the noise in x_s is
    stronger than the signal, else the predicted noise, and computes the other one from x_s.

    Args:
        diffusion, model: as for `DiffusionUtils.sample`.
        images: (n, C, H, W) in [-1, 1].
        steps: as for `sample_steps`.
        repeats: iterations (network calls) per step; 1 is standard DDIM inversion, less exact.
        clip: clip the predicted x_0 to [-1, 1]; the images are then recovered less exactly.
        options: y, guidance and guidance_interval, as for `sample_steps`.
    Returns:
        x_T, (n, C, H, W).
    Source: Song et al. 2021 (DDIM), section 5.4; for the repeats, Pan et al. 2023 (AIDI), 4.1.
    """
    checks.images("images", images)
    repeats = checks.count("repeats", repeats)
    ts = sub_sequence(diffusion.T, steps)
    denoise = diffusion.denoiser(model, len(images), clip=clip, **options)
    device, dtype = device_and_precision(model)
    x_s, bar = images.to(device, dtype), diffusion.alpha_bar.tolist()
    for s, t in pairwise(reversed(ts)):
        x_t = x_s
        for _ in range(repeats):
            x_0 = denoise(x_t, t)
            if bar[s] < 0.5:  # keep the predicted x_0
                eps = (x_s - math.sqrt(bar[s]) * x_0) / math.sqrt(1 - bar[s])
            else:  # keep the predicted noise
                eps = (x_t - math.sqrt(bar[t]) * x_0) / math.sqrt(1 - bar[t])
                x_0 = (x_s - math.sqrt(1 - bar[s]) * eps) / math.sqrt(bar[s])
            x_t = math.sqrt(bar[t]) * x_0 + math.sqrt(1 - bar[t]) * eps
        x_s = x_t
    return x_s
