"""Exercises of notebook 08: guidance and editing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ddpm_helpers.diffusion.editing import slerp
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, Problem, noise, on_gpu

# ---- 8.1: label dropout ------------------------------------------------------------------


def _hidden(answer: Answer, y: Tensor, share: float, batches: int = 1) -> Any:
    """Properties of an answer's output for labels 0..9 that do not depend on the draws."""
    outs = [answer(y, share) for _ in range(batches)]
    wrong = (out for out in outs if not isinstance(out, Tensor) or out.shape != y.shape)
    for out in wrong:
        return out if out is None else Problem(f"expected labels of the shape (B,), got {out!r}")
    all_y, out = y.repeat(batches), torch.cat(outs)
    hidden = (out != all_y).view(batches, len(y))
    numbers = hidden.double()
    first, second = numbers[:, : len(y) // 2], numbers[:, len(y) // 2 :]
    return {
        "the labels' dtype": str(out.dtype),
        "the hidden share, rounded to a tenth": round(numbers.mean().item(), 1),
        "the value of hidden labels": out[hidden.flatten()].unique().tolist(),
        "the share in the first half of a batch": round(first.mean().item(), 1),
        "the share in the second half of a batch": round(second.mean().item(), 1),
        "only part of a batch is hidden": bool((hidden.any(1) & ~hidden.all(1)).any()),
        "each batch has new draws": batches == 1 or bool((hidden != hidden[0]).any()),
    }


def _many(n: int, share: float, batches: int) -> Case:
    of = f"{batches} batches of " if batches > 1 else ""
    text = f"{of}{n:,} labels, share {share:g}"
    y = torch.arange(n) * 7 % 10
    return Case(text, (y, share), partial(_hidden, batches=batches))


def _dropout(y: Tensor, share: float, null: int = -1) -> Tensor:
    return torch.where(torch.rand(y.shape, device=y.device) < share, null, y)


# ---- 8.2: the guided prediction ----------------------------------------------------------


def _predictions(w: float) -> Case:
    return Case(f"w = {w:g}", (*noise(2, 2, 3, 4, 5, seed=1), w))


def _guided(with_y: Tensor, without: Tensor, w: float) -> Tensor:
    return without + w * (with_y - without)  # (8.4)


# ---- 8.3: on the arc ---------------------------------------------------------------------


def _between(m: float) -> Case:
    return Case(f"m = {m:g}", (*noise(2, 3, 4, 5, seed=2).double(), m))


def _slerp(a: Tensor, b: Tensor, m: float) -> Tensor:
    return slerp(a, b, torch.tensor([m]))[0]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return cosine_similarity(a.flatten(), b.flatten(), dim=0)


def _arc(
    a: Tensor, b: Tensor, m: float, cosine: Callable[[Tensor, Tensor], Tensor] = _cosine,
    total: Callable[[Tensor], Tensor] = torch.sin,
    share: Callable[[Tensor], Tensor] = torch.sin, angle: Callable[[Tensor], Tensor] = torch.acos,
) -> Tensor:  # fmt: skip
    """The point; change the arguments to make mistakes."""
    phi = angle(cosine(a, b))
    return (share((1 - m) * phi) * a + share(m * phi) * b) / total(phi)


# ---- 8.4: the known part, pasted at its noise level --------------------------------------


def _pasted(bar_s: float) -> Case:
    sampled, x_0, z = noise(3, 2, 3, 4, 5, seed=3)
    mask = noise(4, 5, seed=8) > 0.2
    return Case(f"alpha_bar = {bar_s:g}", (sampled, x_0, mask, bar_s, z))


def _paste(sampled: Tensor, x_0: Tensor, mask: Tensor, bar_s: float, z: Tensor) -> Tensor:
    known = bar_s**0.5 * x_0 + (1 - bar_s) ** 0.5 * z
    return torch.where(mask, sampled, known)  # (8.6)


def _known(formula: Callable[[Tensor, Tensor, float], Tensor]) -> Answer:
    """Pastes a different mixture of x_0 and z."""
    return lambda x, x_0, mask, bar, z: torch.where(mask, x, formula(x_0, z, bar))


EXERCISES = [
    Exercise(
        "8.1",
        "hide a share of the labels",
        _dropout,
        [
            _many(20_000, 0.1, 1), _many(500, 0.3, 40), _many(4, 0.1, 800), _many(20, 0.0, 3),
            _many(20, 1.0, 3),
            *on_gpu("labels on the GPU", (torch.arange(20) % 10, 1.0)),
        ],
        {
            "one number decides for the whole batch: draw a number for each image":
                lambda y, share: torch.full_like(y, -1) if torch.rand(()) < share else y.clone(),
            "hidden labels become class 0, which the network takes for an airplane: "
            '"no label" is -1 here':
                partial(_dropout, null=0),
            'hidden labels become 10; "no label" is -1 here': partial(_dropout, null=10),
            "this share is kept and the rest is hidden: reverse the comparison":
                lambda y, share: torch.where(
                    torch.rand(y.shape, device=y.device) < share, y, -1),
            "no label is hidden": lambda y, share: y.clone(),
            "all labels are hidden": lambda y, share: torch.full_like(y, -1),
            "the numbers are normal, not uniform: use `torch.rand`, not `torch.randn`":
                lambda y, share: torch.where(
                    torch.randn(y.shape, device=y.device) < share, -1, y),
            "the first labels of a batch are hidden: draw a number for each image":
                lambda y, share: torch.where(
                    torch.arange(len(y), device=y.device) < share * len(y), -1, y),
        },
    ),
    Exercise(
        "8.2",
        "the guided prediction",
        _guided,
        [_predictions(w) for w in (0.0, 1.0, 2.5, 7.0)],
        {
            "w = 0 must give the prediction without a class and w = 1 the prediction with it: "
            "the two are swapped, equation (8.4)": lambda a, b, w: _guided(b, a, w),
            "the weight is 1 + w, as in Ho and Salimans, whose w is ours minus 1: start from the "
            "prediction without a class, equation (8.4)": lambda a, b, w: a + w * (a - b),
            "this is only the difference: add it to the prediction without a class, "
            "equation (8.4)": lambda a, b, w: w * (a - b),
            "the difference has the wrong sign: subtract the prediction without a class, (8.4)":
                lambda a, b, w: b + w * (b - a),
            "the predictions are added with weights 1 and w; (8.4) adds w times the difference":
                lambda a, b, w: b + w * a,
            "w multiplies the whole sum: multiply only the difference, equation (8.4)":
                lambda a, b, w: w * a,
            "w is clipped at 1: guidance uses larger values too":
                lambda a, b, w: _guided(a, b, min(w, 1.0)),
        },
    ),
    Exercise(
        "8.3",
        "a point on the arc between two noises",
        _slerp,
        [
            *(_between(m) for m in (0.0, 0.25, 0.6, 1.0)),
            Case("two short vectors", (*(0.1 * noise(2, 3, 4, 5, seed=4).double()), 0.3)),
        ],
        {
            "this is a straight line, whose middle is too short: use the arc, "
            "equation (8.5)": lambda a, b, m: a.lerp(b, m),
            "m = 0 must give a and m = 1 b: the two shares are swapped":
                lambda a, b, m: _slerp(b, a, m),
            "the cosine lacks the norms: divide a . b by |a| |b|, equation (8.5)":
                partial(_arc, cosine=lambda a, b: (a * b).sum()),
            "the angle is computed for each row: use one vector of all values of a noise":
                partial(_arc, cosine=lambda a, b: cosine_similarity(a, b, dim=-1)[..., None]),
            "the angle is computed for each pixel: use one vector of all values of a noise":
                partial(_arc, cosine=lambda a, b: cosine_similarity(a, b, dim=0)),
            "the angle is computed for each channel: use one vector of all values of a noise":
                partial(_arc, cosine=lambda a, b:
                    cosine_similarity(a.flatten(1), b.flatten(1), dim=1)[:, None, None]),
            "this is a straight line scaled to the length of a: its points are not evenly "
            "spaced on the arc; use the sines of (8.5)":
                lambda a, b, m: a.lerp(b, m) / a.lerp(b, m).norm() * a.norm(),
            "the sum is not divided by sin(phi), equation (8.5)":
                partial(_arc, total=torch.ones_like),
            "the sum is divided by phi; (8.5) divides by sin(phi)":
                partial(_arc, total=lambda phi: phi),
            "the shares are angles; (8.5) has their sines": partial(_arc, share=lambda phi: phi),
            "the shares are cosines; (8.5) has sines": partial(_arc, share=torch.cos),
            "the arc cosine is missing: (8.5) needs the angle, not its cosine":
                partial(_arc, angle=lambda cosine: cosine),
            "this is the arc sine; the angle is the arc cosine of (8.5)":
                partial(_arc, angle=torch.asin),
            "the weights are the roots of 1 - m and m, as if these were variances; see (8.5)":
                lambda a, b, m: (1 - m) ** 0.5 * a + m**0.5 * b,
        },
    ),
    Exercise(
        "8.4",
        "paste the known part at the noise level of timestep s",
        _paste,
        [_pasted(bar) for bar in (0.3, 0.75, 1.0)],
        {
            "the mask is inverted: it is True where the network fills in, equation (8.6)":
                lambda x, x_0, mask, bar, z: _paste(x, x_0, ~mask, bar, z),
            "the known part is pasted clean: noise it to timestep s first, equation (8.6)":
                _known(lambda x_0, z, bar: x_0),
            "this uses alpha_bar instead of its square root, equation (8.6)":
                _known(lambda x_0, z, bar: bar * x_0 + (1 - bar) * z),
            "the weight of the noise lacks its root: it is sqrt(1 - alpha_bar), equation (8.6)":
                _known(lambda x_0, z, bar: bar**0.5 * x_0 + (1 - bar) * z),
            "the weight of the image lacks its root: it is sqrt(alpha_bar), equation (8.6)":
                _known(lambda x_0, z, bar: bar * x_0 + (1 - bar) ** 0.5 * z),
            "the weight of the noise is 1 - sqrt(alpha_bar); (8.6) has sqrt(1 - alpha_bar)":
                _known(lambda x_0, z, bar: bar**0.5 * x_0 + (1 - bar**0.5) * z),
            "the image has the weight 1; its weight in (8.6) is sqrt(alpha_bar)":
                _known(lambda x_0, z, bar: x_0 + (1 - bar) ** 0.5 * z),
            "the noise has the weight 1; its weight in (8.6) is sqrt(1 - alpha_bar)":
                _known(lambda x_0, z, bar: bar**0.5 * x_0 + z),
            "the two weights are swapped: sqrt(alpha_bar) multiplies the image, equation (8.6)":
                _known(lambda x_0, z, bar: (1 - bar) ** 0.5 * x_0 + bar**0.5 * z),
            "the known part is the noise alone: mix it with the image, equation (8.6)":
                _known(lambda x_0, z, bar: z),
            "fresh noise is drawn: use the z that is given":
                _known(lambda x_0, z, bar: bar**0.5 * x_0 + (1 - bar) ** 0.5 * torch.randn_like(z)),
            "the part that is filled in gets noise too: it is already noisy":
                lambda x, x_0, mask, bar, z: _paste(x + (1 - bar) ** 0.5 * z, x_0, mask, bar, z),
            "the known part is added to the sampled part: choose one of them for each pixel":
                lambda x, x_0, mask, bar, z: x + ~mask * _paste(x, x_0, mask, bar, z),
            "nothing is pasted": lambda x, x_0, mask, bar, z: x,
            "everything is pasted: the mask has no effect":
                lambda x, x_0, mask, bar, z: _paste(x, x_0, torch.zeros_like(mask), bar, z),
        },
    ),
]  # fmt: skip
