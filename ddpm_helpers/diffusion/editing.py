"""Editing images with a trained network: interpolate, redraw, inpaint, and invert.

Every function but `slerp` takes images (n, C, H, W) in [-1, 1] and those `**options` of
`DiffusionUtils.sample_steps` that make sense for it (y, guidance, spacing …); it refuses the rest.
"""

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
from ddpm_helpers.diffusion.walk import Model

_SHAPE = "leave it out, the images give the shape"
_ANCESTRAL = "leave it out, it always draws from the posterior, as ddpm does"
_NO_NOISE = "leave it out, no noise is drawn"


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Spherical interpolation between two noises; unlike a linear one, it keeps the noise's norm.

        (sin((1 - w) * angle) * a + sin(w * angle) * b) / sin(angle)

    Args:
        a, b: one noise each, (C, H, W).
        weights: (n,), 0 gives a and 1 gives b.
    Returns:
        (n, C, H, W), start noises for `sample`.
    Raises:
        ValueError: shapes that differ, or no single arc between a and b: b = -a, or one is 0.
    Source: Shoemake 1985; for noises, Song et al. 2021 (DDIM), appendix D.5.
    """
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    w = torch.as_tensor(weights).to(a).reshape(-1, *[1] * a.ndim)  # (n, 1, 1, 1)
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = cosine.clamp(-1, 1).acos()
    if not angle < math.pi - 1e-3:  # NaN too
        raise ValueError(f"no arc leads from a to b: the cosine of their angle is {cosine:.4f}")
    if angle < 1e-3:  # almost the same direction: a line is as good, without a tiny sine below it
        return (1 - w) * a + w * b
    return (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()


def sdedit(
    diffusion: DiffusionUtils,
    model: Model,
    pictures: Tensor,
    t: int,
    *,
    steps: int | Sequence[int] | None = None,
    spacing: str = "trailing",
    seed: int | None = None,
    first: int = 0,
    **options: Any,
) -> Tensor:
    """Redraw images: noise them to step t and sample from there.

    Args:
        diffusion, model: as for sampling.
        pictures: (n, C, H, W) in [-1, 1]: photographs, drawings, scribbles.
        t: the step to noise them to, 1..T: a small t keeps most of the image, T next to nothing.
        steps: how many to take from t down, 1..t; None takes all t; or the steps themselves.
        spacing: trailing begins at t; with leading, as with steps of your own, the images are
            noised to the first step that is taken, which may be lower.
        seed, first: of the noise; image i is the same whatever n and first are.
        options: as for `sample_steps`, without x_T and shape.
    Returns:
        (n, C, H, W).
    Raises:
        ValueError: t or steps out of range, wrong shapes, or x_T.
    Source: Meng et al. 2022 (SDEdit).
    """
    _refuse("sdedit", options, x_T="leave it out, it starts from the pictures", shape=_SHAPE)
    checks.images("pictures", pictures)
    t = checks.count("t", t, most=diffusion.T)
    ts, n = sub_sequence(t, steps, spacing)[:-1], len(pictures)
    shape = pictures.shape[1:]
    noise = diffusion.sample_steps(model, n, seed=seed, first=first, shape=shape).x_T
    x_t, _ = diffusion.add_noise(pictures.to(noise), torch.full((n,), ts[0]), noise)
    return diffusion.sample(model, n, x_T=x_t, steps=ts, seed=seed, first=first, **options)


def inpaint(
    diffusion: DiffusionUtils,
    model: Model,
    pictures: Tensor,
    mask: Tensor,
    *,
    steps: int | Sequence[int] | None = None,
    repeats: int = 5,
    **options: Any,
) -> Tensor:
    """Fill in what a mask hides, so that it fits the rest.

    After every step of ddpm, the known part is replaced by the given image, noised. To make both
    parts agree, each step but the last is taken `repeats` times, with noise added back in between.

    Args:
        diffusion, model: as for sampling.
        pictures: (n, C, H, W) in [-1, 1]; what lies under the mask is ignored.
        mask: True (or 1) where to fill in: a tensor, array or list (H, W), (1, 1, H, W),
            (n, 1, H, W) or (n, C, H, W).
        steps: as for `sample_steps`.
        repeats: at least 1; 1 takes every step once.
        options: as for `sample_steps`, without sampler, eta, variance and shape.
    Returns:
        (n, C, H, W), the given images where the mask is False.
    Raises:
        ValueError: a mask that does not fit the pictures, a number out of range, or an option
            that makes no sense here.
    Source: Lugmayr et al. 2022 (RePaint), algorithm 1, with jumps of one step.
    """
    ancestral = dict.fromkeys(("sampler", "eta", "variance"), _ANCESTRAL)
    _refuse("inpaint", options, **ancestral, shape=_SHAPE)
    checks.images("pictures", pictures)
    repeats = checks.count("repeats", repeats)
    hidden = _fitting_mask(mask, pictures)
    n, shape = len(pictures), pictures.shape[1:]
    walk = diffusion.sample_steps(model, n, steps=steps, shape=shape, **options)
    x_t = x_s = walk.x_T
    bar = diffusion.alpha_bar.tolist()
    hidden = hidden.to(x_t.device)
    x_0 = torch.where(hidden, 0.0, pictures.to(x_t))
    for t, s in pairwise(walk.ts):
        t_all, s_all = torch.full((n,), t), torch.full((n,), s)
        for repeat in range(repeats if s > 0 else 1):
            if repeat > 0:  # back from s to t: q(x_t | x_s)
                keep = bar[t] / bar[s]
                x_t = math.sqrt(keep) * x_s + math.sqrt(1 - keep) * walk.noise()
            mean, variance = diffusion.posterior_between(walk.denoise(x_t, t), x_t, t_all, s_all)
            drawn = mean + variance.sqrt() * walk.noise() if s > 0 else mean
            known, _ = diffusion.add_noise(x_0, s_all, walk.noise())
            x_s = torch.where(hidden, drawn, known)
        x_t = x_s
    return x_t


def ddim_invert(
    diffusion: DiffusionUtils,
    model: Model,
    pictures: Tensor,
    *,
    steps: int | Sequence[int] | None = None,
    repeats: int = 3,
    clip: bool = False,
    **options: Any,
) -> Tensor:
    """The noise from which DDIM draws the given images: its steps, taken upwards.

    Each step solves DDIM's equation for x_t, which is on both sides, by `repeats` fixed-point
    iterations. The prediction enters as eps where the signal is stronger than the noise, and as
    x_0 where it is weaker: in each case the form in which its error matters less. Sampling from
    the result with sampler="ddim", the same clip and the same options gives the images back.

    Args:
        diffusion, model: as for sampling.
        pictures: (n, C, H, W) in [-1, 1].
        steps: as for `sample_steps`.
        repeats: network calls per step; 1 is the usual, less exact inversion.
        clip: bound the predicted x_0 to [-1, 1]; images then come back less exactly.
        options: y, guidance, guidance_interval and spacing, as for `sample_steps`.
    Returns:
        x_T, (n, C, H, W).
    Raises:
        ValueError: as `sample_steps`, or an option that makes no sense where no noise is drawn.
    Source: Song et al. 2021 (DDIM), section 5.4; the repeats, Pan et al. 2023 (AIDI), section 4.1.
    """
    silent = dict.fromkeys(("seed", "first", "eta", "variance"), _NO_NOISE)
    start, way = "give pictures, x_T is the result", "leave it out, it is ddim that is inverted"
    _refuse("ddim_invert", options, **silent, x_T=start, sampler=way, shape=_SHAPE)
    checks.images("pictures", pictures)
    repeats = checks.count("repeats", repeats)
    n, shape = len(pictures), pictures.shape[1:]
    walk = diffusion.sample_steps(model, n, steps=steps, clip=clip, shape=shape, seed=0, **options)
    x_s, bar = pictures.to(walk.x_T), diffusion.alpha_bar.tolist()
    for s, t in pairwise(reversed(walk.ts)):
        x_t = x_s
        for _ in range(repeats):
            x_0 = walk.denoise(x_t, t)
            if bar[s] < 0.5:
                noise = (x_s - math.sqrt(bar[s]) * x_0) / math.sqrt(1 - bar[s])
                x_t = math.sqrt(bar[t]) * x_0 + math.sqrt(1 - bar[t]) * noise
            else:
                eps = (x_t - math.sqrt(bar[t]) * x_0) / math.sqrt(1 - bar[t])
                picture = (x_s - math.sqrt(1 - bar[s]) * eps) / math.sqrt(bar[s])
                x_t = math.sqrt(bar[t]) * picture + math.sqrt(1 - bar[t]) * eps
        x_s = x_t
    return x_s


def _refuse(function: str, options: dict[str, Any], **reasons: str) -> None:
    """Refuse the options of sampling that make no sense for a function, saying what to do."""
    for name in options:
        if name in reasons:
            raise ValueError(f"{name} is not an option of {function}: {reasons[name]}")


def _fitting_mask(mask: Tensor, pictures: Tensor) -> Tensor:
    """The mask as bool, of a shape that broadcasts to the pictures'."""
    n, c, h, w = pictures.shape
    mask = torch.as_tensor(mask)
    if tuple(mask.shape) not in {(h, w), (n, 1, h, w), (1, 1, h, w), (n, c, h, w)}:
        raise ValueError(
            f"mask {tuple(mask.shape)} does not fit pictures {tuple(pictures.shape)}: give "
            f"({h}, {w}), or one for each picture"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask must hold only 0 and 1 (or False and True)")
    return mask.bool().expand(n, c, h, w)
