"""Exercises of notebook 11: the straight path, its prediction, Heun in its time, consistency."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise

Velocity = Callable[[Tensor, float], Tensor]
Predict = Callable[[Tensor, int], Tensor]


# ---- 11.1 --------------------------------------------------------------------------------


def _pair(
    x_0: Tensor, eps: Tensor, s: Tensor, *,
    of_x_0: Callable[[Tensor], Tensor] = lambda s: 1 - s,
    of_eps: Callable[[Tensor], Tensor] = lambda s: s,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The pair, and with other weights its mistakes."""
    s = s.reshape(-1, 1, 1, 1)
    return of_x_0(s) * x_0 + of_eps(s) * eps, eps - x_0


def _on_pictures(answer: Answer, n: int) -> tuple[Tensor, Tensor]:
    x_0, eps = noise(2, n, 3, 4, 4)
    return answer(x_0, eps, torch.linspace(0.1, 0.8, n))


# ---- 11.2 --------------------------------------------------------------------------------


def _by(formula: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Answer:
    """An answer by a formula of u, x_t, a = sqrt(alpha_bar) and b = sqrt(1 - alpha_bar)."""
    return lambda u, x_t, bar: formula(u, x_t, bar.sqrt(), (1 - bar).sqrt())


def _at_bar(answer: Answer, bar: float) -> Tensor:
    u, x_t = noise(2, 2, 3, 4, 4)
    return answer(u, x_t, torch.tensor(bar))


# ---- 11.3 --------------------------------------------------------------------------------


def _plain(velocity: Velocity, z: Tensor, s: float, r: float) -> Tensor:
    return velocity(z, s)


def _mean(velocity: Velocity, z: Tensor, s: float, r: float) -> Tensor:
    u = velocity(z, s)
    return (u + velocity(z + (r - s) * u, r)) / 2  # (11.6)


def _solver(rule: Answer, to_zero: Answer = _plain, sign: int = 1) -> Answer:
    """A walk that follows the velocity of one rule, and on the last step that of another."""

    def answer(velocity: Velocity, z: Tensor, steps: int) -> Tensor:
        for k in range(steps, 0, -1):
            s, r = k / steps, (k - 1) / steps
            u = (rule if r > 0 else to_zero)(velocity, z, s, r)
            z = z + sign * (r - s) * u
        return z

    return answer


def _bent(z: Tensor, s: float) -> Tensor:
    """A velocity that is unknown at s = 0, like that of a network."""
    return torch.sin(2 * z) + z.cos() * (s if s > 0 else float("nan"))


# ---- 11.4 --------------------------------------------------------------------------------


def _step(x_0: Tensor, x_t: Tensor, bar_t: Tensor, bar_s: Tensor) -> Tensor:
    eps = (x_t - bar_t.sqrt() * x_0) / (1 - bar_t).sqrt()
    return bar_s.sqrt() * x_0 + (1 - bar_s).sqrt() * eps


def _towards(target: Callable[[Predict, Predict, Tensor, int, int, Answer], Tensor]) -> Answer:
    """The student's squared distance from a target; `x_s(model)` is x_t after a model's step."""

    def answer(
        student: Predict, teacher: Predict, x_t: Tensor, t: int, s: int, bar: Tensor
    ) -> Tensor:
        def x_s(model: Predict) -> Tensor:
            return _step(model(x_t, t), x_t, bar[t], bar[s])

        goal = target(student, teacher, x_t, t, s, x_s)
        return (student(x_t, t) - goal).square().mean()

    return answer


def _loss_and_slope(answer: Answer, t: int, s: int) -> tuple[Tensor, Tensor]:
    """The loss, and its derivative by the student's only weight."""
    weight, bar = torch.tensor(0.7, requires_grad=True), torch.linspace(1, 0.1, 11)

    def student(x: Tensor, t: int) -> Tensor:
        return x if t == 0 else weight * x * (1 - t / 20)

    loss = answer(student, lambda x, t: 0.2 * x + 0.03 * t, noise(2, 1, 3, 3), t, s, bar)
    (slope,) = torch.autograd.grad(loss, weight)
    return loss.detach(), slope


EXERCISES = [
    Exercise(
        "11.1",
        "a point of the straight path, and its velocity",
        _pair,
        [
            Trial("two pictures", partial(_on_pictures, n=2)),
            Trial("four of 4×4 pixels", partial(_on_pictures, n=4)),
        ],
        {
            "the ends are swapped: at s = 0 the path is at the picture, (11.1)":
                partial(_pair, of_x_0=lambda s: s, of_eps=lambda s: 1 - s),
            "these are the weights of notebook 03, whose squares add up to 1; a straight line "
            "has 1 - s and s":
                partial(_pair, of_x_0=lambda s: (1 - s).sqrt(), of_eps=Tensor.sqrt),
            "the velocity points at the picture; s grows towards the noise, so it is eps - x_0":
                lambda x_0, eps, s: (_pair(x_0, eps, s)[0], x_0 - eps),
            "the velocity does not depend on s: it is the same, eps - x_0, all along the line":
                lambda x_0, eps, s: (_pair(x_0, eps, s)[0], s.reshape(-1, 1, 1, 1) * (eps - x_0)),
            "s is broadcast along the columns: give it the shape (B, 1, 1, 1)":
                lambda x_0, eps, s: ((1 - s) * x_0 + s * eps, eps - x_0),
        },
    ),
    Exercise(
        "11.2",
        "the clean picture that a velocity stands for",
        _by(lambda u, x_t, a, b: (x_t - b * u) / (a + b)),
        [Trial(f"alpha_bar = {bar}", partial(_at_bar, bar=bar)) for bar in (0.64, 0.0, 1.0)],
        {
            "this divides by a, as for eps, and a is 0 at t = T; u contains x_0 too: take a + b":
                _by(lambda u, x_t, a, b: (x_t - b * u) / a),
            "x_t - b u is a x_0 + b x_0: divide it by a + b":
                _by(lambda u, x_t, a, b: x_t - b * u),
            "x_t is not z: divide it by a + b before you walk back along u, (11.4)":
                _by(lambda u, x_t, a, b: x_t - b / (a + b) * u),
            "the sign of u is wrong: it points at the noise, so the way to the picture is -u":
                _by(lambda u, x_t, a, b: (x_t + b * u) / (a + b)),
            "this uses alpha_bar where its square root belongs":
                _by(lambda u, x_t, a, b: (x_t - b**2 * u) / (a**2 + b**2)),
        },
    ),
    Exercise(
        "11.3",
        "Heun's method from s = 1 to s = 0",
        _solver(_mean),
        [
            Trial("one step", lambda f: f(_bent, noise(3, 2), 1)),
            Trial("three steps", lambda f: f(_bent, noise(3, 2), 3)),
        ],
        {
            "this is Euler's method: the slope at the end of the step is not used":
                _solver(_plain),
            "the slope at the end alone is used: take the mean of both, (11.6)":
                _solver(lambda v, z, s, r: v(z + (r - s) * v(z, s), r)),
            "both slopes are added but not halved":
                _solver(lambda *args: 2 * _mean(*args)),
            "the second slope is taken at the old point; go to the end of the step first":
                _solver(lambda v, z, s, r: (v(z, s) + v(z, r)) / 2),
            "this is the midpoint method: one slope, half a step ahead":
                _solver(lambda v, z, s, r: v(z + (r - s) / 2 * v(z, s), (s + r) / 2)),
            "the walk leads away from the pictures: r - s is negative, keep its sign":
                _solver(_mean, sign=-1),
            "the last step uses the velocity at s = 0, where no network is trained: take it "
            "with Euler":
                _solver(_mean, to_zero=_mean),
        },
    ),
    Exercise(
        "11.4",
        "the loss that makes a student consistent",
        _towards(lambda student, teacher, x_t, t, s, x_s: student(x_s(teacher), s).detach()),
        [
            Trial("t = 8, s = 5", partial(_loss_and_slope, t=8, s=5)),
            Trial("t = 2, s = 0", partial(_loss_and_slope, t=2, s=0)),
        ],
        {
            "the target is the teacher's prediction at t: the student stays as blurred":
                _towards(lambda student, teacher, x_t, t, s, x_s: teacher(x_t, t)),
            "the target is the teacher's prediction at s; take the student's":
                _towards(lambda student, teacher, x_t, t, s, x_s: teacher(x_s(teacher), s)),
            "gradients flow through the target too: .detach() it":
                _towards(lambda student, teacher, x_t, t, s, x_s: student(x_s(teacher), s)),
            "the step down is the student's own; it has to be the teacher's":
                _towards(
                    lambda student, teacher, x_t, t, s, x_s: student(x_s(student), s).detach()
                ),
            "x_t is passed on with step s, without the step from t to s, (11.9)":
                _towards(lambda student, teacher, x_t, t, s, x_s: student(x_t, s).detach()),
        },
    ),
]  # fmt: skip
