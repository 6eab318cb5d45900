"""Steps of several network calls, such as Heun's, and steps that use earlier outputs.

There are coordinates in which every step of first order is exact: x in the scale of sigma moves
along eps, x of flow matching along eps - x_0, and x / sqrt(1 - alpha_bar) along x_0. In them the
x_t of a call is that of the step's start and a sum of outputs, whose weights add up to the way from
the start to the call. Two runs with the same noise and other images show all weights exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ddpm_helpers.doctor.bench import Bench
from ddpm_helpers.doctor.branches import same_input
from ddpm_helpers.doctor.faults import name_fault
from ddpm_helpers.doctor.finding import Alarm, broken
from ddpm_helpers.doctor.history import FIT, LAGS, differences
from ddpm_helpers.doctor.moves import Move
from ddpm_helpers.doctor.oracle import RECORDED, Record
from ddpm_helpers.doctor.tables import Bars, Path, fit, rms

MOST = 4  # calls of one step
NEAR = 0.01  # share of a step by which a weight may be off
EXPLAINED = 0.85  # share of the steps that a mistake must explain
STEPS = 60  # steps that are compared
ORDINALS = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class Clock:
    """Coordinates in which steps of first order are exact, for q, p of x_t = q x_0 + p eps."""

    scale: Callable[[float, float], float]
    time: Callable[[float, float], float]
    slope: Callable[[Tensor, Tensor], Tensor]  # of x_0 and eps


CLOCKS = (
    Clock(lambda q, p: q, lambda q, p: p / q, lambda x_0, eps: eps),
    Clock(lambda q, p: q + p, lambda q, p: p / (q + p), lambda x_0, eps: eps - x_0),
    Clock(lambda q, p: p, lambda q, p: q / p, lambda x_0, eps: x_0),
)


@dataclass(frozen=True)
class Stages:
    """A step of several calls.

    Attributes:
        t: of its calls; times: the same by the clock; before: the time of the call before.
        to: time of the next step's first call; noise: what the step adds.
        end: where its outputs should lead, so that the noise leads to `to`.
        weights: of the outputs in the x of each later call and, last, of the step's end.
    """

    t: tuple[float, ...]
    times: tuple[float, ...]
    before: float
    to: float
    noise: float
    end: float
    weights: tuple[tuple[float, ...], ...]

    @property
    def ways(self) -> list[float]:
        """How far each later call is from the step's start, and its end."""
        return [time - self.times[0] for time in (*self.times[1:], self.end)]

    @property
    def shares(self) -> list[float]:
        """How far the x of each later call and of the end went, as shares of the step."""
        return [sum(row) / self.ways[-1] for row in self.weights]


def check_stages(bench: Bench, record: Record, other: Record) -> Alarm | None:
    """Check the steps of a sampler that calls its network several times in each.

    Args:
        bench: with the sampler's table, and what the network predicts.
        record, other: two runs with the same seed, the second with changing images.
    Returns:
        An alarm; None if the steps are right, or have one call, or depend on too much to say.
    """
    if record.told != other.told:
        return None
    of_t = bench.bars.function
    in_time = of_t is not None and not isinstance(of_t, Path)
    calls = [k for k in range(len(record.told)) if not k or not same_input(other, k - 1)]
    if alarm := _same_t(record, calls) or _same_x(bench, other, calls):
        return alarm
    for clock in (None,) if in_time else CLOCKS:
        walk = _Walk(record, other, calls, clock, bench.bars)
        stays = sum(a == b for a, b in pairwise(walk.t))
        if stays < len(calls) / 4 and walk.stages(1) is not None:
            return None
        for m in range(2, MOST + 1):
            if (steps := walk.stages(m)) and all(step.ways[-1] for step in steps):
                return _name(bench, steps, walk.by_sigma)
        if alarm := _sums(walk):
            return alarm
    return None


def _same_t(record: Record, calls: list[int]) -> Alarm | None:
    """Many calls, but only one or two different t."""
    given = dict.fromkeys(record.told[k] for k in calls)
    if len(given) > 2 or len(calls) < 8:
        return None
    return (
        broken,
        f"all {len(calls)} calls of the network get t = {' or '.join(f'{t:.4g}' for t in given)}: "
        "t does not change from step to step",
        "Change t in the loop, such as t += h after each step",
    )


def _same_x(bench: Bench, record: Record, calls: list[int]) -> Alarm | None:
    """Two calls with one x_t and different t, in most steps."""

    def given(k: int) -> Tensor:
        """x in the sampler's own scale."""
        return record.x[k] * bench.bars.size(record.true[k])

    twice = [
        (a, b) for a, b in pairwise(calls)
        if record.told[a] != record.told[b] and rms(given(a) - given(b)) < 1e-6 * rms(given(a))
    ]  # fmt: skip
    if len(twice) < max(2, len(calls) / 4):
        return None
    first, second = (record.told[k] for k in twice[len(twice) // 2])
    if len(twice) > 0.9 * (len(calls) - 1):
        return (
            broken,
            f"steps do not change x_t, such as that from t = {first:.4g} to {second:.4g}: each "
            "goes to its own t, not to the next one",
            "Shift the table of alpha_bar by one row for the step before: alpha_bar_prev is "
            "[1, *alpha_bar[:-1]]",
        )  # fmt: skip
    return (
        broken,
        f"two calls get the same x_t, but different t, such as {first:.4g} and {second:.4g}",
        "Both branches of guidance need the same t. The second call of a Heun step needs its own "
        "x_t",
    )


class _Walk:
    """The differences of two runs, by one clock; by the probability flow in t itself if None."""

    def __init__(
        self, record: Record, other: Record, calls: list[int], clock: Clock | None, bars: Bars
    ) -> None:
        x, x_0 = differences(record, other)
        q = [math.sqrt(bar) for bar in record.bars] + [1.0]
        p = [math.sqrt(1 - bar) for bar in record.bars] + [0.0]
        if clock is None:

            def slope(k: int, x_0: Tensor, eps: Tensor) -> Tensor:  # of dx/dt
                ends = [math.log(max(bars.at(record.told[k] + by), 1e-30)) for by in (1e-4, -1e-4)]
                return (ends[0] - ends[1]) / 4e-4 * (q[k] * x_0 + (p[k] - 1 / p[k]) * eps)

            clock = Clock(lambda q, p: 1.0, lambda q, p: p, CLOCKS[0].slope)
            time = lambda k: record.told[k]  # noqa: E731
        else:
            slope = lambda k, x_0, eps: clock.slope(x_0, eps)  # noqa: E731
            time = lambda k: clock.time(q[k], p[k])  # noqa: E731
        calls = [k for k in calls if clock.scale(q[k], p[k]) > 1e-6 and p[k] > 1e-9]
        self.t = [record.told[k] for k in calls]
        self.scale = [clock.scale(q[k], p[k]) for k in calls]
        self.times = [time(k) for k in calls]
        self.u = [x[k] / scale for k, scale in zip(calls, self.scale, strict=True)]
        self.slopes = [slope(k, x_0[k], (x[k] - q[k] * x_0[k]) / p[k]) for k in calls]
        self.own = []  # u and slope in the first run, which shows the noise
        for k, scale in zip(calls, self.scale, strict=True):
            own, image = record.x[k].double(), record.x_0[k].double()
            self.own.append((own / scale, slope(k, image, (own - q[k] * image) / p[k])))
        self.by_sigma = clock is CLOCKS[0]

    def row(self, k: int, to: int, first: int) -> tuple[float, ...] | None:
        """Weights of the outputs first..to - 1 in x of call `to`, from that of call k."""
        (kept, *weights), rest = fit(self.u[to], self.u[k], *self.slopes[first:to])
        if rms(rest) > FIT * rms(self.u[to]):
            return None
        return tuple(weights) if abs(kept - 1) < 1e-3 else None

    def stages(self, m: int) -> list[Stages] | None:
        """All steps of m calls; None if the calls of a step do not explain its end."""
        found: list[Stages] = []
        for k in range(0, len(self.u) - m, m):
            if len(found) == STEPS:
                break
            rows = [self.row(k, k + i, k) for i in range(1, m + 1)]
            if None in rows:
                return None
            to, x = self.times[k + m], self.own[k + m][0]
            sums = (w * self.own[k + i][1] for i, w in enumerate(rows[-1]))  # type: ignore[arg-type]
            noise = rms(x - self.own[k][0] - sum(sums))
            end = math.sqrt(max(0.0, to**2 - noise**2)) if self.by_sigma else to
            found.append(
                Stages(tuple(self.t[k : k + m]), tuple(self.times[k : k + m]),
                       self.times[k - 1] if k else self.times[k], to, noise, end, tuple(rows))  # type: ignore[arg-type]
            )  # fmt: skip
        return found if len(found) > 2 else None


def _sums(walk: _Walk) -> Alarm | None:
    """Weights of earlier outputs, as of a multistep method, that do not sum to 1."""
    found = []
    for k in range(len(walk.u) - 1):
        first = max(0, k - LAGS)
        weights, way = walk.row(k, k + 1, first), walk.times[k + 1] - walk.times[k]
        if weights is None:
            return None
        if abs(way) > 1e-9:
            found.append([(walk.t[first + i], w / way) for i, w in enumerate(weights)])
    sums = [sum(w for _, w in weights) for weights in found]
    off = [i for i, total in enumerate(sums) if abs(total - 1) > NEAR]
    if len(off) < len(found) / 2 or len(found) < 4:
        return None
    middle = off[len(off) // 2]
    total, used = sums[middle], [(t, w) for t, w in found[middle] if abs(w) > 1e-3]
    flips = [(t, w) for t, w in used if abs(total - 2 * w - 1) < NEAR]
    which = "".join(f": the sign of {w:.3g}, that of t = {t:.4g}, is wrong" for t, w in flips[:1])
    ratios = [walk.times[k + 1] / walk.times[k] for k in off if walk.times[k]]
    if len(ratios) == len(off) and all(
        abs(sums[k] + r) < NEAR * r for k, r in zip(off, ratios, strict=True)
    ):
        which = ": expm1(h) stands for expm1(-h), or the reverse"
    which = ": they enter with the wrong sign" if abs(total + 1) < NEAR else which
    return (
        broken,
        f"the weights of the last {len(used)} outputs sum to {total:.4g}, not to 1{which}",
        "Compare the weights with the formula. For Adams-Bashforth they are "
        "3/2, -1/2, then 23/12, -16/12, 5/12, then 55/24, -59/24, 37/24, -9/24",
    )


def _name(bench: Bench, steps: list[Stages], by_sigma: bool) -> Alarm | None:
    """What is wrong with steps of several calls."""

    def most(holds: Callable[[Stages], bool]) -> bool:
        return sum(map(holds, steps)) >= EXPLAINED * len(steps)

    if by_sigma and most(lambda s: s.noise > 1e-6):
        moves = [_as_move(step) for step in steps]
        if alarm := name_fault(moves, bench.bars, bench.prediction):
            return alarm
    churned = [
        a.noise > 1e-3 and a.times[-1] == b.times[0]
        and abs(a.times[0] + sum(a.weights[-1]) - b.times[0]) < b.times[0] / 2
        for a, b in pairwise(steps)
    ]  # fmt: skip
    if by_sigma and sum(churned) > len(steps) / 4:
        return (
            broken, "noise is added before a step, but the network is given the t from before it",
            "Pass t_hat, the noise level after the noise was added, and start the step there",
        )  # fmt: skip
    m = len(steps[0].t)
    total = steps[len(steps) // 2].shares[-1]
    same = most(lambda s: abs(s.shares[-1] - total) < NEAR) and abs(total - 1) > NEAR
    sums: Alarm = (
        broken, f"the weights of the {m} outputs of a step sum to {total:.3g}, not to 1",
        "Multiply the mean of the outputs by the step: h * (k_1 + k_2) / 2, or h * k_2",
    )  # fmt: skip
    if m == 2:
        formulas = list(_of_two(by_sigma))
        if same and most(lambda s: _is_one_of(formulas[0][2](s), s, total)):
            return sums
        for words, repair, of in formulas:
            if most(lambda s, of=of: _is_one_of(of(s), s)):  # type: ignore[misc]
                return (broken, words, repair) if words else None
    calls = (_of_call(steps, i) for i in range(1, m))
    return next(filter(None, calls), sums if same else None)


def _as_move(step: Stages) -> Move:
    """A whole step by sigma: the first call's x_t, all outputs, and the noise."""
    q_t, q_s = (1 / math.hypot(1, time) for time in (step.times[0], step.to))
    B = q_s * (step.times[0] + sum(step.weights[-1]))
    return Move(step.t[0], step.t[-1], q_t**2, q_s**2, q_s, B, q_s * step.noise, values=RECORDED)


Weights = tuple[float, float, float]  # of the first output in the second x, of both in the end


def _is_one_of(formulas: Iterable[Weights], step: Stages, total: float = 1.0) -> bool:
    """Whether the weights of a step of two calls are those of a formula, times total at its end."""
    (way,), ends = step.weights
    found = (way, *(weight / total for weight in ends))
    room = NEAR * max(abs(step.ways[-1]), *map(abs, found))
    return any(
        all(abs(a - b) < room for a, b in zip(found, right, strict=True)) for right in formulas
    )


def _of_two(by_sigma: bool) -> Iterator[tuple[str, str, Callable[[Stages], Iterable[Weights]]]]:
    """Steps of two calls: the right ones, without words, and those with one mistake."""

    def formula(  # type: ignore[no-untyped-def] # noqa: ANN202
        first=lambda s: 1.0,
        second=lambda s: 1.0,
        start=lambda s: s.times[0],
        begin=lambda s: s.times[0],
        base=0.0,
        old=0.0,
    ):  # noqa: ANN001
        def of(s: Stages) -> Iterator[Weights]:
            way = (s.times[1] - start(s)) * first(s)
            for w, end in ((0.5, s.times[1]), (1.0, s.end)):  # Heun's, and the midpoint's
                h = end - begin(s)
                stale = old * w * h * way / s.times[1] if old else 0.0
                yield way, (1 - w) * h * first(s) + base * way - stale, w * h * second(s)

        return of

    yield "", "", formula()
    yield (
        "the whole step is as long as the way to its second call",
        "Multiply the slope of the second call by t_next - t, the whole step",
        lambda s: [(s.ways[0], 0.0, s.ways[0])],
    )  # fmt: skip
    yield (
        "the step begins at the x_t of its second call, not at its own",
        "Add h times the mean of the slopes to the x_t of the step's start", formula(base=1.0),
    )  # fmt: skip
    if not by_sigma:
        return
    for start in (lambda s: s.times[0], lambda s: s.before):
        yield (
            "the step starts at the x_t and sigma from before its noise was added",
            "Start from x_hat at t_hat, to which the noise was added",
            formula(start=start, begin=lambda s: s.before),
        )  # fmt: skip
    divide = "Divide by the sigma that the network is given with that x_t"
    yield (
        "the second slope of a step is computed with the x_t of its begin",
        "The slope is (x_2 - D(x_2)) / sigma_2, all of the second call", formula(old=1.0),
    )  # fmt: skip
    yield (
        "the first slope of a step is divided by the sigma from before its noise was added", divide,
        formula(first=lambda s: s.times[0] / s.before),
    )  # fmt: skip
    yield (
        "the first slope of a step is divided by the sigma of the second call", divide,
        formula(first=lambda s: s.times[0] / s.times[1]),
    )  # fmt: skip
    yield (
        "the second slope of a step is divided by the sigma of the first call", divide,
        formula(second=lambda s: s.times[1] / s.times[0]),
    )  # fmt: skip


def _of_call(steps: list[Stages], i: int) -> Alarm | None:
    """Whether x_t and t of a later call belong together."""
    reach, told = ([s.shares[i - 1] for s in steps], [s.ways[i - 1] / s.ways[-1] for s in steps])
    off = [abs(a - b) > 2 * NEAR for a, b in zip(reach, told, strict=True)]
    if sum(off) < EXPLAINED * len(off):
        return None
    k = len(steps) // 2
    right = [0.5 / weight if abs(weight := s.weights[-1][i] / s.ways[-1]) > 0.1 else 0.0
             for s in steps]  # fmt: skip
    by_t = abs(told[k] - right[k]) < 0.1 < abs(reach[k] - right[k])
    by_x = abs(reach[k] - right[k]) < 0.1 < abs(told[k] - right[k])
    what = "x_t" if by_t else "t" if by_x else "t or x_t"
    return (
        broken,
        f"the {ORDINALS[i]} call of a step is given the wrong {what}: its x_t lies at "
        f"{_place(reach[k])} of the step, its t at {_place(told[k])}",
        "Pass the x_t and the t of one place, such as x + h / 2 * k_1 and t + h / 2",
    )


def _place(share: float) -> str:
    names = {0.0: "the start", 0.5: "the middle", 1.0: "the end"}
    near = [name for value, name in names.items() if abs(share - value) < 0.02]
    return near[0] if near else f"{share:.0%}"
