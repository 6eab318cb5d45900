"""An exercise: the trials of an answer, and the mistakes that can be recognised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Answer = Callable[..., Any]


class Trial(NamedTuple):
    """One use of an answer on small inputs.

    Attributes:
        text: the inputs in words, for messages: "t = 0", "a batch of one picture".
        run: calls the answer and returns what is compared: a tensor, an array, a number, or a
            tuple, list or dict of those. Torch's global generator draws the same numbers in every
            run. It makes new inputs each time, so that an answer cannot spoil them.
    """

    text: str
    run: Callable[[Answer], Any]


@dataclass(frozen=True)
class Exercise:
    """An exercise: its solution, its trials and the mistakes that `check` can name.

    Attributes:
        number: of the notebook and of the exercise in it: "3.2".
        title: what the function does, in a few words.
        solution: a right answer; the package's own function where there is one.
        trials: uses in which each mistake differs from the solution and from other mistakes.
        mistakes: sentence that names a mistake and its cure -> an answer that makes it.
        tolerance: the relative and absolute difference below which numbers count as equal.
    """

    number: str
    title: str
    solution: Answer
    trials: Sequence[Trial]
    mistakes: Mapping[str, Answer] = field(default_factory=dict)
    tolerance: float = 1e-5


class Verdict(NamedTuple):
    """The result of a check.

    Attributes:
        state: "right", "wrong" or "not done yet".
        message: one or two lines for the learner.
    """

    state: str
    message: str


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values of a shape, the same ones for a seed at every call."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


class Raised(NamedTuple):
    """An error instead of a value; its text is not compared."""

    kind: str
    text: str


def judge(exercise: Exercise, answer: Answer) -> Verdict:
    """Run an answer through all trials, and name its mistake if it is a known one.

    Args:
        exercise: what is asked.
        answer: the learner's function or class.
    Returns:
        The verdict; nothing is printed, and errors in the answer are caught.
    """
    number = exercise.number
    if not callable(answer):
        return Verdict("wrong", f"{number}: expected a function, got {answer!r}")
    outcomes = [_outcome(trial, answer) for trial in exercise.trials]
    if any(isinstance(got, Raised) and got.kind == "NotImplementedError" for got in outcomes):
        return Verdict("not done yet", f"{number} is not done yet: {exercise.title}")
    expected = [_outcome(trial, exercise.solution) for trial in exercise.trials]
    pairs = zip(exercise.trials, outcomes, expected, strict=True)
    differences = ((t.text, _difference(got, want, exercise.tolerance)) for t, got, want in pairs)
    first = next(((text, why) for text, why in differences if why), None)
    if first is None:
        return Verdict("right", f"{number} is right: {exercise.title}")
    for sentence, mistaken in exercise.mistakes.items():
        if _same(exercise, outcomes, mistaken):
            return Verdict("wrong", f"{number} is not right yet: {sentence}")
    return Verdict("wrong", f"{number} is not right yet. For {first[0]}: {first[1]}")


def _same(exercise: Exercise, outcomes: list[Any], mistaken: Answer) -> bool:
    """Whether an answer gave the same results in every trial as a mistaken one."""
    theirs = [_outcome(trial, mistaken) for trial in exercise.trials]
    pairs = zip(outcomes, theirs, strict=True)
    return not any(_difference(got, want, exercise.tolerance) for got, want in pairs)


def _outcome(trial: Trial, answer: Answer) -> Any:
    """What a trial returns, or the error that it raises; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # notebooks may have it off
        torch.manual_seed(0)
        try:
            return trial.run(answer)
        except Exception as error:  # any error is a result, which the learner is shown
            text = (str(error).splitlines() or [""])[0]
            return Raised(type(error).__name__, text)


def _difference(got: Any, want: Any, tolerance: float) -> str:
    """How two outcomes differ, in words; empty if they do not."""
    if isinstance(got, Raised) or isinstance(want, Raised):
        return _difference_of_errors(got, want)
    if got is None and want is not None:
        return "it returns nothing; is a `return` missing?"
    if isinstance(want, dict):
        if not isinstance(got, dict) or got.keys() != want.keys():
            return f"expected a dict with the keys {list(want)}, got {_short(got)}"
        got, want = list(got.values()), [want[key] for key in got]
    if isinstance(want, (tuple, list)):
        if not isinstance(got, (tuple, list)) or len(got) != len(want):
            return f"expected {len(want)} values, got {_short(got)}"
        parts = [_difference(g, w, tolerance) for g, w in zip(got, want, strict=True)]
        return next((f"value {k + 1}: {why}" for k, why in enumerate(parts) if why), "")
    if isinstance(want, (str, type(None))):
        return "" if got == want else f"expected {want!r}, got {_short(got)}"
    return _difference_of_numbers(got, want, tolerance)


def _difference_of_errors(got: Any, want: Any) -> str:
    if not isinstance(got, Raised):
        return f"expected a {want.kind}, got {_short(got)}"
    if isinstance(want, Raised) and got.kind == want.kind:
        return ""
    return f"it raises {got.kind}: {got.text}"


def _difference_of_numbers(got: Any, want: Any, tolerance: float) -> str:
    try:
        a, b = torch.as_tensor(got).detach().cpu(), torch.as_tensor(want).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return f"expected numbers, got {_short(got)}"
    if a.shape != b.shape:
        return f"expected the shape {tuple(b.shape)}, got {tuple(a.shape)}"
    if a.dtype.is_complex or b.dtype.is_complex:
        a, b = (torch.view_as_real(v.to(torch.complex128)) for v in (a, b))
    a, b = a.double(), b.double()
    close = torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    if bool(close.all()):
        return ""
    if a.isnan().any() and not b.isnan().any():
        return f"{int(a.isnan().sum())} of {a.numel()} values are not a number (nan)"
    if a.ndim == 0:
        return f"expected {b.item():.6g}, got {a.item():.6g}"
    return (
        f"{int((~close).sum())} of {a.numel()} values differ; "
        f"yours have mean {_mean_std(a)}, the right ones {_mean_std(b)}"
    )


def _mean_std(x: Tensor) -> str:
    return f"{x.mean().item():.4g} and standard deviation {x.std(correction=0).item():.4g}"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
