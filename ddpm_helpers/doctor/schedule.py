"""Checks of the forward process's tables and formulas: schedule, noising, loss weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.finding import Finding, broken, decide, look, ok
from ddpm_helpers.doctor.tables import (
    Bars,
    calling,
    check_kind,
    error_gain,
    rms,
    shape_of,
    usual_betas,
)

LEFT, TOO_MUCH_LEFT = 0.05, 0.2  # sqrt(alpha_bar[T]) that is worth a look, and that is broken
SAME = 2e-5  # greatest difference between a table in float32 and the one that it is
# What people pass for alpha_bar by mistake, made from betas.
TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "alpha_bar": lambda betas: (1 - betas).cumprod(0),
    "alphas, not their product,": lambda betas: 1 - betas,
    "betas": lambda betas: betas,
    "cumprod(betas)": lambda betas: betas.cumprod(0),
    "sqrt(alpha_bar)": lambda betas: (1 - betas).cumprod(0).sqrt(),
    "1 - alpha_bar": lambda betas: 1 - (1 - betas).cumprod(0),
    "alpha_bar in reverse order": lambda betas: (1 - betas).cumprod(0).flip(0),
    "alpha_bar with sqrt(beta) for beta": lambda betas: (1 - betas.sqrt()).cumprod(0),
}


def check_schedule(alpha_bar: Any, *, prediction: str = "eps") -> Finding:
    """Check that the schedule begins at the image and ends in noise.

    Args:
        alpha_bar: table, (T,) or (T + 1,), see `check_sampler`.
        prediction: what the network predicts; eps does not work with alpha_bar[T] = 0.
    Returns:
        A `Finding` with `end` = sqrt(alpha_bar[T]), the share of the image that is left at T,
        and `begin` = sqrt(1 - alpha_bar) of the first step, the share of noise there.
    Raises:
        ValueError: not a table.
    """
    check_kind(prediction)
    bars = Bars(alpha_bar)
    bar = bars.table
    if not torch.isfinite(bar).all() or float(bar.min()) < 0 or float(bar.max()) > 1:
        return broken(
            "schedule", f"alpha_bar must lie in 0..1, got {float(bar.min()):.3g}.."
            f"{float(bar.max()):.3g}", "It is cumprod(1 - beta)",
        )  # fmt: skip
    last, end, begin = float(bar[-1]), math.sqrt(bar[-1]), math.sqrt(1 - bar[bars.first])
    rises = bool((bar[1:] > bar[:-1]).any())
    named = _looks_like(bar[bars.first :])
    shares = f"{end:.2g} of the image is left at T (sqrt(alpha_bar[T]))"
    return decide(
        "schedule",
        (named is not None, broken, f"the table looks like {named}", "It is cumprod(1 - beta)"),
        (rises, broken, "alpha_bar does not fall everywhere",
         "It is cumprod(1 - beta), which only falls"),
        (last == 0 and prediction == "eps", broken,
         "nothing is left at T, so x_0 cannot be computed from a prediction of eps",
         "Let it predict v, flow or x_0, or end a little above 0"),
        (end > LEFT, broken if end > TOO_MUCH_LEFT else look,
         f"{shares}, but sampling starts from pure noise",
         "Use a schedule that ends in noise for this T (cosine), or rescale it to zero SNR"),
        (begin > 0.3, look,
         f"x_t is {begin:.2f} noise after the first step already: details are lost",
         "Use more steps or smaller first betas"),
        otherwise=shares, end=end, begin=begin,
    )  # fmt: skip


def _looks_like(table: Tensor) -> str | None:
    """What a table, (T,), is instead of alpha_bar, if that of a usual schedule; else None."""
    away = {
        (form, name): float((of(betas) - table).abs().max())
        for name, betas in usual_betas(len(table)).items()
        for form, of in TABLES.items()
    }
    form, name = nearest = min(away, key=lambda key: away[key])
    known = away[nearest] < SAME and form != "alpha_bar"
    return f"{form} of this schedule: {name}" if known else None


def check_noising(
    add_noise: Callable[..., Any], alpha_bar: Any, *, shape: tuple[int, int, int] = (3, 16, 16)
) -> Finding:
    """Check x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps, with a t for each image.

    Args:
        add_noise: `add_noise(x_0, t, eps) -> x_t` of the training code, x_0 and eps (B, C, H, W),
            t int64 (B,), counted as in the table. If it returns a tuple, x_t must come first.
        alpha_bar: table, see `check_sampler`.
        shape: of one image.
    Returns:
        A `Finding` with `error`, the rms distance from the formula.
    Raises:
        ValueError: add_noise fails, or returns another shape.
    """
    bars = Bars(alpha_bar)
    generator = torch.Generator().manual_seed(0)
    ts = torch.linspace(bars.first, bars.last, 8).long()  # (8,)
    x_0 = torch.rand(8, *shape, generator=generator) * 2 - 1
    eps = torch.randn(8, *shape, generator=generator)
    expects = f"the doctor calls add_noise(x_0 {tuple(x_0.shape)}, t (8,), eps) and expects x_t"
    with calling("add_noise", expects):
        x_t = add_noise(x_0.clone(), ts.clone(), eps.clone())
    x_t = x_t[0] if isinstance(x_t, tuple) else x_t
    if shape_of(x_t) != x_0.shape:
        raise ValueError(f"add_noise returned {shape_of(x_t)}; {expects}")

    def away(A: Tensor, B: Tensor) -> float:
        return rms(x_t - (A * x_0 + B * eps))

    def of(t: Tensor) -> tuple[Tensor, Tensor]:
        bar = bars.column(t.clamp(0, bars.last), x_0)
        return bar.sqrt(), (1 - bar).sqrt()

    A, B = of(ts)
    off = away(A, B)
    if off < 1e-3:
        return ok("noising", f"x_t agrees with the formula within {off:.0e}", error=off)
    wrong = {
        "t is off by one: the table's next row is used": of(ts + 1),
        "t is off by one: the table's previous row is used": of(ts - 1),
        "all images are noised with the t of the first": of(ts[:1].expand(8)),
        "the image is scaled by alpha_bar: the square root is missing": (A**2, B),
        "the noise is scaled by 1 - alpha_bar: the square root is missing": (A, B**2),
        "both square roots are missing": (A**2, B**2),
        "the two weights are swapped": (B, A),
    }
    named = min(wrong, key=lambda words: away(*wrong[words]))
    if away(*wrong[named]) > 1e-3:
        named = f"x_t is {off:.3f} away from the formula"
    return broken(
        "noising", named, "x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps", error=off
    )


def check_loss_weights(weights: Any, alpha_bar: Any, *, prediction: str = "eps") -> Finding:
    """Check that the loss weights are plain or like min-SNR's, and not clamped the wrong way.

    As weights of the error in x_0 they are SNR for plain eps, 1 for plain x_0, SNR + 1 for plain v,
    (sqrt(SNR) + 1)² for plain flow, and min(SNR, gamma) for min-SNR. They never rise with the
    noise.

    Args:
        weights: the factor of each t's squared error in the network's output, as long as alpha_bar.
        alpha_bar: table, see `check_sampler`.
        prediction: eps, x_0, v or flow.
    Returns:
        A `Finding` with the weights of the error in x_0 at the ends, `low_t` and `high_t`.
    Raises:
        ValueError: not one weight for each entry of alpha_bar.
    Source: Hang et al. 2023, section 3.4.
    """
    bars, table = Bars(alpha_bar), torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    if table.shape != bars.table.shape:
        raise ValueError(
            f"weights must be {tuple(bars.table.shape)}, one for each entry of alpha_bar; "
            f"got {tuple(table.shape)}"
        )
    bar, weight = bars.table[bars.first :], table[bars.first :]
    inside = (bar > 0) & (bar < 1)
    snr = (bar / (1 - bar))[inside]
    on_x_0 = weight[inside] * error_gain(check_kind(prediction), bar[inside])
    low_t, high_t = float(on_x_0[0]), float(on_x_0[-1])
    numbers = {"low_t": low_t, "high_t": high_t}
    if not torch.isfinite(weight).all() or float(weight.min()) < 0:
        return broken(
            "loss weights", "a weight is negative, NaN or infinite",
            "Clamp SNR before you divide by it", **numbers,
        )  # fmt: skip
    if ((weight - weight[0]).abs() < 1e-6 * weight[0].abs()).all():
        return ok("loss weights", "every t has the same weight", **numbers)
    repair = "Use min(SNR, gamma): clamp(max=gamma), not min=gamma"
    return decide(
        "loss weights",
        (high_t > 1.001 * low_t, broken,
         "the error in x_0 weighs most where there is most noise: clamped from the wrong side",
         repair),
        (_is_max(on_x_0, snr), broken,
         f"the weight is max(SNR, {on_x_0.min():.3g}): clamped from the wrong side", repair),
        otherwise=f"weight of the error in x_0: {low_t:.3g} at the first t, "
        f"{high_t:.3g} at the last",
        **numbers,
    )  # fmt: skip


def _is_max(on_x_0: Tensor, snr: Tensor) -> bool:
    """Whether the weight is max(SNR, constant)."""
    low = on_x_0.min()
    follows = (on_x_0 - snr.clamp(min=float(low))).abs() <= 1e-3 * on_x_0
    return bool(follows.all()) and bool(((on_x_0 / low - 1).abs() < 1e-6).sum() > 2)
