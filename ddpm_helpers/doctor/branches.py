"""The two branches of classifier-free guidance in a sampler: their labels, and their weights."""

from __future__ import annotations

from itertools import pairwise, zip_longest
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.bench import Bench
from ddpm_helpers.doctor.finding import Alarm, broken, first_alarm, look
from ddpm_helpers.doctor.oracle import Record, recorded

NUDGE = 0.01  # change of an output
LITTLE = 0.02  # of a weight
FAINT = 0.01  # contrast of a walk in which nothing is clipped
SUM_OF_0 = (
    broken, "the weights of the two outputs of guidance sum to 0, not to 1",
    "Use none + w * (with_y - none), or (1 + w) * with_y - w * none",
)  # fmt: skip


def find_branches(
    record: Record, n: int, null: int | None, near: float = 0.5
) -> tuple[int, list[Tensor]] | None:
    """The calls of guidance in the middle of a walk.

    Args:
        record: of a run; n: images; null: the label that means none, or None; near: the share of
            the calls that come before.
    Returns:
        The number of the first call, and for each call which rows have a class, (rows,); None if
        there is no guidance, or if it is unknown which branch has the class: one branch must be
        called with None or without a label, or with one label for all while the other has several.
    """
    middle = int(near * len(record.told))
    for k in sorted(range(len(record.told)), key=lambda k: abs(k - middle)):
        for value in _doubled(record.labels[k], n):
            rows = _classes(value[:n], value[n:], null)
            return None if rows is None else (k, [torch.cat(rows)])
        if k + 1 < len(record.told) and same_input(record, k):
            first, second = (_first_tensor(record.labels[i]) for i in (k, k + 1))
            pair = _classes(first, second, null)
            return None if pair is None else (k, [row.expand(n) for row in pair])
    return None


def _without_a_class(bench: Bench, record: Record) -> Alarm | None:
    """Guidance whose two branches get equal labels, or never the one that means none."""
    n, null = len(bench.x_0), bench.null
    pairs: dict[int, list[tuple[Any, Any]]] = {}  # call -> the labels of both branches
    for k, given in enumerate(record.labels):
        if doubled := _doubled(given, n):
            pairs[k] = [(v[:n], v[n:]) for v in doubled]
        elif k + 1 < len(record.told) and same_input(record, k):
            pairs[k] = list(zip_longest(given, record.labels[k + 1]))
    values = [v for pair in pairs.values() for both in pair for v in both]
    if not values or not all(isinstance(v, Tensor) for v in values):
        return None
    alike = all(torch.equal(a, b) for pair in pairs.values() for a, b in pair)
    passed = null is None or any(
        torch.is_floating_point(v) or bool((v == null).any()) for v in values
    )
    once = max(map(len, pairs.values())) == 1
    if null is None:
        alike = alike and once and _is_guided(bench, record, list(pairs))
    return first_alarm(
        (alike, broken, "both branches of guidance get the same labels, so that w does nothing",
         f"Pass {'no label' if null is None else f'null = {null}'} to one of them"),
        (not passed and once, broken,
         f"null = {null} is never passed to the network: no branch of guidance is without a class",
         f"Pass {null} to one of them, as training hides labels"),
    )  # fmt: skip


def _is_guided(bench: Bench, record: Record, calls: list[int]) -> bool:
    """Whether two answers for the same x_t have the weights w and 1 - w, with the same w > 1.

    A loop may also ask twice for another reason, such as to show x_0.
    """
    n, found = len(bench.x_0), []
    for k in (calls[len(calls) // 3], calls[2 * len(calls) // 3]):
        one, other = torch.ones(n), torch.zeros(n)
        rows = [one, other] if record.rows[k] == n else [torch.cat([one, other])]
        response = _responses(bench, record, k, rows)
        found.append(0.5 if response is None else _weight(*response))
    return abs(found[0] - found[1]) < 0.01 and not -0.05 < found[0] < 1.05


def check_labels_of_steps(record: Record, n: int, null: int | None) -> Alarm | None:
    """Labels that are drawn anew at each step, and single labels that are hidden.

    Args:
        record: of a run; n: images; null: the label that means none, or None for negative ones.
    """
    steps: list[list[Tensor]] = []  # the labels, (n,), of all calls with the same x_t and t
    times: list[float] = []
    for k, given in enumerate(record.labels):
        if not k or not same_input(record, k - 1):
            steps.append([])
            times.append(record.told[k])
        steps[-1] += _columns(given, n)
    hidden: list[set[Any]] = []  # images without a label, in branches where others have one
    labels: list[set[Any]] = []  # (image, its label)
    for columns in steps:
        gone = [_is_null(column, null) for column in columns]
        hidden.append({tuple(g.tolist()) for g in gone if 0 < int(g.sum()) < n})
        labels.append({
            (i, y) for column, g in zip(columns, gone, strict=True) if len(column.unique()) > 1
            for i, y in enumerate(column.tolist()) if not g[i]
        })  # fmt: skip
    dropped = [a and b and not (a <= b or b <= a) for a, b in pairwise(hidden)]
    if sum(map(bool, dropped)) > 1 and len(set(map(frozenset, hidden))) > 2:
        return (
            broken,
            'single labels are replaced by "no label" beside others that are kept, and other '
            f"ones at the next step, as at t = {times[dropped.index(True)]:.4g}: label dropout is "
            "on while sampling",
            "Hide no labels in the branch with the class: its share is 0 outside of training",
        )
    return _drawn_anew(labels, times)


def _drawn_anew(labels: list[set[Any]], times: list[float]) -> Alarm | None:
    """Images that have another label at each step; two sets of labels may take turns."""
    known = [(t, told) for t, told in zip(times, labels, strict=True) if told]
    moved = [
        (*change, t, s) for (t, a), (s, b) in pairwise(known)
        if (change := _other_label(a, b)) is not None
    ]  # fmt: skip
    if len(moved) < 2 or len({frozenset(told) for _, told in known}) < 3:
        return None
    i, y, z, t, s = moved[0]
    return (
        broken,
        f"the labels change from step to step: that of image {i} is {y} at t = {t:.4g} and {z} at "
        f"t = {s:.4g}",
        "Choose the labels once, before the loop",
    )


def _other_label(a: set[Any], b: set[Any]) -> tuple[int, int, int] | None:
    """The first image whose labels differ in two sets of (image, label), with both labels."""
    pairs = ((i, y, z) for i, y in sorted(a - b) for j, z in sorted(b - a) if i == j)
    return next(pairs, None)


def same_input(record: Record, k: int) -> bool:
    """Whether call k and the next get the same x_t and t."""
    return record.told[k] == record.told[k + 1] and torch.equal(record.x[k], record.x[k + 1])


def _doubled(labels: list[Any], n: int) -> list[Tensor]:
    """The labels of a call that computes both branches of n images at once."""
    return [v for v in labels if isinstance(v, Tensor) and v.ndim and len(v) == 2 * n]


def _columns(labels: list[Any], n: int) -> list[Tensor]:
    """Whole numbers for each image, (n,) each, among the labels of a call."""
    whole = [
        v for v in labels
        if isinstance(v, Tensor) and not v.is_floating_point() and v.numel() and not v.is_complex()
        and v.ndim and v.numel() == len(v) and len(v) % n == 0
    ]  # fmt: skip
    return [column for v in whole for column in v.reshape(-1, n).cpu()]


def _is_null(labels: Tensor, null: int | None) -> Tensor:
    """Which labels mean none."""
    return labels < 0 if null is None else labels == null


def _first_tensor(labels: list[Any]) -> Tensor | None:
    return next((v for v in labels if isinstance(v, Tensor)), None)


def _classes(first: Tensor | None, second: Tensor | None, null: int | None) -> list[Tensor] | None:
    """Which of two branches has the class: 1 and 0 for their rows; None if it is unknown."""
    plain = [v is None or bool((v == v[:1]).all()) for v in (first, second)]
    empty = [v is None or bool(_is_null(v, null).all()) for v in (first, second)]
    without = empty if empty[0] != empty[1] else plain
    if without[0] == without[1]:
        return None
    n = len(next(v for v in (first, second) if v is not None))
    return [torch.full((n,), float(not of)) for of in without]


def check_doubled(bench: Bench, record: Record) -> Alarm | None:
    """A doubled batch whose halves differ, although the outputs of both enter the same step."""
    k = next((k for k, alike in enumerate(record.alike) if not alike), None)
    if k is None:
        return None
    n = len(bench.x_0)
    rest = torch.cat([torch.zeros(n), torch.ones(record.rows[k] - n)])
    plain, changed = (bench.run(contrast=FAINT, nudge=nudge) for nudge in ({}, {k: NUDGE * rest}))
    if any(run.told[: k + 2] != record.told[: k + 2] for run in (plain, changed)):
        return None  # an adaptive sampler
    if torch.equal(plain.x[k + 1], changed.x[k + 1]):
        return None  # the other rows are another walk
    return (
        broken,
        f"the doubled batch is not x_t twice: at t = {record.told[k]:.4g} its second half is not "
        "equal to its first, but the outputs of both enter one step",
        "Pass torch.cat([x, x]) at each step: repeat_interleave doubles image by image",
    )


def _responses(
    bench: Bench, record: Record, k: int, rows: list[Tensor]
) -> tuple[Tensor, Tensor] | None:
    """How the next x_t changes with the outputs of some rows of calls k, k + 1.., and of all rows.

    Returns:
        Two changes, (n, values) float64; None if a sampler chooses its t by the outputs.
    """
    after = k + len(rows)
    runs = [
        bench.run(contrast=FAINT, nudge={k + i: NUDGE * change for i, change in enumerate(changes)})
        for changes in ([], rows, [torch.ones_like(row) for row in rows])
    ]
    if any(run.told[: after + 1] != record.told[: after + 1] for run in runs):
        return None
    plain, of_some, of_all = (run.x[after].double() for run in runs)
    return of_some - plain, of_all - plain


def _weight(some: Tensor, whole: Tensor) -> float:
    """The weight of some rows' output, if the weights of all sum to 1."""
    return float((some * whole).sum() / whole.square().sum().clamp(min=1e-12))


def _never_enters(bench: Bench, record: Record) -> bool:
    """Whether the output with the class has the weight 0 early and late in a walk, too."""
    for near in (0.2, 0.8):
        found = find_branches(record, len(bench.x_0), bench.null, near)
        response = found and _responses(bench, record, *found)
        if not response or abs(_weight(*response)) > LITTLE:
            return False
    return True


def _some_channels(bench: Bench, some: Tensor, whole: Tensor) -> Alarm | None:
    """Guidance of some channels, whose others have the output with the class alone."""
    channels, height, width = bench.x_0.shape[1:]
    channel = recorded(bench.x_0) // (height * width)  # (values,)
    weights = [_weight(some[:, channel == c], whole[:, channel == c]) for c in range(channels)]
    plain = [c for c in range(channels) if abs(weights[c] - 1) < LITTLE]
    guided = sorted(weights[c] for c in range(channels) if c not in plain)
    if not plain or not guided or guided[-1] - guided[0] > LITTLE * abs(guided[-1]):
        return None
    return (
        look,
        f"guidance changes {len(guided)} of {channels} channels: the output with the class has the "
        f"weight {guided[0]:.3g} there, and 1 in channel {', '.join(map(str, plain))}",
        "Guide all channels: split the output at x.shape[1], not at 3",
    )


def check_branches(bench: Bench, record: Record) -> Alarm | None:
    """Change the output of the branch with the class alone: x must follow, not flee.

    Before that, look at the labels: each image keeps its own, and one branch is without a class.
    """
    n = len(bench.x_0)
    if alarm := check_labels_of_steps(record, n, bench.null) or _without_a_class(bench, record):
        return alarm
    if (found := find_branches(record, n, bench.null)) is None:
        return None
    if (response := _responses(bench, record, *found)) is None:
        return None
    some, whole = (float(change.norm()) for change in response)
    if whole < LITTLE * some:
        return SUM_OF_0
    weight = _weight(*response)
    if whole and abs(weight) < LITTLE and _never_enters(bench, record):
        return (
            look,
            "the output with the class never enters a step: its weight is 0, and the image is that "
            "of the branch without a class",
            "Use the guided output, none + w * (with_y - none), in the step, with w above 0",
        )
    return _some_channels(bench, *response) or first_alarm(
        (weight < -0.05, broken,
         f"the branches of guidance are swapped: the output with the class has the weight "
         f"{weight:.3g}, that without has {1 - weight:.3g}",
         "Use none + w * (with_y - none), and the order of torch.chunk that torch.cat has"),
    )  # fmt: skip
