"""What a network was trained for, told by what it does well: its target, images, table, t, labels.

A trained network has a small loss at its own task and a large one at every other. So each task
with one mistake is tried: one target, range of the images, noising (see `noising`), way to count t
or labels instead of the one that the doctor was told.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.diffusion import PREDICTIONS
from ddpm_helpers.doctor.noising import Mixture, mixture, wrong_mixtures
from ddpm_helpers.doctor.tables import Bars, ask, rms

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of T, where losses are measured
BETTER = 0.5  # loss over that of the told task, in mean and median, below which another is named
GOOD = 0.8  # loss over the guess's that the other task may exceed at one t only
ALIKE = 0.35  # logarithm of losses up to which two tasks are both named
UNSURE = 0.1  # loss over the guess's, on average, up to which x_t is as in training
TELLING = 0.5  # loss over the guess's of one who knows the images by heart, below which t tells
FEW, FEWEST, BEST = 8, 3, 3  # images and tasks: all are tried with the fewest images
LEAST = 1e-4  # ratios below this are alike


@dataclass(frozen=True)
class Task:
    """What a network is asked: x_t = A images(x_0) + B noise(eps), at told(t), with labels(y)."""

    words: str
    repair: str
    weights: Mixture
    images: Callable[[Tensor], Tensor] = lambda x: x
    told: Callable[[Tensor], Tensor] = lambda t: t
    noise: Callable[[Tensor], Tensor] = lambda eps: eps
    labels: Callable[[Tensor], Tensor] = lambda y: y


@dataclass(frozen=True)
class Answer:
    """A network's output for one task at one t."""

    x: Tensor
    eps: Tensor
    A: float
    B: float
    out: Tensor

    def ratio(self, aim: str) -> float:
        """Its loss over that of the best guess that is linear in one pixel."""
        a, b = AIMS[aim](self.A, self.B)
        spread, noise = float(self.x.double().var()), self.B**2 * float(self.eps.double().var())
        gain = (a - b * self.A / self.B) ** 2
        guess = spread * noise / (self.A**2 * spread + noise) * gain
        return rms(self.out - self._goal(aim)) ** 2 / max(guess, 1e-15)

    def error(self, aim: str) -> float:
        """Its loss over the mean square of the target."""
        goal = self._goal(aim)
        return rms(self.out - goal) ** 2 / max(rms(goal) ** 2, 1e-12)

    def _goal(self, aim: str) -> Tensor:
        a, b = AIMS[aim](self.A, self.B)
        return a * self.x + b * self.eps

    def like(self, weight: float) -> bool:
        """Whether the output is weight * x_t, but for a fifth of x_t."""
        x_t = self.A * self.x + self.B * self.eps
        return rms(self.out - weight * x_t) < 0.2 * rms(x_t)

    def by_heart(self) -> float:
        """Loss over the guess's of one who knows the images by heart."""
        x = self.x.flatten(1).double()  # (B, N)
        x_t = self.A * x + self.B * self.eps.flatten(1)
        away = torch.cdist(x_t, self.A * x).square() / (2 * self.B**2)
        known = (-away).softmax(1) @ x
        return Answer(self.x, self.eps, self.A, self.B, known.view_as(self.x)).ratio("x_0")


AIMS: dict[str, Callable[[float, float], tuple[float, float]]] = {  # A, B -> weights of x_0 and eps
    "eps": lambda A, B: (0, 1),
    "x_0": lambda A, B: (1, 0),
    "v": lambda A, B: (-B, A),
    "flow": lambda A, B: (-1, 1),
    "-eps": lambda A, B: (0, -1),
    "-x_0": lambda A, B: (-1, 0),
    "-v": lambda A, B: (B, -A),
    "-flow": lambda A, B: (1, -1),
    "the score, -eps / sqrt(1 - alpha_bar)": lambda A, B: (0, -1 / B),
    "the noise in x_t, sqrt(1 - alpha_bar) eps": lambda A, B: (0, B),
    "the image in x_t, sqrt(alpha_bar) x_0": lambda A, B: (A, 0),
    "v with its weights swapped": lambda A, B: (-A, B),
    "v with + for -": lambda A, B: (B, A),
    "2 eps": lambda A, B: (0, 2),
    "eps / 2": lambda A, B: (0, 0.5),
    "x_0 in 0..1": lambda A, B: (0.5, 0),
    "x_t - x_0": lambda A, B: (A - 1, B),
    "x_0 - x_t": lambda A, B: (1 - A, -B),
}


NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "noise in 0..1, from rand, not from randn": lambda eps: torch.special.ndtr(eps),
    "uniform noise in -1..1": lambda eps: 2 * torch.special.ndtr(eps) - 1,
    "noise of standard deviation 0.5": lambda eps: 0.5 * eps,
    "noise of standard deviation 2": lambda eps: 2 * eps,
}


def answer(
    model: Callable[..., Any], task: Task, x_0: Tensor, y: Tensor | None, t: int, eps: Tensor
) -> Answer:
    """Ask the network once.

    Raises:
        ValueError: the model cannot be called so.
    """
    x = task.images(x_0)
    A, B = (float(weight) for weight in task.weights(torch.tensor([t])))
    told = task.told(torch.tensor(t))
    labels, eps = None if y is None else task.labels(y), task.noise(eps)
    out = ask(model, A * x + B * eps, told, labels, finite=False).to(x_0.dtype)
    return Answer(x, eps, A, max(B, 1e-6), out)


def other_task(
    model: Callable[..., Any], x_0: Tensor, y: Tensor | None, bars: Bars, kind: str,
    ts: list[int],
) -> tuple[str, str] | None:  # fmt: skip
    """Words and repair of the task that the network does far better than the one that was told.

    Args:
        model, x_0, y: as for `check_loss`.
        bars, kind: the task that was told.
        ts: where the images can be told from x_t.
    """
    told = Task("", "", mixture(bars))
    some_rows = slice(None, None, max(1, len(x_0) // FEW))
    few = x_0[some_rows][:FEW]
    labels = None if y is None else y[some_rows][:FEW]
    noise = torch.randn(few.shape, generator=torch.Generator().manual_seed(0)).to(few)
    second = ts[:2][-1:]
    ts = ts[:: max(1, len(ts) // 2)]

    def ratios(task: Task, ts: list[int], n: int = FEW) -> dict[str, list[float]]:
        """Its ratios for each aim; infinite where the network refuses such t or labels."""
        some = None if labels is None else labels[:n]
        try:
            answers = [answer(model, task, few[:n], some, t, noise[:n]) for t in ts]
        except ValueError:
            return dict.fromkeys(AIMS, [math.inf])
        return {aim: [each.ratio(aim) for each in answers] for aim in AIMS}

    of_told = ratios(told, ts)
    aim = min(AIMS, key=lambda aim: _score(of_told[aim]))
    found = (
        of_told[aim], f"the network predicts {aim}, not {kind}",
        f"Pass prediction={aim!r}" if aim in PREDICTIONS else f"Make {kind} the target of the loss",
    )  # fmt: skip
    tasks = list(_tasks(bars, few, y))
    late = Task("", "", mixture(bars), told=lambda t: torch.full_like(t, bars.last))
    at, other = (answer(model, task, few, labels, ts[0], noise).out for task in (told, late))
    blind = rms(at - other) < 1e-3 * rms(at)
    if not blind and _score(of_told[kind]) > math.log(UNSURE):
        tasks += _other_noisings(bars, second, easy=_score(of_told[kind]) > math.log(GOOD))
    tasks.sort(key=lambda task: _score(ratios(task, second, FEWEST)[kind]))
    others = [(ratios(task, ts)[kind], task.words, task.repair) for task in tasks[:BEST]]
    fit = [other for other in (found, *others) if _is_better(other[0], of_told[kind])]
    if not fit:
        return None
    fit.sort(key=lambda other: _score(other[0]))
    fit = [other for other in fit if _score(other[0]) < _score(fit[0][0]) + ALIKE]
    repairs = dict.fromkeys(repair for _, _, repair in fit)
    return "; or ".join(words for _, words, _ in fit), ". ".join(repairs)


def _is_better(ratios: list[float], told: list[float]) -> bool:
    """Whether these losses are good, and far lower than those of the told task at most t."""
    shares = [ratio / max(other, LEAST) for ratio, other in zip(ratios, told, strict=False)]
    return (
        _score(ratios) < _score(told) + math.log(BETTER)
        and statistics.median(shares) < BETTER
        and statistics.median(ratios) < GOOD
        and sorted(ratios)[-2:][0] < GOOD
    )


def _score(ratios: list[float]) -> float:
    """Mean logarithm."""
    return sum(math.log(max(ratio, LEAST)) for ratio in ratios) / len(ratios)


def _tasks(bars: Bars, x_0: Tensor, y: Tensor | None) -> Iterator[Task]:
    """Every task with one mistake."""
    right = mixture(bars)
    first, last, C = bars.first, bars.last, x_0.shape[1]

    def on(words: str, images: Callable[[Tensor], Tensor]) -> Task:
        repair = "Use images in -1..1, prepared by the same code, in training and here"
        return Task(f"the network was trained on images {words}", repair, right, images)

    yield on("in 0..1", lambda x: (x + 1) / 2)
    yield on("in 0..255", lambda x: 127.5 * (x + 1))
    if float(x_0.min()) < -0.01:
        yield on("in -3..1: 2 * x - 1 twice", lambda x: 2 * x - 1)
    else:
        yield on("in -1..1, but these lie in 0..1", lambda x: 2 * x - 1)
    if C == 3:
        mean = x_0.new_tensor([0.485, 0.456, 0.406])[:, None, None]
        std = x_0.new_tensor([0.229, 0.224, 0.225])[:, None, None]
        yield on("normalised by a data set's mean and std", lambda x: ((x + 1) / 2 - mean) / std)
        yield on("whose channels are in the opposite order", lambda x: x.flip(1))
    if C == 4:
        yield on("scaled by 0.18215", lambda x: 0.18215 * x)
        yield on("divided by 0.18215", lambda x: x / 0.18215)
    T = last + 1 - first
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "T - t": lambda t: first + last - t,
        "t / T": lambda t: t / T,
        "1000 t / T": lambda t: 1000 * t / T,
        "T t": lambda t: T * t,
        "1000 t": lambda t: 1000 * t,
        "t / 1000": lambda t: t / 1000,
    }
    for k in (1, -1, 5, -5, 20, -20):
        ways[f"t {'+' if k > 0 else '-'} {abs(k)}"] = partial(_later, k, last)
    for words, way in ways.items():
        repair = "Count t in training as in the table that is used here"
        yield Task(f"the network does best if it is told {words} for t", repair, right, told=way)
    for words, noise in NOISES.items():
        repair = "Use torch.randn_like(x_0) in training"
        yield Task(f"the network was trained on {words}", repair, right, noise=noise)
    if y is not None and (classes := int(y.max()) + 1) > 2:
        for k in (1, -1):
            yield Task(
                f"the network knows these images by the label y {'+' if k > 0 else '-'} 1: "
                "labels are off by one", "Compare the lists of classes",
                right, labels=partial(_turned, k, classes),
            )  # fmt: skip


def _other_noisings(bars: Bars, ts: list[int], *, easy: bool) -> Iterator[Task]:
    """Tasks with another x_t.

    Far less noise is tried only if easy: a network that ignores t is good at that too.
    """
    noise = float(mixture(bars)(torch.tensor(ts))[1])
    for words, weights in wrong_mixtures(bars):
        same = any(part in words for part in ("first", "width", "subtracted", "other end"))
        if not same and (easy or float(weights(torch.tensor(ts))[1]) > noise / 2):
            yield Task(
                f"the network was trained on another x_t: {words}",
                "Noise in training as the table says: check_noising", weights,
            )  # fmt: skip


def _later(k: int, last: int, t: Tensor) -> Tensor:
    return (t + k).clamp(0, last)


def _turned(k: int, classes: int, y: Tensor) -> Tensor:
    return (y + k) % classes
