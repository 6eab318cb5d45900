"""Exercises of notebook 11: the straight path, the ideal velocity, its x_0, consistency."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, gradient, noise

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


def _on_images(*times: float) -> Case:
    x_0, eps = noise(2, len(times), 3, 5, 4)
    return Case(f"s = {', '.join(map(str, times))}", (x_0, eps, torch.tensor(times)))


# ---- 11.2 --------------------------------------------------------------------------------


def _ideal(
    z: Tensor, points: Tensor, s: float, *,
    scale: Callable[[float], float] = lambda s: 1 - s,
    divisor: Callable[[float], float] = lambda s: 2 * s**2,
    shares: Callable[[Tensor], Tensor] = lambda logits: torch.softmax(logits, 1),
    mean: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
    velocity: Callable[[Tensor, Tensor, float], Tensor] = lambda z, x_0, s: (z - x_0) / s,
    power: int = 2,
) -> Tensor:  # fmt: skip
    """The velocity by the mean of the points; with other parts its mistakes."""
    distance = (z[:, None] - scale(s) * points).norm(dim=2) ** power  # (B, N)
    return velocity(z, mean(shares(-distance / divisor(s)), points), s)


def _divided(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(1, keepdim=True)


def _likeliest(weights: Tensor, points: Tensor) -> Tensor:
    return points[weights.argmax(1)]


CLOUD = noise(5, 3, seed=4, dtype=torch.float64)  # five points
ASKED = noise(4, 3, seed=5, dtype=torch.float64)


# ---- 11.3 --------------------------------------------------------------------------------


def _by(formula: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Answer:
    """An answer by a formula of u, x_t, a = sqrt(alpha_bar) and b = sqrt(1 - alpha_bar)."""
    return lambda u, x_t, bar: formula(u, x_t, bar.sqrt(), (1 - bar).sqrt())


def _at_bar(bar: float) -> Case:
    return Case(f"alpha_bar = {bar:g}", (*noise(2, 2, 3, 4, 5), torch.tensor(bar)))


# ---- 11.4 --------------------------------------------------------------------------------


def _eps_in(x_0: Tensor, x_t: Tensor, bar_t: Tensor) -> Tensor:
    return (x_t - bar_t.sqrt() * x_0) / (1 - bar_t).sqrt()


def _step(x_0: Tensor, x_t: Tensor, bar_t: Tensor, bar_s: Tensor) -> Tensor:
    return bar_s.sqrt() * x_0 + (1 - bar_s).sqrt() * _eps_in(x_0, x_t, bar_t)


Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _towards(
    target: Callable[[Predict, Predict, Tensor, int, int, Answer], Tensor],
    step: Step = _step, distance: Callable[[Tensor], Tensor] = lambda d: d.square().mean(),
) -> Answer:  # fmt: skip
    """The student's squared distance from a target; `x_s(model)` is x_t after a model's step."""

    def answer(
        student: Predict, teacher: Predict, x_t: Tensor, t: int, s: int, bar: Tensor
    ) -> Tensor:
        def x_s(model: Predict) -> Tensor:
            return step(model(x_t, t), x_t, bar[t], bar[s])

        return distance(student(x_t, t) - target(student, teacher, x_t, t, s, x_s))

    return answer


def _detached_at_t(
    student: Predict, teacher: Predict, x_t: Tensor, t: int, s: int, bar: Tensor
) -> Tensor:
    x_s = _step(teacher(x_t, t), x_t, bar[t], bar[s])
    return (student(x_t, t).detach() - student(x_s, s)).square().mean()


def _consistent(
    student: Predict, teacher: Predict, x_t: Tensor, t: int, s: int, x_s: Answer
) -> Tensor:
    return student(x_s(teacher), s).detach()


def _loss_and_gradient(answer: Answer, x_t: Tensor, t: int, s: int, bar: Tensor) -> dict[str, Any]:
    """The loss, and its derivative by the student's only weight."""
    weight = torch.tensor(0.7, requires_grad=True)

    def student(x: Tensor, t: int) -> Tensor:
        return x if t == 0 else torch.sin(weight * x) * (1 - t / 20) + 0.05 * t

    def teacher(x: Tensor, t: int) -> Tensor:
        return 0.2 * x + 0.03 * t

    loss = answer(student, teacher, x_t, t, s, bar)
    return {"the loss": loss, "its gradient": gradient(loss, weight)}


def _from(t: int, s: int) -> Case:
    inputs = (noise(2, 3, 4, 5), t, s, torch.linspace(1, 0.1, 11))
    return Case(f"t = {t}, s = {s}", inputs, _loss_and_gradient)


EXERCISES = [
    Exercise(
        "11.1",
        "a point of the straight path, and its velocity",
        _pair,
        [_on_images(0.1, 0.35, 0.6, 0.8), _on_images(0.7), _on_images(0.0, 1.0)],
        {
            "the ends are swapped: at s = 0 the path is at the image, (11.1)":
                partial(_pair, of_x_0=lambda s: s, of_eps=lambda s: 1 - s),
            "the ends are swapped, and so is the velocity: at s = 0 the path is at the image":
                lambda x_0, eps, s: _pair(eps, x_0, s),
            "these are the weights of notebook 03, whose squares add up to 1; a straight line "
            "has 1 - s and s":
                partial(_pair, of_x_0=lambda s: (1 - s).sqrt(), of_eps=Tensor.sqrt),
            "the image does not fade: its weight is 1 - s": partial(_pair, of_x_0=torch.ones_like),
            "the noise has the weight 1: it is s": partial(_pair, of_eps=torch.ones_like),
            "the velocity points at the image; s grows towards the noise, so it is eps - x_0":
                lambda x_0, eps, s: (_pair(x_0, eps, s)[0], x_0 - eps),
            "the velocity does not depend on s: it is the same, eps - x_0, all along the line":
                lambda x_0, eps, s: (_pair(x_0, eps, s)[0], s.reshape(-1, 1, 1, 1) * (eps - x_0)),
            "the velocity is eps - x_0, not the point itself":
                lambda x_0, eps, s: (_pair(x_0, eps, s)[0],) * 2,
            "the velocity goes from z, not from x_0: it is eps - x_0":
                lambda x_0, eps, s: (_pair(x_0, eps, s)[0], eps - _pair(x_0, eps, s)[0]),
            "the two are swapped: the point comes first": lambda *given: _pair(*given)[::-1],
            "s is broadcast along the columns: give it the shape (B, 1, 1, 1)":
                lambda x_0, eps, s: ((1 - s) * x_0 + s * eps, eps - x_0),
            "all images get the s of the first one":
                lambda x_0, eps, s: _pair(x_0, eps, s[:1].expand(len(s))),
        },
    ),
    Exercise(
        "11.2",
        "the velocity that a perfect network predicts",
        _ideal,
        [
            Case("five points, s = 0.4", (ASKED, CLOUD, 0.4)),
            Case("five points, s = 0.8", (1.5 * ASKED, CLOUD, 0.8)),
            Case("five points, s = 1", (ASKED, CLOUD, 1.0)),
            Case("z far from all points", (4000 * ASKED, CLOUD, 0.7)),
        ],
        {
            "the points are not made smaller: z holds (1 - s) times the clean point":
                partial(_ideal, scale=lambda s: 1.0),
            "the points shrink by 1 - s itself, without a root: the path is a straight line":
                partial(_ideal, scale=lambda s: (1 - s) ** 0.5),
            "s and 1 - s are swapped in the exponent: the points shrink by 1 - s":
                partial(_ideal, scale=lambda s: s),
            "the factor 2 in the exponent is missing, equation (11.4)":
                partial(_ideal, divisor=lambda s: s**2),
            "the exponent is divided by 2 s; the noise has the weight s, so its variance is s²":
                partial(_ideal, divisor=lambda s: 2 * s),
            "the exponent is divided by s; (11.4) has 2 s²": partial(_ideal, divisor=lambda s: s),
            "nothing divides the exponent; (11.4) has 2 s²":
                partial(_ideal, divisor=lambda s: 1.0),
            "the sign of the exponent is wrong: far points get the largest weights":
                partial(_ideal, divisor=lambda s: -2 * s**2),
            "the distance is not squared, equation (11.4)": partial(_ideal, power=1),
            "far from all points every exponential is 0, and 0/0 is no weight: use softmax":
                partial(_ideal, shares=_divided),
            "the weights do not add up to 1: divide by their sum, or use softmax":
                partial(_ideal, shares=lambda logits: logits.exp()),
            "the weights of each point add up to 1 over the batch; they have to over the points":
                partial(_ideal, shares=lambda logits: torch.softmax(logits, 0)),
            "the mean is that of all points: multiply each by its weight":
                partial(_ideal, mean=lambda weights, points: points.mean(0)),
            "this moves away from the likeliest point; (11.4) has the mean of all, by weight":
                partial(_ideal, mean=_likeliest),
            "the weighted sum is divided by the number of points: the weights add up to 1":
                partial(_ideal, mean=lambda weights, points: weights @ points / len(points)),
            "the sign of the velocity is wrong: s grows towards the noise, away from the points":
                partial(_ideal, velocity=lambda z, x_0, s: (x_0 - z) / s),
            "this is the whole way from z to the mean; a velocity is that way divided by the time "
            "it takes, s":
                partial(_ideal, velocity=lambda z, x_0, s: z - x_0),
            "the way to the mean is multiplied by s; it takes the time s, so divide":
                partial(_ideal, velocity=lambda z, x_0, s: (z - x_0) * s),
            "the way to the mean is divided by 1 - s; what is left of the time is s":
                partial(_ideal, velocity=lambda z, x_0, s: (z - x_0) / (1 - s if s < 1 else s)),
            "only z is divided by s: put brackets around the difference":
                partial(_ideal, velocity=lambda z, x_0, s: z / s - x_0),
            "only the mean is divided by s: put brackets around the difference":
                partial(_ideal, velocity=lambda z, x_0, s: z - x_0 / s),
            "this is the mean of the noise; the velocity is that minus the mean of x_0":
                partial(_ideal, velocity=lambda z, x_0, s: (z - (1 - s) * x_0) / s),
            "this is the mean of the clean points, not the velocity":
                partial(_ideal, velocity=lambda z, x_0, s: x_0),
        },
    ),
    Exercise(
        "11.3",
        "the clean image that a velocity stands for",
        _by(lambda u, x_t, a, b: (x_t - b * u) / (a + b)),
        [_at_bar(bar) for bar in (0.64, 0.3, 0.0, 1.0)],
        {
            "this divides by a, as for eps, and a is 0 at t = T; u contains x_0 too: take a + b":
                _by(lambda u, x_t, a, b: (x_t - b * u) / a),
            "x_t - b u is a x_0 + b x_0: divide it by a + b":
                _by(lambda u, x_t, a, b: x_t - b * u),
            "x_t is not z: divide it by a + b before you walk back along u, (11.5)":
                _by(lambda u, x_t, a, b: x_t - b / (a + b) * u),
            "only x_t is divided by a + b: put brackets around the difference":
                _by(lambda u, x_t, a, b: x_t / (a + b) - b * u),
            "the sign of u is wrong: it points at the noise, so the way to the image is -u":
                _by(lambda u, x_t, a, b: (x_t + b * u) / (a + b)),
            "this uses alpha_bar where its square root belongs":
                _by(lambda u, x_t, a, b: (x_t - b**2 * u) / (a**2 + b**2)),
            "this is the noise, not the image: it has a u where the image has -b u":
                _by(lambda u, x_t, a, b: (x_t + a * u) / (a + b)),
            "u is treated as if it were v": _by(lambda u, x_t, a, b: a * x_t - b * u),
            "a and b are exchanged: b = sqrt(1 - alpha_bar) belongs to u":
                _by(lambda u, x_t, a, b: (x_t - a * u) / (a + b)),
            "u is subtracted with weight 1: it has b":
                _by(lambda u, x_t, a, b: (x_t - u) / (a + b)),
            "this multiplies by a + b; divide":
                _by(lambda u, x_t, a, b: (x_t - b * u) * (a + b)),
            "this divides by a - b, which is 0 half way: the sum of the two belongs there":
                _by(lambda u, x_t, a, b: (x_t - b * u) / (a - b)),
        },
    ),
    Exercise(
        "11.4",
        "the loss that makes a student consistent",
        _towards(_consistent),
        [_from(8, 5), _from(2, 0), _from(9, 1)],
        {
            "the target is the teacher's prediction at t: the student stays as blurred":
                _towards(lambda student, teacher, x_t, t, s, x_s: teacher(x_t, t)),
            "the target is the teacher's prediction at s; take the student's":
                _towards(lambda student, teacher, x_t, t, s, x_s: teacher(x_s(teacher), s)),
            "gradients flow through the target too: .detach() it":
                _towards(lambda student, teacher, x_t, t, s, x_s: student(x_s(teacher), s)),
            "the prediction at t is detached, not the target: the gradient must reach the student "
            "at t":
                _detached_at_t,
            "both predictions are taken at x_s: the first one belongs to x_t":
                lambda student, teacher, x_t, t, s, bar: (
                    student(_step(teacher(x_t, t), x_t, bar[t], bar[s]), t)
                    - student(_step(teacher(x_t, t), x_t, bar[t], bar[s]), s).detach()
                ).square().mean(),
            "the step down is the student's own; it has to be the teacher's":
                _towards(
                    lambda student, teacher, x_t, t, s, x_s: student(x_s(student), s).detach()
                ),
            "x_t is passed on with timestep s, without the step from t to s, (11.9)":
                _towards(lambda student, teacher, x_t, t, s, x_s: student(x_t, s).detach()),
            "the student gets x_s with the timestep t: at s it has to be told s":
                _towards(
                    lambda student, teacher, x_t, t, s, x_s: student(x_s(teacher), t).detach()
                ),
            "the target is x_s itself; take what the student says there":
                _towards(lambda student, teacher, x_t, t, s, x_s: x_s(teacher)),
            "the student gets the teacher's x_0 in place of x_s, (11.9)":
                _towards(lambda student, teacher, x_t, t, s, x_s:
                    student(teacher(x_t, t), s).detach()),
            "the roots of (11.9) are missing":
                _towards(_consistent, lambda x_0, x_t, bar_t, bar_s: (
                bar_s * x_0 + (1 - bar_s) * (x_t - bar_t * x_0) / (1 - bar_t))),
            "eps is mixed in with its weight at t: (11.9) has sqrt(1 - alpha_bar[s])":
                _towards(_consistent, lambda x_0, x_t, bar_t, bar_s: (
                    bar_s.sqrt() * x_0 + (1 - bar_t).sqrt() * _eps_in(x_0, x_t, bar_t))),
            "x_0 is mixed in with its weight at t: (11.9) has sqrt(alpha_bar[s])":
                _towards(_consistent, lambda x_0, x_t, bar_t, bar_s: (
                    bar_t.sqrt() * x_0 + (1 - bar_s).sqrt() * _eps_in(x_0, x_t, bar_t))),
            "x_t is used where eps belongs: solve for eps first, (11.9)":
                _towards(_consistent, lambda x_0, x_t, bar_t, bar_s: (
                    bar_s.sqrt() * x_0 + (1 - bar_s).sqrt() * x_t)),
            "fresh noise is drawn; (11.9) keeps the noise in x_t":
                _towards(_consistent, lambda x_0, x_t, bar_t, bar_s: (
                    bar_s.sqrt() * x_0 + (1 - bar_s).sqrt() * torch.randn_like(x_t))),
            "this is the sum of squares; take the mean":
                _towards(_consistent, distance=lambda d: d.square().sum()),
            "this is the mean of absolute differences; take the mean square":
                _towards(_consistent, distance=lambda d: d.abs().mean()),
            "differences of both signs cancel in a mean: square them first":
                _towards(_consistent, distance=Tensor.mean),
        },
        tolerance=1e-4,
    ),
]  # fmt: skip
