"""Exercises of notebook 03: one step of noise, the jump, and two ways back to the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial

COSINE = DiffusionUtils(500, "cosine", prediction="eps")
VELOCITY = DiffusionUtils(500, "cosine", prediction="v")


def _pictures(n: int) -> tuple[Tensor, Tensor]:
    """Two batches of small random pictures: x and noise, or network outputs."""
    a, b = torch.randn(2, n, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return a, b


def _use(answer: Answer, table: Tensor, *steps: int) -> Tensor:
    """The result of an answer for a batch whose pictures are at the given steps."""
    x, other = _pictures(len(steps))
    return answer(x, torch.tensor(steps), other, table.clone())


def _spread(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1).float()  # (B, 1, 1, 1)


# ---- 3.1 ---------------------------------------------------------------------------------------


def _one_step(x: Tensor, t: int, z: Tensor, betas: Tensor) -> Tensor:
    beta = betas[t].item()
    return (1 - beta) ** 0.5 * x + beta**0.5 * z


def _step_with(signal: Callable[[float], float], noise: Callable[[float], float]) -> Answer:
    """A step whose two weights are other functions of beta."""

    def step(x: Tensor, t: int, z: Tensor, betas: Tensor) -> Tensor:
        beta = betas[t].item()
        return signal(beta) * x + noise(beta) * z

    return step


def _stepped(t: int) -> Trial:
    x, z = _pictures(2)
    return Trial(f"t = {t}", lambda f: f(x.clone(), t, z.clone(), COSINE.betas.clone()))


# ---- 3.2 ---------------------------------------------------------------------------------------


def _add_noise(x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    bar = _spread(alpha_bar[t])
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps


def _without_root(x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    bar = _spread(alpha_bar[t])
    return bar * x_0 + (1 - bar) * eps


def _noise_is_one_minus_signal(x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    signal = _spread(alpha_bar[t]).sqrt()
    return signal * x_0 + (1 - signal) * eps


def _one_entry_early(x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    return _add_noise(x_0, t - 1, eps, alpha_bar)


def _last_axis(x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    bar = alpha_bar[t].float()  # (B,): columns
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps


# ---- 3.3 and 3.4 -------------------------------------------------------------------------------


def _undo(weight: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Answer:
    """An answer that mixes x_t and the network's output: weights as functions of alpha_bar."""

    def answer(output: Tensor, t: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        of_x_t, of_output = weight(_spread(alpha_bar[t]))
        return of_x_t * x_t + of_output * output

    return answer


def _signal_noise(bar: Tensor) -> tuple[Tensor, Tensor]:
    return bar.sqrt(), (1 - bar).sqrt()


EXERCISES = [
    Exercise(
        "3.1",
        "one step of noise",
        _one_step,
        [_stepped(t) for t in (1, 250, 500)],
        {
            "beta is a variance; its square root multiplies the noise, equation (2.1)": _step_with(
                lambda beta: (1 - beta) ** 0.5, lambda beta: beta
            ),
            "the picture does not shrink; its weight is sqrt(1 - beta), equation (2.1)": _step_with(
                lambda beta: 1.0, lambda beta: beta**0.5
            ),
            "the picture shrinks by 1 - beta; (2.1) takes the square root of that": _step_with(
                lambda beta: 1 - beta, lambda beta: beta**0.5
            ),
            "this is the beta of the previous step: the table has T + 1 entries, use betas[t]": (
                lambda x, t, z, betas: _one_step(x, t - 1, z, betas)
            ),
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
            "this uses alpha_bar where its square root belongs, equation (2.5)": _without_root,
            "the weight of the noise is 1 - sqrt(alpha_bar); (2.5) has sqrt(1 - alpha_bar)": (
                _noise_is_one_minus_signal
            ),
            "t - 1 reads the previous entry, at t = 0 the last one: the table has T + 1 entries, "
            "use alpha_bar[t]": _one_entry_early,
            "all pictures get the step of the first one: take alpha_bar[t] for the whole batch": (
                lambda x_0, t, eps, bar: _add_noise(x_0, t[:1].expand(len(t)), eps, bar)
            ),
            "all pictures share the noise of the first one": (
                lambda x_0, t, eps, bar: _add_noise(x_0, t, eps[:1].expand_as(eps), bar)
            ),
            "alpha_bar[t] is broadcast over the columns: reshape it to (B, 1, 1, 1)": _last_axis,
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
            "the noise is gone but the picture is still faint: divide by sqrt(alpha_bar), (2.10)": (
                _undo(lambda bar: (torch.ones_like(bar), -(1 - bar).sqrt()))
            ),
            "only x_t is divided: put brackets around the difference, equation (2.10)": _undo(
                lambda bar: (bar.rsqrt(), -(1 - bar).sqrt())
            ),
            "only the noise is divided: put brackets around the difference, equation (2.10)": _undo(
                lambda bar: (torch.ones_like(bar), -((1 - bar) / bar).sqrt())
            ),
            "eps is subtracted with weight 1; its weight in x_t is sqrt(1 - alpha_bar)": _undo(
                lambda bar: (bar.rsqrt(), -bar.rsqrt())
            ),
            "this uses alpha_bar where its square root belongs, equation (2.10)": _undo(
                lambda bar: (1 / bar, -(1 - bar) / bar)
            ),
        },
    ),
    Exercise(
        "3.4",
        "x_0 from the velocity",
        lambda v, t, x_t, alpha_bar: VELOCITY.predict_x_0(v, x_t, t),
        [Trial("t = 0, 100, 400 and 500", lambda f: _use(f, VELOCITY.alpha_bar, 0, 100, 400, 500))],
        {
            "the sign of v is wrong: (3.4) subtracts the picture": _undo(_signal_noise),
            "this is the noise, not the picture: the two weights are swapped": _undo(
                lambda bar: _signal_noise(bar)[::-1]
            ),
            "v is treated as if it were eps, equation (2.10); solve (2.5) and (3.4) together": (
                _undo(lambda bar: (bar.rsqrt(), -((1 - bar) / bar).sqrt()))
            ),
            "this uses alpha_bar where its square root belongs": _undo(
                lambda bar: (bar, -(1 - bar))
            ),
        },
    ),
]
