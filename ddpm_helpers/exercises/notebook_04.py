"""Exercises of notebook 04: the parts of the network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial
from ddpm_helpers.model import timestep_embedding


def _random(*shape: int) -> Tensor:
    """The same standard normal values at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


# ---- 4.1: the time as sines and cosines ------------------------------------------------------


def _waves(t: Tensor, dim: int, exponent: float = -2.0, factor: float = 1.0) -> tuple[Tensor, ...]:
    """Sines and cosines of t * factor * 10000 ** (exponent * k / dim)."""
    k = torch.arange(dim // 2)
    angles = factor * t[:, None] * 10_000.0 ** (exponent * k / dim)
    return angles.sin(), angles.cos()


def _sines_and_cosines_alternate(t: Tensor, dim: int) -> Tensor:
    return torch.stack(_waves(t, dim), dim=2).flatten(1)


def _cosines_first(t: Tensor, dim: int) -> Tensor:
    return torch.cat(_waves(t, dim)[::-1], dim=1)


# ---- 4.2: GroupNorm --------------------------------------------------------------------------


def _normalised(x: Tensor, shape: tuple[int, ...], over: tuple[int, ...], **options: int) -> Tensor:
    """Mean 0 and variance 1 over some axes of x in another shape."""
    h = x.reshape(shape)
    options = {"correction": 0} | options
    h = (h - h.mean(over, keepdim=True)) / (h.var(over, keepdim=True, **options) + 1e-5).sqrt()
    return h.reshape(x.shape)


def _over_the_batch(x: Tensor, groups: int) -> Tensor:
    return _normalised(x, x.shape, (0, 2, 3))


def _each_channel_alone(x: Tensor, groups: int) -> Tensor:
    return _normalised(x, x.shape, (2, 3))


def _all_channels_together(x: Tensor, groups: int) -> Tensor:
    return _normalised(x, x.shape, (1, 2, 3))


def _n_minus_1(x: Tensor, groups: int) -> Tensor:
    return _normalised(x, (len(x), groups, -1), (2,), correction=1)


def _by_the_variance(x: Tensor, groups: int) -> Tensor:
    h = x.reshape(len(x), groups, -1)
    variance = h.var(2, keepdim=True, correction=0)
    return ((h - h.mean(2, keepdim=True)) / (variance + 1e-5)).reshape(x.shape)


# ---- 4.3: attention --------------------------------------------------------------------------


def _attention(scale: float | None = None, softmax_over: int = -1) -> Answer:
    """Attention whose scores are multiplied by a scale; None multiplies by 1 / d_head."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        factor = 1 / q.shape[-1] if scale is None else scale
        return (q @ k.transpose(1, 2) * factor).softmax(dim=softmax_over) @ v

    return attention


def _root_of_positions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attention(1 / math.sqrt(q.shape[1]))(q, k, v)


def _softmax_over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attention(1 / math.sqrt(q.shape[-1]), softmax_over=-2)(q, k, v)


def _no_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) @ v


# ---- 4.4: pixel-unshuffle --------------------------------------------------------------------


def _rearranged(x: Tensor, split: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    B, C, H, W = x.shape
    return x.reshape(B, C, *split).permute(order).reshape(B, 4 * C, H // 2, W // 2)


def _pixels_before_colours(x: Tensor) -> Tensor:
    return _rearranged(x, (x.shape[2] // 2, 2, x.shape[3] // 2, 2), (0, 3, 5, 1, 2, 4))


def _columns_before_rows(x: Tensor) -> Tensor:
    return _rearranged(x, (x.shape[2] // 2, 2, x.shape[3] // 2, 2), (0, 1, 5, 3, 2, 4))


def _four_quarters(x: Tensor) -> Tensor:
    return _rearranged(x, (2, x.shape[2] // 2, 2, x.shape[3] // 2), (0, 1, 2, 4, 3, 5))


def _reshape_alone(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1, x.shape[2] // 2, x.shape[3] // 2)


EXERCISES = [
    Exercise(
        "4.1",
        "steps as sines and cosines",
        timestep_embedding,
        [
            Trial("t = 0 and dim = 8", lambda f: f(torch.tensor([0]), 8)),
            Trial("t = 1, 20 and 500, dim = 16", lambda f: f(torch.tensor([1, 20, 500]), 16)),
        ],
        {
            "sines and cosines alternate here; in (4.1) all sines come first, then all cosines":
                _sines_and_cosines_alternate,
            "the cosines come first here; in (4.1) the sines do": _cosines_first,
            "the exponent of (4.1) is -k / (dim / 2), not -k / dim: "
            "the slowest wave is a hundred times too fast":
                lambda t, dim: torch.cat(_waves(t, dim, exponent=-1.0), dim=1),
            "the frequencies rise with k here; the exponent of (4.1) is negative":
                lambda t, dim: torch.cat(_waves(t, dim, exponent=2.0), dim=1),
            "omega * t is the angle itself, equation (4.1): no 2 pi":
                lambda t, dim: torch.cat(_waves(t, dim, factor=2 * math.pi), dim=1),
        },
        tolerance=1e-3,  # angles of hundreds of radians, in float32
    ),
    Exercise(
        "4.2",
        "GroupNorm by hand",
        lambda x, groups: F.group_norm(x, groups),
        [
            Trial("4 channels in 2 groups", lambda f: f(3 * _random(2, 4, 3, 3) + 1, 2)),
            Trial("6 channels in 3 groups", lambda f: f(_random(3, 6, 2, 4), 3)),
        ],
        {
            "mean and variance are taken over the whole batch, which is BatchNorm: "
            "each picture has its own": _over_the_batch,
            "each channel is normalised alone: the channels of a group share mean and variance":
                _each_channel_alone,
            "all channels are normalised together: split them into groups first":
                _all_channels_together,
            "the variance is divided by n - 1 here: GroupNorm divides by n, `correction=0`":
                _n_minus_1,
            "this divides by the variance where its square root belongs": _by_the_variance,
        },
        tolerance=1e-4,
    ),
    Exercise(
        "4.3",
        "attention",
        F.scaled_dot_product_attention,
        [
            Trial("2 pictures, N = 5, d_head = 3", lambda f: f(*_random(3, 2, 5, 3))),
            Trial("N = 3, d_head = 8", lambda f: f(*_random(3, 1, 3, 8))),
        ],
        {
            "the scores are not divided by the root of d_head, equation (4.3)": _attention(1.0),
            "the scores are divided by d_head: (4.3) has its square root": _attention(),
            "the scores are divided by the root of N, the number of positions; "
            "(4.3) has d_head, the length of a vector": _root_of_positions,
            "the softmax runs over the queries: the weights of one query, over all keys, "
            "sum to 1 (dim=-1)": _softmax_over_queries,
            "the softmax is missing, equation (4.3)": _no_softmax,
        },
    ),
    Exercise(
        "4.4",
        "2×2 pixels into channels",
        lambda x: F.pixel_unshuffle(x, 2),
        [
            Trial("one picture, 1 channel, 4×4", lambda f: f(torch.arange(16.0).view(1, 1, 4, 4))),
            Trial("2 pictures, 3 channels, 4×6", lambda f: f(_random(2, 3, 4, 6))),
        ],
        {
            "reshape alone cuts the picture into strips: split H into (H/2, 2) and W into "
            "(W/2, 2), then permute": _reshape_alone,
            "these are the four quarters of the picture: the small axis of size 2 comes after "
            "H/2, not before it": _four_quarters,
            "the colours are the inner axis here: the new channels are ordered (C, 2, 2)":
                _pixels_before_colours,
            "the pixel below comes before the pixel to the right: the order is (C, row, column)":
                _columns_before_rows,
        },
    ),
]  # fmt: skip
