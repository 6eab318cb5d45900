"""Exercises of notebook 02: betas, alpha_bar, and zero terminal SNR."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_helpers.diffusion import beta_schedule, rescale_zero_terminal_snr
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case

# ---- 2.1 ---------------------------------------------------------------------------------------


def _alpha_bar(betas: Tensor) -> Tensor:
    return (1 - betas).cumprod(0)


BETAS = torch.tensor([0, 0.3, 0.1, 0.45, 0.2], dtype=torch.float64)
TABLES = [Case("betas 0, 0.3, 0.1, 0.45, 0.2", (BETAS,)),
          Case("the linear schedule, T = 500", (beta_schedule("linear", 500),))]  # fmt: skip


# ---- 2.2 ---------------------------------------------------------------------------------------


def _cosine_curve(
    T: int, offset: float = 0.008, power: int = 2, turn: float = math.pi / 2, scaled: bool = True
) -> Tensor:
    t = torch.arange(T + 1, dtype=torch.float64)
    f = torch.cos((t / T + offset) / ((1 + offset) if scaled else 1) * turn) ** power
    return f / f[0]  # (T + 1,)


def _betas_of(bar: Tensor, clip: float = 0.999) -> Tensor:
    """From a decreasing curve (T + 1,) to betas (T + 1,), equation (2.8)."""
    first = torch.zeros(1, dtype=torch.float64)
    return torch.cat([first, (1 - bar[1:] / bar[:-1]).clamp(max=clip)])


LENGTHS = [Case(f"T = {T}", (T,)) for T in (4, 7, 500)]


# ---- 2.3 ---------------------------------------------------------------------------------------


def _with_bar(change: Callable[[Tensor], Tensor], clip: float = 1.0) -> Answer:
    """An answer that changes alpha_bar from t = 1 on, (T,), and returns its betas."""

    def answer(betas: Tensor) -> Tensor:
        bar = _alpha_bar(betas)
        return _betas_of(torch.cat([bar[:1], change(bar[1:])]), clip=clip)

    return answer


def _stretched(root: Tensor) -> Tensor:
    return (root - root[-1]) * root[0] / (root[0] - root[-1])  # (2.11)


EXERCISES = [
    Exercise(
        "2.1",
        "alpha_bar from a table of betas",
        _alpha_bar,
        TABLES,
        {
            "this multiplies the betas; (2.5) multiplies the alphas, alpha_t = 1 - beta_t":
                lambda betas: betas.cumprod(0),
            "this is 1 - the sum of the betas; alpha_bar is a product, equation (2.5)":
                lambda betas: 1 - betas.cumsum(0),
            "this is 1 - the product of the betas; (2.5) is the product of 1 - beta":
                lambda betas: 1 - betas.cumprod(0),
            "this is the running sum of the alphas; (2.5) is their product":
                lambda betas: (1 - betas).cumsum(0),
            "the entry for t = 0 is missing: use all T + 1 betas, so alpha_bar[0] is 1":
                lambda betas: _alpha_bar(betas[1:]),
            "every entry is shifted by one: alpha_bar[t] must include alpha_t":
                lambda betas: torch.cat([torch.ones(1).double(), _alpha_bar(betas)[:-1]]),
            "there is one entry too many: betas[0] = 0 already gives alpha_bar[0] = 1":
                lambda betas: torch.cat([torch.ones(1).double(), _alpha_bar(betas)]),
            "these are the alphas of single timesteps: take their running product, equation (2.5)":
                lambda betas: 1 - betas,
            "this is the product of all alphas, one number: take the running product":
                lambda betas: (1 - betas).prod(),
            "this is the root of alpha_bar, the weight of the image": lambda betas:
                _alpha_bar(betas).sqrt(),
            "this is the product of 1 - beta^2; alpha is 1 - beta":
                lambda betas: (1 - betas**2).cumprod(0),
            "this is exp(-sum of the betas), which only approximates the product":
                lambda betas: (-betas.cumsum(0)).exp(),
        },
        tolerance=1e-9,
        exact_dtype=True,
    ),
    Exercise(
        "2.2",
        "the cosine schedule",
        lambda T: beta_schedule("cosine", T),
        LENGTHS,
        {
            "the cosine is not squared, equation (2.7)":
                lambda T: _betas_of(_cosine_curve(T, power=1)),
            "the last beta is 1: clip at 0.999, equation (2.8)":
                lambda T: _betas_of(_cosine_curve(T), clip=1.0),
            "the offset of 0.008 is missing, equation (2.7)":
                lambda T: _betas_of(_cosine_curve(T, offset=0.0)),
            "the sum of t / T and the offset is not divided by 1 + 0.008, equation (2.7)":
                lambda T: _betas_of(_cosine_curve(T, scaled=False)),
            "the angle goes to pi, not to pi / 2, equation (2.7)":
                lambda T: _betas_of(_cosine_curve(T, turn=math.pi)),
            "the offset is 0.08; equation (2.7) has 0.008":
                lambda T: _betas_of(_cosine_curve(T, offset=0.08)),
            "the entry for t = 0 is missing: return betas[0] = 0 and T more":
                lambda T: beta_schedule("cosine", T)[1:],
            "this is 1 - alpha_bar_t; (2.8) has 1 - alpha_bar_t / alpha_bar_{t-1}":
                lambda T: (1 - _cosine_curve(T)).clamp(max=0.999),
            "this is the curve alpha_bar itself: convert it to betas by (2.8)": _cosine_curve,
            "this is the curve alpha_bar, clipped: convert it to betas by (2.8)":
                lambda T: _cosine_curve(T).clamp(max=0.999),
            "the fraction is inverted: (2.8) divides the later value by the earlier one":
                lambda T: torch.cat([torch.zeros(1).double(),
                    (1 - _cosine_curve(T)[:-1] / _cosine_curve(T)[1:]).clamp(max=0.999)]),
            "this is the difference of neighbours; (2.8) has 1 minus their ratio":
                lambda T: torch.cat([torch.zeros(1).double(),
                    (_cosine_curve(T)[:-1] - _cosine_curve(T)[1:]).clamp(max=0.999)]),
            "these are the alphas: beta is 1 - alpha":
                lambda T: 1 - _betas_of(_cosine_curve(T), clip=1.0),
            "this is the linear schedule": lambda T: beta_schedule("linear", T),
            "it is clipped at 0.99; equation (2.8) has 0.999":
                lambda T: _betas_of(_cosine_curve(T), clip=0.99),
        },
        tolerance=1e-9,
        exact_dtype=True,
    ),
    Exercise(
        "2.3",
        "a schedule that ends at zero terminal SNR",
        rescale_zero_terminal_snr,
        [
            Case("the linear schedule, T = 4", (beta_schedule("linear", 4),)),
            *TABLES,
        ],
        {
            "the roots are shifted but not stretched: their first value must stay, (2.11)":
                _with_bar(lambda bar: (bar.sqrt() - bar[-1].sqrt()) ** 2),
            "alpha_bar itself is shifted; (2.11) shifts its square root":
                _with_bar(lambda bar: _stretched(bar)),
            "the stretch keeps the value at t = 0; (2.11) keeps the value at t = 1":
                _with_bar(lambda bar: ((bar.sqrt() - bar[-1].sqrt()) / (1 - bar[-1].sqrt())) ** 2),
            "only the last beta has become 1; (2.11) changes all timesteps a little":
                lambda betas: torch.cat([betas[:-1], betas.new_ones(1)]),
            "the roots are not squared before they are turned into betas":
                _with_bar(lambda bar: _stretched(bar.sqrt())),
            "the result is clipped at 0.999: without a clip, the last beta is 1":
                _with_bar(lambda bar: _stretched(bar.sqrt()) ** 2, clip=0.999),
            "the first value is read after the shift, so the stretch has no effect: store it "
            "in a variable before you change the tensor":
                _with_bar(lambda bar: (bar.sqrt() - bar[-1].sqrt()) ** 2
                    * (bar[0].sqrt() - bar[-1].sqrt()) / bar[0].sqrt()),
            "this is alpha_bar: turn it back into betas, as in (2.8)":
                lambda betas: _alpha_bar(rescale_zero_terminal_snr(betas)),
            "the table has not changed": lambda betas: betas,
        },
        tolerance=1e-9,
        exact_dtype=True,
    ),
]  # fmt: skip
