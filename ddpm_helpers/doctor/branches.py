"""The two branches of classifier-free guidance in a sampler: which is which, and their weights."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.bench import Bench
from ddpm_helpers.doctor.finding import Alarm, broken, first_alarm
from ddpm_helpers.doctor.oracle import Record

NUDGE = 0.01  # change of an output
FAINT = 0.01  # contrast of a walk in which nothing is clipped


def find_branches(record: Record, n: int, null: int | None) -> tuple[int, list[Tensor]] | None:
    """The calls of guidance in the middle of a walk.

    Args:
        record: of a run; n: images; null: the label that means none, or None.
    Returns:
        The number of the first call, and for each call which rows have a class, (rows,); None if
        there is no guidance, or if nobody can tell which branch has the class: one branch must be
        called with None or without a label, or with one label for all while the other has several.
    """
    for k in sorted(range(len(record.told)), key=lambda k: abs(k - len(record.told) // 2)):
        for value in _doubled(record.labels[k], n):
            rows = _classes(value[:n], value[n:], null)
            return None if rows is None else (k, [torch.cat(rows)])
        if k + 1 < len(record.told) and same_input(record, k):
            first, second = (_first_tensor(record.labels[i]) for i in (k, k + 1))
            pair = _classes(first, second, null)
            return None if pair is None else (k, [row.expand(n) for row in pair])
    return None


def _without_a_class(record: Record, n: int, null: int) -> Alarm | None:
    """Guidance whose two branches get equal labels, or never the one that means none."""
    pairs: list[list[tuple[Any, Any]]] = []  # of the labels of each step: both branches' values
    for k, given in enumerate(record.labels):
        if doubled := _doubled(given, n):
            pairs.append([(v[:n], v[n:]) for v in doubled])
        elif k + 1 < len(record.told) and same_input(record, k):
            pairs.append(list(zip_longest(given, record.labels[k + 1])))
    values = [v for pair in pairs for both in pair for v in both]
    if not values or not all(isinstance(v, Tensor) for v in values):
        return None
    alike = all(torch.equal(a, b) for pair in pairs for a, b in pair)
    passed = any(torch.is_floating_point(v) or bool((v == null).any()) for v in values)
    return first_alarm(
        (alike, broken, "both branches of guidance get the same labels, so that w does nothing",
         f"Pass null = {null} to one of them"),
        (not passed and max(map(len, pairs)) == 1, broken,
         f"null = {null} is never passed to the network: no branch of guidance is without a class",
         f"Pass {null} to one of them, as training hides labels"),
    )  # fmt: skip


def same_input(record: Record, k: int) -> bool:
    """Whether call k and the next get the same x_t and t."""
    return record.told[k] == record.told[k + 1] and torch.equal(record.x[k], record.x[k + 1])


def _doubled(labels: list[Any], n: int) -> list[Tensor]:
    """The labels of a call that computes both branches of n images at once."""
    return [v for v in labels if isinstance(v, Tensor) and v.ndim and len(v) == 2 * n]


def _first_tensor(labels: list[Any]) -> Tensor | None:
    return next((v for v in labels if isinstance(v, Tensor)), None)


def _classes(first: Tensor | None, second: Tensor | None, null: int | None) -> list[Tensor] | None:
    """Which of two branches has the class: 1 and 0 for their rows; None if nobody can tell."""
    plain = [v is None or bool((v == v[:1]).all()) for v in (first, second)]
    empty = [
        v is None or bool((v < 0 if null is None else v == null).all()) for v in (first, second)
    ]
    without = empty if empty[0] != empty[1] else plain
    if without[0] == without[1]:
        return None
    n = len(next(v for v in (first, second) if v is not None))
    return [torch.full((n,), float(not of)) for of in without]


def check_branches(bench: Bench, record: Record) -> Alarm | None:
    """Change the output of the branch with the class alone: x must follow, not flee.

    Before that, ask whether there is a branch without a class, if it is known how that is told.
    """
    n = len(bench.x_0)
    if bench.null is not None and (alarm := _without_a_class(record, n, bench.null)):
        return alarm
    if (found := find_branches(record, n, bench.null)) is None:
        return None
    k, rows = found
    after = k + len(rows)
    runs = [
        bench.run(contrast=FAINT, nudge={k + i: NUDGE * change for i, change in enumerate(changes)})
        for changes in ([], rows, [torch.ones_like(row) for row in rows])
    ]
    if any(run.told[: after + 1] != record.told[: after + 1] for run in runs):
        return None  # an adaptive sampler
    plain, of_class, of_both = runs
    d, whole = (run.x[after].double() - plain.x[after].double() for run in (of_class, of_both))
    weight = float((d * whole).sum() / whole.square().sum().clamp(min=1e-12))
    if weight > -0.05:
        return None
    return (
        broken,
        f"the branches of guidance are swapped: the output with the class has the weight "
        f"{weight:.3g}, that without has {1 - weight:.3g}",
        "Use none + w * (with_y - none), and the order of torch.chunk that torch.cat has",
    )
