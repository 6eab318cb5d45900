"""Checks for the exercises in the notebooks; they name the mistake in a wrong answer.

    from ddpm_helpers.exercises import check

    check("3.2", my_add_noise)

Each `notebook_NN.py` lists the exercises of one notebook; `exercise.py` says how to add one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from ddpm_helpers.exercises.exercise import Exercise, Verdict
from ddpm_helpers.exercises.running import Answer, Case

__all__ = ["Case", "Exercise", "Verdict", "check", "exercises_of", "find_exercise"]


def check(number: str, answer: Answer) -> None:
    """Print whether an answer is right, and if not, which mistake it makes.

    The answer gets copies of the inputs and is wrong if it changes one of them. If the answer is
    still the stub, this prints "not done yet" and raises no error.

    Args:
        number: number of the exercise in the notebook, such as "3.2".
        answer: your function or class.
    Raises:
        ValueError: no exercise has this number.
    """
    print(find_exercise(number).verdict(answer).message)


def find_exercise(number: str) -> Exercise:
    """Find an exercise by its number.

    Raises:
        ValueError: no exercise has this number.
    """
    known = {exercise.number: exercise for exercise in _exercises_beside(number)}
    if number not in known:
        raise ValueError(f"unknown exercise {number!r}; choose from {', '.join(known)}")
    return known[number]


def _exercises_beside(number: str) -> list[Exercise]:
    """The exercises of the notebook in an exercise's number."""
    notebook = number.partition(".")[0] if isinstance(number, str) else ""
    if notebook.isdecimal() and find_spec(f"{__name__}.{module_name(int(notebook))}"):
        return exercises_of(int(notebook))
    raise ValueError(f"unknown exercise {number!r}; write notebook and exercise as text: '3.2'")


def exercises_of(notebook: int) -> list[Exercise]:
    """The exercises of one notebook, in order."""
    return import_module(f"{__name__}.{module_name(notebook)}").EXERCISES


def module_name(notebook: int) -> str:
    return f"notebook_{notebook:02d}"
