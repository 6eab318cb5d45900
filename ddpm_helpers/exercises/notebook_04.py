"""Exercises of notebook 04: the parts of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention

from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise
from ddpm_helpers.model import timestep_embedding

# ---- 4.1: the time as sines and cosines ------------------------------------------------------


def _embedding(
    t: Tensor, dim: int, *, exponent: float = -2.0, factor: float = 1.0,
    join: Callable[[Tensor, Tensor], Tensor] = lambda sin, cos: torch.cat([sin, cos], 1),
) -> Tensor:  # fmt: skip
    """Sines and cosines of t * factor * 10000 ** (exponent * k / dim)."""
    k = torch.arange(dim // 2)
    angles = factor * t[:, None] * 10_000.0 ** (exponent * k / dim)  # (B, dim / 2)
    return join(angles.sin(), angles.cos())


# ---- 4.2: GroupNorm --------------------------------------------------------------------------


def _group_norm(x: Tensor, groups: int, *, correction: int = 0, power: float = 0.5) -> Tensor:
    h = x.reshape(len(x), groups, -1)
    variance = h.var(2, keepdim=True, correction=correction) + 1e-5
    return ((h - h.mean(2, keepdim=True)) / variance**power).reshape(x.shape)


# ---- 4.3: attention --------------------------------------------------------------------------


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])  # (B, N, N): query, key


# ---- 4.4: pixel-unshuffle --------------------------------------------------------------------


def _unshuffle(axes: str, cut: tuple[int, int] = (-1, 2)) -> Answer:
    """An answer that splits H and W, permutes as einsum does, and merges; i and j have size 2."""

    def answer(x: Tensor) -> Tensor:
        return torch.einsum(axes, x.unflatten(3, cut).unflatten(2, cut)).flatten(1, 3)

    return answer


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
                partial(_embedding, join=lambda sin, cos: torch.stack([sin, cos], 2).flatten(1)),
            "the cosines come first here; in (4.1) the sines do":
                partial(_embedding, join=lambda sin, cos: torch.cat([cos, sin], 1)),
            "the exponent of (4.1) is -k / (dim / 2), not -k / dim: "
            "the slowest wave is a hundred times too fast":
                partial(_embedding, exponent=-1.0),
            "the frequencies rise with k here; the exponent of (4.1) is negative":
                partial(_embedding, exponent=2.0),
            "omega * t is the angle itself, equation (4.1): no 2 pi":
                partial(_embedding, factor=2 * math.pi),
        },
        tolerance=1e-3,  # angles of hundreds of radians, in float32
    ),
    Exercise(
        "4.2",
        "GroupNorm by hand",
        lambda x, groups: F.group_norm(x, groups),
        [
            Trial("4 channels in 2 groups", lambda f: f(3 * noise(2, 4, 3, 3, seed=4) + 1, 2)),
            Trial("6 channels in 3 groups", lambda f: f(noise(3, 6, 2, 4, seed=4), 3)),
        ],
        {
            "mean and variance are taken over the whole batch, which is BatchNorm: "
            "each picture has its own":
                lambda x, groups: F.batch_norm(x, None, None, training=True),
            "each channel is normalised alone: the channels of a group share mean and variance":
                lambda x, groups: F.group_norm(x, x.shape[1]),
            "all channels are normalised together: split them into groups first":
                lambda x, groups: F.group_norm(x, 1),
            "the variance is divided by n - 1 here: GroupNorm divides by n, `correction=0`":
                partial(_group_norm, correction=1),
            "this divides by the variance where its square root belongs":
                partial(_group_norm, power=1.0),
        },
        tolerance=1e-4,
    ),
    Exercise(
        "4.3",
        "attention",
        attention,
        [
            Trial("2 pictures, N = 5, d_head = 3", lambda f: f(*noise(3, 2, 5, 3, seed=4))),
            Trial("N = 3, d_head = 8", lambda f: f(*noise(3, 1, 3, 8, seed=4))),
        ],
        {
            "the scores are not divided by the root of d_head, equation (4.3)":
                partial(attention, scale=1.0),
            "the scores are divided by d_head: (4.3) has its square root":
                lambda q, k, v: attention(q, k, v, scale=1 / q.shape[-1]),
            "the scores are divided by the root of N, the number of positions; "
            "(4.3) has d_head, the length of a vector":
                lambda q, k, v: attention(q, k, v, scale=1 / math.sqrt(q.shape[1])),
            "the softmax runs over the queries: the weights of one query, over all keys, "
            "sum to 1 (dim=-1)":
                lambda q, k, v: _scores(q, k).softmax(dim=1) @ v,
            "the softmax is missing, equation (4.3)":
                lambda q, k, v: _scores(q, k) @ v,
        },
    ),
    Exercise(
        "4.4",
        "2×2 pixels into channels",
        lambda x: F.pixel_unshuffle(x, 2),
        [
            Trial("one picture, 1 channel, 4×4", lambda f: f(torch.arange(16.0).view(1, 1, 4, 4))),
            Trial("2 pictures, 3 channels, 4×6", lambda f: f(noise(2, 3, 4, 6, seed=4))),
        ],
        {
            "reshape alone cuts the picture into strips: split H into (H/2, 2) and W into "
            "(W/2, 2), then permute":
                lambda x: x.reshape(len(x), -1, x.shape[2] // 2, x.shape[3] // 2),
            "these are the four quarters of the picture: the small axis of size 2 comes after "
            "H/2, not before it":
                _unshuffle("bcihjw -> bcijhw", cut=(2, -1)),
            "the colours are the inner axis here: the new channels are ordered (C, 2, 2)":
                _unshuffle("bchiwj -> bijchw"),
            "the pixel below comes before the pixel to the right: the order is (C, row, column)":
                _unshuffle("bchiwj -> bcjihw"),
        },
    ),
]  # fmt: skip
