"""Exercises of notebook 05: the parts of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, Net, gradient, noise
from ddpm_helpers.training import ema_decay_at

# ---- 5.1: the loss ---------------------------------------------------------------------------


def _loss_and_gradient(
    answer: Answer, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor
) -> dict[str, Any]:
    model = Net()
    loss = answer(model, x_0, t, eps, alpha_bar)
    return {"the loss": loss, "its gradient": gradient(loss, model.weight)}


def _loss_at(*timesteps: int) -> Case:
    x_0, eps = noise(2, len(timesteps), 3, 5, 4, seed=5)
    text = f"t = {', '.join(map(str, timesteps))}"
    inputs = (0.5 * x_0, torch.tensor(timesteps), eps, DiffusionUtils(500).alpha_bar)
    return Case(text, inputs, _loss_and_gradient)


def _mix(x_0: Tensor, eps: Tensor, bar: Tensor) -> Tensor:
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps


def _v(x_0: Tensor, eps: Tensor, bar: Tensor) -> Tensor:
    return bar.sqrt() * eps - (1 - bar).sqrt() * x_0


def _first(x_0: Tensor, eps: Tensor, bar: Tensor) -> Tensor:
    return x_0


def _last(x_0: Tensor, eps: Tensor, bar: Tensor) -> Tensor:
    return eps


Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def _eps_loss(
    model: Answer, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor, *,
    shown: Formula = _mix, target: Formula = _last, time: Callable[[Tensor], Tensor] = lambda t: t,
    reduce: Callable[[Tensor], Tensor] = lambda difference: difference.square().mean(),
) -> Tensor:  # fmt: skip
    """The loss; change the arguments to make mistakes."""
    bar = alpha_bar[t].view(-1, 1, 1, 1).float()  # (B, 1, 1, 1)
    guess = model(shown(x_0, eps, bar).float(), time(t))
    return reduce(guess - target(x_0, eps, bar))


# ---- 5.2: the learning rate ------------------------------------------------------------------


def _cosine_rate(
    k: int, K: int, lr: float, W: int, *, turns: float = 0.5, rise: Callable = lambda k, W: k / W,
    done: Callable[[int, int, int], float] = lambda k, K, W: (k - W) / (K - W), half: float = 0.5,
    fall: Callable[[float], float] | None = None,
) -> float:  # fmt: skip
    """Warm-up, then a cosine; change the arguments to make mistakes."""
    if k <= W:
        return lr * rise(k, W)
    if fall:
        return lr * fall(done(k, K, W))
    return half * lr * (1 + math.cos(2 * math.pi * turns * done(k, K, W)))


def _rate(k: int, K: int, lr: float, W: int) -> Case:
    return Case(f"k = {k}, K = {K}, lr = {lr:g}, W = {W}", (k, K, lr, W))


# ---- 5.3: clipping ---------------------------------------------------------------------------


def _gradients(size: float, longest: float) -> tuple[list[Tensor], float]:
    shapes = ((3, 4), (5,), (2, 3, 2))
    return [size * (k + 1) * noise(*s, seed=k) for k, s in enumerate(shapes)], longest


def _length(gradients: Sequence[Tensor]) -> float:
    return torch.cat([g.flatten() for g in gradients]).norm().item()


def _clip(gradients: Sequence[Tensor], longest: float) -> list[Tensor]:
    return [g * min(1, longest / _length(gradients)) for g in gradients]


def _by_length(length: Callable[[Tensor], float]) -> Answer:
    """Clips by a different norm of all values."""

    def answer(gradients: Sequence[Tensor], longest: float) -> list[Tensor]:
        values = torch.cat([g.flatten() for g in gradients])
        return [g * min(1, longest / length(values)) for g in gradients]

    return answer


# ---- 5.4: averaged weights -------------------------------------------------------------------


def _averaged(k: int, decay_max: float) -> Case:
    return Case(f"k = {k:,}, decay_max = {decay_max:g}", (*noise(2, 3, 4, seed=5), k, decay_max))


def _ema_step(average: Tensor, weights: Tensor, k: int, decay_max: float) -> Tensor:
    return average.lerp(weights, 1 - ema_decay_at(k, decay_max))


def _with_decay(decay: Callable[[int, float], float]) -> Answer:
    return lambda a, w, k, decay_max: a.lerp(w, 1 - decay(k, decay_max))


EXERCISES = [
    Exercise(
        "5.1",
        "the training loss",
        _eps_loss,
        [_loss_at(100), _loss_at(1, 250, 320, 500), _loss_at(400, 60)],
        {
            "the network's input is the clean image here; it must be x_t, equation (5.1)":
                partial(_eps_loss, shown=_first),
            "the network's input is the noise; it must be x_t, equation (5.1)":
                partial(_eps_loss, shown=_last),
            "this uses alpha_bar instead of its square root, equation (5.1)":
                partial(_eps_loss, shown=lambda x_0, eps, bar: bar * x_0 + (1 - bar) * eps),
            "the two weights are swapped: sqrt(alpha_bar) multiplies the image, equation (5.1)":
                partial(_eps_loss, shown=lambda x_0, eps, bar: _mix(eps, x_0, bar)),
            "the weight of the noise lacks its root: it is sqrt(1 - alpha_bar), equation (5.1)":
                partial(_eps_loss, shown=lambda x_0, eps, bar: bar.sqrt() * x_0 + (1 - bar) * eps),
            "the weight of the image lacks its root: it is sqrt(alpha_bar), equation (5.1)":
                partial(_eps_loss, shown=lambda x_0, eps, bar: bar * x_0 + (1 - bar).sqrt() * eps),
            "the weight of the noise is 1 - sqrt(alpha_bar); (5.1) has sqrt(1 - alpha_bar)":
                partial(_eps_loss, shown=lambda x_0, eps, bar:
                    bar.sqrt() * x_0 + (1 - bar.sqrt()) * eps),
            "the weights are missing: this adds noise and image unweighted; see (5.1)":
                partial(_eps_loss, shown=lambda x_0, eps, bar: x_0 + eps),
            "the image has the weight 1; its weight in (5.1) is sqrt(alpha_bar)":
                partial(_eps_loss, shown=lambda x_0, eps, bar: x_0 + (1 - bar).sqrt() * eps),
            "the noise has the weight 1; its weight in (5.1) is sqrt(1 - alpha_bar)":
                partial(_eps_loss, shown=lambda x_0, eps, bar: bar.sqrt() * x_0 + eps),
            "the target here is the image; in (5.2) it is the noise eps":
                partial(_eps_loss, target=_first),
            "the target here is v; in (5.2) it is the noise eps": partial(_eps_loss, target=_v),
            "the target here is x_t; in (5.2) it is the noise eps": partial(_eps_loss, target=_mix),
            "this is the sum over all values; (5.2) takes their mean, so that the loss does not "
            "grow with batch and image":
                partial(_eps_loss, reduce=lambda d: d.square().sum()),
            "this sums over the values of an image; (5.2) takes the mean over all values":
                partial(_eps_loss, reduce=lambda d: d.square().flatten(1).sum(1).mean()),
            "this is the mean of absolute differences; (5.2) squares them":
                partial(_eps_loss, reduce=lambda d: d.abs().mean()),
            "differences of both signs cancel in a mean: square them first":
                partial(_eps_loss, reduce=Tensor.mean),
            "this is the square of the mean difference; take the mean of the squares":
                partial(_eps_loss, reduce=lambda d: d.mean().square()),
            "this is the root of the loss; (5.2) has no root":
                partial(_eps_loss, reduce=lambda d: d.square().mean().sqrt()),
            "the loss has a factor of one half; (5.2) has none":
                partial(_eps_loss, reduce=lambda d: d.square().mean() / 2),
            "all images get the timestep of the first one":
                lambda model, x_0, t, *rest: _eps_loss(model, x_0, t[:1].expand(len(t)), *rest),
            "all images are noised to the timestep of the first one: use alpha_bar[t]":
                lambda model, x_0, t, eps, bar: _eps_loss(
                    model, x_0, t[:1].expand(len(t)), eps, bar, time=lambda first: t),
            "alpha_bar is used like alphas: it is already their product":
                lambda model, x_0, t, eps, bar: _eps_loss(model, x_0, t, eps, bar.cumprod(0)),
            "the network gets t - 1, but x_t was noised to t":
                partial(_eps_loss, time=lambda t: t - 1),
            "fresh noise is drawn: use the eps that is given, as the target and in x_t":
                lambda model, x_0, t, eps, bar: (
                    _eps_loss(model, x_0, t, torch.randn_like(eps), bar)),
            "x_t has new noise, so the target does not match: use the eps that is given":
                partial(_eps_loss, shown=lambda x_0, eps, bar:
                    _mix(x_0, torch.randn_like(eps), bar)),
        },
    ),
    Exercise(
        "5.2",
        "warm-up and cosine",
        _cosine_rate,
        [
            _rate(1, 100, 2.0, 10), _rate(7, 100, 2.0, 10), _rate(10, 100, 2.0, 10),
            _rate(11, 100, 2.0, 10), _rate(37, 100, 2.0, 10), _rate(99, 100, 3.0, 10),
            _rate(100, 100, 2.0, 10), _rate(1, 30, 3.0, 1), _rate(2, 30, 3.0, 1),
        ],
        {
            "there is no warm-up here: the rate rises linearly over the first W updates, (5.4)":
                lambda k, K, lr, W: lr / 2 * (1 + math.cos(math.pi * (k - W) / (K - W))),
            "there is no warm-up here, and the cosine counts from update 0: see (5.4)":
                lambda k, K, lr, W: lr / 2 * (1 + math.cos(math.pi * k / K)),
            "after the warm-up the rate stays at its peak: it falls by a cosine, (5.4)":
                partial(_cosine_rate, fall=lambda done: 1.0),
            "the rate falls along a straight line; (5.4) has a cosine":
                partial(_cosine_rate, fall=lambda done: 1 - done),
            "this is a quarter of a cosine, cos(pi / 2 * ...); (5.4) has (1 + cos(pi * ...)) / 2":
                partial(_cosine_rate, fall=lambda done: math.cos(math.pi / 2 * done)),
            "the 1 + is missing, so the rate falls below 0: (5.4) has 1 + cos":
                partial(_cosine_rate, fall=lambda done: math.cos(math.pi * done) / 2),
            "the 1 + and the division by 2 are missing: (5.4) has (1 + cos) / 2":
                partial(_cosine_rate, fall=lambda done: math.cos(math.pi * done)),
            "the rate rises after the warm-up: (5.4) has 1 + cos, not 1 - cos":
                partial(_cosine_rate, fall=lambda done: (1 - math.cos(math.pi * done)) / 2),
            "this is a sine; (5.4) has a cosine":
                partial(_cosine_rate, fall=lambda done: (1 + math.sin(math.pi * done)) / 2),
            "the cosine counts from update 0, so the rate jumps where the warm-up ends: "
            "(5.4) has (k - W) / (K - W)":
                partial(_cosine_rate, done=lambda k, K, W: k / K),
            "the cosine is over at update K + W: (5.4) divides by K - W":
                partial(_cosine_rate, done=lambda k, K, W: (k - W) / K),
            "the cosine counts from update 0: (5.4) has k - W in the numerator":
                partial(_cosine_rate, done=lambda k, K, W: k / (K - W)),
            "the cosine runs a full period, so the rate rises again: (5.4) has pi, not 2 pi":
                partial(_cosine_rate, turns=1.0),
            "pi is missing in the cosine, equation (5.4)":
                partial(_cosine_rate, turns=0.5 / math.pi),
            "1 + cos goes from 2 to 0: halve it, equation (5.4)":
                partial(_cosine_rate, half=1.0),
            "k counts from 1, so the first update has the rate lr / W; here it has 0, and "
            "is lost":
                partial(_cosine_rate, rise=lambda k, W: (k - 1) / W),
            "the warm-up divides by W + 1, so it does not reach the peak at k = W: (5.4) has k / W":
                partial(_cosine_rate, rise=lambda k, W: k / (W + 1)),
            "the warm-up rises to the peak at update K, not at W: (5.4) has k / W":
                lambda k, K, lr, W: lr * k / K if k <= W else _cosine_rate(k, K, lr, W),
            "the warm-up uses the peak rate: it is lr * k / W":
                partial(_cosine_rate, rise=lambda k, W: 1.0),
            "1 + cos needs brackets: (5.4) multiplies both terms by lr / 2":
                lambda k, K, lr, W: (
                    lr * k / W if k <= W else lr / 2 + math.cos(math.pi * (k - W) / (K - W))),
            "the rate is not multiplied by lr":
                lambda k, K, lr, W: _cosine_rate(k, K, 1.0, W),
            "warm-up and cosine are multiplied, and the cosine counts from update 0: (5.4) has two "
            "cases":
                lambda k, K, lr, W: lr * min(k / W, 1) * (1 + math.cos(math.pi * k / K)) / 2,
            "warm-up and cosine are multiplied: (5.4) has two cases":
                lambda k, K, lr, W: (
                    lr * min(k / W, 1) * (1 + math.cos(math.pi * (k - W) / (K - W))) / 2),
            "the warm-up uses k + 1: k already counts from 1":
                lambda k, K, lr, W: (
                    lr * (k + 1) / W if k < W else _cosine_rate(k, K, lr, W)),
            "the two cases are swapped: the warm-up is for k <= W":
                lambda k, K, lr, W: lr * k / W if k > W
                else lr / 2 * (1 + math.cos(math.pi * (k - W) / (K - W))),
        },
    ),
    Exercise(
        "5.3",
        "gradient clipping",
        _clip,
        [
            Case("a gradient that is too long", _gradients(10.0, 2.5)),
            Case("a gradient that is a little too long", _gradients(1.0, 0.7)),
            Case("a gradient shorter than 1 that is too long", _gradients(0.065, 0.5)),
            Case("a gradient that is short enough", _gradients(0.1, 2.5)),
            Case("a gradient that is much shorter", _gradients(0.01, 0.7)),
        ],
        {
            "each tensor is clipped separately, which changes the direction: use one length":
                lambda gs, longest: [_clip([g], longest)[0] for g in gs],
            "single values are clipped, which changes the direction: scale all by one number":
                lambda gs, longest: [g.clamp(-longest, longest) for g in gs],
            "short gradients are made longer: the factor is at most 1":
                lambda gs, longest: [g * longest / _length(gs) for g in gs],
            "short gradients are made longer, and long ones are kept: use the smaller of the two "
            "factors":
                lambda gs, longest: [g * max(1, longest / _length(gs)) for g in gs],
            "the length is the root of the sum of squares; the root is missing":
                lambda gs, longest: [g * min(1, longest / _length(gs) ** 2) for g in gs],
            "long gradients get the length 1, not `longest`":
                lambda gs, longest: [g / _length(gs) if _length(gs) > longest else g for g in gs],
            "all gradients get the length 1: scale by longest / length, and only those that are "
            "too long":
                lambda gs, longest: [g / _length(gs) for g in gs],
            "the factor is inverted: it is longest / length":
                lambda gs, longest: [g * min(1, _length(gs) / longest) for g in gs],
            "the length is a root mean square; use the sum of the squares, not the mean":
                _by_length(lambda values: values.square().mean().sqrt().item()),
            "the length is the sum of absolute values; take the root of the sum of squares":
                _by_length(lambda values: values.abs().sum().item()),
            "the length is the largest value; take the root of the sum of squares":
                _by_length(lambda values: values.abs().max().item()),
            "the lengths of the tensors are added; add their squares, and take the root":
                lambda gs, longest: [
                    g * min(1, longest / sum(_length([h]) for h in gs)) for g in gs],
            "only the first tensor's length is used: add the squares of all tensors":
                lambda gs, longest: [g * min(1, longest / _length(gs[:1])) for g in gs],
            "only the last tensor's length is used: add the squares of all tensors":
                lambda gs, longest: [g * min(1, longest / _length(gs[-1:])) for g in gs],
            "the gradient has not changed": lambda gs, longest: list(gs),
            "gradients that are too long are set to 0: scale them instead":
                lambda gs, longest: [g * (_length(gs) <= longest) for g in gs],
        },
    ),
    Exercise(
        "5.4",
        "one update of the averaged weights",
        _ema_step,
        [_averaged(1, 0.999), _averaged(90, 0.999), _averaged(100_000, 0.999), _averaged(40, 0.7)],
        {
            "the shares are swapped: `decay` is the share of the old average that is kept, "
            "equation (5.6)":
                lambda a, w, k, decay_max: _ema_step(w, a, k, decay_max),
            "the decay is decay_max at every update, so the random first weights stay in the "
            "average: take the smaller of decay_max and (1 + k) / (10 + k), equation (5.6)":
                _with_decay(lambda k, decay_max: decay_max),
            "the shares are swapped, and the decay has no warm-up: see (5.6)":
                _with_decay(lambda k, decay_max: 1 - decay_max),
            "the larger of the two decays is taken; (5.6) takes the smaller":
                _with_decay(lambda k, decay_max: max(decay_max, (1 + k) / (10 + k))),
            "the limit decay_max is missing: the decay is the smaller of two numbers, (5.6)":
                _with_decay(lambda k, decay_max: (1 + k) / (10 + k)),
            "the decay of update k is (1 + k) / (10 + k), equation (5.6); here it is k / (10 + k)":
                _with_decay(lambda k, decay_max: min(decay_max, k / (10 + k))),
            "the new weights are added in full: their share is 1 - decay, equation (5.6)":
                lambda a, w, k, decay_max: ema_decay_at(k, decay_max) * a + w,
            "the average is kept in full: its share is decay, equation (5.6)":
                lambda a, w, k, decay_max: a + (1 - ema_decay_at(k, decay_max)) * w,
        },
    ),
]  # fmt: skip
