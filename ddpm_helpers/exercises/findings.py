"""Explain a wrong answer that no table of mistakes knows, by facts that hold in all cases.

Each finding compares the answer's results with the solution's on the same or on changed inputs, so
a sentence is printed only if it is true of the results: "this is the right result with x_0 and eps
exchanged", "the weight of eps is squared".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_helpers.exercises.differences import as_tensor, difference
from ddpm_helpers.exercises.running import Answer, Case, Outcome, Problem, Raised, name_of, run


class Variants:
    """The solution's results on changed inputs, which many answers are compared with.

    Attributes:
        exchanged: two arguments -> the results with these exchanged.
        shifted: an argument and -1 or 1 -> the results with this added to it.
        in_use: the arguments of floating point that the results depend on.
    """

    def __init__(self, cases: Sequence[Case], solution: Answer):
        self.cases, self.solution = cases, solution
        inputs = cases[0].inputs
        positions = range(len(inputs))
        self.exchanged = {
            (i, k): self._results(partial(_exchange, i=i, k=k))
            for i, k in combinations(positions, 2)
            if all(_kind(case.inputs[i]) == _kind(case.inputs[k]) for case in cases)
        }
        self.shifted = {
            (k, by): self._results(partial(_shift, k=k, by=by))
            for k in positions
            for by in (-1, 1)
            if _is_whole(inputs[k])
        }
        right = self._results(lambda inputs: inputs)
        self.in_use = [
            k
            for k in positions
            if _is_floating(inputs[k]) and not _equal(self._results(partial(_scale, k=k)), right)
        ]

    def _results(self, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> list[Any]:
        return results_on(self.cases, self.solution, change)


def results_on(
    cases: Sequence[Case], answer: Answer, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> list[Any]:
    """What an answer gives on changed inputs of the cases."""
    changed = (case._replace(inputs=change(case.inputs)) for case in cases)
    return [run(case, answer).result for case in changed]


def _exchange(inputs: tuple[Any, ...], i: int, k: int) -> tuple[Any, ...]:
    changed = list(inputs)
    changed[i], changed[k] = inputs[k], inputs[i]
    return tuple(changed)


def _shift(inputs: tuple[Any, ...], k: int, by: int) -> tuple[Any, ...]:
    return (*inputs[:k], inputs[k] + by, *inputs[k + 1 :])


def _scale(inputs: tuple[Any, ...], k: int) -> tuple[Any, ...]:
    return (*inputs[:k], 0.9 * inputs[k], *inputs[k + 1 :])


def _kind(value: Any) -> Any:
    """What two arguments have in common that can be exchanged."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    return type(value) if isinstance(value, (int, float)) else id(value)


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.int64
    return isinstance(value, int) and not isinstance(value, bool)


def _is_floating(value: Any) -> bool:
    return value.is_floating_point() if isinstance(value, Tensor) else isinstance(value, float)


def _equal(results: Sequence[Any], others: Sequence[Any], tolerance: float = 1e-4) -> bool:
    pairs = zip(results, others, strict=True)
    return not any(difference(mine, other, tolerance) for mine, other in pairs)


class _Found(NamedTuple):
    """What the findings look at: results of an answer and of the solution, case by case."""

    answer: Answer
    variants: Variants
    got: list[Any]
    want: list[Any]
    tolerance: float

    @property
    def cases(self) -> Sequence[Case]:
        return self.variants.cases

    def name(self, position: int) -> str:
        return name_of(self.cases[0], self.answer, position)


def finding(answer: Answer, variants: Variants, got: Sequence[Outcome], want: Sequence[Outcome],
            tolerance: float) -> str:  # fmt: skip
    """The first finding that holds, as a sentence; empty if there is none."""
    results = [outcome.result for outcome in got]
    if any(result is None or isinstance(result, (Raised, Problem)) for result in results):
        return ""
    rights = [outcome.result for outcome in want]
    found = _Found(answer, variants, results, rights, max(tolerance, 1e-4))
    looks = (_changed_input, _order, _whole, _weights, _unused, _first_image, _entries, _factors)
    return next((text for look in looks if (text := look(found))), "")


# ---- the solution on changed inputs --------------------------------------------------------------


def _changed_input(found: _Found) -> str:
    for (i, k), results in found.variants.exchanged.items():
        if _equal(found.got, results):
            names = found.name(i), found.name(k)
            return f"this is the right result with {names[0]} and {names[1]} exchanged"
    for (k, by), results in found.variants.shifted.items():
        if _equal(found.got, results):
            name, sign = found.name(k).strip("`"), "-" if by < 0 else "+"
            return f"this is the right result for `{name} {sign} 1` in place of `{name}`"
    return ""


# ---- the result as a whole -----------------------------------------------------------------------


def _order(found: _Found) -> str:
    turned = [_reversed(want) for want in found.want]
    if all(t is not None for t in turned) and _equal(found.got, turned):
        return "the values come in reverse order"
    return ""


def _reversed(value: Any) -> Any:
    if isinstance(value, (tuple, list)) and len(value) > 1:
        return value[::-1]
    if isinstance(value, Tensor) and value.ndim and len(value) > 1:
        return value.flip(0)
    return None


class _Part(NamedTuple):
    """One number or tensor of the results, in all cases: the answer's and the solution's."""

    name: str
    got: list[Tensor]
    want: list[Tensor]

    def is_wrong(self, tolerance: float) -> bool:
        return not self.equals(lambda want: want, tolerance)

    def equals(self, change: Callable[[Tensor], Tensor], tolerance: float) -> bool:
        pairs = zip(self.got, self.want, strict=True)
        return all(_close(mine, change(right), tolerance) for mine, right in pairs)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool(torch.isclose(a, b, rtol=tolerance, atol=tolerance).all())


def _wrong_parts(found: _Found) -> list[_Part]:
    """The parts of the results that are wrong, of those that are real numbers of equal shapes."""
    parts = []
    for name, pick in _picks(found.want[0]):
        try:
            pairs = [(_tensor(pick(g)), _tensor(pick(w))) for g, w in _pairs(found)]
        except (IndexError, KeyError, TypeError):
            return []
        both = [pair for pair in pairs if _comparable(*pair)]
        if len(both) == len(pairs):
            doubles = [[v.double() for v in values] for values in zip(*both, strict=True)]
            parts.append(_Part(name, *doubles))
    return [part for part in parts if part.is_wrong(found.tolerance)]


def _pairs(found: _Found) -> list[tuple[Any, Any]]:
    return list(zip(found.got, found.want, strict=True))


def _picks(want: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """The name of each part of a result, and a function that takes it out."""
    if isinstance(want, dict):
        return [(key, itemgetter(key)) for key in want]
    if isinstance(want, (tuple, list)):
        return [(f"value {k + 1}", itemgetter(k)) for k in range(len(want))]
    return [("the result", lambda value: value)]


def _tensor(value: Any) -> Tensor:
    tensor = as_tensor(value)
    if tensor is None:
        raise TypeError(f"not made of numbers: {value!r}")
    return tensor


def _comparable(got: Tensor, want: Tensor) -> bool:
    is_real = not any(v.is_complex() or v.dtype == torch.bool for v in (got, want))
    return is_real and got.shape == want.shape


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "has the wrong sign": lambda want: -want,
    "is the square of the right one: take the root": torch.square,
    "is the root of the right one: a root too many, or a square is missing":
        lambda want: want.clamp(min=0).sqrt() if bool((want >= 0).all()) else want * torch.nan,
    "is 1 minus the right one": lambda want: 1 - want,
    "is 1 divided by the right one": lambda want: 1 / want,
    "is the logarithm of the right one": torch.log,
    "is cut off at 0 and 1": lambda want: want.clamp(0, 1),
    "is cut off at -1 and 1": lambda want: want.clamp(-1, 1),
    "lacks what is below 0": lambda want: want.clamp(min=0),
    "has lost its signs": torch.abs,
}  # fmt: skip


def _whole(found: _Found) -> str:
    for part in _wrong_parts(found):
        if sum(w.numel() for w in part.want) < 3:
            continue  # one or two numbers are always in some relation
        if all(not bool(g.any()) for g in part.got) and any(bool(w.any()) for w in part.want):
            return f"{part.name} is 0 everywhere"
        for text, change in WHOLE.items():
            if part.equals(change, found.tolerance):
                return f"{part.name} {text}"
        factor = _factor(part)
        if 1e-3 < abs(factor) < 1e3 and part.equals(partial(_times, by=factor), found.tolerance):
            return f"{part.name} is {factor:.4g} times the right one"
        shift = (part.got[0] - part.want[0]).mean().item()
        if part.equals(partial(_plus, by=shift), found.tolerance):
            return f"{part.name} is the right one plus {shift:.4g}"
    return ""


def _times(want: Tensor, by: float) -> Tensor:
    return by * want


def _plus(want: Tensor, by: float) -> Tensor:
    return want + by


def _factor(part: _Part) -> float:
    """The one factor between results and right results, or 0."""
    got = torch.cat([g.flatten() for g in part.got])
    want = torch.cat([w.flatten() for w in part.want])
    square = want.square().sum().item()
    return (got * want).sum().item() / square if square > 0 and len(got) > 1 else 0.0


# ---- the weights of the inputs -------------------------------------------------------------------


class _Weight(NamedTuple):
    """How much of an input is in a result, by the answer and by the solution."""

    got: float
    want: float
    place: str


RELATIONS: dict[str, Callable[[float], float]] = {
    "is missing": lambda want: 0.0,
    "has the wrong sign": lambda want: -want,
    "has the weight 1": lambda want: 1.0,
    "has the weight -1": lambda want: -1.0,
    "has the square of its weight: take the root": lambda want: want**2,
    "has the root of its weight: a root too many": lambda want: math.sqrt(max(want, 0)),
    "is divided by its weight instead of multiplied, or the other way round":
        lambda want: 1 / want if want else math.inf,
    "has half its weight": lambda want: want / 2,
    "has twice its weight": lambda want: 2 * want,
    "has 1 minus its weight": lambda want: 1 - want,
}  # fmt: skip


def _weights(found: _Found) -> str:
    """Which inputs enter with a wrong weight, where a result is a sum of weighted inputs."""
    for part in _wrong_parts(found):
        weights: dict[int, list[_Weight]] = {}
        for case, got, want in zip(found.cases, part.got, part.want, strict=True):
            for position, weight in _in_case(case, got, want):
                weights.setdefault(position, []).append(weight)
        sentences = [
            _sentence(found.name(k), weights[k])
            for k in weights
            if any(not _near(w.got, w.want) for w in weights[k])
        ]
        if sentences:
            where = f"in {part.name}, " if part.name != "the result" else ""
            return where + "; ".join(sentences)
    return ""


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3)


def _sentence(name: str, weights: Sequence[_Weight]) -> str:
    for text, relation in RELATIONS.items():
        if all(_near(w.got, relation(w.want)) for w in weights):
            return f"{name} {text}"
    wrong = next(w for w in weights if not _near(w.got, w.want))
    mine, right = (f"{round(w, 4) + 0.0:g}" for w in (wrong.got, wrong.want))
    return f"{name} has the weight {mine} where {right} belongs ({wrong.place})"


def _in_case(case: Case, got: Tensor, want: Tensor) -> Iterator[tuple[int, _Weight]]:
    """The weights of the tensors that have the result's shape, image by image."""
    inputs = {
        k: v.double()
        for k, v in enumerate(case.inputs)
        if isinstance(v, Tensor) and v.is_floating_point() and v.shape == got.shape
    }
    rows = [(f", image {b + 1}", slice(b, b + 1)) for b in range(len(got))] if got.ndim == 4 else []
    for image, row in rows if len(rows) > 1 else [("", slice(None))]:
        if not inputs or got[row].numel() <= 2 * len(inputs):
            return
        columns = torch.stack([v[row].flatten() for v in inputs.values()], 1)  # (values, inputs)
        mine, right = (_fit(columns, values[row].flatten()) for values in (got, want))
        if mine is None or right is None:
            return
        for place, position in enumerate(inputs):
            weights = mine[place].item(), right[place].item()
            yield position, _Weight(*weights, f"{case.text}{image}")


def _fit(columns: Tensor, values: Tensor) -> Tensor | None:
    """The weights of the columns, or None where the values are not a weighted sum of them."""
    if not bool(values.isfinite().all()):
        return None
    weights = torch.linalg.lstsq(columns, values[:, None]).solution
    rest = columns @ weights - values[:, None]
    return weights[:, 0] if rest.abs().max() < 1e-4 * (1 + values.abs().max()) else None


# ---- arguments without effect, and parts that are right ------------------------------------------


def _unused(found: _Found) -> str:
    for k in found.variants.in_use:
        if _equal(found.got, results_on(found.cases, found.answer, partial(_scale, k=k))):
            return f"{found.name(k)} has no effect on your result"
    return ""


def _first_image(found: _Found) -> str:
    parts = _wrong_parts(found)
    firsts = [
        _Part(p.name, [g[:1] for g in p.got], [w[:1] for w in p.want])
        for p in parts
        if all(w.ndim == 4 for w in p.want) and any(len(w) > 1 for w in p.want)
    ]
    if (
        firsts
        and len(firsts) == len(parts)
        and not any(p.is_wrong(found.tolerance) for p in firsts)
    ):
        return "only the first image of a batch is right: give each image its own numbers"
    return ""


def _entries(found: _Found) -> str:
    """Which entry of a table is wrong, where it is the same one in all cases."""
    for part in _wrong_parts(found):
        if not all(w.ndim == 1 and len(w) > 3 for w in part.want):
            continue
        for place, name in {0: "entry 0", 1: "entry 1", -1: "the last entry"}.items():
            got, want = ([_without(v, place) for v in values] for values in (part.got, part.want))
            if not _Part(part.name, got, want).is_wrong(found.tolerance):
                values = f"{part.got[0][place]:.4g} instead of {part.want[0][place]:.4g}"
                return f"only {name} is wrong ({found.cases[0].text}: {values})"
    return ""


def _without(table: Tensor, place: int) -> Tensor:
    keep = torch.ones(len(table), dtype=torch.bool)
    keep[place] = False
    return table[keep]


def _factors(found: _Found) -> str:
    """The factor in each case, where results are proportional to the right ones."""
    for part in _wrong_parts(found):
        if not all(w.numel() > 1 for w in part.want):
            continue
        pairs = list(zip(part.got, part.want, strict=True))
        factors = [_factor(_Part("", [g], [w])) for g, w in pairs]
        if not all(1e-3 < abs(factor) < 1e3 for factor in factors):
            continue
        if all(_close(g, f * w, found.tolerance) for f, (g, w) in zip(factors, pairs, strict=True)):
            cases = zip(factors, found.cases, strict=True)
            each = ", ".join(f"{f:.3g} times it for {case.text}" for f, case in cases)
            return f"{part.name} has the right form, but a wrong factor in front: {each}"
    return ""
