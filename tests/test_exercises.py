"""Every exercise: the solution is right, the stub not done, each mistake has its own message."""

import json
import re
from pathlib import Path

import pytest
import torch

from ddpm_helpers.exercises import Exercise, Trial, check, examine, exercises_of, judge

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "ddpm_helpers" / "exercises").glob("notebook_*.py"))
NOTEBOOKS = {int(path.stem[-2:]): exercises_of(int(path.stem[-2:])) for path in MODULES}
EXERCISES = [exercise for exercises in NOTEBOOKS.values() for exercise in exercises]
MISTAKES = [(e, sentence) for e in EXERCISES for sentence in e.mistakes]
by_number = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)


def stub(*args, **kwargs):
    raise NotImplementedError


@by_number
def test_the_solution_is_right(exercise):
    assert judge(exercise, exercise.solution).state == "right"


@by_number
def test_the_stub_is_reported_as_not_done(exercise):
    verdict = judge(exercise, stub)
    assert verdict.state == "not done yet"
    assert verdict.message.startswith(exercise.number)


@pytest.mark.parametrize(("exercise", "sentence"), MISTAKES, ids=lambda v: getattr(v, "number", ""))
def test_each_mistake_gets_its_own_message(exercise, sentence):
    verdict = judge(exercise, exercise.mistakes[sentence])
    assert verdict.state == "wrong"
    assert verdict.message.endswith(sentence)


@by_number
def test_an_answer_without_return_gets_that_or_its_mistake_named(exercise):
    verdict = judge(exercise, lambda *args, **kwargs: None)
    assert verdict.state == "wrong"


@by_number
def test_each_exercise_knows_two_mistakes(exercise):
    assert len(exercise.mistakes) >= 2


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_numbers_count_up_within_their_notebook(notebook):
    numbers = [e.number for e in NOTEBOOKS[notebook]]
    assert numbers == [f"{notebook}.{k}" for k in range(1, len(numbers) + 1)]


def sources(folder: str, notebook: int) -> list[tuple[str, str, str]]:
    """(kind, source, printed text) of each cell of a notebook."""
    (path,) = (ROOT / folder).glob(f"{notebook:02d}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join("".join(o.get("text", "")) for o in c.get("outputs", ())) for c in cells]
    pairs = zip(cells, texts, strict=True)
    return [(c["cell_type"], "".join(c["source"]), text) for c, text in pairs]


@by_number
def test_the_notebook_asks_it_with_difficulty_time_stub_hints_and_solution(exercise):
    cells = sources("notebooks", int(exercise.number.partition(".")[0]))
    call = f'check("{exercise.number}", '
    (place,) = (k for k, (kind, source, _) in enumerate(cells) if kind == "code" and call in source)
    assert "not done yet" in cells[place][2]
    assert "raise NotImplementedError" in cells[place - 1][1] and '"""' in cells[place - 1][1]
    asked = cells[place - 2][1]
    number = re.escape(exercise.number)
    assert re.search(rf"\*\*Exercise {number}\*\* · (easy|medium|hard) · \d+ minutes?", asked)
    below = cells[place + 1][1]
    assert below.count("<details>") >= 2
    assert "solutions/" in below


@by_number
def test_the_solutions_notebook_solves_it(exercise):
    cells = sources("notebooks/solutions", int(exercise.number.partition(".")[0]))
    assert any(f"{exercise.number} is right" in text for _, _, text in cells)


def doubled() -> Exercise:
    """Double a number; the known mistakes are to square it and to fail on 0."""

    def fails_on_0(x):
        return x * (2 * x / x)

    return Exercise(
        "3.9", "double a number", lambda x: 2 * x,
        [Trial("3", lambda f: f(3)), Trial("0", lambda f: f(0))],
        {"this is the square": lambda x: x * x, "0 / 0 fails": fails_on_0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "state", "message"),
    [
        (lambda x: x + x, "right", "3.9 is right: double a number"),
        (lambda x: x**2, "wrong", "3.9 is not right yet: this is the square"),
        (lambda x: x / x * 2 * x, "wrong", "3.9 is not right yet: 0 / 0 fails"),
        (lambda x: 7, "wrong", "3.9 is not right yet. For 3: expected 6, got 7"),
        (lambda x: None, "wrong", "is a `return` missing?"),
        (lambda x: torch.ones(2), "wrong", "For 3: expected the shape (), got (2,)"),
        (lambda x: "six", "wrong", "For 3: expected numbers, got 'six'"),
        (lambda x: float("nan"), "wrong", "For 3: 1 of 1 values are not a number (nan)"),
        (lambda: 6, "wrong", "For 3: it raises TypeError"),
        (lambda x: x.double(), "wrong", "For 3: it raises AttributeError"),
        (stub, "not done yet", "3.9 is not done yet: double a number"),
        (6, "wrong", "3.9: expected a function, got 6"),
    ],
)
def test_verdicts_of_an_exercise_whose_answers_are_known(answer, state, message):
    verdict = judge(doubled(), answer)
    assert verdict.state == state
    assert message in verdict.message


@pytest.mark.parametrize(
    ("want", "got", "why"),
    [
        ((1.0, 2.0), (1.0, 3.0), "value 2: expected 2, got 3"),
        ((1.0, 2.0), 1.0, "expected 2 values, got 1.0"),
        ({"a": 1}, {"b": 1}, "expected a dict with the keys ['a'], got {'b': 1}"),
        ({"a": 1}, {"a": 2}, "value 1: expected 1, got 2"),
        ("up", "down", "expected 'up', got 'down'"),
        (torch.zeros(4), torch.ones(4), "4 of 4 values differ; yours have mean 1 "),
        (True, False, "expected 1, got 0"),
    ],
)
def test_differences_are_told_in_words(want, got, why):
    exercise = Exercise("3.9", "anything", lambda: want, [Trial("nothing", lambda f: f())])
    assert why in judge(exercise, lambda: got).message


@torch.no_grad()
def test_answers_may_differentiate_where_the_notebook_has_gradients_off():
    def slope(x):
        x = torch.tensor(x, requires_grad=True)
        return torch.autograd.grad(x**2, x)[0]

    exercise = Exercise("3.9", "slope", lambda x: 2 * x, [Trial("3", lambda f: f(3.0))])
    assert judge(exercise, slope).state == "right"


def test_draws_are_the_same_for_answer_and_solution_and_the_generator_stays_as_it_was():
    exercise = Exercise("3.9", "draw", lambda: torch.rand(3), [Trial("once", lambda f: f())])
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert judge(exercise, lambda: torch.rand(3)).state == "right"
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("number", ["77.1", "three", "", 3.2])
def test_numbers_of_no_notebook_are_refused(number):
    with pytest.raises(ValueError, match=r"unknown exercise .*: '3\.2'"):
        examine(number, stub)


@by_number
def test_unknown_numbers_are_refused_with_the_choices(exercise):
    with pytest.raises(ValueError, match=rf"choose from .*{re.escape(exercise.number)}"):
        examine(f"{exercise.number}9", stub)


@by_number
def test_check_prints_the_message(exercise, capsys):
    check(exercise.number, stub)
    assert capsys.readouterr().out == f"{judge(exercise, stub).message}\n"
