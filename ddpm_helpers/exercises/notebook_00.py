"""Exercises of notebook 00: pixels to show, a mixture, and a guess of the clean picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise

SHARES = (1.0, 0.81, 0.25)


def _to_unit(x: Tensor) -> Tensor:
    return ((x + 1) / 2).clamp(0, 1)


def _mix(x_0: Tensor, eps: Tensor, share: float) -> Tensor:
    return share**0.5 * x_0 + (1 - share) ** 0.5 * eps


def _guess_x_0(x_t: Tensor, eps_pred: Tensor, share: float) -> Tensor:
    return (x_t - (1 - share) ** 0.5 * eps_pred) / share**0.5


def _for_each_share(answer: Answer) -> list[Tensor]:
    pictures, eps = noise(2, 3, 4, 4)
    return [answer(pictures, eps, share) for share in SHARES]


EXERCISES = [
    Exercise(
        "0.1",
        "values from [-1, 1] to [0, 1], cut off outside",
        _to_unit,
        [
            Trial("the values -1, 0 and 1", lambda f: f(torch.tensor([-1.0, 0.0, 1.0]))),
            Trial("a picture with values beyond -1 and 1", lambda f: f(2 * noise(3, 4, 4))),
        ],
        {
            "values outside of [0, 1] are left: add .clamp(0, 1) at the end": lambda x: (x + 1) / 2,
            "everything below 0 has become black: shift and halve first, then cut off":
                lambda x: x.clamp(0, 1),
            "it is shifted by 1 but not halved, so bright pixels are all cut off":
                lambda x: (x + 1).clamp(0, 1),
            "it is halved before the shift by 1; halve last, or shift by one half":
                lambda x: (x / 2 + 1).clamp(0, 1),
            "each picture is scaled by its own extremes; the range is [-1, 1] for all":
                lambda x: (x - x.min()) / (x.max() - x.min()),
        },
    ),
    Exercise(
        "0.2",
        "mix a picture and noise",
        _mix,
        [Trial(f"shares of {', '.join(map(str, SHARES))}", _for_each_share)],
        {
            "the weights are the shares themselves; equation (0.1) has their square roots":
                lambda x_0, eps, share: share * x_0 + (1 - share) * eps,
            "the two weights are swapped: share belongs to the picture, equation (0.1)":
                lambda x_0, eps, share: _mix(eps, x_0, share),
            "the weight of the noise is 1 - sqrt(share); equation (0.1) has sqrt(1 - share)":
                lambda x_0, eps, share: share**0.5 * x_0 + (1 - share**0.5) * eps,
            "the picture has the weight 1; its weight in (0.1) is sqrt(share)":
                lambda x_0, eps, share: x_0 + (1 - share) ** 0.5 * eps,
        },
    ),
    Exercise(
        "0.3",
        "the clean picture that a guess of the noise stands for",
        _guess_x_0,
        [Trial(f"shares of {', '.join(map(str, SHARES))}", _for_each_share)],
        {
            "the noise is subtracted, but the picture stays pale: divide by sqrt(share), (0.2)":
                lambda x_t, eps_pred, share: x_t - (1 - share) ** 0.5 * eps_pred,
            "only the noise is divided: put brackets around the difference, (0.2)":
                lambda x_t, eps_pred, share: x_t - (1 - share) ** 0.5 * eps_pred / share**0.5,
            "the guessed noise is subtracted with weight 1; its weight in x_t is sqrt(1 - share)":
                lambda x_t, eps_pred, share: (x_t - eps_pred) / share**0.5,
            "the noise is added; (0.2) subtracts it":
                lambda x_t, eps_pred, share: _guess_x_0(x_t, -eps_pred, share),
            "this uses the shares where their square roots belong, equation (0.2)":
                lambda x_t, eps_pred, share: (x_t - (1 - share) * eps_pred) / share,
        },
    ),
]  # fmt: skip
