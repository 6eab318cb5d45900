"""Exercises of notebook 12: patches, positions, the cost of a block, x_0 judged by v."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, gradient, noise

# ---- 12.1 --------------------------------------------------------------------------------


def _parts(x: Tensor, p: int) -> Tensor:
    """(B, C, rows of patches, p, columns of patches, p)."""
    B, C, H, W = x.shape
    return x.reshape(B, C, H // p, p, W // p, p)


def _tokens(x: Tensor, p: int, order: tuple[int, ...] = (0, 2, 4, 1, 3, 5)) -> Tensor:
    """Patches as tokens; with other orders of the axes its mistakes."""
    B, C, H, W = x.shape
    return _parts(x, p).permute(order).reshape(B, H * W // p**2, C * p**2)


def _dealt(x: Tensor, p: int) -> Tensor:
    """Every (H/p)-th row and (W/p)-th column, in place of neighbours."""
    B, C, H, W = x.shape
    dealt = x.reshape(B, C, p, H // p, p, W // p)
    return dealt.permute(0, 3, 5, 1, 2, 4).reshape(B, H * W // p**2, C * p**2)


def _image(*shape: int, p: int) -> Case:
    B, C, H, W = shape
    return Case(f"{B} images of {C} x {H} x {W}, p = {p}", (noise(*shape), p))


# ---- 12.2 --------------------------------------------------------------------------------


def _waves(
    place: Tensor, dim: int, base: float = 10_000.0,
    frequency: Callable[[Tensor, int], Tensor] = lambda k, half: k / half,
    joined: Callable[[Tensor], Tensor] = lambda a: torch.cat([a.sin(), a.cos()], 1),
) -> Tensor:  # fmt: skip
    """Sines and cosines of a place, (n,) -> (n, dim)."""
    k = torch.arange(dim // 2, dtype=torch.float64)
    return joined(place.double()[:, None] * base ** -frequency(k, dim // 2))


def _places(rows: int, columns: int, width: int, first: int = 0, **changes: Any) -> Tensor:
    """Rows in the first half, columns in the second; with other waves its mistakes."""
    n = torch.arange(rows * columns)
    places = n // columns + first, n % columns + first
    return torch.cat([_waves(one, width // 2, **changes) for one in places], 1).float()


def _down_the_columns(rows: int, columns: int, width: int) -> Tensor:
    n = torch.arange(rows * columns)
    return torch.cat([_waves(n % rows, width // 2), _waves(n // rows, width // 2)], 1).float()


def _grid(rows: int, columns: int, width: int) -> Case:
    return Case(f"{rows} x {columns} patches, width {width}", (rows, columns, width))


# ---- 12.3 --------------------------------------------------------------------------------


def _flop(
    tokens: int, width: int, *, matrices: int = 24, attention: int = 4, modulation: int = 12
) -> int:
    """FLOP of a block for one image; with other counts its mistakes."""
    linear = matrices * tokens * width**2 + modulation * width**2
    return linear + attention * tokens**2 * width


def _sizes(tokens: int, width: int) -> Case:
    return Case(f"{tokens} tokens of width {width}", (tokens, width))


# ---- 12.4 --------------------------------------------------------------------------------


def _judged(
    weight: Callable[[Tensor, float], Tensor] = lambda bar, most: (1 / (1 - bar)).clamp(max=most),
    each: Callable[[Tensor], Tensor] = lambda wrong: wrong.square().flatten(1).mean(1),
    mean: Callable[[Tensor, Tensor], Tensor] = lambda w, errors: (w * errors).mean(),
) -> Answer:
    """The loss by its parts; with other parts its mistakes."""

    def answer(x_0_pred: Tensor, x_0: Tensor, t: Tensor, bar: Tensor, most: float) -> Tensor:
        return mean(weight(bar[t], most), each(x_0_pred - x_0))

    return answer


def _loss_and_gradient(
    answer: Answer, x_0_pred: Tensor, x_0: Tensor, t: Tensor, bar: Tensor, most: float
) -> dict[str, object]:
    x_0_pred = x_0_pred.requires_grad_(True)
    loss = answer(x_0_pred, x_0, t, bar, most)
    return {"the loss": loss, "its gradient": gradient(loss, x_0_pred)}


BAR = torch.tensor([1.0, 0.95, 0.83, 0.71, 0.52, 0.37, 0.18, 0.04])


def _at(*t: int, most: float) -> Case:
    images = noise(2, len(t), 3, 4, 5, seed=sum(t))
    text = f"t = {', '.join(map(str, t))}, at most {most:g}"
    return Case(text, (*images, torch.tensor(t), BAR, most), _loss_and_gradient)


EXERCISES = [
    Exercise(
        "12.1",
        "patches as tokens",
        _tokens,
        [_image(2, 3, 4, 10, p=2), _image(3, 2, 6, 9, p=3), _image(1, 1, 8, 4, p=4)],
        {
            "neighbours in memory are not neighbours in the image: split the height into (H/p, p) "
            "and the width into (W/p, p) first":
                lambda x, p: x.reshape(len(x), -1, x.shape[1] * p**2),
            "the patches go down the columns; number them row by row":
                partial(_tokens, order=(0, 4, 2, 1, 3, 5)),
            "the channels come last in each token; they come first, then rows, then columns":
                partial(_tokens, order=(0, 2, 4, 3, 5, 1)),
            "each patch is transposed: its rows come before its columns":
                partial(_tokens, order=(0, 2, 4, 1, 5, 3)),
            "each token holds pixels from all over the image: split the height into (H/p, p), not "
            "into (p, H/p), and the width too":
                _dealt,
            "the axes are swapped: a token is a row of the result, (B, N, C p p)":
                lambda x, p: _tokens(x, p).transpose(1, 2),
            "the patches are numbered from the last one":
                lambda x, p: _tokens(x, p).flip(1),
            "each token is the mean of its patch, repeated; it has to hold every pixel":
                lambda x, p: _tokens(x, p).mean(2, keepdim=True).expand_as(_tokens(x, p)),
        },
    ),
    Exercise(
        "12.2",
        "where each patch is, as sines and cosines",
        _places,
        [_grid(3, 5, 8), _grid(7, 2, 20), _grid(300, 2, 12), _grid(1, 300, 16)],
        {
            "the halves are swapped: the row comes first":
                lambda rows, columns, width: _places(rows, columns, width).roll(width // 2, 1),
            "the patches go down the columns; number them row by row": _down_the_columns,
            "the cosines come first; the sines do":
                partial(_places, joined=lambda a: torch.cat([a.cos(), a.sin()], 1)),
            "sines and cosines take turns; first all sines, then all cosines":
                partial(_places, joined=lambda a: torch.stack([a.sin(), a.cos()], 2).flatten(1)),
            "rows and columns are counted from 1; count from 0": partial(_places, first=1),
            "the exponent is k / (width/2); each half has width/4 frequencies":
                partial(_places, frequency=lambda k, half: k / (2 * half)),
            "the exponent is k / width; each half has width/4 frequencies":
                partial(_places, frequency=lambda k, half: k / (4 * half)),
            "the slowest wave is to be 10000^(-(K-1)/K), so divide k by K = width/4, not by K - 1":
                partial(_places, frequency=lambda k, half: k / max(half - 1, 1)),
            "the frequencies grow with k: the sign of the exponent is missing":
                partial(_places, frequency=lambda k, half: -k / half),
            "this has one number for each patch; give the row and the column a half each":
                lambda rows, columns, width: _waves(torch.arange(rows * columns), width).float(),
        },
        tolerance=3e-5,
    ),
    Exercise(
        "12.3",
        "what a block of the transformer costs",
        _flop,
        [_sizes(5, 12), _sizes(256, 32), _sizes(7, 96), _sizes(1, 20)],
        {
            "a multiply-add counts as two operations":
                lambda tokens, width: _flop(tokens, width) // 2,
            "the scores are one product of the attention; their sum of the values is the other":
                partial(_flop, attention=2),
            "the attention is missing: two products of (N, N) with (N, width)":
                partial(_flop, attention=0),
            "the attention's products are not multiplied by the number of heads: all heads "
            "together have `width` channels":
                partial(_flop, attention=16),
            "the modulation is computed once for an image, not for each token":
                lambda tokens, width: _flop(tokens, width, matrices=36, modulation=0),
            "the modulation is missing: one vector of `width`, six of `width` out":
                partial(_flop, modulation=0),
            "the MLP has a hidden layer of 4 x width: two matrices of 4 x width^2":
                partial(_flop, matrices=12),
            "one of the MLP's two matrices is missing": partial(_flop, matrices=16),
            "the layer behind the attention is missing: width x width": partial(_flop, matrices=22),
            "q, k and v are three matrices of width x width": partial(_flop, matrices=20),
            "every token looks at every other: the attention grows with tokens squared":
                lambda tokens, width: (
                    24 * tokens * width**2 + 12 * width**2 + 4 * tokens * width
                ),
        },
    ),
    Exercise(
        "12.4",
        "an error of x_0, judged by v",
        _judged(),
        [_at(1, 3, 5, most=10.0), _at(2, 6, most=3.0), _at(7, most=1.02), _at(4, 1, 2, most=30.0)],
        {
            "the weight has no bound, and is infinite at t = 0: take the smaller of it and `most`":
                _judged(lambda bar, most: 1 / (1 - bar)),
            "this takes the larger of the weight and `most`; it is an upper bound":
                _judged(lambda bar, most: (1 / (1 - bar)).clamp(min=most)),
            "the weight is missing: an error of x_0 is b times an error of v":
                _judged(lambda bar, most: torch.ones_like(bar)),
            "errors are squared, so the weight is 1 / b², not 1 / b":
                _judged(lambda bar, most: (1 / (1 - bar).sqrt()).clamp(max=most)),
            "this is the weight 1 / alpha_bar: v - v_pred is (x_0_pred - x_0) / b":
                _judged(lambda bar, most: (1 / bar).clamp(max=most)),
            "this is the signal-to-noise ratio, the weight of the error of eps; v has 1 / (1 - "
            "alpha_bar)":
                _judged(lambda bar, most: (bar / (1 - bar)).clamp(max=most)),
            "this multiplies by 1 - alpha_bar; an error of v is larger than that of x_0, so divide":
                _judged(lambda bar, most: (1 - bar).clamp(max=most)),
            "the bound is on the weighted error; it belongs on the weight":
                _judged(
                    lambda bar, most: torch.stack([1 / (1 - bar), torch.full_like(bar, most)]),
                    mean=lambda w, errors: (w[0] * errors).minimum(w[1]).mean(),
                ),
            "every image has a weight of its own: multiply before you take the mean":
                _judged(mean=lambda w, errors: w.mean() * errors.mean()),
            "the weights are divided by their sum; they stay as they are":
                _judged(mean=lambda w, errors: (w * errors).sum() / w.sum()),
            "this is the sum of squares; take the mean":
                _judged(
                    each=lambda wrong: wrong.square().flatten(1).sum(1),
                    mean=lambda w, errors: (w * errors).sum(),
                ),
            "this is the mean of absolute differences; take the mean square":
                _judged(each=lambda wrong: wrong.abs().flatten(1).mean(1)),
        },
        tolerance=1e-4,
    ),
]  # fmt: skip
