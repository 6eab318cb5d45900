"""An exercise: a solution, test cases, and mistakes that the check can name.

How to add an exercise that no wrong answer passes:

1. Write the stub in the notebook: shapes, dtypes, ranges, and the return value. If the result
   needs a gradient or a dtype, say so and check it: `gradient`, `exact_dtype=True`.
2. Choose the inputs of each `Case` so that every wrong formula gives a different result. Use
   random values instead of 0 and 1; different B, C, H and W above 1; different timesteps in a
   batch, with alpha_bar neither near 0 nor near 1; arguments that are not 1, not equal and not
   divisors of each other; both branches of every `if`, and the values at which the branch changes.
   Add the extreme values (t = 0, T, one image) as separate cases.
3. Replace a network by a nonlinear function of all its inputs that is as strict as a network:
   `Net` here refuses float64, labels that are not int64, and a wrong shape.
4. `mistakes` maps a sentence to an answer that makes the mistake. The sentence is printed only if
   the learner's results equal the mistaken ones in all cases. So list the mistakes that give the
   right shape. `findings.py` already names these for all exercises: swapped arguments, t - 1 for
   t, a wrong weight of an input, a wrong sign, factor or root of the result, an unused argument,
   values that are right for the first image only.
5. If several results are right (a different generator, n - 1 or n), compare what the task asks
   for: let `use` return properties as a dict, or list the other right answers in `also_right`.
6. Do not use `assert` in `use` or unpack the answer's result there: return the result. The check
   compares it part by part, so a missing part does not crash the check.
7. Arguments are copied before each case and compared afterwards. An answer that changes one is
   wrong in every exercise.
8. Run `pytest tests/test_exercises.py -k "3.2"`: it changes the solution in
   `notebooks/solutions` in a hundred ways (a root, a sign, an index, an argument ...). It fails if
   a changed solution passes, or if two listed mistakes give equal results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ddpm_helpers.exercises.differences import Difference, difference
from ddpm_helpers.exercises.findings import Variants, finding
from ddpm_helpers.exercises.running import Answer, Case, Outcome, is_unfilled, run


class Verdict(NamedTuple):
    """The result of a check.

    Attributes:
        state: "right", "wrong" or "not done yet".
        message: one or two lines for the learner.
        source: source of the message about a wrong answer: "mistake" (a listed mistake),
            "finding" (`findings.py`), "error" (an exception, a dtype, a shape, an overwritten
            argument), or "numbers".
    """

    state: str
    message: str
    source: str = ""


@dataclass(frozen=True)
class Exercise:
    """An exercise: its solution, its cases and the mistakes that `check` can name.

    Attributes:
        number: notebook and number of the exercise, such as "3.2".
        title: what the function does, in a few words.
        solution: a right answer; the package's function if there is one.
        cases: inputs for which all mistakes give different results.
        mistakes: dict from a sentence that names a mistake and its fix to an answer that makes it.
        tolerance: relative and absolute difference below which numbers count as equal.
        exact_dtype: whether results must have the solution's dtype.
        also_right: other answers that count as right.
    """

    number: str
    title: str
    solution: Answer
    cases: Sequence[Case]
    mistakes: Mapping[str, Answer] = field(default_factory=dict)
    tolerance: float = 1e-5
    exact_dtype: bool = False
    also_right: Sequence[Answer] = ()

    def verdict(self, answer: Answer) -> Verdict:
        """Run an answer on all cases, and name its mistake if it is known.

        Nothing is printed, and errors in the answer are caught.
        """
        if not callable(answer):
            return Verdict("wrong", f"{self.number}: expected a function, got {answer!r}", "error")
        outcomes = [run(case, answer) for case in self.cases]
        if any(is_unfilled(outcome.result) for outcome in outcomes):
            return Verdict("not done yet", f"{self.number}: not done yet")
        if any(self._same(outcomes, right) for right in self._right):
            return self._about_arguments(outcomes)
        source, cause = self._cause(answer, outcomes)
        changed = next((o.overwritten for o in outcomes if o.overwritten), "")
        also = f". Your function also {changed}." if changed else ""
        return Verdict("wrong", f"{self.number} is not right yet: {cause}{also}", source)

    @cached_property
    def _right(self) -> list[list[Outcome]]:
        answers = (self.solution, *self.also_right)
        return [[run(case, answer) for case in self.cases] for answer in answers]

    @cached_property
    def _variants(self) -> Variants:
        return Variants(self.cases, self.solution)

    @cached_property
    def _mistaken(self) -> dict[str, list[Outcome]]:
        """The results of each known mistake, keyed by its sentence."""
        return {
            sentence: [run(case, mistake) for case in self.cases]
            for sentence, mistake in self.mistakes.items()
        }

    def _about_arguments(self, outcomes: Sequence[Outcome]) -> Verdict:
        overwritten = next((o.overwritten for o in outcomes if o.overwritten), "")
        if not overwritten:
            return Verdict("right", f"{self.number} is right: {self.title}")
        message = (
            f"{self.number} is not right yet: the result is right, but your function "
            f"{overwritten}, and the caller still needs it. Make a new tensor instead."
        )
        return Verdict("wrong", message, "error")

    def _cause(self, answer: Answer, outcomes: Sequence[Outcome]) -> tuple[str, str]:
        """The source of the explanation, and the explanation."""
        for sentence, mistaken in self._mistaken.items():
            if self._same(outcomes, mistaken):
                return "mistake", sentence
        wrong = [(case, self._difference(*pair)) for case, *pair in self._compared(outcomes)]
        case, why = next((case, why) for case, why in wrong if why)
        if why.source == "numbers":
            found = finding(answer, self._variants, outcomes, self._right[0], self.tolerance)
            if found:
                return "finding", found
        right = [case.text for case, why in wrong if not why]
        others = f" and {len(right) - 2} other cases" if len(right) > 2 else ""
        elsewhere = f" It is right for {'; '.join(right[:2])}{others}." if right else ""
        return why.source, f"for {case.text}: {why}.{elsewhere}"

    def _compared(self, outcomes: Sequence[Outcome]) -> Sequence[tuple[Case, Outcome, Outcome]]:
        return list(zip(self.cases, outcomes, self._right[0], strict=True))

    def _same(self, outcomes: Sequence[Outcome], others: Sequence[Outcome]) -> bool:
        """Whether two answers gave the same results in all cases."""
        pairs = zip(outcomes, others, strict=True)
        return not any(self._difference(got, want) for got, want in pairs)

    def _difference(self, got: Outcome, want: Outcome) -> Difference:
        return difference(got.result, want.result, self.tolerance, self.exact_dtype)
