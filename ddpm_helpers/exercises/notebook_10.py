"""Exercises of notebook 10: checks that catch a planted fault."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, noise

Network = Callable[[Tensor, Tensor], Tensor]
Loop = Callable[[Network, Tensor], Tensor]
BAR = DiffusionUtils(20).alpha_bar


# ---- 10.1: the range of the data ---------------------------------------------------------


def _images(low: float, high: float) -> Case:
    values = torch.rand(4, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    values[:-1] = 0.4 + 0.2 * values[:-1]  # only the last image reaches both ends
    values.view(-1)[-2:] = torch.tensor([0.0, 1.0])
    text = f"values in {low:g}..{high:g}"
    return Case(text, (low + (high - low) * values,))


RANGES = [
    _images(-0.9, 1), _images(0, 1), _images(0.05, 0.9), _images(-1.8, 2.4), _images(-2.1, 0.4),
    _images(-0.3, 1.7), _images(-1.4, 0.9), _images(0, 1.3), _images(0.1, 255), _images(-0.2, 1),
    _images(-1, -0.2), _images(-0.5, 0.5), _images(-2.5, -1.2),
    _images(-1, 1 + 1e-6)._replace(text="values in -1..1.000001, as rounding leaves them"),
    _images(-1 - 1e-6, 1)._replace(text="values in -1.000001..1, as rounding leaves them"),
]  # fmt: skip


def _range(
    x: Tensor, *, largest: Callable[[Tensor], Tensor] = lambda x: x.abs().max(),
    limit: float = 1.001, is_unit: Callable[[Tensor], Tensor] = lambda x: x.min() >= 0,
    unit_first: bool = False,
) -> str:  # fmt: skip
    """The range, and with other arguments its mistakes."""
    if unit_first and is_unit(x):
        return "0..1"
    if largest(x) > limit:
        return "beyond -1..1"
    return "0..1" if is_unit(x) else "ok"


# ---- 10.2: an oracle that answers with v -------------------------------------------------


def _ask(answer: Answer, x_0: Tensor, bar: Tensor, x_t: Tensor, t: Tensor) -> Any:
    oracle = answer(x_0, bar)
    return oracle(x_t, t) if callable(oracle) else oracle


def _asked(*timesteps: int) -> Case:
    x_0, x_t = noise(2, len(timesteps), 3, 5, 4, seed=2)
    text = f"t = {', '.join(map(str, timesteps))}"
    return Case(text, (x_0, BAR, x_t, torch.tensor(timesteps)), _ask)


def _v(x_0: Tensor, x_t: Tensor, bar: Tensor) -> Tensor:
    return (bar.sqrt() * x_t - x_0) / (1 - bar).sqrt()


def _eps(x_0: Tensor, x_t: Tensor, bar: Tensor) -> Tensor:
    return (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()


def _oracle(
    x_0: Tensor, bar: Tensor, *,
    formula: Answer = _v, row: Callable[[Tensor], Tensor] = lambda t: t,
    shape: tuple[int, ...] = (-1, 1, 1, 1),
) -> Network:  # fmt: skip
    """The oracle, and with other arguments its mistakes."""
    return lambda x_t, t: formula(x_0, x_t, bar[row(t)].view(shape).float())


# ---- 10.3: the distance that a loop misses a known image by ------------------------------


def _loop(bug: str = "") -> Loop:
    """DDIM in ten steps, for a network that predicts eps, with one mistake."""

    def sample(model: Network, x: Tensor) -> Tensor:
        for t in range(20, 0, -2):
            s = t - 2
            eps = model(x, torch.full((len(x),), t))
            x_0 = (x - (1 - BAR[t]).sqrt() * eps) / BAR[t].sqrt()
            along = 1 - BAR[t if bug == "direction" else s]
            x = BAR[s].sqrt() * x_0 + along.sqrt() * eps
            x = x + 0.1 * torch.randn_like(x) if bug == "last noise" and s == 0 else x
            x = x - 0.2 if bug == "shift" and s == 0 else x
            x = torch.cat([x[:1] + 0.3, x[1:]]) if bug == "one image" and s == 0 else x
        return x

    return sample


def _led(text: str, bug: str = "") -> Case:
    x_T, x_0 = noise(2, 2, 3, 4, 5, seed=3).double()
    return Case(text, (_loop(bug), x_T, 0.5 * x_0, BAR))


def _rms(away: Tensor) -> float:
    return away.square().mean().sqrt().item()


def _missed(
    sample: Loop, x_T: Tensor, x_0: Tensor, bar: Tensor, *,
    goal: str = "x_0", measure: Callable[[Tensor], float] = _rms, shift: int = 0,
    formula: Answer = _eps,
) -> float:  # fmt: skip
    """The distance, and with other arguments its mistakes."""

    def oracle(x_t: Tensor, t: Tensor) -> Tensor:
        b = bar[t - shift].view(-1, 1, 1, 1).clamp(max=1 - 1e-6)
        return formula(x_0, x_t, b)

    return measure(sample(oracle, x_T) - (x_0 if goal == "x_0" else x_T))


# ---- 10.4: what a guess without shapes would reach ---------------------------------------


def _guess(x_0: Tensor, bar_t: float, variance: Callable[[Tensor], Tensor] = torch.var) -> float:
    of_signal = bar_t * variance(x_0).item()
    return of_signal / (of_signal + 1 - bar_t)


def _ratio(signal: float, rest: float) -> float:
    return signal / (signal + rest)


def _population(x: Tensor) -> Tensor:
    return x.var(correction=0)


def _batch() -> Tensor:
    """Images whose brightness, colours and pixels differ, so that every axis has its own mean."""
    x = noise(8, 1, 1, 1, seed=4) + 0.7 * noise(3, 1, 1, seed=5) + 0.4 * noise(4, 5, seed=6)
    return (0.3 + 0.4 * x + 0.3 * noise(8, 3, 4, 5, seed=7)).double()


EXERCISES = [
    Exercise(
        "10.1",
        "tell three ranges of data apart",
        _range,
        RANGES,
        {
            "only the largest value is tested: standardised data also reach below -1":
                partial(_range, largest=torch.max),
            "only the smallest value is tested: data may lie above 1, too":
                partial(_range, largest=lambda x: -x.min()),
            "both ends have to lie beyond here: one of them is enough":
                lambda x: _range(x, largest=lambda x: torch.minimum(x.max(), -x.min())),
            "only the first image is tested: take the whole batch": lambda x: _range(x[:1]),
            "most values decide here: in 0..1 no value lies below 0":
                partial(_range, is_unit=lambda x: (x >= 0).double().mean() > 0.5),
            "rounding is not a fault: leave a little room above 1": partial(_range, limit=1.0),
            "bright images have a high mean as well: in 0..1 no value lies below 0":
                partial(_range, is_unit=lambda x: x.mean() > 0.25),
            "dark images may all lie below 0: that is not a fault":
                partial(_range, is_unit=lambda x: x.min() >= 0 or x.max() < 0),
            "data above 1 are called 0..1: test first whether they lie beyond -1..1":
                partial(_range, unit_first=True),
            "data whose smallest value is above 0 are 0..1 as well: compare with >= 0":
                partial(_range, is_unit=lambda x: x.min() == 0),
            "data whose smallest value is 0 are 0..1 as well: compare with >= 0":
                partial(_range, is_unit=lambda x: x.min() > 0),
            "0..1 and ok are exchanged: ok has values below 0":
                partial(_range, is_unit=lambda x: x.min() < 0),
            "0..1 is never found": partial(_range, is_unit=lambda x: x.min() > 2),
            "data beyond -1..1 are never found": partial(_range, limit=math.inf),
        },
    ),
    Exercise(
        "10.2",
        "an oracle that answers with v",
        _oracle,
        [_asked(7, 7), _asked(2, 11, 14, 19), _asked(5)],
        {
            "this returns eps, equation (10.2): convert it to v": partial(_oracle, formula=_eps),
            "v has the other sign: it is sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0":
                partial(_oracle, formula=lambda x_0, x_t, bar: -_v(x_0, x_t, bar)),
            "this returns x_0: convert it to v":
                partial(_oracle, formula=lambda x_0, x_t, bar: x_0),
            "x_t is used where eps belongs: v is sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0":
                partial(_oracle, formula=lambda x_0, x_t, bar:
                    bar.sqrt() * x_t - (1 - bar).sqrt() * x_0),
            "the two weights of v are swapped: sqrt(alpha_bar) belongs to eps":
                partial(_oracle, formula=lambda x_0, x_t, bar:
                    (1 - bar).sqrt() * _eps(x_0, x_t, bar) - bar.sqrt() * x_0),
            "the sign of x_0 in v is wrong: it is sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0":
                partial(_oracle, formula=lambda x_0, x_t, bar:
                    bar.sqrt() * _eps(x_0, x_t, bar) + (1 - bar).sqrt() * x_0),
            "the roots are missing in v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0":
                partial(_oracle, formula=lambda x_0, x_t, bar:
                    bar * _eps(x_0, x_t, bar) - (1 - bar) * x_0),
            "the numerator is not divided by sqrt(1 - alpha_bar)":
                partial(_oracle, formula=lambda x_0, x_t, bar: bar.sqrt() * x_t - x_0),
            "this divides by 1 - alpha_bar: its root belongs there":
                partial(_oracle, formula=lambda x_0, x_t, bar:
                    (bar.sqrt() * x_t - x_0) / (1 - bar)),
            "all images get the timestep of the first one":
                partial(_oracle, row=lambda t: t[:1].expand(len(t))),
            "t counts from 1 here: index the table with t, not t - 1":
                partial(_oracle, row=lambda t: t - 1),
            "alpha_bar[t] is broadcast over the columns: reshape it to (B, 1, 1, 1)":
                partial(_oracle, shape=(-1,)),
        },
        tolerance=1e-4,
    ),
    Exercise(
        "10.3",
        "how far a loop ends from the image that a perfect network knows",
        _missed,
        [
            _led("a healthy loop"),
            _led("a loop that adds noise at the last step", "last noise"),
            _led("a loop with the wrong direction", "direction"),
            _led("a loop that makes images too dark", "shift"),
            _led("a loop that makes the first image too bright", "one image"),
        ],
        {
            "the result is compared with the start noise: compare it with x_0":
                partial(_missed, goal="x_T"),
            "the oracle answers with v; this loop asks for eps": partial(_missed, formula=_v),
            "the oracle answers with x_0; this loop asks for eps":
                partial(_missed, formula=lambda x_0, x_t, bar: x_0),
            "differences of both signs cancel in a mean: square them first":
                partial(_missed, measure=lambda away: away.mean().item()),
            "differences of both signs cancel in a mean, before the absolute value: square them "
            "first":
                partial(_missed, measure=lambda away: away.mean().abs().item()),
            "this is the mean of absolute differences: take the root of the mean square":
                partial(_missed, measure=lambda away: away.abs().mean().item()),
            "this is the mean of the images' distances: take the root of the mean over all values":
                partial(_missed, measure=lambda away: (
                    away.square().mean((1, 2, 3)).sqrt().mean().item())),
            "this is the largest difference: take the root of the mean square":
                partial(_missed, measure=lambda away: away.abs().max().item()),
            "the root is missing: this is the mean square":
                partial(_missed, measure=lambda away: away.square().mean().item()),
            "this is the root of the sum of squares: take the mean":
                partial(_missed, measure=lambda away: away.norm().item()),
            "this is a standard deviation: it does not see a shift of all values; square the "
            "differences themselves":
                partial(_missed, measure=lambda away: away.std().item()),
            "this is a standard deviation, with n: it does not see a shift of all values; "
            "square the differences themselves":
                partial(_missed, measure=lambda away: away.std(correction=0).item()),
            "the oracle uses another row of the table than the loop: index it with the t "
            "that it is given": partial(_missed, shift=1),
            "the answer is always 0": lambda *given: 0.0,
        },
        tolerance=1e-4,
    ),
    Exercise(
        "10.4",
        "the loss of a guess that knows no shapes",
        _guess,
        [Case(f"alpha_bar = {bar:g}", (_batch(), bar)) for bar in (0.9, 0.2, 0.55)],
        {
            "this uses the standard deviation where the variance belongs, equation (10.4)":
                partial(_guess, variance=torch.std),
            "the guess knows the mean: take the variance around it, not the mean square":
                partial(_guess, variance=lambda x: x.square().mean()),
            "this is the error in x_0: in units of eps it is alpha_bar / (1 - alpha_bar) of it":
                lambda x_0, bar_t: _guess(x_0, bar_t) * (1 - bar_t) / bar_t,
            "this is the root of the loss: a loss is a mean square":
                lambda x_0, bar_t: math.sqrt(_guess(x_0, bar_t)),
            "this is 1 minus the loss: alpha_bar times the variance stands above, (10.4)":
                lambda x_0, bar_t: 1 - _guess(x_0, bar_t),
            "alpha_bar and 1 - alpha_bar are exchanged, equation (10.4)":
                lambda x_0, bar_t: _guess(x_0, 1 - bar_t),
            "the variance is missing, equation (10.4): this is alpha_bar": lambda x_0, bar_t: bar_t,
            "the root of alpha_bar is used; (10.4) has alpha_bar itself":
                lambda x_0, bar_t: _ratio(bar_t**0.5 * x_0.var().item(), 1 - bar_t),
            "the numerator lacks alpha_bar, equation (10.4)":
                lambda x_0, bar_t: _guess(x_0, bar_t) / bar_t,
            "the sum below lacks alpha_bar, equation (10.4)": lambda x_0, bar_t:
                bar_t * x_0.var().item() / (x_0.var().item() + 1 - bar_t),
            "the division comes before the sum: put brackets around all that stands below":
                lambda x_0, bar_t: 1 + 1 - bar_t,
            "roots of alpha_bar, of the variance and of 1 - alpha_bar are used; (10.4) has none":
                lambda x_0, bar_t: _ratio(bar_t**0.5 * x_0.std().item(), (1 - bar_t) ** 0.5),
            "alpha_bar times the variance is missing above, (10.4)":
                lambda x_0, bar_t: 1 / (bar_t * x_0.var().item() + 1 - bar_t),
            "this is alpha_bar times the variance; (10.4) divides it by a sum":
                lambda x_0, bar_t: bar_t * x_0.var().item(),
            "the sum below lacks - alpha_bar, equation (10.4)":
                lambda x_0, bar_t: _ratio(bar_t * x_0.var().item(), 1),
            "a * b / a * b divides by a alone: put brackets around all that stands below":
                lambda x_0, bar_t: x_0.var().item() ** 2 + 1 - bar_t,
            "the variance is taken for each pixel and averaged: take it over all values":
                partial(_guess, variance=lambda x: x.var(0).mean()),
            "the variance is taken for each image and averaged: take it over all values":
                partial(_guess, variance=lambda x: x.flatten(1).var(1).mean()),
            "the variance is taken for each colour and averaged: take it over all values":
                partial(_guess, variance=lambda x: x.var((0, 2, 3)).mean()),
        },
        tolerance=1e-5,
        also_right=[partial(_guess, variance=_population)],
    ),
]  # fmt: skip
