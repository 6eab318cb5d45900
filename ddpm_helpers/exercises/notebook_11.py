"""Exercises of notebook 11: the straight path, its prediction, Heun in its time, consistency."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial

Velocity = Callable[[Tensor, float], Tensor]
Predict = Callable[[Tensor, int], Tensor]


def _small(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# ---- 11.1 --------------------------------------------------------------------------------


def _pair(x_0: Tensor, eps: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    s = s.reshape(-1, 1, 1, 1)
    return (1 - s) * x_0 + s * eps, eps - x_0


def _path(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Answer:
    """A wrong path: the weights of x_0 and eps as functions of s; its velocity is right."""

    def answer(x_0: Tensor, eps: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        s = s.reshape(-1, 1, 1, 1)
        return first(s) * x_0 + second(s) * eps, eps - x_0

    return answer


def _on_pictures(n: int) -> Callable[[Answer], tuple[Tensor, Tensor]]:
    def run(answer: Answer) -> tuple[Tensor, Tensor]:
        x_0, eps = _small(2, n, 3, 4, 4)
        return answer(x_0, eps, torch.linspace(0.1, 0.8, n))

    return run


# ---- 11.2 --------------------------------------------------------------------------------


def _x_0(u: Tensor, x_t: Tensor, bar: Tensor) -> Tensor:
    a, b = bar.sqrt(), (1 - bar).sqrt()
    return (x_t - b * u) / (a + b)


def _x_0_like(formula: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Answer:
    return lambda u, x_t, bar: formula(u, x_t, bar.sqrt(), (1 - bar).sqrt())


def _at_bar(bar: float) -> Callable[[Answer], Tensor]:
    def run(answer: Answer) -> Tensor:
        u, x_t = _small(2, 2, 3, 4, 4)
        return answer(u, x_t, torch.tensor(bar))

    return run


# ---- 11.3 --------------------------------------------------------------------------------


def _heun(velocity: Velocity, z: Tensor, steps: int) -> Tensor:
    for k in range(steps, 0, -1):
        s, r = k / steps, (k - 1) / steps
        u = velocity(z, s)
        if r > 0:
            u = (u + velocity(z + (r - s) * u, r)) / 2
        z = z + (r - s) * u
    return z


def _solver(slope: Callable[[Velocity, Tensor, float, float], Tensor], sign: int = 1) -> Answer:
    """A wrong solver: `slope` is what it uses from s to r; the last step is plain."""

    def answer(velocity: Velocity, z: Tensor, steps: int) -> Tensor:
        for k in range(steps, 0, -1):
            s, r = k / steps, (k - 1) / steps
            u = slope(velocity, z, s, r) if r > 0 else velocity(z, s)
            z = z + sign * (r - s) * u
        return z

    return answer


def _mean(velocity: Velocity, z: Tensor, s: float, r: float) -> Tensor:
    u = velocity(z, s)
    return (u + velocity(z + (r - s) * u, r)) / 2


def _heun_to_the_end(velocity: Velocity, z: Tensor, steps: int) -> Tensor:
    for k in range(steps, 0, -1):
        s, r = k / steps, (k - 1) / steps
        z = z + (r - s) * _mean(velocity, z, s, r)
    return z


def _bent(z: Tensor, s: float) -> Tensor:
    """A velocity that is unknown at s = 0, like that of a network."""
    return torch.sin(2 * z) + z.cos() * (s if s > 0 else float("nan"))


def _solved(steps: int) -> Callable[[Answer], Tensor]:
    return lambda answer: answer(_bent, _small(3, 2), steps)


# ---- 11.4 --------------------------------------------------------------------------------


def _step(x_0: Tensor, x_t: Tensor, bar_t: Tensor, bar_s: Tensor) -> Tensor:
    eps = (x_t - bar_t.sqrt() * x_0) / (1 - bar_t).sqrt()
    return bar_s.sqrt() * x_0 + (1 - bar_s).sqrt() * eps


def _consistency(
    student: Predict, teacher: Predict, x_t: Tensor, t: int, s: int, bar: Tensor
) -> Tensor:  # fmt: skip
    x_s = _step(teacher(x_t, t), x_t, bar[t], bar[s])
    return (student(x_t, t) - student(x_s, s).detach()).square().mean()


def _towards(goal: Callable[..., Tensor]) -> Answer:
    """A wrong loss: the distance of the student's prediction at t from another target."""

    def answer(
        student: Predict, teacher: Predict, x_t: Tensor, t: int, s: int, bar: Tensor
    ) -> Tensor:  # fmt: skip
        aim = goal(student, teacher, x_t, t, s, bar)
        return (student(x_t, t) - aim).square().mean()

    return answer


def _from(teacher: Predict, x_t: Tensor, t: int, s: int, bar: Tensor) -> Tensor:
    return _step(teacher(x_t, t), x_t, bar[t], bar[s])


def _loss_and_slope(t: int, s: int) -> Callable[[Answer], tuple[Tensor, Tensor]]:
    """The loss, and its derivative by the student's only weight."""

    def run(answer: Answer) -> tuple[Tensor, Tensor]:
        weight, bar = torch.tensor(0.7, requires_grad=True), torch.linspace(1, 0.1, 11)

        def student(x: Tensor, t: int) -> Tensor:
            return x if t == 0 else weight * x * (1 - t / 20)

        loss = answer(student, lambda x, t: 0.2 * x + 0.03 * t, _small(2, 1, 3, 3), t, s, bar)
        (slope,) = torch.autograd.grad(loss, weight)
        return loss.detach(), slope

    return run


EXERCISES = [
    Exercise(
        "11.1",
        "a point of the straight path, and its velocity",
        _pair,
        [Trial("two pictures", _on_pictures(2)), Trial("four of 4×4 pixels", _on_pictures(4))],
        {
            "the ends are swapped: at s = 0 the path is at the picture, (11.1)": _path(
                lambda s: s, lambda s: 1 - s
            ),
            "these are the weights of notebook 03, whose squares add up to 1; a straight line "
            "has 1 - s and s": _path(lambda s: (1 - s).sqrt(), lambda s: s.sqrt()),
            "the velocity points at the picture; s grows towards the noise, so it is eps - x_0": (
                lambda x_0, eps, s: (_pair(x_0, eps, s)[0], x_0 - eps)
            ),
            "the velocity does not depend on s: it is the same, eps - x_0, all along the line": (
                lambda x_0, eps, s: (
                    _pair(x_0, eps, s)[0], s.reshape(-1, 1, 1, 1) * (eps - x_0),
                )
            ),
            "s is broadcast along the columns: give it the shape (B, 1, 1, 1)": (
                lambda x_0, eps, s: ((1 - s) * x_0 + s * eps, eps - x_0)
            ),
        },
    ),
    Exercise(
        "11.2",
        "the clean picture that a velocity stands for",
        _x_0,
        [Trial(f"alpha_bar = {bar}", _at_bar(bar)) for bar in (0.64, 0.0, 1.0)],
        {
            "this divides by a, as for eps, and a is 0 at t = T; u contains x_0 too: take a + b": (
                _x_0_like(lambda u, x_t, a, b: (x_t - b * u) / a)
            ),
            "x_t - b u is a x_0 + b x_0: divide it by a + b": (
                _x_0_like(lambda u, x_t, a, b: x_t - b * u)
            ),
            "x_t is not z: divide it by a + b before you walk back along u, (11.4)": (
                _x_0_like(lambda u, x_t, a, b: x_t - b / (a + b) * u)
            ),
            "the sign of u is wrong: it points at the noise, so the way to the picture is -u": (
                _x_0_like(lambda u, x_t, a, b: (x_t + b * u) / (a + b))
            ),
            "this uses alpha_bar where its square root belongs": (
                _x_0_like(lambda u, x_t, a, b: (x_t - b**2 * u) / (a**2 + b**2))
            ),
        },
    ),
    Exercise(
        "11.3",
        "Heun's method from s = 1 to s = 0",
        _heun,
        [Trial("one step", _solved(1)), Trial("three steps", _solved(3))],
        {
            "this is Euler's method: the slope at the end of the step is not used": (
                _solver(lambda v, z, s, r: v(z, s))
            ),
            "the slope at the end alone is used: take the mean of both, (11.6)": (
                _solver(lambda v, z, s, r: v(z + (r - s) * v(z, s), r))
            ),
            "both slopes are added but not halved": (
                _solver(lambda v, z, s, r: 2 * _mean(v, z, s, r))
            ),
            "the second slope is taken at the old point; go to the end of the step first": (
                _solver(lambda v, z, s, r: (v(z, s) + v(z, r)) / 2)
            ),
            "this is the midpoint method: one slope, half a step ahead": (
                _solver(lambda v, z, s, r: v(z + (r - s) / 2 * v(z, s), (s + r) / 2))
            ),
            "the walk leads away from the pictures: r - s is negative, keep its sign": (
                _solver(_mean, sign=-1)
            ),
            "the last step uses the velocity at s = 0, where no network is trained: take it "
            "with Euler": _heun_to_the_end,
        },
    ),
    Exercise(
        "11.4",
        "the loss that makes a student consistent",
        _consistency,
        [
            Trial("t = 8, s = 5", _loss_and_slope(8, 5)),
            Trial("t = 2, s = 0", _loss_and_slope(2, 0)),
        ],
        {
            "the target is the teacher's prediction at t: the student stays as blurred": _towards(
                lambda student, teacher, x_t, t, s, bar: teacher(x_t, t)
            ),
            "the target is the teacher's prediction at s; take the student's": (
                _towards(
                    lambda student, teacher, x_t, t, s, bar: teacher(
                        _from(teacher, x_t, t, s, bar), s
                    )
                )
            ),
            "gradients flow through the target too: .detach() it": _towards(
                lambda student, teacher, x_t, t, s, bar: student(
                    _from(teacher, x_t, t, s, bar), s
                )
            ),
            "the step down is the student's own; it has to be the teacher's": _towards(
                lambda student, teacher, x_t, t, s, bar: student(
                    _from(student, x_t, t, s, bar), s
                ).detach()
            ),
            "x_t is passed on with step s, without the step from t to s, (11.9)": _towards(
                lambda student, teacher, x_t, t, s, bar: student(x_t, s).detach()
            ),
        },
    ),
]  # fmt: skip
