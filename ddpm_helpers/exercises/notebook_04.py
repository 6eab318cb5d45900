"""Exercises of notebook 04: the parts of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention

from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, noise, on_gpu
from ddpm_helpers.model import timestep_embedding

# ---- 4.1: the time as sines and cosines ------------------------------------------------------


def _embedding(
    t: Tensor, dim: int, *, exponent: float = -2.0, factor: float = 1.0, less: int = 0,
    first: int = 0, base: float = 10_000.0,
    join: Callable[[Tensor, Tensor], Tensor] = lambda sin, cos: torch.cat([sin, cos], 1),
) -> Tensor:  # fmt: skip
    """Sines and cosines of t * factor * base ** (exponent * k / (dim - less))."""
    k = torch.arange(first, dim // 2 + first, device=t.device)
    angles = factor * t[:, None] * base ** (exponent * k / (dim - less))  # (B, dim / 2)
    return join(angles.sin(), angles.cos())


# ---- 4.2: attention --------------------------------------------------------------------------


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])  # (B, N, N): query, key


# ---- 4.3: pixel-unshuffle --------------------------------------------------------------------


def _unshuffle(axes: str, cut: tuple[int, int] = (-1, 2)) -> Answer:
    """An answer that splits H and W, permutes like einsum, and merges; i and j have size 2."""

    def answer(x: Tensor) -> Tensor:
        return torch.einsum(axes, x.unflatten(3, cut).unflatten(2, cut)).flatten(1, 3)

    return answer


EXERCISES = [
    Exercise(
        "4.1",
        "timesteps as sines and cosines",
        timestep_embedding,
        [
            Case("t = 0 and dim = 8", (torch.tensor([0]), 8)),
            Case("t = 1, 20 and 500, dim = 16", (torch.tensor([1, 20, 500]), 16)),
            Case("t = 7 and 300, dim = 6", (torch.tensor([7, 300]), 6)),
            *on_gpu("timesteps on the GPU", (torch.tensor([7, 300]), 6)),
        ],
        {
            "sines and cosines alternate; in (4.1) all sines come first, then all cosines":
                partial(_embedding, join=lambda sin, cos: torch.stack([sin, cos], 2).flatten(1)),
            "the cosines come first here; in (4.1) the sines do":
                partial(_embedding, join=lambda sin, cos: torch.cat([cos, sin], 1)),
            "both halves are sines; the second half of (4.1) is cosines":
                partial(_embedding, join=lambda sin, cos: torch.cat([sin, sin], 1)),
            "both halves are cosines; the first half of (4.1) is sines":
                partial(_embedding, join=lambda sin, cos: torch.cat([cos, cos], 1)),
            "sines and cosines are concatenated along the batch: use dim=1":
                partial(_embedding, join=lambda sin, cos: torch.cat([sin, cos], 0)),
            "the exponent of (4.1) is -k / (dim / 2), not -k / dim: "
            "the slowest wave is a hundred times too fast":
                partial(_embedding, exponent=-1.0),
            "the exponent of (4.1) is -k / (dim / 2), not -2 k / (dim / 2)":
                partial(_embedding, exponent=-4.0),
            "the exponent divides by dim / 2 - 1, as in some other programs; (4.1) divides by "
            "dim / 2":
                partial(_embedding, less=2),
            "the frequencies rise with k here; the exponent of (4.1) is negative":
                partial(_embedding, exponent=2.0),
            "k counts from 1 here; it starts at 0": partial(_embedding, first=1),
            "omega * t is the angle itself, equation (4.1): no 2 pi":
                partial(_embedding, factor=2 * math.pi),
            "t is divided by 500 first; (4.1) has t itself": partial(_embedding, factor=1 / 500),
            "the base is 100,000; it is 10,000 in (4.1)": partial(_embedding, base=100_000.0),
            "the base is 1,000; it is 10,000 in (4.1)": partial(_embedding, base=1_000.0),
            "the base is e; it is 10,000 in (4.1)": partial(_embedding, base=math.e),
            "all frequencies are 1: the exponent of (4.1) is missing":
                partial(_embedding, exponent=0.0),
        },
        tolerance=1e-3,  # angles of hundreds of radians, in float32
        exact_dtype=True,
    ),
    Exercise(
        "4.2",
        "attention",
        attention,
        [
            Case("2 images, N = 5, d_head = 3", tuple(noise(3, 2, 5, 3, seed=4))),
            Case("3 images, N = 3, d_head = 8", tuple(noise(3, 3, 3, 8, seed=4))),
            Case("large scores", tuple(40 * noise(3, 2, 4, 3, seed=5))),
        ],
        {
            "the scores are not divided by the root of d_head, equation (4.3)":
                partial(attention, scale=1.0),
            "the scores are divided by d_head: (4.3) has its square root":
                lambda q, k, v: attention(q, k, v, scale=1 / q.shape[-1]),
            "the scores are multiplied by the root of d_head; (4.3) divides":
                lambda q, k, v: attention(q, k, v, scale=math.sqrt(q.shape[-1])),
            "the scores are divided by the root of B, the number of images; "
            "(4.3) has d_head, the length of a vector":
                lambda q, k, v: attention(q, k, v, scale=1 / math.sqrt(len(q))),
            "this is a sigmoid, whose weights do not sum to 1: (4.3) has a softmax":
                lambda q, k, v: _scores(q, k).sigmoid() @ v,
            "the scores are divided by the root of N, the number of positions; "
            "(4.3) has d_head, the length of a vector":
                lambda q, k, v: attention(q, k, v, scale=1 / math.sqrt(q.shape[1])),
            "the softmax runs over the queries: the weights of one query, over all keys, "
            "sum to 1 (dim=-1)":
                lambda q, k, v: _scores(q, k).softmax(dim=1) @ v,
            "the softmax runs over the batch: use dim=-1":
                lambda q, k, v: _scores(q, k).softmax(dim=0) @ v,
            "the softmax is missing, equation (4.3)":
                lambda q, k, v: _scores(q, k) @ v,
            "queries and keys are swapped: row i of Q K^T is for query i":
                lambda q, k, v: attention(k, q, v),
            "the division comes after the softmax; divide the scores before it":
                lambda q, k, v: (q @ k.transpose(1, 2)).softmax(-1) / math.sqrt(q.shape[-1]) @ v,
            "the weights are transposed after the softmax":
                lambda q, k, v: _scores(q, k).softmax(-1).transpose(1, 2) @ v,
            "the weights multiply the keys; in (4.3) they multiply the values":
                lambda q, k, v: attention(q, k, k),
            "the scores compare queries with queries: use q and k":
                lambda q, k, v: attention(q, q, v),
            "the scores have the wrong sign": lambda q, k, v: attention(-q, k, v),
            "`exp` overflows for large scores: use softmax, or subtract the largest score first":
                lambda q, k, v: _scores(q, k).exp() / _scores(q, k).exp().sum(-1, keepdim=True) @ v,
        },
        tolerance=1e-4,
    ),
    Exercise(
        "4.3",
        "2×2 pixels into channels",
        lambda x: F.pixel_unshuffle(x, 2),
        [
            Case("one image, 1 channel, 4×6", (torch.arange(24.0).view(1, 1, 4, 6),)),
            Case("2 images, 3 channels, 8×6", (noise(2, 3, 8, 6, seed=4),)),
        ],
        {
            "reshape alone cuts the image into strips: split H into (H/2, 2) and W into "
            "(W/2, 2), then permute":
                lambda x: x.reshape(len(x), -1, x.shape[2] // 2, x.shape[3] // 2),
            "these are the four quarters of the image: the small axis of size 2 comes after "
            "H/2, not before it":
                _unshuffle("bcihjw -> bcijhw", cut=(2, -1)),
            "the colours are the inner axis: the new channels have the order (C, 2, 2)":
                _unshuffle("bchiwj -> bijchw"),
            "the pixel below comes before the pixel to the right: the order is (C, row, column)":
                _unshuffle("bchiwj -> bcjihw"),
            "colours are the inner axis, and the pixel below comes before the pixel to the "
            "right: the order is (C, row, column)":
                _unshuffle("bchiwj -> bjichw"),
            "the colour axis is between row and column: the order is (C, row, column)":
                _unshuffle("bchiwj -> bicjhw"),
            "this averages the four pixels; each must become a channel":
                lambda x: F.avg_pool2d(x, 2),
        },
    ),
]  # fmt: skip
