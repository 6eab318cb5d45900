"""Exercises of notebook 00: pixels to show, a mixture, and a step of a sampler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.diffusion.samplers import ddim
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Case, noise


def _to_unit(x: Tensor) -> Tensor:
    return ((x + 1) / 2).clamp(0, 1)


def _mix(x_0: Tensor, eps: Tensor, share: float) -> Tensor:
    return share**0.5 * x_0 + (1 - share) ** 0.5 * eps


def _at(share: float) -> Case:
    return Case(f"a share of {share:g}", (*noise(2, 3, 4, 5), share))


# ---- 0.3: a step of a sampler ----------------------------------------------------------------


def _step(x_t: Tensor, x_0: Tensor, share_t: float, share_s: float) -> Tensor:
    """The package's sampler, from timestep 1 to 0 of a table that holds the two shares."""
    bar = torch.tensor([share_s, share_t], dtype=torch.float64)
    *_, last = ddim(lambda x, t: x_0, x_t, [1, 0], bar, lambda: torch.randn_like(x_t))
    return last.x_t


def _eps_in(x_t: Tensor, x_0: Tensor, share_t: float, share_s: float) -> Tensor:
    return (x_t - share_t**0.5 * x_0) / (1 - share_t) ** 0.5


def _put_back(x_0: Tensor, eps: Tensor, share_t: float, share_s: float) -> Tensor:
    return _mix(x_0, eps, share_s)


def _mistaken(
    x_t: Tensor, x_0: Tensor, share_t: float, share_s: float, *,
    solve: Callable[..., Tensor] = _eps_in, mix: Callable[..., Tensor] = _put_back,
) -> Tensor:  # fmt: skip
    """The step in two formulas; change one of them to make a mistake."""
    shares = share_t, share_s
    return mix(x_0, solve(x_t, x_0, *shares), *shares)


def _between(share_t: float, share_s: float) -> Case:
    """Guesses of x_0, some outside [-1, 1], and unequal B, C, H and W."""
    text = f"a step from a share of {share_t:g} to {share_s:g}"
    return Case(text, (*noise(2, 2, 3, 4, 5), share_t, share_s))


EXERCISES = [
    Exercise(
        "0.1",
        "values from [-1, 1] to [0, 1], cut off outside",
        _to_unit,
        [
            Case("the values -1, -0.5, 0, 0.3 and 1", (torch.tensor([-1.0, -0.5, 0.0, 0.3, 1.0]),)),
            Case("an image with values beyond -1 and 1", (2 * noise(3, 4, 5),)),
        ],
        {
            "values outside [0, 1] are kept: add .clamp(0, 1) at the end": lambda x: (x + 1) / 2,
            "everything below 0 has become black: shift and halve first, then clip":
                lambda x: x.clamp(0, 1),
            "values are shifted by 1 but not halved, so all bright pixels are clipped":
                lambda x: (x + 1).clamp(0, 1),
            "values are halved before the shift by 1; halve last, or shift by 1/2":
                lambda x: (x / 2 + 1).clamp(0, 1),
            "each image is scaled by its minimum and maximum; the range is always [-1, 1]":
                lambda x: (x - x.min()) / (x.max() - x.min()),
            "values are clipped at 1 after the shift, before they are halved: halve first":
                lambda x: (x + 1).clamp(0, 1) / 2,
            "values are clipped to [-1, 1], but not shifted and halved":
                lambda x: x.clamp(-1, 1),
            "only values below 0 are clipped: clip values above 1 too":
                lambda x: ((x + 1) / 2).clamp(min=0),
            "only values above 1 are clipped: clip values below 0 too":
                lambda x: ((x + 1) / 2).clamp(max=1),
            "the values are not shifted: 0 must become 0.5":
                lambda x: (x / 2).clamp(0, 1),
            "the values are converted to bytes; they must be in [0, 1]":
                lambda x: ((x + 1) * 127.5).clamp(0, 255),
            "this is a sigmoid, which is never 0 or 1: shift, halve and clip":
                torch.sigmoid,
            "the values are inverted: bright pixels become dark":
                lambda x: ((1 - x) / 2).clamp(0, 1),
        },
    ),
    Exercise(
        "0.2",
        "mix an image and noise",
        _mix,
        [_at(0.81), _at(0.3), _at(1.0), _at(0.0)],
        {
            "the weights are the shares themselves; equation (0.1) has their square roots":
                lambda x_0, eps, share: share * x_0 + (1 - share) * eps,
            "the two weights are swapped: sqrt(share) multiplies the image, equation (0.1)":
                lambda x_0, eps, share: _mix(eps, x_0, share),
            "the weight of the noise is 1 - sqrt(share); equation (0.1) has sqrt(1 - share)":
                lambda x_0, eps, share: share**0.5 * x_0 + (1 - share**0.5) * eps,
            "the image has the weight 1; its weight in (0.1) is sqrt(share)":
                lambda x_0, eps, share: x_0 + (1 - share) ** 0.5 * eps,
            "the weights are squares of the shares; equation (0.1) has their square roots":
                lambda x_0, eps, share: share**2 * x_0 + (1 - share) ** 2 * eps,
            "both have the weight sqrt(share); the noise has sqrt(1 - share), equation (0.1)":
                lambda x_0, eps, share: share**0.5 * (x_0 + eps),
            "this is the root of the sum; (0.1) takes the root of each weight":
                lambda x_0, eps, share: (share * x_0 + (1 - share) * eps).abs().sqrt(),
            "new noise is drawn: use the eps that is given":
                lambda x_0, eps, share: _mix(x_0, torch.randn_like(x_0), share),
            "the mixture is clipped to [-1, 1]: do not clip, noise may lie outside":
                lambda x_0, eps, share: _mix(x_0, eps, share).clamp(-1, 1),
        },
    ),
    Exercise(
        "0.3",
        "one step of a sampler",
        _step,
        [_between(0.31, 0.78), _between(0.06, 0.52), _between(0.0, 0.3), _between(0.85, 1.0)],
        {
            "this mixes x_t itself with the guess: first solve (0.1) for the noise in x_t":
                partial(_mistaken, solve=lambda x_t, *given: x_t),
            "this is x_t again: mix with the share of s, equation (0.3)":
                lambda x_t, x_0, share_t, share_s: x_t,
            "this is the guess itself: put noise back, equation (0.3)":
                lambda x_t, x_0, share_t, share_s: x_0,
            "the noise is missing: add it with the weight sqrt(1 - share_s), equation (0.3)":
                partial(_mistaken, solve=lambda x_t, x_0, *given: 0 * x_0),
            "this is the noise in x_t: mix it with the guess, equation (0.3)":
                _eps_in,
            "new noise is drawn: put back the noise that is left of x_t":
                partial(_mistaken, solve=lambda x_t, *given: torch.randn_like(x_t)),
            "t and s are swapped: the noise comes from t, the result is at s":
                lambda x_t, x_0, share_t, share_s: _mistaken(x_t, x_0, share_s, share_t),
            "the noise is computed with share_s; x_t has the weights of share_t, (0.1)":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    _eps_in(x_t, x_0, share_s, share_t))),
            "the weights of the result are the shares; equation (0.3) has their square roots":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    share_s * x_0 + (1 - share_s) * eps)),
            "the weight of the guess lacks its root: (0.3) has sqrt(share_s)":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    share_s * x_0 + (1 - share_s) ** 0.5 * eps)),
            "the weight of the noise lacks its root: (0.3) has sqrt(1 - share_s)":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    share_s**0.5 * x_0 + (1 - share_s) * eps)),
            "the weight of the noise is 1 - sqrt(share_s); (0.3) has sqrt(1 - share_s)":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    share_s**0.5 * x_0 + (1 - share_s**0.5) * eps)),
            "the two weights are swapped: sqrt(share_s) multiplies the guess, equation (0.3)":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    _mix(eps, x_0, share_s))),
            "the guess has its weight at t: (0.3) has sqrt(share_s)":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    share_t**0.5 * x_0 + (1 - share_s) ** 0.5 * eps)),
            "the noise has its weight at t: (0.3) has sqrt(1 - share_s)":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    share_s**0.5 * x_0 + (1 - share_t) ** 0.5 * eps)),
            "the noise is put back with the weight 1; (0.3) has sqrt(1 - share_s)":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    share_s**0.5 * x_0 + eps)),
            "the noise is subtracted; (0.3) adds it":
                partial(_mistaken, mix=lambda x_0, eps, share_t, share_s: (
                    _mix(x_0, -eps, share_s))),
            "the noise is x_t minus the guess, without weights: solve (0.1) for eps":
                partial(_mistaken, solve=lambda x_t, x_0, *given: x_t - x_0),
            "the noise is not divided: x_t holds it with the weight sqrt(1 - share_t), (0.1)":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    x_t - share_t**0.5 * x_0)),
            "the noise is divided by 1 - share_t; (0.1) has its square root":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    (x_t - share_t**0.5 * x_0) / (1 - share_t))),
            "the noise is multiplied by sqrt(1 - share_t); solving (0.1) divides by it":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    (x_t - share_t**0.5 * x_0) * (1 - share_t) ** 0.5)),
            "this divides by sqrt(share_t), as (0.2) does; eps has sqrt(1 - share_t) in (0.1)":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    (x_t - share_t**0.5 * x_0) / max(share_t, 1e-9) ** 0.5)),
            "the guess is subtracted with the weight 1; in x_t it has sqrt(share_t), (0.1)":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    (x_t - x_0) / (1 - share_t) ** 0.5)),
            "the guess is subtracted with the weight share_t; (0.1) has its square root":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    (x_t - share_t * x_0) / (1 - share_t) ** 0.5)),
            "the shares at t lack their roots: (0.1) has sqrt(share_t) and sqrt(1 - share_t)":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    (x_t - share_t * x_0) / (1 - share_t))),
            "only the guess is divided: put brackets around the difference":
                partial(_mistaken, solve=lambda x_t, x_0, share_t, share_s: (
                    x_t - share_t**0.5 * x_0 / (1 - share_t) ** 0.5)),
            "the guess is clipped: the loop does so before it calls your function":
                lambda x_t, x_0, *shares: _mistaken(x_t, x_0.clamp(-1, 1), *shares),
            "the result is clipped to [-1, 1]: do not clip, noise may lie outside":
                lambda *given: _mistaken(*given).clamp(-1, 1),
        },
    ),
]  # fmt: skip
