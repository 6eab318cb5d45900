"""Repeated runs of one sampler with different oracles, and the faults that these tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.diffusion import PREDICTIONS
from ddpm_helpers.doctor.faults import in_place
from ddpm_helpers.doctor.finding import Alarm, broken
from ddpm_helpers.doctor.oracle import Move, Oracle, walk
from ddpm_helpers.doctor.tables import Bars, check_kind, rms

EXACT = 2e-4  # in float32 a correct loop ends nearer to x_0; with t off by one of 1000 it does not
VALUES = 2000  # fewer are too few to measure a step's noise
SPREAD = 0.3  # of the Gaussian that stands for data
SampleFn = Callable[..., Any]


class Trial:
    """A sampler under test, with everything that is needed to run it again.

    Args, Raises: as for `check_sampler`.
    """

    def __init__(
        self, sample_fn: SampleFn, alpha_bar: Any, *, prediction: str = "eps",
        shape: tuple[int, int, int] = (3, 16, 16), n: int = 16, seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        values = n * math.prod(shape)
        if n < 2 or values < VALUES:
            raise ValueError(
                f"n must be at least 2 and n * C * H * W at least {VALUES}, got {n} and {values}"
            )
        self.sample_fn, self.bars, self.seed = sample_fn, Bars(alpha_bar), seed
        self.prediction = check_kind(prediction)
        generator = torch.Generator().manual_seed(seed)
        x_0 = torch.rand(n, *shape, generator=generator) * 1.6 - 0.8  # within -1..1
        self.x_0 = x_0.to(device)
        self.x_T = torch.randn(n, *shape, generator=generator).to(device)

    def run(
        self, prediction: str | None = None, middle: float | None = None, **options: Any
    ) -> tuple[Oracle, Tensor]:
        """Run the sampler once, with an oracle of these options; x_0 may be flat, all `middle`."""
        x_0 = self.x_0 if middle is None else torch.full_like(self.x_0, middle)
        oracle = Oracle(x_0, self.bars, prediction or self.prediction, **options)
        return oracle, walk(self.sample_fn, oracle, self.x_T, self.seed)

    def is_right(self, oracle: Oracle, result: Tensor) -> bool:
        """Whether a walk ended at x_0 and every step on the way led where it should."""
        return rms(result - self.x_0) < EXACT and in_place(oracle.moves[:-1] or oracle.moves)


def other_reading(trial: Trial, oracle: Oracle, result: Tensor) -> Alarm | None:
    """Name the fault if the sampler is right for another counting of t, or another prediction."""
    outside = [t for t in oracle.told if not trial.bars.holds(t)]
    if not outside and trial.is_right(oracle, result):
        return None
    if ends_at(oracle.moves[-1], trial.bars.at(trial.bars.first)):
        return None  # named later; a shift by one can look alike
    for shift in (1, -1):
        if trial.is_right(*trial.run(shift=shift)):
            way = "below" if shift > 0 else "above"
            return (
                broken,
                f"t is off by one: the network is given a t one {way} that of the coefficients",
                f"Pass t {'+' if shift > 0 else '-'} 1, or index the tables as in training",
            )
    for kind in PREDICTIONS:
        if kind != trial.prediction and trial.is_right(*trial.run(kind)):
            return (
                broken,
                f"the sampler treats the output as {kind}, but it is {trial.prediction}",
                f"Convert {trial.prediction} to {kind} before the step",
            )
    if outside:
        return (
            broken,
            f"the network is given t = {outside[0]:g}, outside of {trial.bars.first}.."
            f"{trial.bars.last}, its range in training",
            "Count t as in training",
        )
    return None


def unclipped(trial: Trial, numbers: dict[str, float], error: float = 0.003) -> Alarm | None:
    """Check how far one step is off if the network errs by a few thousandths.

    With little left of the picture, the error is multiplied by sqrt((1 - bar) / bar) in x_0. Short
    steps correct it; long ones lead to an x_t that never occurs in training.
    """
    moves = trial.run(error=error)[0].moves[:-1]
    away = [abs(math.hypot(m.B, m.sigma) - math.sqrt(1 - m.bar_s)) for m in moves]
    numbers["astray"] = astray = max(away, default=0.0)
    on_x_0 = max((a / math.sqrt(m.bar_s) for a, m in zip(away, moves, strict=True)), default=0.0)
    if astray < 0.1 or on_x_0 < 2:  # a clipped x_0 is never off by more
        return None
    return (
        broken,
        f"x_0 is not clipped: an error of {error:.1%} in the output changes the noise level by "
        f"{astray:.2f} in one step",
        "Clip the predicted x_0 to -1..1 before the step is taken from it",
    )


def draws_right(trial: Trial, oracle: Oracle) -> Alarm | None:
    """Check the spread of samples from a Gaussian, for which the perfect network is known.

    With one known picture, mistakes in what a sampler carries from step to step cancel out.
    """
    left = math.sqrt(oracle.bars.at(oracle.told[0]))
    if len(oracle.told) < 8 or left > 0.2:  # then steps or schedule are the reason
        return None
    _, drawn = trial.run(spread=SPREAD, middle=0.1, measures=False)
    seen, simple = float((drawn - drawn.mean()).std()), expected_spread(oracle.moves)
    allowed = 0.03 + 1.5 * abs(simple / SPREAD - 1)
    if abs(seen / SPREAD - 1) < allowed and abs(float(drawn.mean()) - 0.1) < 0.05:
        return None
    return (
        broken,
        f"for a Gaussian with standard deviation {SPREAD} it draws one of {seen:.3f}; plain steps "
        f"reach {simple:.3f}",
        "Each step alone is right: check what is carried from one step to the next",
    )


def expected_spread(moves: list[Move]) -> float:
    """The spread that samples of the Gaussian get from plain steps with these A, B and sigma."""
    variance = 1.0
    for move in moves:
        bar = move.bar_t
        if bar >= 1:
            continue
        gain = math.sqrt(bar) * SPREAD**2 / (bar * SPREAD**2 + 1 - bar)
        of_x_t = move.A * gain + move.B * (1 - math.sqrt(bar) * gain) / math.sqrt(1 - bar)
        variance = of_x_t**2 * variance + move.sigma**2
    return math.sqrt(variance)


def ends_at(last: Move, bar: float) -> bool:
    """Whether the result is a noisy picture at this alpha_bar rather than a clean one."""
    level, expected = math.hypot(last.B, last.sigma), math.sqrt(1 - bar)
    return abs(last.A - math.sqrt(bar)) < 0.001 and abs(level - expected) < 0.02 * expected
