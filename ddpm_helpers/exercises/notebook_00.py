"""Exercises of notebook 00: pixels to show, a mixture, and a guess of the clean image."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Case, noise


def _to_unit(x: Tensor) -> Tensor:
    return ((x + 1) / 2).clamp(0, 1)


def _mix(x_0: Tensor, eps: Tensor, share: float) -> Tensor:
    return share**0.5 * x_0 + (1 - share) ** 0.5 * eps


def _guess_x_0(x_t: Tensor, eps_pred: Tensor, share: float) -> Tensor:
    return (x_t - (1 - share) ** 0.5 * eps_pred) / share**0.5


def _at(share: float) -> Case:
    return Case(f"a share of {share:g}", (*noise(2, 3, 4, 5), share))


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
        "the clean image that a guess of the noise stands for",
        _guess_x_0,
        [_at(0.81), _at(0.3), _at(1.0)],
        {
            "the noise is subtracted, but the image is too faint: divide by sqrt(share), (0.2)":
                lambda x_t, eps_pred, share: x_t - (1 - share) ** 0.5 * eps_pred,
            "only the noise is divided: put brackets around the difference, (0.2)":
                lambda x_t, eps_pred, share: x_t - (1 - share) ** 0.5 * eps_pred / share**0.5,
            "only x_t is divided: put brackets around the difference, (0.2)":
                lambda x_t, eps_pred, share: x_t / share**0.5 - (1 - share) ** 0.5 * eps_pred,
            "the guessed noise is subtracted with weight 1; its weight in x_t is sqrt(1 - share)":
                lambda x_t, eps_pred, share: (x_t - eps_pred) / share**0.5,
            "the noise is added; (0.2) subtracts it":
                lambda x_t, eps_pred, share: _guess_x_0(x_t, -eps_pred, share),
            "this uses the shares instead of their square roots, equation (0.2)":
                lambda x_t, eps_pred, share: (x_t - (1 - share) * eps_pred) / share,
            "this divides by share; (0.2) divides by its square root":
                lambda x_t, eps_pred, share: (x_t - (1 - share) ** 0.5 * eps_pred) / share,
            "the weight of the noise lacks its root, equation (0.2)":
                lambda x_t, eps_pred, share: (x_t - (1 - share) * eps_pred) / share**0.5,
            "this multiplies by sqrt(share); (0.2) divides by it":
                lambda x_t, eps_pred, share: (x_t - (1 - share) ** 0.5 * eps_pred) * share**0.5,
            "the two weights are swapped: in x_t, the noise has sqrt(1 - share), the image "
            "sqrt(share)":
                lambda x_t, eps_pred, share: (
                    (x_t - share**0.5 * eps_pred) / max(1 - share, 1e-9) ** 0.5),
            "the weight of the noise is 1 - sqrt(share); it has sqrt(1 - share) in x_t":
                lambda x_t, eps_pred, share: (x_t - (1 - share**0.5) * eps_pred) / share**0.5,
            "the noise is subtracted with the weight of the image":
                lambda x_t, eps_pred, share: (x_t - share**0.5 * eps_pred) / share**0.5,
            "this mixes image and noise, as in (0.1); (0.2) undoes the mixture":
                lambda x_t, eps_pred, share: _mix(x_t, eps_pred, share),
            "the guess is clipped to [-1, 1]; (0.2) does not do that":
                lambda x_t, eps_pred, share: _guess_x_0(x_t, eps_pred, share).clamp(-1, 1),
        },
    ),
]  # fmt: skip
