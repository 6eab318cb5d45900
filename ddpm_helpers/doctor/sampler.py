"""Check a sampling loop with an oracle in the network's place, so that only the loop is tested."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from statistics import mean, median
from typing import Any

import torch

from ddpm_helpers.doctor.bench import (
    COARSE,
    EXACT,
    UNSCALED,
    Bench,
    SampleFn,
    other_reading,
)
from ddpm_helpers.doctor.branches import SUM_OF_0, check_branches, check_doubled, same_input
from ddpm_helpers.doctor.coefficients import name_noise, name_table, name_weight
from ddpm_helpers.doctor.faults import SANE, name_fault
from ddpm_helpers.doctor.finding import VERDICTS, Alarm, Finding, broken, first_alarm, look, ok
from ddpm_helpers.doctor.history import check_history_of_answers
from ddpm_helpers.doctor.moves import END, Move, correlation, measure
from ddpm_helpers.doctor.oracle import Reading, Record
from ddpm_helpers.doctor.result import ROUNDED, is_rounded, line, read_result, read_values
from ddpm_helpers.doctor.stages import check_stages
from ddpm_helpers.doctor.tables import Bars, Path, fit, rms

SIGNAL = 0.05  # sqrt(alpha_bar) where a walk from pure noise may begin
LATE = 0.2  # the same for a continuous t, as sigma = 5 has
OVERFLOW = 1e4  # a value that shows that x_t grew before it became infinite
HALF = 0.3  # error that half precision may cause
FAINT_NOISE = 0.014  # noise left in the image that is hardly seen
FAINT = 0.01  # contrast of a walk whose wrong x_0 is not clipped


def check_sampler(
    sample_fn: SampleFn,
    alpha_bar: Any,
    *,
    prediction: str = "eps",
    shape: tuple[int, int, int] = (3, 16, 16),
    n: int = 16,
    seed: int = 0,
    device: torch.device | str = "cpu",
    null: int | None = None,
) -> Finding:
    """Run any sampling loop with a network that makes no errors, and name the loop's fault.

    The contract: `sample_fn(model, x_T)` draws n images, beginning at x_T or at its own noise of
    that shape, calls `model` with x_t and one t for the whole batch, and returns images in
    [-1, 1]. The table decides how t is counted: entry t of `alpha_bar` belongs to the x_t for
    which the network is given t. So a table of length T means t = 0..T-1, and one of length T + 1
    that begins with 1 means t = 1..T. A guided loop may call twice, or with a doubled batch.
    `from_sigma` and `from_flow` adapt loops that scale x_t in another way.

    Args:
        sample_fn: the loop.
        alpha_bar: table of the schedule that the network was trained with, (T,) or (T + 1,), or a
            function of a continuous t.
        prediction: what the network was trained to predict: eps, x_0, v or flow.
        shape: (C, H, W) of the oracle's images; small ones are as good as large ones.
        n: images, at least 2, and n * C * H * W at least 2000.
        seed: of images and noise.
        device: of x_T.
        null: the label that means none, to tell the two branches of guidance apart; without it,
            None, negative labels, or one label for all beside several are understood.
    Returns:
        The worst of `check_sampler_all`: ok, look (such as a walk that begins below T, or a range
        of 0..1) or broken, with the fault in words. Its numbers are `error`, the rms distance of
        the result from x_0, `calls`, `from_t` and `to_t`.
    Raises:
        ValueError: sample_fn does not keep to the contract; one line says what was expected.
    """
    options = {"prediction": prediction, "shape": shape, "n": n, "seed": seed, "device": device}
    return check_sampler_all(sample_fn, alpha_bar, null=null, **options)[0]


def check_sampler_all(sample_fn: SampleFn, alpha_bar: Any, **options: Any) -> list[Finding]:
    """All findings of `check_sampler`, the worst first; one that is ok if there is no alarm."""
    bench = Bench(sample_fn, alpha_bar, **options)
    record = bench.run()
    numbers = {
        "error": 0.0, "calls": float(len(record.told)), "from_t": record.told[0],
        "to_t": record.told[-1],
    }  # fmt: skip
    alarms = list(dict.fromkeys(_alarms(bench, record, numbers)))
    if alarms:
        alarms.sort(key=lambda alarm: "normalised" in alarm[1])  # a wrong step may scale as well
        alarms.sort(key=lambda alarm: -VERDICTS.index(alarm[0]("sampler", "", "-").verdict))
        return [verdict("sampler", *words, **numbers) for verdict, *words in alarms]
    fine = "it ends at x_0 with a perfect network: error {error:.0e} after {calls:.0f} calls"
    return [ok("sampler", fine.format(**numbers), **numbers)]


def measure_sampler(sample_fn: SampleFn, alpha_bar: Any, **options: Any) -> list[Move]:
    """Measure what `check_sampler` decides by: each step as x_s = A x_0 + B eps + sigma z.

    Args, Raises: as for `check_sampler`.
    """
    bench = Bench(sample_fn, alpha_bar, **options)
    return measure(bench.run(), bench.run_changed())


def _alarms(bench: Bench, record: Record, numbers: dict[str, float]) -> Iterator[Alarm]:
    """Every fault that is found, each on the result and the reading that earlier ones leave."""
    bench.mend, alarm = read_result(record.result, bench.x_0, record.quantised)
    alarm = alarm or _wraps_at_256(bench, record)
    bench.rounded = record.quantised or is_rounded(bench.mend(record.result))
    numbers["error"] = bench.error(record)
    if alarm:
        yield alarm
        if "clipped" in alarm[1] or "uint8" in alarm[1]:
            return
    if record.halves:
        name = str(max(record.halves, key=str)).removeprefix("torch.")
        yield (
            look, f"the sampler computes in half precision: all x_t are rounded to {name}, and the "
            f"result is {numbers['error']:.1g} from x_0", "Keep x_t and the tables in float32",
        )  # fmt: skip
        if numbers["error"] < HALF:
            return
    if alarm := check_doubled(bench, record):
        yield alarm
        return
    if alarm := check_branches(bench, record):
        yield alarm
        if alarm == SUM_OF_0:
            return
    other = bench.run_changed()
    moves = measure(record, other)
    if alarm := _direction(bench, record) or _not_finite(bench, record, moves):
        yield alarm
        return
    reading, alarm, of_steps = _explain(bench, record, other, moves)
    if alarm:
        yield alarm
    if reading is not None:
        record = bench.run(reading)
        moves = measure(record, bench.run_changed(reading))
    if alarm := _start(bench, record):
        yield alarm
    end = None if bench.ends_right(record) else _last_step(bench, record, moves[-1], reading)
    if of_steps or not (reading or all(move.right for move in moves[:-1])):
        yield (
            of_steps or isinstance(bench.bars.function, Path) and _apart(bench, moves)
            or _inaccurate(bench, record, moves) or _arrives_elsewhere(bench, moves[:-1])
            or _apart(bench, moves) or _is_ignored(bench, record) or _not_carried(bench)
            or name_noise(moves[:-1]) or name_table(bench, moves[:-1]) or name_weight(moves[:-1])
            or _unknown(moves[:-1])
        )  # fmt: skip
        if end and "at the last step" in end[1]:
            yield end
        return
    rest = (
        _earlier_answers(bench, reading, record, moves), end,
        _unclipped(bench, reading, numbers), _begins_late(bench, record),
    )  # fmt: skip
    yield from filter(None, rest)


def _is_of_the_start(record: Record) -> bool:
    """Whether the result is an x_t of the first step."""
    first, second, *_, end, result = (x.clamp(-1, 1) for x in record.x)
    if len(record.told) < 4 or correlation(first, end) > 0.9:
        return False
    return max(correlation(result, first), correlation(result, second)) > 0.999


def _wraps_at_256(bench: Bench, record: Record) -> Alarm | None:
    """(x + 1) * 128 in uint8, where white becomes 256, which is stored as 0."""
    slope, _ = line(record.result, bench.x_0)
    if not record.quantised or abs(slope - 128 / 127.5) > 1e-3:
        return None
    white = bench.run(contrast=1.022)  # the largest values lie between 1 and 1.002
    if not bool(((white.result < -0.99) & (1.022 * bench.x_0 >= 1)).any()):
        return None
    return (
        broken, "the result in uint8 starts again at 0 where x_0 is 1, as of (x + 1) * 128: 256 "
        "does not fit in 8 bits", "Use ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)",
    )  # fmt: skip


def _explain(
    bench: Bench, record: Record, other: Record, moves: list[Move]
) -> tuple[Reading | None, Alarm | None, Alarm | None]:
    """The reading for which a walk is right, with its alarm, or the alarm of the steps."""
    outside = [t for t in record.told if not bench.bars.holds(t)]
    wrong = not all(move.right for move in moves[:-1])
    if wrong and rms(record.x[0]) > 2 and (unscaled := _unscaled(bench)):
        return unscaled, UNSCALED, None
    end = None if bench.ends_right(record) else _last_step(bench, record, moves[-1])
    of_steps = _noise(moves) or _corrector(moves) or _variance_of_ancestral(bench, moves)
    if wrong and not (of_steps or outside):
        of_steps = check_stages(bench, record, other)
    if of_steps or not (outside or wrong or end and end[1].startswith(UNSURE)):
        return None, None, of_steps
    found = other_reading(bench, record) if outside else None
    if found is None and wrong:
        of_steps = _steps(bench, record, moves)
    if found is None and of_steps is None and not outside:
        found = other_reading(bench, record)
    elif of_steps and any(word in of_steps[1] for word in ("clipped", "exchanged")):
        # an output of another kind is clipped too, and the clip may look like exchanged factors
        found = other_reading(bench, record, kinds=True)
    if found is not None:
        return *found, None
    if not outside:
        return None, None, of_steps
    first, last = bench.bars.first, bench.bars.last
    words = f"the network is given t = {outside[0]:g}, outside of {first}..{last}"
    return None, (broken, f"{words}, its range in training", "Count t as in training"), of_steps


def _unscaled(bench: Bench) -> Reading | None:
    """The reading of x_t in another scale, and of t between rows, for which a sampler is right."""
    tables = [bench.bars]
    if bench.bars.function is None:
        tables += [Bars(bench.bars.table, between) for between in Bars.BETWEEN[1:]]
    readings = (Reading(bars=bars, unscaled=True) for bars in tables)
    return next((reading for reading in readings if bench.fits(reading)), None)


def _direction(bench: Bench, record: Record) -> Alarm | None:
    first, last = record.told[0], record.told[-1]
    many, up = len(record.told) > 2, record.bars[-1] < record.bars[0]
    if up and (found := other_reading(bench, record)):
        return found[1]
    return first_alarm(
        (up, broken,
         f"the steps go up: t = {first:g} first, t = {last:g} last",
         "Go down, from noise to the image: reversed(range(T))"),
        (many and len(set(record.told)) == 1, broken,
         f"the network is given t = {first:g} at every step", "Pass the t of each step"),
    )  # fmt: skip


def _not_finite(bench: Bench, record: Record, moves: list[Move]) -> Alarm | None:
    for move in moves:
        if not math.isfinite(move.A):
            if alarm := name_fault(moves, bench.bars, bench.prediction):
                return alarm
            if found := other_reading(bench, record):
                return found[1]
            if alarm := _is_ignored(bench, record) or name_weight(moves):
                return alarm
            largest = max(float(x.abs().max()) for x in record.x if torch.isfinite(x).all())
            if largest > OVERFLOW:
                k = next(k for k, x in enumerate(record.x) if not rms(x) < 3)
                return (
                    broken, f"values overflow: x_t has a standard deviation of "
                    f"{rms(record.x[k]):.2g} at call {k + 1}, after the step at t = "
                    f"{record.told[max(0, k - 1)]:.4g}, then grows to {largest:.1g}, and is "
                    f"infinite after that at t = {move.t:.4g}",
                    "A factor above 1 acts at every step: print x.std() at each, and clip x_0",
                )  # fmt: skip
            return (
                broken, f"NaN or infinite values after the step at t = {move.t:g}",
                "Look for a division by 0 there: sqrt(alpha_bar), or two equal steps",
            )  # fmt: skip
    return None


def _start(bench: Bench, record: Record) -> Alarm | None:
    """Noise at the start that is not normal with variance 1, or 1 - alpha_bar there."""
    x = record.x[0].double()
    alone = math.sqrt(1 - record.bars[0])  # as Karras et al. start
    size, middle, fourth = rms(x), float(x.mean()), float((x / max(rms(x), 1e-9)).pow(4).mean())
    if min(abs(size - 1), abs(size - alone)) < 0.1 and abs(middle) < 0.1 and fourth > 2.4:
        return None
    scale = bench.bars.size(record.true[0])
    if abs(size * scale - 1) < 0.1 and fourth > 2.4:
        return (
            broken, f"x_T is not multiplied by the first sigma: its standard deviation is 1, not "
            f"{scale:.3g}", "Start from sigmas[0] * torch.randn",
        )  # fmt: skip
    odd = ", as torch.rand draws it" if fourth < 2.4 else ""
    return (
        broken,
        f"the walk starts from noise of mean {middle:.2f} and standard deviation "
        f"{float(x.std()):.2f}, not 0 and 1{odd}",
        "Start from torch.randn, as x_T is in training",
    )


def _noise(moves: list[Move]) -> Alarm | None:
    """Noise that repeats or is not normal; the mean over steps rules out chance."""
    noisy = [m for m in moves if m.s != END and m.alone and 0.001 < m.sigma < SANE > m.size]
    if len(noisy) < 3:
        return None
    kurtosis = median(move.kurtosis for move in noisy)
    offset = abs(mean(move.offset for move in noisy))
    return first_alarm(
        (mean(move.shared for move in noisy) > 0.5, broken,
         "all images of a batch get the same noise",
         "Draw noise of the whole batch's shape: torch.randn_like(x)"),
        (mean(move.repeated for move in noisy[1:]) > 0.5, broken, "every step adds the same noise",
         "Draw new noise in each step, and seed the generator once, before the loop"),
        (mean(move.flat for move in noisy) > 0.2, broken,
         "the noise of a step is the same for all pixels of an image or a channel",
         "Draw noise of the whole batch's shape: torch.randn_like(x)"),
        (offset > 0.2 or kurtosis < 2.2, broken,
         f"the noise of the steps is not normal: its mean is {offset:.2f} of its size, its "
         f"kurtosis {kurtosis:.1f} instead of 3, as torch.rand draws it",
         "Use torch.randn_like(x)"),
    )  # fmt: skip


def _corrector(moves: list[Move]) -> Alarm | None:
    """Steps of Langevin that stay at t, with the wrong sign."""
    stay = [m for m in moves if m.s == m.t and m.sigma > 1e-3 and 0 < m.bar_t < 1]
    more = [m.B - math.sqrt(1 - m.bar_t) for m in stay]
    langevin = [m.sigma**2 / 2 / math.sqrt(1 - m.bar_t) for m in stay]
    off = [m for m, a, b in zip(stay, more, langevin, strict=True) if abs(a - b) < 0.2 * b]
    if len(off) < 2 or len(off) < len(stay) / 2:
        return None
    m = off[len(off) // 2]
    return (
        broken, f"a step that stays at t = {m.t:.4g} adds eps, {m.B:.4f} instead of less "
        f"than {math.sqrt(1 - m.bar_t):.4f}: a corrector moves against the score",
        "Use x + step * score + sqrt(2 * step) * z, score = -eps / sqrt(1 - alpha_bar)",
    )  # fmt: skip


def _variance_of_ancestral(bench: Bench, moves: list[Move]) -> Alarm | None:
    """Noise of sigma_up squared where the step goes down to make room for just that noise."""
    if not isinstance(bench.bars.function, Path):
        return None
    fits, neighbours, count = 0, 0, 0
    for m in moves[:-1]:
        by_sigma = abs(bench.bars.size(m.s) ** 2 * m.bar_s - 1) < 1e-6  # x = x_0 + sigma eps
        if not by_sigma or not m.alone or not m.right or m.posterior_sigma < 1e-4:
            return None
        root = math.sqrt(m.bar_s)
        up, to = m.posterior_sigma / root, math.sqrt(1 / m.bar_s - 1)
        room = (m.chance + 0.01) * m.sigma / root + 1e-6
        fits += abs(m.sigma / root - min(to, up**2)) < room
        neighbours += abs(m.sigma / root - up) < room
        count += 1
    if count < 8 or fits < 0.9 * count or neighbours > 0.3 * count:
        return None
    return (
        broken, "the noise of each step is sigma_up squared: its square root is missing",
        "sigma_up = sqrt(sigma_s^2 (sigma_t^2 - sigma_s^2)) / sigma_t, as in ancestral sampling",
    )  # fmt: skip


def _steps(bench: Bench, record: Record, moves: list[Move]) -> Alarm | None:
    """The fault of the steps, if a known mistake explains them."""
    if len(moves) > 1 and _is_clipped(moves[:-1]):
        return (
            broken, "x_{t-1} is clipped to [-1, 1], after the mean: its noise must reach beyond",
            "Clip the predicted x_0 instead, before the mean is taken from it",
        )  # fmt: skip
    steps = moves[:-1]
    middle = len(record.told) // 2
    twice = any(same_input(record, k) for k in range(middle, min(middle + 2, len(moves) - 1)))
    calls = 2 if twice or max(record.rows) > len(bench.x_0) else 1
    if calls == 1 and (alarm := _arrives_at_the_second_next(bench, moves)):
        return alarm
    if alarm := name_fault(steps, bench.bars, bench.prediction, calls):
        return alarm
    if not all(move.linear for move in steps):
        faint = bench.moves(contrast=FAINT)[:-1]
        if alarm := name_fault(faint, bench.bars, bench.prediction, calls):
            return alarm
        if median(move.A / max(math.sqrt(move.bar_s), FAINT) for move in faint) > 10:
            return (
                broken, "x_0 is stretched until it fills its range, however small its values are",
                "Divide by s = max(1, quantile) in dynamic thresholding, and by no maximum of x_0",
            )  # fmt: skip
    wrong = [move for move in steps if not move.right]
    if wrong and all(
        move.bar_s <= move.bar_t and abs(move.A - math.sqrt(move.bar_s)) <= 0.01 + move.spare
        for move in wrong
    ):
        m = max(wrong, key=lambda move: move.away)
        needed = math.sqrt(max(0.0, 1 - m.bar_s - m.B**2))
        return (
            broken,
            f"t goes up or stays, from {m.t:.4g} to {m.s:.4g}, but x_t gets noise of "
            f"{m.sigma:.4f} instead of {needed:.4f}",
            "Add noise of standard deviation sqrt(sigma_s^2 - sigma_t^2), in the scale of sigma",
        )
    return None


def _arrives_at_the_second_next(bench: Bench, moves: list[Move]) -> Alarm | None:
    """Whether each step is right for the t of the call after the next one."""
    size, fits, wrong = bench.bars.size, 0, 0
    pairs = list(pairwise(moves[:-1]))
    for move, after in pairs:
        ratio = size(move.s) / size(after.s)  # of the scale in which x_s is measured
        there = replace(
            move, s=after.s, bar_s=after.bar_s, A=ratio * move.A, B=ratio * move.B,
            sigma=ratio * move.sigma,
        )  # fmt: skip
        fits += there.right
        wrong += not move.right
    if len(pairs) < 3 or min(fits, wrong) < 0.9 * len(pairs):
        return None
    t, s, later = pairs[0][0].t, pairs[0][0].s, pairs[0][1].s
    if all(abs(move.B) < 1e-3 for move in moves[:-1]):
        return (
            broken,
            f"the network is given the t of the step before: {s:.4g} where x_t has the noise of "
            f"t = {later:.4g}", "Pass the t of the x_t that you pass",
        )  # fmt: skip
    return (
        broken,
        f"each step arrives two steps lower, but the next call is one step lower: from t = "
        f"{t:.4g} the step goes to {later:.4g}, and the network is given {s:.4g}",
        "Step to the t of the next call",
    )


def _is_clipped(steps: list[Move]) -> bool:
    cut = [move.clipped for move in steps if move.clipped]
    wrong = sum(not move.right for move in steps)
    return len(cut) > wrong / 3 and mean(cut) > 0.5


def _inaccurate(bench: Bench, record: Record, moves: list[Move]) -> Alarm | None:
    """Whether steps miss their ends by little, measured by how far they go."""
    shares, turns = [], [move.turn for move in moves]
    for k, move in enumerate(moves[:-1]):
        longest = max(turns[max(0, k - 3) : k + 2])  # of the calls of one step
        if not move.right:
            shares.append(move.away / max(longest, 1e-6))
    error, worst = bench.error(record), max(moves[:-1], key=lambda move: move.away)
    if median(shares) > COARSE or error > 0.2 or worst.away > 0.5:
        return None
    if sum(share > 1 for share in shares) > len(shares) / 4:
        return None
    table = bench.bars.function is None
    if table and len(moves) > 200 and median(shares) > 0.05:  # so short steps are better than that
        return None
    return (
        look,
        f"steps are inaccurate by {median(shares):.1%} of their length, most of all t = "
        f"{worst.t:.4g} to {worst.s:.4g}: {_parts(worst)}; the result is {error:.2g} from x_0",
        "Use more steps or a solver of higher order; if it stays, compare the coefficients",
    )


def _parts(move: Move) -> str:
    signal, noise = math.sqrt(move.bar_s), math.sqrt(1 - move.bar_s)
    return f"{_differ(move.A, signal)} of x_0, {_differ(move.level, noise)} of noise"


def _differ(found: float, right: float) -> str:
    """Two numbers with as many digits as tell them apart."""
    for digits in range(3, 8):
        if f"{found:.{digits}f}" != f"{right:.{digits}f}":
            return f"{found:.{digits}f} instead of {right:.{digits}f}"
    return f"{found:.3f}"


def _arrives_elsewhere(bench: Bench, steps: list[Move]) -> Alarm | None:
    """Whether steps are right but for the row of the table at which they end."""
    if bench.bars.function is not None:
        return None
    wrong = [move for move in steps if not move.right]
    signal, noise = bench.bars.table.sqrt(), (1 - bench.bars.table).sqrt()  # (T,)
    rows = [int(((signal - m.A).abs() + (noise - m.level).abs()).argmin()) for m in wrong]
    ways = {move.t - row for move, row in zip(wrong, rows, strict=True)}
    fits = [replace(m, bar_s=bench.bars.at(s)).right for m, s in zip(wrong, rows, strict=True)]
    if len(ways) > 1 or not all(fits):
        return None
    t, way = wrong[0].t, ways.pop()
    return (
        broken,
        f"each step arrives at t - {way:g}, but the next call is elsewhere: from t = {t:g} the "
        f"step goes to {t - way:g}, and the network is given {wrong[0].s:g}",
        f"Take alpha_bar of the t of the next call for that of t - {way:g}",
    )


def _apart(bench: Bench, moves: list[Move]) -> Alarm | None:
    """Whether steps without noise are right for the t of their x_t, which the network is not given.

    Then a walk ends at x_0 if the oracle reads alpha_bar from x_t.
    """
    if any(move.sigma > 1e-3 and move.alone for move in moves):
        return None
    record = bench.run(Reading(from_x=True))
    signal = [(math.sqrt(bench.bars.at(t)), math.sqrt(bar))
              for t, bar in zip(record.told, record.bars, strict=True)]  # fmt: skip
    off = [k for k, (told, found) in enumerate(signal) if abs(told - found) > 0.01]
    if bench.error(record) > 0.02 or len(off) < len(signal) / 3:
        return None
    k = off[len(off) // 2]
    told, found = signal[k]
    return (
        broken,
        f"the network is given a t that is not that of x_t: at t = {record.told[k]:.4g} it has "
        f"{told:.3f} of x_0 in training, but here {found:.3f}",
        "Pass the t that belongs to x_t: print both at each call",
    )


def _is_ignored(bench: Bench, record: Record) -> Alarm | None:
    """Whether no step depends on the network's output."""
    n = len(record.told)
    for k in (0, n // 3, 2 * n // 3):
        nudge = {k: torch.full((record.rows[k],), 0.1)}
        plain, moved = (
            bench.run(contrast=FAINT, nudge=change, calls=k + 1) for change in ({}, nudge)
        )
        if len(plain.x) != len(moved.x) or not torch.equal(plain.x[-1], moved.x[-1]):
            return None
    return (
        broken, "no step depends on the network's output: x is the same if it changes",
        "Use the output's first channels as the prediction: eps, variance = out.chunk(2, dim=1)",
    )  # fmt: skip


def _not_carried(bench: Bench) -> Alarm | None:
    """Whether each step starts from the first x_t, whatever the step before has made of it."""
    record, other = (run(contrast=FAINT) for run in (bench.run, bench.run_changed))
    if record.told != other.told or len(record.told) < 4:
        return None
    first, *x = (b.double() - a.double() for a, b in zip(record.x, other.x, strict=True))
    answers = [b.double() - a.double() for a, b in zip(record.x_0, other.x_0, strict=True)]
    count = 0
    for before, after, answer in zip(x[:-1], x[1:], answers[1:], strict=True):
        (share, *_), rest = fit(after, first, before, answer)
        count += abs(share) > 0.1 and rms(rest) < 1e-3 * rms(after)
    if count < 0.7 * (len(x) - 1):
        return None
    return (
        broken, "each step starts from the first x_t, not from that of the step before",
        "Carry x from step to step: x = step(model(x, t), t, x)",
    )  # fmt: skip


def _unknown(steps: list[Move]) -> Alarm:
    worst = max(steps, key=lambda move: move.away / (move.spare + 0.01 * move.turn))
    return (
        broken,
        f"steps have wrong coefficients, most of all t = {worst.t:g} to {worst.s:g}: "
        f"{_parts(worst)}",
        "Compare the coefficients with Ho et al. 2020, eq. 7, and the schedule with training's",
    )


UNSURE = "the last step ends at"


def _last_step(bench: Bench, record: Record, last: Move, reading: Reading | None = None) -> Alarm:
    """What is wrong with the step to the result, if those before are right."""
    if alarm := read_values(bench.mend(record.result), bench.x_0):
        return alarm
    if float(record.result.abs().max()) == 1 and not bench.rounded:  # clipped: images are too large
        last = bench.moves(reading=reading, contrast=FAINT)[-1]
    bars, told = bench.bars, record.told
    end = record.bars[-1]
    unchanged = last.level > 1e-3 and correlation(record.x[-1], record.x[-2]) > 1 - 1e-5
    straight = last.sigma < 1e-3 < last.B and min(abs(last.A + last.B - 1), abs(last.A - 1)) < 1e-3
    short = straight if bars.function else last.A < 1 and _ends_at(last, last.A**2)
    before = bars.at(bars.first) if bars.function is None else 1.0
    at_x_0 = abs(last.A - 1) <= abs(last.A - math.sqrt(before)) and abs(last.B) < 0.01
    at_x_0 = at_x_0 and abs(last.A - 1) < 1e-3 + last.error and last.sigma > EXACT
    wraps = bars.at(bars.last) if bars.function is None else 0.0
    row_0 = bars.function is None and told[-1] == bars.first + 1 and told[-2:][0] == told[-1] + 1
    also = ", or x of the step before is returned" if unchanged else ""
    left = f"noise of {last.level:.4f} stays in the image"
    return first_alarm(
        (unchanged and told[-1] != bars.first, broken if 1 - end > FAINT_NOISE**2 else look,
         f"the result is the x_t of the last call, at t = {told[-1]:.4g}: its step is left out, "
         f"and {left}", "Return x after the last step, or the predicted x_0"),
        (row_0 and _ends_at(last, before), broken,
         f"row {bars.first} is never visited: the loop ends at t = {told[-1]:g}, and {left}",
         f"Visit all of {bars.first}..{bars.last}"),
        (at_x_0, broken,
         f"noise is added at the last step, standard deviation {last.sigma:.4f}",
         "Add none in the step that ends at t = 0"),
        (_ends_at(last, before), look,
         f"alpha_bar before the first step is {before:.4g}, not 1{also}: {left}",
         "Put a 1 in front of the table for the step that ends at the image"),
        (_ends_at(last, wraps) or _is_posterior(last, wraps), broken,
         "the last step uses alpha_bar[-1], which in Python is the noisiest entry",
         "Use 1 where the index would be -1"),
        (_is_of_the_start(record), broken, "the result is the x_t of the first step: noise",
         "Return x after the last step: steps[-1] of a list in the order of the loop"),
        (bench.rounded and bench.error(record) < 2 * ROUNDED, look,
         f"the result is rounded to {bench.error(record):.4f}", "Round only to save"),
        (short, look if last.level < 0.1 else broken,
         f"the walk ends before the image: {left}",
         "Take a last step to sigma = 0, or return the predicted x_0"),
        (end < 0.9, broken, f"the walk ends at t = {told[-1]:g}, where {math.sqrt(1 - end):.2f} of "
         f"x_t is noise: {last.A:.3f} of x_0 and {last.B:.3f} of eps are left",
         "Let the last step begin at the table's first row"),
    ) or (
        broken, f"{UNSURE} {last.A:.4f} x_0 and {last.B:.4f} eps, not at x_0",
        "At the last step alpha_bar is 1 and no noise is added",
    )  # fmt: skip


def _is_posterior(last: Move, bar: float) -> bool:
    """Whether the last step is DDPM's mean with this alpha_bar for that of the step before."""
    of_x_t = math.sqrt(last.bar_t) * (1 - bar) / max(1 - last.bar_t, 1e-12)
    A, B = math.sqrt(bar) + of_x_t * math.sqrt(last.bar_t), of_x_t * math.sqrt(1 - last.bar_t)
    return bar < 1 and abs(last.A - A) < 1e-3 * (1 + A) and abs(last.B - B) < 1e-3 * (1 + B)


def _ends_at(last: Move, bar: float) -> bool:
    """Whether the result is a noisy image at this alpha_bar rather than a clean one."""
    return bar < 1 - 1e-9 and replace(last, bar_s=bar).right


def _earlier_answers(
    bench: Bench, reading: Reading | None, record: Record, moves: list[Move]
) -> Alarm | None:
    """What is wrong with the history of a sampler without noise."""
    if any(move.sigma > 1e-3 for move in moves[:-1]):
        return None
    other = bench.run_changed(reading)
    calls = [k for k in range(len(record.told)) if not k or not same_input(record, k - 1)]

    def merged(run: Record) -> Record:  # the two calls of guidance are one
        def at_calls(values: list[Any]) -> list[Any]:
            return [values[k] for k in calls]

        return replace(
            run, told=at_calls(run.told), true=at_calls(run.true), bars=at_calls(run.bars),
            x=[*at_calls(run.x), run.x[-1]], x_0=at_calls(run.x_0),
        )  # fmt: skip

    return check_history_of_answers(merged(record), merged(other))


def _unclipped(
    bench: Bench, reading: Reading | None, numbers: dict[str, float], error: float = 0.003
) -> Alarm | None:
    """Check how far one step is off if the network errs by a few thousandths.

    With little left of the image, the error is multiplied by sqrt((1 - bar) / bar) in x_0. Short
    steps correct it; long ones lead to an x_t that never occurs in training.
    """
    record = bench.run(reading, error=error)
    long = [k for k in range(len(record.told) - 1) if record.bars[k] < 0.01]
    moves = measure(record, which=long)
    away = [abs(move.level - math.sqrt(1 - move.bar_s)) for move in moves]
    numbers["astray"] = astray = max(away, default=0.0)
    on_x_0 = max(
        (a / math.sqrt(m.bar_s) for a, m in zip(away, moves, strict=True) if m.bar_s), default=0.0
    )
    if astray < 0.1 or on_x_0 < 2:  # a clipped x_0 is never off by more
        return None
    return (
        look,
        f"x_0 is not clipped: an error of {error:.1%} in the output changes the noise level by "
        f"{astray:.2f} in one step",
        "Clip the predicted x_0 to -1..1 before the step is taken from it",
    )


def _begins_late(bench: Bench, record: Record) -> Alarm | None:
    """A walk that begins at a t whose x_t in training still contains some of the image."""
    bars, t = bench.bars, record.true[0]
    if bars.function is not None:
        left = math.sqrt(record.bars[0])
        return first_alarm(
            (left > LATE, look,
             f"the walk begins at t = {t:.4g}, where {left:.2g} of the image is left in training, "
             "but x_T is pure noise",
             "Begin where next to nothing of the image is left, such as sigma = 80: print the "
             "first t, and check the schedule's formula"),
        )  # fmt: skip
    left, end = math.sqrt(bars.at(t)), math.sqrt(bars.at(bars.last))
    stride = t - next((s for s in record.true if s < t), t)
    leading = bars.last - t >= max(2.0, 0.7 * stride) and left > 1.3 * end
    if not leading and (left < SIGNAL or left < end + 0.02):
        return None
    return (
        look,
        f"the walk begins at t = {t:g}, where {left:.2g} of the image is left, not at "
        f"t = {bars.last}, where it is {end:.2g}",
        "Begin at T: trailing steps instead of leading ones",
    )
