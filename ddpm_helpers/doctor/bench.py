"""A test bench for one sampler: run it with different oracles, and find the reading that fits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.diffusion import PREDICTIONS
from ddpm_helpers.doctor.finding import Alarm, broken
from ddpm_helpers.doctor.moves import Move, measure
from ddpm_helpers.doctor.oracle import (
    IMAGES,
    Oracle,
    Reading,
    Record,
    known_images,
    run_sampler,
)
from ddpm_helpers.doctor.result import ROUNDED
from ddpm_helpers.doctor.tables import Bars, check_kind, rms, usual_betas

EXACT = 2e-4  # in float32 a correct loop ends nearer to x_0; with t off by one of 1000 it does not
VALUES = 2000  # fewer are too few to measure a step's noise
COARSE = 0.35  # share of a step by which an inaccurate sampler may miss its end
FIRST = 20  # calls by which a reading is refused
SAMPLED = 40  # moves of a reading that are measured
UNSCALED = (
    broken,
    "x_t is in the wrong scale: sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps for x_0 + sigma eps, "
    "or the reverse", "They differ by the factor sqrt(alpha_bar) = 1 / sqrt(1 + sigma^2)",
)  # fmt: skip
SampleFn = Callable[..., Any]


class Bench:
    """A sampler under test, with everything that is needed to run it again.

    Args, Raises: as for `check_sampler`.
    Attributes:
        mend: what has to be done to a result before it is compared with x_0, such as 2 * x - 1.
    """

    def __init__(
        self, sample_fn: SampleFn, alpha_bar: Any, *, prediction: str = "eps",
        shape: tuple[int, int, int] = (3, 16, 16), n: int = 16, seed: int = 0,
        device: torch.device | str = "cpu", null: int | None = None,
    ) -> None:  # fmt: skip
        values = n * math.prod(shape)
        if n < 2 or values < VALUES:
            raise ValueError(
                f"n must be at least 2 and n * C * H * W at least {VALUES}, got {n} and {values}"
            )
        self.sample_fn, self.bars, self.seed = sample_fn, Bars(alpha_bar), seed
        self.null = null
        self.prediction = check_kind(prediction)
        generator = torch.Generator().manual_seed(seed + IMAGES)
        self.x_0 = known_images((n, *shape), generator).to(device)
        self.x_T = torch.randn(n, *shape, generator=generator).to(device)
        self.mend: Callable[[Tensor], Tensor] = lambda x: x
        self.rounded = False

    def run(self, reading: Reading | None = None, **options: Any) -> Record:
        """Run the sampler once, with an oracle of this reading and these options."""
        oracle = Oracle(self.x_0, self.bars, self.prediction, reading=reading, **options)
        x_T = self.x_T if oracle.generator is None else self.x_T.flip(0)
        return run_sampler(self.sample_fn, oracle, oracle.contrast * x_T, self.seed)

    def run_changed(self, reading: Reading | None = None, **options: Any) -> Record:
        """The same run, but each call is answered with new images."""
        return self.run(reading, changing=self.seed + IMAGES + 1, **options)

    def moves(self, **options: Any) -> list[Move]:
        """Measure the moves of a run; see `Oracle` for the options."""
        return measure(self.run(**options), self.run_changed(**options))

    def error(self, record: Record) -> float:
        """rms distance of a result from x_0."""
        return rms(self.mend(record.result) - self.x_0)

    def ends_right(self, record: Record) -> bool:
        """Whether a result is x_0, but for rounding."""
        return self.error(record) < (ROUNDED if self.rounded else EXACT)

    def fits(self, reading: Reading) -> Record | None:
        """The run with this reading, if its steps are right and it ends at x_0, or at row 0."""
        if self.bars.function is None:  # most readings are refused by their first steps
            begin = self.run(reading, calls=FIRST), self.run_changed(reading, calls=FIRST)
            moves = measure(*begin)[:-1]
            if sum(not move.right for move in moves) > len(moves) / 2:
                return None
        record = self.run(reading)
        if record.bars[0] > 0.9:  # a walk from hardly any noise fits anything
            return None
        last = len(record.told) - 1
        if not torch.isfinite(record.result).all() or not self.ends_right(record):
            end = measure(record, which=[last])[0]
            if self.bars.function or not replace(end, bar_s=self.bars.at(self.bars.first)).right:
                return None
        stride = max(1, last // SAMPLED)
        which = sorted({*range(0, last, stride), *range(max(0, last - 5), last)})
        moves = measure(record, self.run_changed(reading), which)
        wrong = [move for move in moves if not move.right]  # one where an index stops at 0
        shares = [move.away / max(move.turn, 1e-6) for move in wrong]
        coarse = self.bars.function is not None and statistics.median(shares or [0.0]) < COARSE
        return record if len(wrong) <= len(moves) // 20 or coarse else None


def other_reading(
    bench: Bench, record: Record, *, kinds: bool = False
) -> tuple[Reading, Alarm | None] | None:
    """Find the reading of t, of the output or of the table for which the sampler is right.

    Returns:
        The reading, and the alarm that it means; no alarm if only t between two rows is read in
        another way. None if no reading fits.
    """
    every = _kinds(bench) if kinds else chain(_usual(bench, record), _unusual(bench, record))
    for reading, alarm in every:
        if bench.fits(reading) is not None:
            return reading, alarm
    return None


def _usual(bench: Bench, record: Record) -> Iterator[tuple[Reading, Alarm | None]]:
    told, bars = record.told, bench.bars
    if bars.function is None:
        if any(t != int(t) for t in told):
            for between in Bars.BETWEEN[1:]:
                yield Reading(bars=Bars(bars.table, between)), None
        yield from _shifts(int(bars.first), int(bars.last))
    yield from _kinds(bench)
    yield from _neighbours(told)


def _kinds(bench: Bench) -> Iterator[tuple[Reading, Alarm | None]]:
    for kind in PREDICTIONS:
        if kind != bench.prediction:
            yield (
                Reading(prediction=kind),
                (broken, f"the sampler treats the output as {kind}, but it is {bench.prediction}",
                 f"Convert {bench.prediction} to {kind} before the step"),
            )  # fmt: skip


def _unusual(bench: Bench, record: Record) -> Iterator[tuple[Reading, Alarm | None]]:
    bars = bench.bars
    yield Reading(unscaled=True), UNSCALED
    if bars.function is None:
        yield from _counts(record.told, int(bars.first), int(bars.last))
        yield from _other_tables(bars)
        return
    for factor in (1000.0, 999.0):
        for way, by in ((f"is not multiplied by {factor:g}", factor),
                        (f"is multiplied by {factor:g}", 1 / factor)):  # fmt: skip
            yield (
                Reading(lambda k, t, by=by: t * by),  # type: ignore[misc]
                (broken, f"t {way}, unlike in training", "Scale t as the training does"),
            )
    yield (
        Reading(lambda k, t: 1 - t),
        (broken, "the network is given 1 - t: t is counted from the other end",
         "Pass t as the training counts it"),
    )  # fmt: skip


def _shifts(first: int, last: int) -> Iterator[tuple[Reading, Alarm]]:
    """t off by one, with and without a stop at the table's ends."""
    for shift in (1, -1):
        way = "below" if shift > 0 else "above"
        alarm = (
            broken, f"t is off by one: the network is given a t one {way} that of the coefficients",
            f"Pass t {'+' if shift > 0 else '-'} 1, or index the tables as in training",
        )  # fmt: skip
        yield Reading(lambda k, t, by=shift: t + by), alarm  # type: ignore[misc]
        yield (
            Reading(lambda k, t, by=shift: min(max(t + by, first), last)),  # type: ignore[misc]
            alarm,
        )


def _counts(told: list[float], first: int, last: int) -> Iterator[tuple[Reading, Alarm]]:
    """Other ways to count or to store t."""
    yield (
        Reading(lambda k, t: first + last - t),
        (broken, "the network is given T - t: t is counted from the other end",
         "Pass the t of the table's row that the coefficients have"),
    )  # fmt: skip
    wraps = _unwrapped(told)
    if wraps is not None:
        yield (
            Reading(lambda k, t: wraps[min(k, len(wraps) - 1)]),
            (broken, f"t starts again at 255 when it falls below a multiple of 256, and is "
             f"{told[0]:g} at first: it is stored as uint8", "Make t int64: torch.long"),
        )  # fmt: skip
    if len(set(told)) < len(told) == last - first + 1:
        yield (
            Reading(lambda k, t: last - k),
            (broken, f"t is rounded: {len(told)} calls are given {len(set(told))} different t, as "
             "in bfloat16 or float16", "Keep t in int64 or float32"),
        )  # fmt: skip
    number, count = last - first + 1, len(told)
    if max(told) < number / 1.5 and sorted(told, reverse=True) == told:
        stride, low = number // count, int(min(told))
        ways = [(stride, 1, by) for by in dict.fromkeys((first, first + stride - 1, first + 1))]
        for way, steps, offset in [*ways, (last - first, max(1, count - 1), first)]:  # to both ends
            yield (
                Reading(lambda k, t, w=way, n=steps, by=offset: round((t - low) * w / n) + by),  # type: ignore[misc]
                (broken, f"the network is given the number of the step, {max(told):g} at first, "
                 "not its t", "Pass the t of the table's row: timesteps[i], not i"),
            )  # fmt: skip


def _unwrapped(told: list[float]) -> list[float] | None:
    """t that was stored in 8 bits, put together again; None if it never jumps up by 256."""
    back, total = [told[-1]], told[-1]
    for later, earlier in zip(told[:0:-1], told[-2::-1], strict=True):
        total += (earlier - later) % 256
        back.append(total)
    return back[::-1] if total > 255 >= max(told) and min(told) >= 0 else None


def _neighbours(told: list[float]) -> Iterator[tuple[Reading, Alarm]]:
    """The network is given the t of the step before or after."""
    if len(told) < 4:
        return
    earlier = [2 * told[0] - told[1], *told[:-1]]
    later = [*told[1:], 2 * told[-1] - told[-2]]
    for which, true in (("next one", earlier), ("one before", later)):
        yield (
            Reading(lambda k, t, true=true: true[min(k, len(true) - 1)]),  # type: ignore[misc]
            (broken, f"each step passes the t of the {which} to the network",
             "Pass the t of the x_t that you pass"),
        )  # fmt: skip


def _other_tables(bars: Bars) -> Iterator[tuple[Reading, Alarm]]:
    """Other schedules for the same T."""
    table = bars.table[bars.first :]  # (T,)
    alphas = torch.cat([table[:1], table[1:] / table[:-1]])
    T = len(table)
    padding = torch.ones(bars.first, dtype=table.dtype)
    repair = "Compare the sampler's alpha_bar with the training's, entry by entry"

    def of(alpha_bar: Tensor) -> Reading:
        return Reading(bars=Bars(torch.cat([padding, alpha_bar])))

    reverse = "the sampler's betas are in reverse order: its alpha_bar falls fastest at small t"
    yield of(alphas.flip(0).cumprod(0)), (broken, reverse, repair)
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        words = f"the sampler's alpha_bar is rounded to {name}"
        rounded = table.to(dtype).double()
        product = [alphas.to(dtype)[0]]
        for alpha in alphas.to(dtype)[1:]:
            product.append(product[-1] * alpha)
        for candidate in (rounded, alphas.to(dtype).double().cumprod(0), torch.stack(product)):
            yield of(candidate.double()), (broken, words, "Compute the tables in float64")
    for name, betas in usual_betas(T).items():
        yield (
            of((1 - betas).cumprod(0)),
            (broken, f"the sampler uses another schedule than the table: {name}", repair),
        )
    words = "the sampler's table is shifted by one row against the caller's"
    yield of(torch.cat([table[1:], table[-1:]])), (broken, words, repair)
