"""Exercises of notebook 08: guidance and editing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ddpm_helpers.diffusion.editing import slerp
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise

# ---- 8.1: label dropout ------------------------------------------------------------------


def _hidden(answer: Answer, n: int, share: float, batches: int = 1) -> dict[str, Any]:
    """What an answer does to labels 0..9, in numbers that do not depend on the draws."""
    given = [torch.arange(n) % 10 for _ in range(batches)]
    outs = [answer(y, share) for y in given]
    y, out = torch.arange(n).repeat(batches) % 10, torch.cat(outs)
    changed = (out != y).view(batches, n)
    return {
        "hidden, to a tenth": round(changed.double().mean().item(), 1),
        "in their place": out[changed.flatten()].unique().tolist(),
        "batches of which a part is hidden": bool((changed.any(1) & ~changed.all(1)).any()),
        "the given labels stay as they are": all(torch.equal(g, y[:n]) for g in given),
    }


def _dropout(y: Tensor, share: float) -> Tensor:
    return torch.where(torch.rand(len(y)) < share, -1, y)


# ---- 8.2: the guided prediction ----------------------------------------------------------


def _predictions(answer: Answer, w: float) -> Tensor:
    with_y, without = noise(2, 2, 3, 2, 2, seed=1)
    return answer(with_y, without, w)


def _guided(with_y: Tensor, without: Tensor, w: float) -> Tensor:
    return without + w * (with_y - without)  # (8.4)


# ---- 8.3: on the arc ---------------------------------------------------------------------


def _between(answer: Answer, m: float) -> Tensor:
    a, b = noise(2, 3, 4, 4, seed=2).double()
    return answer(a, b, m)


def _slerp(a: Tensor, b: Tensor, m: float) -> Tensor:
    return slerp(a, b, torch.tensor([m]))[0]


def _arc(a: Tensor, b: Tensor, m: float, cosine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    phi = cosine(a, b).acos()
    return (((1 - m) * phi).sin() * a + (m * phi).sin() * b) / phi.sin()


# ---- 8.4: what is known, pasted at its noise level ---------------------------------------


def _pasted(answer: Answer, bar_s: float) -> Tensor:
    sampled, x_0, z = noise(3, 2, 3, 4, 4, seed=3)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, 1:] = True
    return answer(sampled, x_0, mask, bar_s, z)


def _paste(sampled: Tensor, x_0: Tensor, mask: Tensor, bar_s: float, z: Tensor) -> Tensor:
    known = bar_s**0.5 * x_0 + (1 - bar_s) ** 0.5 * z
    return torch.where(mask, sampled, known)  # (8.6)


EXERCISES = [
    Exercise(
        "8.1",
        "hide a share of the labels",
        _dropout,
        [
            Trial("20,000 labels, share 0.1", lambda f: _hidden(f, 20_000, 0.1)),
            Trial("40 batches of 500 labels, share 0.3", lambda f: _hidden(f, 500, 0.3, 40)),
        ],
        {
            "one draw decides for the whole batch: draw a number for each picture":
                lambda y, share: torch.full_like(y, -1) if torch.rand(()) < share else y.clone(),
            "hidden labels become class 0, an airplane for the network: "
            '"no label" is -1 here':
                lambda y, share: torch.where(torch.rand(len(y)) < share, 0, y),
            "the share is kept and the rest hidden: reverse the comparison":
                lambda y, share: torch.where(torch.rand(len(y)) < share, y, -1),
            "the input is overwritten, so its labels stay hidden in the next epoch: "
            "return a new tensor":
                lambda y, share: y.masked_fill_(torch.rand(len(y)) < share, -1),
        },
    ),
    Exercise(
        "8.2",
        "the guided prediction",
        _guided,
        [Trial(f"w = {w:g}", partial(_predictions, w=w)) for w in (0.0, 1.0, 3.0)],
        {
            "the two predictions are swapped: w = 1 must be the one with the class, "
            "equation (8.4)": lambda a, b, w: _guided(b, a, w),
            "this is Ho and Salimans's w, which is ours minus 1: start from the prediction "
            "without a class, equation (8.4)": lambda a, b, w: a + w * (a - b),
            "the direction alone is not a prediction: add it to the one without a class, "
            "equation (8.4)": lambda a, b, w: w * (a - b),
        },
    ),
    Exercise(
        "8.3",
        "a point on the arc between two noises",
        _slerp,
        [Trial(f"m = {m:g}", partial(_between, m=m)) for m in (0.0, 0.25, 0.5)],
        {
            "this is the straight line, whose middle is too short: take the arc, "
            "equation (8.5)": lambda a, b, m: a.lerp(b, m),
            "m = 0 must give a and m = 1 b: the two shares are swapped":
                lambda a, b, m: _slerp(b, a, m),
            "the cosine lacks the norms: divide a . b by |a| |b|, equation (8.5)":
                partial(_arc, cosine=lambda a, b: (a * b).sum()),
            "the angle is taken row by row: a noise is one vector of all its values":
                partial(_arc, cosine=lambda a, b: cosine_similarity(a, b, dim=-1)[..., None]),
            "this is the line, stretched to the length of a: its points do not lie evenly on "
            "the arc; take the sines of (8.5)":
                lambda a, b, m: a.lerp(b, m) / a.lerp(b, m).norm() * a.norm(),
        },
    ),
    Exercise(
        "8.4",
        "paste the known part at the noise level of step s",
        _paste,
        [Trial(f"alpha_bar = {bar:g}", partial(_pasted, bar_s=bar)) for bar in (0.3, 1.0)],
        {
            "the mask is inverted: it is True where the network fills in, equation (8.6)":
                lambda x, x_0, mask, bar, z: _paste(x, x_0, ~mask, bar, z),
            "the known part is pasted clean: noise it to step s first, equation (8.6)":
                lambda x, x_0, mask, bar, z: torch.where(mask, x, x_0),
            "this uses alpha_bar where its square root belongs, equation (8.6)":
                lambda x, x_0, mask, bar, z: torch.where(mask, x, bar * x_0 + (1 - bar) * z),
            "the part that is filled in gets noise too: it is noisy already":
                lambda x, x_0, mask, bar, z: _paste(x + (1 - bar) ** 0.5 * z, x_0, mask, bar, z),
        },
    ),
]  # fmt: skip
