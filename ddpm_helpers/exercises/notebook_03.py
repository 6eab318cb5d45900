"""Exercises of notebook 03: one step of noise, the jump, and two ways back to the picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise

COSINE = DiffusionUtils(500, "cosine", prediction="eps")
VELOCITY = DiffusionUtils(500, "cosine", prediction="v")


def _use(answer: Answer, table: Tensor, *steps: int) -> Tensor:
    """The result of an answer for a batch whose pictures are at the given steps."""
    x, other = noise(2, len(steps), 3, 4, 4, seed=1)
    return answer(x, torch.tensor(steps), other, table.clone())


# ---- 3.1 ---------------------------------------------------------------------------------------


def _one_step(
    x: Tensor, t: int, z: Tensor, betas: Tensor, *,
    of_x: Callable[[float], float] = lambda beta: (1 - beta) ** 0.5,
    of_z: Callable[[float], float] = lambda beta: beta**0.5,
) -> Tensor:  # fmt: skip
    """The step, and with other weights its mistakes."""
    beta = betas[t].item()
    return of_x(beta) * x + of_z(beta) * z


def _stepped(t: int) -> Trial:
    def run(answer: Answer) -> Tensor:
        x, z = noise(2, 2, 3, 4, 4, seed=1)
        return answer(x, t, z, COSINE.betas.clone())

    return Trial(f"t = {t}", run)


# ---- 3.2 to 3.4 --------------------------------------------------------------------------------


def _by(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Answer:
    """An answer by a formula of two batches of pictures and of alpha_bar[t], (B, 1, 1, 1)."""

    def answer(x: Tensor, t: Tensor, other: Tensor, alpha_bar: Tensor) -> Tensor:
        return formula(x, other, alpha_bar[t].view(-1, 1, 1, 1).float())

    return answer


_add_noise = _by(lambda x_0, eps, bar: bar.sqrt() * x_0 + (1 - bar).sqrt() * eps)


EXERCISES = [
    Exercise(
        "3.1",
        "one step of noise",
        _one_step,
        [_stepped(t) for t in (1, 250, 500)],
        {
            "beta is a variance; its square root multiplies the noise, equation (2.1)":
                partial(_one_step, of_z=lambda beta: beta),
            "the picture does not shrink; its weight is sqrt(1 - beta), equation (2.1)":
                partial(_one_step, of_x=lambda beta: 1.0),
            "the picture shrinks by 1 - beta; (2.1) takes the square root of that":
                partial(_one_step, of_x=lambda beta: 1 - beta),
            "this is the beta of the previous step: the table has T + 1 entries, use betas[t]":
                lambda x, t, z, betas: _one_step(x, t - 1, z, betas),
        },
    ),
    Exercise(
        "3.2",
        "noise to step t in one jump",
        _add_noise,
        [
            Trial("t = 0", lambda f: _use(f, COSINE.alpha_bar, 0)),
            Trial(
                "t = 1, 100, 250 and 500 in one batch",
                lambda f: _use(f, COSINE.alpha_bar, 1, 100, 250, 500),
            ),
        ],
        {
            "this uses alpha_bar where its square root belongs, equation (2.5)":
                _by(lambda x_0, eps, bar: bar * x_0 + (1 - bar) * eps),
            "the weight of the noise is 1 - sqrt(alpha_bar); (2.5) has sqrt(1 - alpha_bar)":
                _by(lambda x_0, eps, bar: bar.sqrt() * x_0 + (1 - bar.sqrt()) * eps),
            "t - 1 reads the previous entry, at t = 0 the last one: the table has T + 1 entries, "
            "use alpha_bar[t]":
                lambda x_0, t, eps, bar: _add_noise(x_0, t - 1, eps, bar),
            "all pictures get the step of the first one: take alpha_bar[t] for the whole batch":
                lambda x_0, t, eps, bar: _add_noise(x_0, t[:1].expand(len(t)), eps, bar),
            "all pictures share the noise of the first one":
                lambda x_0, t, eps, bar: _add_noise(x_0, t, eps[:1].expand_as(eps), bar),
            "alpha_bar[t] is broadcast over the columns: reshape it to (B, 1, 1, 1)":
                lambda x_0, t, eps, bar: bar[t].sqrt() * x_0 + (1 - bar[t]).sqrt() * eps,
        },
    ),
    Exercise(
        "3.3",
        "x_0 from the noise",
        lambda eps, t, x_t, alpha_bar: COSINE.predict_x_0(eps, x_t, t),
        [
            Trial("t = 0", lambda f: _use(f, COSINE.alpha_bar, 0)),
            Trial("t = 100 and 400 in one batch", lambda f: _use(f, COSINE.alpha_bar, 100, 400)),
        ],
        {
            "the noise is gone but the picture is still faint: divide by sqrt(alpha_bar), (2.10)":
                _by(lambda eps, x_t, bar: x_t - (1 - bar).sqrt() * eps),
            "only x_t is divided: put brackets around the difference, equation (2.10)":
                _by(lambda eps, x_t, bar: x_t / bar.sqrt() - (1 - bar).sqrt() * eps),
            "only the noise is divided: put brackets around the difference, equation (2.10)":
                _by(lambda eps, x_t, bar: x_t - (1 - bar).sqrt() * eps / bar.sqrt()),
            "eps is subtracted with weight 1; its weight in x_t is sqrt(1 - alpha_bar)":
                _by(lambda eps, x_t, bar: (x_t - eps) / bar.sqrt()),
            "this uses alpha_bar where its square root belongs, equation (2.10)":
                _by(lambda eps, x_t, bar: (x_t - (1 - bar) * eps) / bar),
        },
    ),
    Exercise(
        "3.4",
        "x_0 from the velocity",
        lambda v, t, x_t, alpha_bar: VELOCITY.predict_x_0(v, x_t, t),
        [Trial("t = 0, 100, 400 and 500", lambda f: _use(f, VELOCITY.alpha_bar, 0, 100, 400, 500))],
        {
            "the sign of v is wrong: (3.4) subtracts the picture":
                _by(lambda v, x_t, bar: bar.sqrt() * x_t + (1 - bar).sqrt() * v),
            "this is the noise, not the picture: the two weights are swapped":
                _by(lambda v, x_t, bar: (1 - bar).sqrt() * x_t + bar.sqrt() * v),
            "v is treated as if it were eps, equation (2.10); solve (2.5) and (3.4) together":
                _by(lambda v, x_t, bar: (x_t - (1 - bar).sqrt() * v) / bar.sqrt()),
            "this uses alpha_bar where its square root belongs":
                _by(lambda v, x_t, bar: bar * x_t - (1 - bar) * v),
        },
    ),
]  # fmt: skip
