"""Exercises of notebook 02: from betas to alpha_bar and back, and two changes of a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_helpers.diffusion import beta_schedule, rescale_zero_terminal_snr
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial

# ---- 2.1 ---------------------------------------------------------------------------------------


def _alpha_bar(betas: Tensor) -> Tensor:
    return (1 - betas).cumprod(0)


# ---- 2.2 and 2.4 -------------------------------------------------------------------------------


def _cosine_curve(T: int, offset: float = 0.008, power: int = 2) -> Tensor:
    t = torch.arange(T + 1, dtype=torch.float64)
    f = torch.cos((t / T + offset) / (1 + offset) * math.pi / 2) ** power
    return f / f[0]  # (T + 1,)


def _betas_of(bar: Tensor, clip: float = 0.999) -> Tensor:
    """From a decreasing curve (T + 1,) to betas (T + 1,), equation (2.8)."""
    first = torch.zeros(1, dtype=torch.float64)
    return torch.cat([first, (1 - bar[1:] / bar[:-1]).clamp(max=clip)])


def _made_of(T: int) -> Trial:
    return Trial(f"T = {T}", lambda f: f(T))


def _shifted(T: int, factor: float = 4) -> Tensor:
    bar = _cosine_curve(T)
    return bar / (bar + factor * (1 - bar))


# ---- 2.3 ---------------------------------------------------------------------------------------


def _with_bar(change: Callable[[Tensor], Tensor]) -> Answer:
    """An answer that changes alpha_bar from t = 1 on, (T,), and returns its betas."""

    def answer(betas: Tensor) -> Tensor:
        bar = _alpha_bar(betas)
        return _betas_of(torch.cat([bar[:1], change(bar[1:])]), clip=1.0)

    return answer


EXERCISES = [
    Exercise(
        "2.1",
        "alpha_bar from a table of betas",
        _alpha_bar,
        [
            Trial("betas 0, 0.5, 0.5", lambda f: f(torch.tensor([0, 0.5, 0.5]).double())),
            Trial("the linear schedule, T = 500", lambda f: f(beta_schedule("linear", 500))),
        ],
        {
            "this multiplies the betas; (2.5) multiplies the alphas, alpha_t = 1 - beta_t":
                lambda betas: betas.cumprod(0),
            "this is 1 - the sum of the betas; alpha_bar is a product, equation (2.5)":
                lambda betas: 1 - betas.cumsum(0),
            "the entry of t = 0 is missing: keep all T + 1 betas, and alpha_bar[0] is 1":
                lambda betas: _alpha_bar(betas[1:]),
            "every entry is one place too late: alpha_bar[t] includes alpha_t":
                lambda betas: torch.cat([torch.ones(1).double(), _alpha_bar(betas)[:-1]]),
            "these are the alphas of single steps: take their running product, equation (2.5)":
                lambda betas: 1 - betas,
        },
    ),
    Exercise(
        "2.2",
        "the cosine schedule",
        lambda T: beta_schedule("cosine", T),
        [_made_of(4), _made_of(500)],
        {
            "the cosine is not squared, equation (2.7)":
                lambda T: _betas_of(_cosine_curve(T, power=1)),
            "the last beta is 1: clip at 0.999, equation (2.8)":
                lambda T: _betas_of(_cosine_curve(T), clip=1.0),
            "the offset of 0.008 is missing, equation (2.7)":
                lambda T: _betas_of(_cosine_curve(T, offset=0.0)),
            "the entry of t = 0 is missing: betas[0] = 0, then T more":
                lambda T: beta_schedule("cosine", T)[1:],
            "this is 1 - alpha_bar_t; (2.8) has 1 - alpha_bar_t / alpha_bar_{t-1}":
                lambda T: (1 - _cosine_curve(T)).clamp(max=0.999),
        },
    ),
    Exercise(
        "2.3",
        "a schedule that ends at zero terminal SNR",
        rescale_zero_terminal_snr,
        [
            Trial("the linear schedule, T = 4", lambda f: f(beta_schedule("linear", 4))),
            Trial("the linear schedule, T = 500", lambda f: f(beta_schedule("linear", 500))),
        ],
        {
            "the roots are shifted but not stretched: their first value must stay, (2.11)":
                _with_bar(lambda bar: (bar.sqrt() - bar[-1].sqrt()) ** 2),
            "alpha_bar itself is shifted; (2.11) shifts its square root":
                _with_bar(lambda bar: (bar - bar[-1]) * bar[0] / (bar[0] - bar[-1])),
            "the stretch keeps the value at t = 0; (2.11) keeps the one at t = 1":
                _with_bar(lambda bar: ((bar.sqrt() - bar[-1].sqrt()) / (1 - bar[-1].sqrt())) ** 2),
            "only the last beta has become 1; (2.11) changes all steps a little":
                lambda betas: torch.cat([betas[:-1], betas.new_ones(1)]),
        },
    ),
    Exercise(
        "2.4",
        "the shifted cosine schedule",
        lambda T: beta_schedule("shifted_cosine", T),
        [_made_of(4), _made_of(500)],
        {
            "alpha_bar is divided by 4; divide the SNR, equation (2.12)":
                lambda T: _betas_of(torch.cat([torch.ones(1).double(), _cosine_curve(T)[1:] / 4])),
            "the SNR is 4 times the cosine's; larger pictures need a quarter of it":
                lambda T: _betas_of(_shifted(T, 1 / 4)),
            "the SNR is half of the cosine's; twice the side needs a quarter":
                lambda T: _betas_of(_shifted(T, 2)),
            "the last beta is 1: clip at 0.999, equation (2.8)":
                lambda T: _betas_of(_shifted(T), clip=1.0),
            "this is the cosine schedule as it was": lambda T: beta_schedule("cosine", T),
        },
    ),
]  # fmt: skip
