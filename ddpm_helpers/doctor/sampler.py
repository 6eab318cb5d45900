"""Check a sampling loop with an oracle in the network's place, so that only the loop is tested."""

from __future__ import annotations

import math
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.faults import in_place, name_fault
from ddpm_helpers.doctor.finding import Alarm, Finding, broken, conclude, first_alarm, look
from ddpm_helpers.doctor.oracle import END, Move, Oracle
from ddpm_helpers.doctor.tables import rms
from ddpm_helpers.doctor.trial import (
    EXACT,
    SampleFn,
    Trial,
    draws_right,
    ends_at,
    other_reading,
    unclipped,
)

SIGNAL = 0.05  # sqrt(alpha_bar) where a walk from pure noise may begin


def check_sampler(
    sample_fn: SampleFn,
    alpha_bar: Any,
    *,
    prediction: str = "eps",
    shape: tuple[int, int, int] = (3, 16, 16),
    n: int = 16,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Finding:
    """Run any sampling loop with a network that makes no errors, and name the loop's fault.

    The contract: `sample_fn(model, x_T)` draws n pictures, beginning at x_T or at its own noise of
    that shape, calls `model(x_t, t)` with one t for the whole batch, and returns pictures in
    [-1, 1]. The table decides how t is counted: entry t of `alpha_bar` belongs to the x_t for
    which the network is given t. So a table of length T means t = 0..T-1, and one of length T + 1
    that begins with 1 means t = 1..T. A guided loop may call with a doubled batch.

    Args:
        sample_fn: the loop.
        alpha_bar: table of the schedule that the network was trained with, (T,) or (T + 1,).
        prediction: what the network was trained to predict: eps, x_0, v or flow.
        shape: (C, H, W) of the oracle's pictures; small ones are as good as large ones.
        n: pictures, at least 2, and n * C * H * W at least 2000.
        seed: of pictures and noise.
        device: of x_T.
    Returns:
        A `Finding`: ok, look (such as a walk that begins below T, or a range of 0..1) or broken,
        with the fault in words. Its numbers are `error`, the rms distance of the result from x_0,
        `calls`, `from_t` and `to_t`.
    Raises:
        ValueError: sample_fn does not keep to the contract; one line says what was expected.
    """
    trial = Trial(
        sample_fn, alpha_bar, prediction=prediction, shape=shape, n=n, seed=seed, device=device
    )
    oracle, result = trial.run()
    numbers = {
        "error": rms(result - trial.x_0), "calls": float(len(oracle.told)),
        "from_t": oracle.told[0], "to_t": oracle.told[-1],
    }  # fmt: skip
    first = (
        _direction(oracle) or _not_finite(oracle) or _range(trial, result)
        or _clipped(oracle) or other_reading(trial, oracle, result) or _noise(oracle)
        or _steps(trial, oracle, result) or unclipped(trial, numbers) or draws_right(trial, oracle)
        or _start(oracle)
    )  # fmt: skip
    fine = "it ends at x_0 with a perfect network: error {error:.0e} after {calls:.0f} calls"
    return conclude("sampler", first, fine.format(**numbers), **numbers)


def measure_sampler(sample_fn: SampleFn, alpha_bar: Any, **options: Any) -> list[Move]:
    """Measure what `check_sampler` judges: each step as x_s = A x_0 + B eps + sigma z.

    Args, Raises: as for `check_sampler`.
    """
    return Trial(sample_fn, alpha_bar, **options).run()[0].moves


def _direction(oracle: Oracle) -> Alarm | None:
    first, last = oracle.told[0], oracle.told[-1]
    return first_alarm(
        (last > first, broken, f"the steps go up: t = {first:g} first, t = {last:g} last",
         "Go down: reversed(range(T))"),
        (len(oracle.told) > 2 and first == last, broken,
         f"the network is given t = {first:g} at every step", "Pass the t of each step"),
    )  # fmt: skip


def _not_finite(oracle: Oracle) -> Alarm | None:
    for move in oracle.moves:
        if not math.isfinite(move.A):
            if fault := name_fault(oracle.moves):
                return broken, fault.sentence, fault.repair
            return (
                broken, f"NaN or infinite values after the step at t = {move.t:g}",
                "Look for a division by 0 there: sqrt(alpha_bar), or two equal steps",
            )  # fmt: skip
    return None


def _range(trial: Trial, result: Tensor) -> Alarm | None:
    return first_alarm(
        (rms(result - (trial.x_0 + 1) / 2) < 0.01, look,
         "the sampler returns pictures in 0..1", "Use 2 * x - 1 before you compare"),
        (rms(result - trial.x_0.clamp(min=0)) < 0.01, broken,
         "x_0 is clipped to 0..1, but pictures lie in -1..1", "Clip to -1..1"),
    )  # fmt: skip


def _noise(oracle: Oracle) -> Alarm | None:
    """Noise that repeats in the batch or over the steps; the mean over steps rules out chance."""
    noisy = [move for move in oracle.moves if move.s != END and 0.001 < move.sigma < math.inf]
    if len(noisy) < 3:
        return None
    return first_alarm(
        (mean(move.shared for move in noisy) > 0.5, broken,
         "all pictures of a batch get the same noise",
         "Draw noise of the whole batch's shape: torch.randn_like(x)"),
        (mean(move.repeated for move in noisy[1:]) > 0.5, broken, "every step adds the same noise",
         "Draw new noise in each step, and seed the generator once, before the loop"),
    )  # fmt: skip


def _clipped(oracle: Oracle) -> Alarm | None:
    early = [move for move in oracle.moves[:-1] if move.bar_s < 0.5]
    if any(abs(move.largest - 1) < 1e-6 for move in early) or (
        len(cut := [move.clipped for move in early if move.clipped]) > len(early) / 3
        and sum(cut) / len(cut) > 0.5
    ):
        return (
            broken, "x_{t-1} is clipped to [-1, 1], after the mean: its noise must reach beyond",
            "Clip the predicted x_0 instead, before the mean is taken from it",
        )  # fmt: skip
    return None


def _steps(trial: Trial, oracle: Oracle, result: Tensor) -> Alarm | None:
    """The fault of the steps themselves: a known mistake if one explains them."""
    *moves, last = oracle.moves
    start = rms(oracle.start) if oracle.start is not None else 1.0
    noise_alone = math.sqrt(1 - trial.bars.at(oracle.told[0]))  # as Karras et al. start
    if min(abs(start - 1), abs(start - noise_alone)) > 0.1:
        return (
            broken, f"the walk starts from noise of standard deviation {start:.2f}, not 1",
            "Start from torch.randn, as x_T is in training",
        )  # fmt: skip
    if moves and not in_place(moves):
        fault = name_fault(moves)
        return (broken, fault.sentence, fault.repair) if fault else _unknown(moves)
    if rms(result - trial.x_0) >= EXACT:
        return _last_step(trial, last)
    return None


def _unknown(moves: list[Move]) -> Alarm:
    worst = max(moves, key=lambda move: abs(move.A - math.sqrt(move.bar_s)))
    level = math.hypot(worst.B, worst.sigma)
    return (
        broken,
        f"steps have wrong coefficients, most of all t = {worst.t:g} to {worst.s:g}: "
        f"{worst.A:.3f} x_0 instead of {math.sqrt(worst.bar_s):.3f}, noise "
        f"{level:.3f} instead of {math.sqrt(1 - worst.bar_s):.3f}",
        "Compare the coefficients with Ho et al. 2020, eq. 7, and the schedule with training's",
    )


def _last_step(trial: Trial, last: Move) -> Alarm:
    wraps, first = trial.bars.table[-1].item(), trial.bars.at(trial.bars.first)
    at_x_0 = abs(last.A - 1) < 0.01 and abs(last.B) < 0.01
    return first_alarm(
        (last.sigma > EXACT and at_x_0, broken,
         f"noise is added at the last step, standard deviation {last.sigma:.4f}",
         "Add none in the step that ends at t = 0"),
        (ends_at(last, first), look,
         f"alpha_bar before the first step is {first:.4f}, not 1: noise of "
         f"{math.sqrt(1 - first):.4f} stays in the picture",
         "Put a 1 in front of the table for the step that ends at the picture"),
        (ends_at(last, wraps) or abs(last.A) < 0.5 or abs(last.B) > 2, broken,
         "the last step uses alpha_bar[-1], which in Python is the noisiest entry",
         "Use 1 where the index would be -1"),
    ) or (
        broken, f"the last step ends at {last.A:.3f} x_0 and {last.B:.3f} eps, not at x_0",
        "At the last step alpha_bar is 1 and no noise is added",
    )  # fmt: skip


def _start(oracle: Oracle) -> Alarm | None:
    """A walk that begins at a t whose x_t in training still contains some of the picture."""
    bars, t = oracle.bars, oracle.told[0]
    left, end = math.sqrt(bars.at(t)), math.sqrt(bars.at(bars.last))
    if left < SIGNAL or left < end + 0.02:
        return None
    return (
        look,
        f"the walk begins at t = {t:g}, where {left:.2f} of the picture is left, not at "
        f"t = {bars.last}",
        "Begin at T: trailing steps instead of leading ones",
    )
