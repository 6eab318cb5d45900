"""Every exercise: the solution is right, the stub not done, each mistake has its own message."""

import ast
import json
import re
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
import torch
from equal_mutants import EQUAL
from mutations import mutants

from ddpm_helpers.exercises import Case, Exercise, check, exercises_of, find_exercise
from ddpm_helpers.exercises import exercise as exercise_module
from ddpm_helpers.exercises.running import Net, Raised, gradient

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "ddpm_helpers" / "exercises").glob("notebook_*.py"))
NOTEBOOKS = {int(path.stem[-2:]): exercises_of(int(path.stem[-2:])) for path in MODULES}
EXERCISES = [exercise for exercises in NOTEBOOKS.values() for exercise in exercises]
by_number = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)


def stub(*args, **kwargs):
    raise NotImplementedError


@by_number
def test_the_solution_is_right(exercise):
    assert exercise.verdict(exercise.solution).state == "right"
    assert all(exercise.verdict(answer).state == "right" for answer in exercise.also_right)


@by_number
def test_the_stub_is_reported_as_not_done_in_one_line(exercise, capsys):
    check(exercise.number, stub)
    assert capsys.readouterr().out == f"{exercise.number}: not done yet\n"


@by_number
def test_each_mistake_gets_its_own_message(exercise):
    for sentence, mistake in exercise.mistakes.items():
        verdict = exercise.verdict(mistake)
        assert verdict.state == "wrong", sentence
        assert verdict.message.endswith(sentence)


@by_number
def test_two_mistakes_of_a_table_never_give_the_same_results(exercise):
    for one, other in combinations(exercise._mistaken, 2):
        results = exercise._mistaken[one], exercise._mistaken[other]
        assert not exercise._same(*results), f"{exercise.number}: {one!r} and {other!r}"


@by_number
def test_no_mistake_gives_errors_or_nan_alone(exercise):
    """These are the same for many mistakes: too little to name a cause."""

    def says_something(outcome):
        return not isinstance(outcome.result, Raised) and "nan" not in str(outcome.result)

    for sentence, outcomes in exercise._mistaken.items():
        assert any(says_something(outcome) for outcome in outcomes), sentence


@by_number
def test_an_answer_without_return_is_told_so(exercise):
    verdict = exercise.verdict(lambda *args, **kwargs: None)
    assert verdict.state == "wrong"
    if exercise.number != "1.2":  # a class, whose instances are used
        assert "is a `return` missing?" in verdict.message


@by_number
def test_each_exercise_knows_two_mistakes(exercise):
    assert len(exercise.mistakes) >= 2


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_numbers_count_up_within_their_notebook(notebook):
    numbers = [e.number for e in NOTEBOOKS[notebook]]
    assert numbers == [f"{notebook}.{k}" for k in range(1, len(numbers) + 1)]


# ---- the notebooks -------------------------------------------------------------------------------


@cache
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
    assert "<details><summary>Hint" in below
    assert "solutions/" in below


@by_number
def test_the_solutions_notebook_solves_it(exercise):
    cells = sources("notebooks/solutions", int(exercise.number.partition(".")[0]))
    assert any(f"{exercise.number} is right" in text for _, _, text in cells)


# ---- changed solutions ---------------------------------------------------------------------------


def plain_solution(number: str) -> tuple[dict, str, str]:
    """Imports and functions of the solutions' notebook, and the name of the one that is checked."""
    cells = sources("notebooks/solutions", int(number.partition(".")[0]))
    trees = [ast.parse(source) for kind, source, _ in cells if kind == "code"]
    top = [node for tree in trees for node in tree.body]
    defined = {n.name: n for n in top if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
    checks = [c for c in calls if getattr(c.func, "id", "") == "check"]
    (name,) = (c.args[1].id for c in checks if c.args[0].value == number)
    needed = [name]
    for known in needed:
        arguments = {n.arg for n in ast.walk(defined[known]) if isinstance(n, ast.arg)}
        used = {n.id for n in ast.walk(defined[known]) if isinstance(n, ast.Name)}
        needed += [n for n in used & defined.keys() - arguments if n not in needed]
    source = "\n".join(ast.unparse(defined[n]) for n in defined if n in needed)
    names = {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}
    imports = [n for n in top if isinstance(n, (ast.Import, ast.ImportFrom))]
    wanted = [n for n in imports if names & {(a.asname or a.name) for a in n.names}]
    space: dict = {}
    exec("\n".join(map(ast.unparse, wanted)), space)
    return space, source, name


def made_of(space: dict, source: str, name: str):
    """The function of a source, in which type hints are not evaluated."""
    own = dict(space)
    exec(compile(f"from __future__ import annotations\n{source}", "<mutant>", "exec"), own)
    return own[name]


def endings(exercise: Exercise) -> tuple[str, ...]:
    """What loses the dtype or the gradient that is asked for."""
    results = exercise._right[0][0].result
    if isinstance(results, dict) and "its gradient" in results:
        return "detach", "item"
    if not exercise.exact_dtype or not isinstance(results, torch.Tensor):
        return ()
    return ("float",) if results.dtype == torch.float64 else ("double",)


def judged(exercise: Exercise, swap_names: bool = False) -> list[tuple[str, str, str]]:
    """(change, state, source of the message) of each changed solution that is not equal."""
    space, source, name = plain_solution(exercise.number)
    equal = EQUAL.get(exercise.number, ("", []))[1]
    found = []
    for change, changed in mutants(source, name, endings(exercise), swap_names):
        if change not in equal:
            verdict = exercise.verdict(made_of(space, changed, name))
            found.append((change, verdict.state, verdict.source))
    return found


@by_number
def test_no_changed_solution_passes(exercise, monkeypatch):
    monkeypatch.setattr(exercise_module, "finding", lambda *given: "")  # only the state is asked
    assert exercise.verdict(made_of(*plain_solution(exercise.number))).state == "right"
    changed = judged(exercise)
    assert changed
    assert [change for change, state, _ in changed if state == "right"] == []


@pytest.mark.slow
def test_no_solution_with_exchanged_variables_passes_and_most_learn_their_cause(capsys):
    told = {"mistake": 0, "finding": 0, "error": 0, "numbers": 0}
    for exercise in EXERCISES:
        for change, state, source in judged(exercise, swap_names=True):
            assert state == "wrong", (exercise.number, change)
            told[source] += 1
    with capsys.disabled():
        print(f"\n{sum(told.values())} changed solutions are wrong: {told}")
    assert told["numbers"] < sum(told.values()) / 2


# ---- an exercise whose answers are known --------------------------------------------------------


def doubled() -> Exercise:
    """Double a number; the known mistakes are to square it and to fail on 0."""

    def fails_on_0(x):
        return x * (2 * x / x)

    return Exercise(
        "3.9", "double a number", lambda x: 2 * x,
        [Case("3", (3.0,)), Case("0", (0.0,))],
        {"this is the square": lambda x: x * x, "0 / 0 fails": fails_on_0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "state", "message"),
    [
        (lambda x: x + x, "right", "3.9 is right: double a number"),
        (lambda x: x**2, "wrong", "3.9 is not right yet: this is the square"),
        (lambda x: x / x * 2 * x, "wrong", "3.9 is not right yet: 0 / 0 fails"),
        (lambda x: 7.0, "wrong", "3.9 is not right yet: `x` has no effect on your result"),
        (lambda x: x + 1.5, "wrong", "3.9 is not right yet: for 3: expected 6, got 4.5"),
        (lambda x: -2 * x, "wrong", "3.9 is not right yet: for 3: expected 6, got -6"),
        (lambda x: 2 * x + 1, "wrong", "3.9 is not right yet: for 3: expected 6, got 7."),
        (lambda x: 2 * x if x else 5.0, "wrong", "got 5. It is right for 3."),
        (lambda x: None, "wrong", "is a `return` missing?"),
        (lambda x: torch.ones(2), "wrong", "for 3: expected the shape (), got (2,)"),
        (lambda x: "six", "wrong", "for 3: expected numbers, got 'six'"),
        (
            lambda x: 2j * x + 1j,
            "wrong",
            "for 3: expected real numbers, got complex ones: take `.real`",
        ),
        (lambda x: float("nan"), "wrong", "for 3: 1 of 1 values are not a number (nan)"),
        (lambda: 6, "wrong", "for 3: what it returns cannot be used (TypeError"),
        (lambda x: x.double(), "wrong", "for 3: it raises AttributeError"),
        (stub, "not done yet", "3.9: not done yet"),
        (6, "wrong", "3.9: expected a function, got 6"),
    ],
)
def test_verdicts_of_an_exercise_whose_answers_are_known(answer, state, message):
    verdict = doubled().verdict(answer)
    assert verdict.state == state
    assert message in verdict.message


def test_an_error_tells_the_line_of_the_learners_code():
    def fails(x):
        y = 2 * x
        return torch.zeros(int(y)) @ torch.zeros(2)

    message = doubled().verdict(fails).message
    assert message.startswith("3.9 is not right yet: for 3: it raises RuntimeError: ")
    assert message.endswith(", `return torch.zeros(int(y)) @ torch.zeros(2)`).")


def test_only_the_stubs_own_error_means_not_done():
    def of_pytorch(x):
        return 1 - torch.tensor([True])  # raises a NotImplementedError of PyTorch's

    def of_another_stub(x):
        return stub(x)

    for answer in (of_pytorch, of_another_stub):
        verdict = doubled().verdict(answer)
        assert verdict.state == "wrong"
        assert "it raises NotImplementedError" in verdict.message

    class Unfilled:
        def __init__(self, *given):
            raise NotImplementedError

    assert doubled().verdict(Unfilled).state == "not done yet"
    assert doubled().verdict(torch.no_grad()(stub)).state == "not done yet"


class TestArguments:
    """An answer gets copies of the inputs, and is told if it changes one of them."""

    exercise = Exercise(
        "3.9", "add", lambda x, y: x + y,
        [Case("ones", (torch.ones(2, 3), torch.full((2, 3), 2.0))),
         Case("a list", (torch.zeros(2), [1.0, 2.0]), lambda f, x, y: f(x, torch.tensor(y)))],
        {"this is the difference": lambda x, y: x - y},
    )  # fmt: skip

    def test_a_right_result_with_a_changed_argument_is_wrong(self):
        verdict = self.exercise.verdict(lambda a, b: a.add_(b))
        assert verdict.state == "wrong"
        assert "the result is right, but your function overwrites `a`" in verdict.message

    def test_both_are_told_where_the_result_is_wrong_as_well(self):
        message = self.exercise.verdict(lambda a, b: a.sub_(b)).message
        assert message.endswith("this is the difference. Your function also overwrites `a`.")

    def test_the_inputs_are_the_same_in_the_next_check(self):
        self.exercise.verdict(lambda a, b: a.add_(b))
        assert self.exercise.verdict(lambda a, b: a + b).state == "right"


class TestGradients:
    """A loss is checked with its gradient."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda loss: loss.item(), "the loss is not a tensor"),
            (lambda loss: loss.detach(), "the loss has no gradient"),
            (lambda loss: torch.tensor(loss.item()), "the loss has no gradient"),
            (lambda loss: loss.expand(2), "the loss: expected the shape (), got (2,)"),
        ],
    )
    @pytest.mark.parametrize("number", ["5.1", "11.4"])
    def test_a_loss_without_it_is_wrong(self, number, change, message):
        exercise = find_exercise(number)
        verdict = exercise.verdict(lambda *given: change(exercise.solution(*given)))
        assert verdict.state == "wrong"
        assert message in verdict.message

    def test_no_grad_inside_is_noticed(self):
        exercise = find_exercise("5.1")
        assert "no gradient" in exercise.verdict(torch.no_grad()(exercise.solution)).message

    def test_the_derivative(self):
        weight = torch.tensor(3.0, requires_grad=True)
        assert gradient(weight**2, weight) == 6


def test_the_stand_in_for_a_network_is_as_strict_as_one():
    net, x, t = Net(), torch.zeros(2, 3, 4, 5), torch.tensor([1, 2])
    assert net(x, t).shape == net(x, t, t).shape == x.shape
    for wrong in ((x.double(), t), (x, t.float()), (x, t[:1]), (x, 3), (x, t, t.float())):
        with pytest.raises(TypeError, match="the network takes"):
            net(*wrong)


# ---- right answers in another form --------------------------------------------------------------


def order_of_torch(seed, epoch, n):
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(n, generator=generator)


def frechet_by_n(a, b):
    C_a, C_b = torch.cov(a.T, correction=0), torch.cov(b.T, correction=0)
    roots = torch.linalg.eigvals(C_a @ C_b).sqrt().real.sum()
    return (a.mean(0) - b.mean(0)).square().sum() + (C_a + C_b).trace() - 2 * roots


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("1.3", order_of_torch),
        ("1.3", lambda seed, epoch, n: order_of_torch(seed, epoch, n).tolist()),
        ("2.1", lambda betas: (1 - betas).log().cumsum(0).exp()),
        ("5.4", lambda a, w, k, d: a + (1 - min(d, (1 + k) / (10 + k))) * (w - a)),
        ("7.4", lambda T, k: [int(i * T / k) for i in reversed(range(k + 1))]),
        ("8.1", lambda y, share: y.masked_fill(torch.rand(len(y), device=y.device) < share, -1)),
        ("9.1", frechet_by_n),
        ("10.4", lambda x_0, bar: bar * x_0.var() / (bar * x_0.var() + 1 - bar)),
        ("10.4", lambda x_0, b: (g := b * x_0.var(correction=0).item()) / (g + 1 - b)),
    ],
)
def test_right_answers_in_another_form_pass(number, answer):
    assert find_exercise(number).verdict(answer).message.startswith(f"{number} is right")


# ---- words and numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("want", "got", "why"),
    [
        ((1.0, 2.0), (1.0, 3.0), "value 2: expected 2, got 3"),
        ((1.0, 2.0), 1.0, "expected 2 values, got 1.0"),
        ({"a": 1}, {"b": 1}, "expected a dict with the keys ['a'], got {'b': 1}"),
        ({"a": 1.0}, {"a": 2.0}, "a: expected 1, got 2"),
        ("up", "down", "expected 'up', got 'down'"),
        (torch.arange(4.0), torch.tensor([1.0, 3, 0, 5]), "4 of 4 values differ; yours have mean"),
        (torch.arange(4.0), [0.0, 1.0, 2.0, 3.0], "expected a tensor, got [0.0, 1.0, 2.0, 3.0]"),
        (True, False, "expected True, got False"),
        (4, 4.0, "expected a whole number, got 4.0"),
    ],
)
def test_differences_are_told_in_words(want, got, why):
    exercise = Exercise("3.9", "anything", lambda: want, [Case("nothing", ())])
    assert why in exercise.verdict(lambda: got).message


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda x, y, t: 0.6 * y + 0.8 * x, "this is the right result with `x` and `y` exchanged"),
        (lambda x, y, t: 0.36 * x + 0.8 * y, "`x` has the square of its weight: take the root"),
        (lambda x, y, t: 0.6 * x + y, "`y` has the weight 1"),
        (lambda x, y, t: 0.6 * x, "`y` is missing"),
        (lambda x, y, t: 0.6 * x - 0.8 * y, "`y` has the wrong sign"),
        (
            lambda x, y, t: 0.5 * x + 0.8 * y,
            "`x` has the weight 0.5 where 0.6 belongs (t = 3, image 1)",
        ),
        (lambda x, y, t: 1.7 * (0.6 * x + 0.8 * y), "the result is 1.7 times the right one"),
        (lambda x, y, t: (0.6 * x + 0.8 * y).clamp(-1, 1), "the result is cut off at -1 and 1"),
    ],
)
def test_findings_are_true_sentences(answer, why):
    x, y = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    exercise = Exercise(
        "3.9", "mix", lambda x, y, t: 0.2 * t * x + 0.8 * y, [Case("t = 3", (x, y, 3))]
    )
    assert exercise.verdict(answer).message.startswith(f"3.9 is not right yet: {why}")


def test_a_finding_names_another_timestep():
    table, x = torch.rand(9, generator=torch.Generator().manual_seed(2)), torch.ones(2, 3)
    exercise = Exercise("3.9", "look up", lambda x, t: table[t] * x, [Case("t = 3", (x, 3))])
    message = exercise.verdict(lambda x, t: table[t - 1] * x).message
    assert message.endswith("this is the right result for `t - 1` in place of `t`")


@torch.no_grad()
def test_answers_may_differentiate_where_the_notebook_has_gradients_off():
    def slope(x):
        x = torch.tensor(x, requires_grad=True)
        return torch.autograd.grad(x**2, x)[0]

    exercise = Exercise("3.9", "slope", lambda x: 2 * x, [Case("3", (3.0,))])
    assert exercise.verdict(slope).state == "right"


def test_draws_are_the_same_for_answer_and_solution_and_the_generator_stays_as_it_was():
    exercise = Exercise("3.9", "draw", lambda: torch.rand(3), [Case("once", ())])
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert exercise.verdict(lambda: torch.rand(3)).state == "right"
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("number", ["77.1", "three", "", 3.2])
def test_numbers_of_no_notebook_are_refused(number):
    with pytest.raises(ValueError, match=r"unknown exercise .*: '3\.2'"):
        find_exercise(number)


def test_unknown_numbers_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"choose from 3\.1, .*3\.4"):
        find_exercise("3.99")
