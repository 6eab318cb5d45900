"""Check how a multistep sampler uses the network's earlier outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ddpm_helpers.doctor.finding import Alarm, broken
from ddpm_helpers.doctor.oracle import Record
from ddpm_helpers.doctor.tables import fit, rms

OLDEST = 40  # stop looking for stale outputs after this many network calls
LAGS, CALLS = 4, 4  # the most earlier outputs that a step may use; the most calls in a step
FIT = 3e-4  # largest relative residual of a step that its outputs still explain
VALUES = 1500  # compare steps at about this many tensor elements
BAD = 0.2  # largest allowed share of steps that are neither first- nor second-order


@dataclass(frozen=True)
class Weights:
    """The weights that a step gives to the network's outputs, read as x_0 or as eps.

    Attributes:
        t: timestep at which the step starts.
        used: (t, weight) of each output that the step uses.
        weight: how much the change of the outputs matters to the step.
        order: 0 if the step ignores this change (first order), 1 if it extrapolates (second order).
        r: length of the previous step divided by the length of this one.
    """

    t: float
    used: tuple[tuple[float, float], ...]
    order: float
    weight: float = 0.0
    r: float = 1.0


# Common mistakes of methods with two outputs: message -> the order it gives for a step with r.
MISTAKES: dict[str, Callable[[float], float]] = {
    "the ratio of step lengths r is upside down": lambda r: r**2,
    "the ratio of step lengths r is left out": lambda r: r,
    "the ratio of step lengths r is squared": lambda r: 1 / r if r else 0.0,
    "the output before is added, not subtracted: the sign is wrong": lambda r: -1.0,
    "the slope counts twice: 1 / r for 1 / (2 r)": lambda r: 2.0,
    "the slope counts half": lambda r: 0.5,
}


def check_history_of_answers(record: Record, other: Record) -> Alarm | None:
    """Check the weights of earlier outputs: first- and second-order steps have known moments.

    Args:
        record, other: two runs with one seed; in `other`, the target image changes at every call.
    Returns:
        An alarm; None if the steps are first- or second-order, or use too many outputs to tell.
    """
    if record.told != other.told or not _looks_back(record, other):
        return None
    ways = [
        steps
        for as_eps in (False, True) for calls in range(1, CALLS + 1) for first in range(calls)
        for steps in _steps(record, other, calls, first, as_eps)
    ]  # fmt: skip
    if any(_is_exact(steps, lambda r: 1.0) for steps in ways):
        return None
    for words, order in MISTAKES.items():
        if any(_is_exact(steps, order) for steps in ways):
            return (
                broken, f"earlier outputs enter with a wrong weight: {words}",
                "Use r = h_before / h and D = (1 + 1 / (2 r)) x_0 - 1 / (2 r) x_0_before "
                "(DPM-Solver++)",
            )  # fmt: skip
    if any(_share_out_of_order(steps) <= BAD for steps in ways):
        return None
    whole = [steps for steps in ways if all(math.isfinite(step.order) for step in steps)]
    if not whole:
        return _stale(record, other)
    best = min(whole, key=_share_out_of_order)
    step = max((s for s in best if not _in_order(s)), key=lambda s: s.weight)
    weights = ", ".join(f"{weight:.3f} of t = {t:.4g}" for t, weight in step.used)
    return (
        broken,
        f"earlier outputs enter a step with wrong weights: at t = {step.t:.4g} the slope of the "
        f"last outputs counts {step.order:.2f} times, not once ({weights})",
        "Check which output is the newest in the history, its sign, and r = h_before / h",
    )


def _stale(record: Record, other: Record) -> Alarm | None:
    """Find steps that use outputs older than any method uses, read both as x_0 and as eps.

    Both, because a sum of a few outputs in one form is a sum of all of them in the other.
    """
    x, outputs = differences(record, other)
    for k in range(LAGS + CALLS, min(len(outputs), OLDEST)):
        olds = []
        for used in (outputs[: k + 1], _as_eps(record, x, outputs)[: k + 1]):
            shares, rest = fit(x[k + 1], x[k], *used)
            fits = rms(rest) <= FIT * rms(x[k + 1])
            olds.append([i for i in range(k - LAGS) if fits and abs(shares[i + 1]) > 1e-3])
        if all(olds):
            return (
                broken,
                f"earlier outputs that are too old enter a step: at t = {record.told[k]:.4g} "
                f"that of t = {record.told[olds[0][0]]:.4g}",
                "Remove the oldest entry: history.pop(0)",
            )
    return None


def _is_exact(steps: list[Weights], order: Callable[[float], float]) -> bool:
    """Whether many steps are not first-order, and all of them but at most one have this order."""
    second = [step for step in steps if abs(step.order) > 0.01]
    fit = [abs(step.order - order(step.r)) < 0.01 * max(1.0, abs(step.order)) for step in second]
    return len(second) >= max(2, len(steps) // 2) and sum(fit) >= len(fit) - 1


def _share_out_of_order(steps: list[Weights]) -> float:
    """The share of steps of neither order, by count or by weight, whichever is larger."""
    wrong = [step for step in steps if not _in_order(step)]
    weight = sum(step.weight for step in wrong) / max(sum(step.weight for step in steps), 1e-12)
    return max(weight, len(wrong) / len(steps))


def _in_order(step: Weights) -> bool:
    """Whether a step is of first or second order."""
    return abs(step.order) < 0.1 or abs(step.order - 1) < 0.2


def differences(record: Record, other: Record) -> tuple[list[Tensor], list[Tensor]]:
    """Differences of x and of the outputs between the two runs, at about `VALUES` elements."""

    def of(ours: list[Tensor], theirs: list[Tensor]) -> list[Tensor]:
        each = max(1, ours[0].numel() // VALUES)
        return [
            (b.flatten()[::each].double() - a.flatten()[::each].double())
            for a, b in zip(ours, theirs, strict=True)
        ]

    return of(record.x, other.x), of(record.x_0, other.x_0)


def _looks_back(record: Record, other: Record) -> bool:
    """Whether a step depends on more than x_t and the last answer."""
    x, x_0 = differences(record, other)
    found = 0
    for k in range(len(x_0)):
        rest = fit(x[k + 1], x[k], x_0[k])[1]
        found += rms(rest) > FIT * rms(x[k + 1])
    return found > 2


def _as_eps(record: Record, x: list[Tensor], x_0: list[Tensor]) -> list[Tensor]:
    """Convert outputs from x_0 to eps."""
    return [
        (d_x - math.sqrt(bar) * d_0) / math.sqrt(max(1 - bar, 1e-12))
        for d_x, d_0, bar in zip(x, x_0, record.bars, strict=False)
    ]


def _steps(
    record: Record, other: Record, calls: int, first: int, as_eps: bool
) -> Iterator[list[Weights]]:
    """Yield the weights of all steps, once per measure of time, if a step makes `calls` calls.

    Yield nothing if the outputs do not explain x: then a step makes another number of calls.
    """
    x, x_0 = differences(record, other)
    bars = record.bars
    outputs = _as_eps(record, x, x_0) if as_eps else x_0
    found: list[tuple[int, list[tuple[int, float]]]] = []
    for k in range(first, len(x_0) - calls, calls):
        # steps of several calls begin anew; steps of one call may use earlier outputs
        used = list(range(k if calls > 1 else max(0, k - LAGS), k + calls))
        shares, rest = fit(x[k + calls], x[k], *(outputs[i] for i in used))
        if rms(rest) > FIT * rms(x[k + calls]):
            return
        if bars[k] not in (0.0, 1.0) and bars[k + calls] not in (0.0, 1.0):
            found.append((k, list(zip(used, shares[1:], strict=True))))
    if len(found) < 3:
        return
    for clock in ("exponential", "lambda", "sigma", "t"):
        steps = [_weights(record, k, used, k + calls, clock, as_eps) for k, used in found]
        strange = [step for step in steps if math.isinf(step.order)]
        if len(strange) == 1:  # a first step of two calls, as in Liu et al. 2022 (PLMS)
            steps.remove(strange[0])
        yield steps


def _weights(
    record: Record, k: int, used: list[tuple[int, float]], s: int, clock: str, as_eps: bool
) -> Weights:
    """A step's weights; `order` is their first moment divided by that of a second-order step."""
    names = tuple((record.told[i], weight) for i, weight in used if abs(weight) > 1e-4)
    sigma = [math.sqrt(max(1 / max(bar, 1e-12) - 1, 1e-12)) for bar in record.bars]
    if clock == "t":
        time = record.told
    else:
        time = sigma if clock == "sigma" else [-math.log(v) for v in sigma]
    total, way = sum(weight for _, weight in used), time[s] - time[k]
    change = sum(weight * (time[i] - time[k]) for i, weight in used)
    if abs(total) < 1e-9 or abs(way) < 1e-9:  # t does not change, or the weights cancel
        return Weights(record.told[k], names, math.inf if abs(change) > 1e-3 else 0)
    middle = way / 2
    if clock == "exponential":  # x_0 is weighed by exp(lambda), eps by exp(-lambda)
        middle = 1 - way / math.expm1(way) if as_eps else way / -math.expm1(-way) - 1
    before = next((time[i] for i in range(k - 1, -1, -1) if time[i] != time[k]), time[k])
    r = (time[k] - before) / way
    return Weights(record.told[k], names, change / total / middle, abs(total * middle), r)
