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
    check_kind,
    error_gain,
    usual_betas,
)

LEFT, TOO_MUCH_LEFT = 0.05, 0.2  # sqrt(alpha_bar[T]) that is worth a look, and that is broken
NOTHING = 1e-6  # alpha_bar of pure noise
HALVES = (torch.float16, torch.bfloat16)
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
    "1 - cumsum(betas)": lambda betas: 1 - betas.cumsum(0),
    "alpha_bar of betas in reverse order": lambda betas: (1 - betas.flip(0)).cumprod(0),
    "cumprod(alpha_bar)": lambda betas: (1 - betas).cumprod(0).cumprod(0),
    "alpha_bar with beta^2 for beta": lambda betas: (1 - betas**2).cumprod(0),
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
    finite = bool(torch.isfinite(bar).all())
    named = _looks_like(bar[bars.first :]) if finite else None
    outside = [t for t, value in enumerate(bar.tolist()) if not 0 <= value <= 1]
    if named is None and outside:
        return broken(
            "schedule", f"alpha_bar must lie in 0..1: {len(outside)} of {len(bar)} values do not, "
            f"first that of t = {outside[0]}, which is {float(bar[outside[0]]):.3g}, the value "
            f"before it {float(bar[max(0, outside[0] - 1)]):.3g}",
            "It is cumprod(1 - beta), with 0 < beta < 1",
        )  # fmt: skip
    if named is not None:
        sentence = f"the table looks like {named}"
        return broken("schedule", sentence, "alpha_bar is cumprod(1 - beta)")
    last, end, begin = float(bar[-1]), math.sqrt(bar[-1]), math.sqrt(1 - bar[bars.first])
    beta = 1 - last / max(float(bar[-2]), 1e-30)
    half = [bar.to(dtype).double() for dtype in HALVES]
    in_half = len(bar) >= 50 and any(torch.equal(rounded, bar) for rounded in half)
    rises, noise = bar[1:] > bar[:-1], int((bar < NOTHING).sum()) / len(bar)
    jump, stays = int((bar[1:] - bar[:-1]).argmin()), float((bar[1:] == bar[:-1]).double().mean())
    shares = f"{end:.2g} of the image is left at T (sqrt(alpha_bar[T]))"
    return decide(
        "schedule",
        (float(rises.double().mean()) > 0.9, broken,
         f"alpha_bar rises from {float(bar[0]):.3g} to {last:.3g}: it is that of the noise, "
         "1 - alpha_bar, or in reverse order", "alpha_bar begins near 1 and falls"),
        (bool(rises.any()), broken,
         f"alpha_bar does not fall everywhere: it rises at {int(rises.sum())} of {len(bar)} t, "
         f"first after t = {int(rises.double().argmax())}",
         "It is cumprod(1 - beta), which only falls"),
        (noise > 0.1, broken,
         f"nothing of the image is left at {noise:.0%} of all t, from t = "
         f"{int((bar < NOTHING).double().argmax())} on: the betas are too large for T = {len(bar)}",
         "Compare the last beta and T with those of the paper: 0.02 for T = 1000"),
        (stays > 0.3 and not in_half, broken,
         f"alpha_bar does not change at {stays:.0%} of all t, and falls from "
         f"{float(bar[jump]):.3g} to {float(bar[jump + 1]):.3g} after t = {jump}",
         "Divide t by T with /, not //, and compute the table in float64"),
        (last == 0 and prediction == "eps", broken,
         "nothing is left at T, so x_0 cannot be computed from a prediction of eps",
         "Predict v, flow or x_0, or let the table end a little above 0"),
        (end > LEFT, broken if end > TOO_MUCH_LEFT else look,
         f"{shares}, but sampling starts from pure noise",
         "Use a schedule that ends in noise for this T (cosine), or rescale it to zero SNR"),
        (in_half, look, "every entry fits in half precision: the table is rounded, most at small t",
         "Compute it in float64: torch.cumprod(1 - beta.double(), 0)"),
        (0 < 1 - beta < 5e-4 and prediction == "eps", look,
         f"the last beta is 1 - {1 - beta:.1g}, not clipped: eps is divided by {end:.1g} there",
         "Use beta.clamp(max=0.999), or predict v or x_0"),
        (begin > 0.3, look,
         f"x_t has noise of {begin:.2f} at the first t already, so the network never learns "
         "details",
         "Use more timesteps or smaller first betas"),
        otherwise=shares, end=end, begin=begin,
    )  # fmt: skip


def _looks_like(table: Tensor) -> str | None:
    """What a table, (T,), is instead of alpha_bar, if that of a usual schedule; else None."""
    away = {
        (form, name): float((of(betas) - table).abs().quantile(0.95))  # ends may be clipped
        for name, betas in usual_betas(len(table)).items()
        for form, of in TABLES.items()
    }
    form, name = nearest = min(away, key=lambda key: away[key])
    known = away[nearest] < SAME and form != "alpha_bar"
    return f"{form} of this schedule: {name}" if known else None


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
            "Use snr.clamp(min=1e-8) before you divide by SNR", **numbers,
        )  # fmt: skip
    if ((weight - weight[0]).abs() < 1e-6 * weight[0].abs()).all():
        return ok("loss weights", "every t has the same weight", **numbers)
    repair = "Use min(SNR, gamma): clamp(max=gamma), not min=gamma"
    mistake = _weight_mistake(weight[inside], snr, prediction)
    truncated = abs(float(on_x_0.min()) - 1) < 1e-6  # Salimans & Ho 2022, section 4
    return decide(
        "loss weights",
        (_is_max(on_x_0, snr), look if truncated else broken,
         f"the weight is max(SNR, {on_x_0.min():.3g}): "
         + ("right for progressive distillation (truncated SNR), wrong for min-SNR" if truncated
            else "clamped from the wrong side"), repair),
        (mistake is not None, broken, f"the weight is {mistake}",
         "For min-SNR: min(SNR, gamma), divided by SNR for eps, by SNR + 1 for v, by 1 for x_0"),
        (high_t > 1.001 * low_t, broken,
         "the error in x_0 weighs most where there is most noise: clamped from the wrong side",
         repair),
        otherwise=f"weight of the error in x_0: {low_t:.3g} at the first t, "
        f"{high_t:.3g} at the last",
        **numbers,
    )  # fmt: skip


def _is_max(on_x_0: Tensor, snr: Tensor) -> bool:
    """Whether the weight is max(SNR, constant)."""
    low = on_x_0.min()
    follows = (on_x_0 - snr.clamp(min=float(low))).abs() <= 1e-3 * on_x_0
    return bool(follows.all()) and bool(((on_x_0 / low - 1).abs() < 1e-6).sum() > 2)


def _weight_mistake(weight: Tensor, snr: Tensor, prediction: str) -> str | None:
    """What is wrong in a min-SNR weight, whatever its gamma; None if it is another weight."""
    over = {"eps": snr, "v": snr + 1, "x_0": snr**0}
    for gamma in (1, 2, 3, 5, 7, 10, 20):
        forms = {
            f"min(SNR, {gamma})": snr.clamp(max=gamma),
            f"min(SNR, {gamma}) / SNR": snr.clamp(max=gamma) / snr,
            f"min(SNR, {gamma}) / (SNR + 1)": snr.clamp(max=gamma) / (snr + 1),
            f"min(1 / SNR, {gamma}) SNR: SNR is upside down": (1 / snr).clamp(max=gamma) * snr,
            f"min(1 / SNR, {gamma}): SNR is upside down": (1 / snr).clamp(max=gamma),
            f"1 / min(SNR, {gamma}): upside down": 1 / snr.clamp(max=gamma),
        }
        right = snr.clamp(max=gamma) / over.get(prediction, snr)
        for words, form in forms.items():
            if not _proportional(form, right) and _proportional(weight, form):
                kind = "" if "upside" in words else f", which is not for {prediction}"
                return words + kind
    twice = prediction == "eps" and _proportional(weight, snr)
    return "SNR, which the error in eps has already" if twice else None


def _proportional(a: Tensor, b: Tensor) -> bool:
    ratio = a / b.clamp(min=1e-30)
    return bool(((ratio / ratio.median()) - 1).abs().max() < 1e-3)
