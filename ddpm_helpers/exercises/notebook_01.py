"""Exercises of notebook 01: bytes, a dataset that mirrors, shrinking, and the order of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise

# ---- 1.1 ---------------------------------------------------------------------------------------


def _to_bytes(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _every_byte(answer: Answer) -> Tensor:
    return answer(torch.arange(256) / 127.5 - 1)


# ---- 1.2 ---------------------------------------------------------------------------------------


def _uniform(*seed: int) -> float:
    return np.random.default_rng(seed).random()


def _to_floats(x: Tensor) -> Tensor:
    return x.float() / 127.5 - 1  # (1.1)


@dataclass
class _Mirrored:
    """Pictures as floats, half of them mirrored; other values of the last fields are mistakes."""

    images: np.ndarray
    labels: np.ndarray
    seed: int
    axis: int = -1
    draw: Callable[[int, int], float] = _uniform
    convert: Callable[[Tensor], Tensor] = _to_floats

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x = self.convert(torch.from_numpy(np.array(self.images[i])))  # (3, H, W)
        is_mirrored = self.draw(self.seed, i) < 0.5
        return (x.flip(self.axis) if is_mirrored else x), int(self.labels[i])


def _twelve(dataset: Answer, seed: int) -> tuple[int, list[Tensor], list[int]]:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)
    ds = dataset(images, np.arange(12) % 3, seed)
    items = [ds[i] for i in range(12)]
    return len(ds), [x for x, _ in items], [y for _, y in items]


# ---- 1.3 ---------------------------------------------------------------------------------------


def _halve(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x, 2)


# ---- 1.4 ---------------------------------------------------------------------------------------


def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def _orders(answer: Answer) -> list[np.ndarray]:
    return [answer(seed, epoch, 20) for seed in (0, 1) for epoch in (0, 1, 2)]


EXERCISES = [
    Exercise(
        "1.1",
        "from [-1, 1] back to bytes",
        _to_bytes,
        [
            Trial("all 256 bytes, once converted", _every_byte),
            Trial("values a little beyond -1 and 1", lambda f: f(torch.tensor([-1.02, 1.02]))),
        ],
        {
            "decimals are cut off, so many bytes come back one too small: round first, (1.2)":
                lambda x: ((x.clamp(-1, 1) + 1) * 127.5).to(torch.uint8),
            "values beyond [-1, 1] wrap around, white turns black: clamp before the conversion":
                lambda x: ((x + 1) * 127.5).round().long().to(torch.uint8),
            "this converts back from [0, 1]; here the range is [-1, 1], equation (1.2)":
                lambda x: (x.clamp(0, 1) * 255).round().to(torch.uint8),
            "a factor of 128 makes bright pixels one too bright; (1.2) has 127.5":
                lambda x: ((x.clamp(-1, 1) + 1) * 128).round().clamp(max=255).to(torch.uint8),
        },
    ),
    Exercise(
        "1.2",
        "a dataset that mirrors half of its pictures",
        _Mirrored,
        [
            Trial("12 pictures, seed 0", lambda f: _twelve(f, 0)),
            Trial("12 pictures, seed 1", lambda f: _twelve(f, 1)),
        ],
        {
            "pictures are turned upside down: the last axis runs from left to right":
                partial(_Mirrored, axis=-2),
            "all pictures are mirrored, or none: the number i belongs in the seed":
                partial(_Mirrored, draw=lambda seed, i: _uniform(seed)),
            "every seed mirrors the same pictures: the pair (seed, i) is needed":
                partial(_Mirrored, draw=lambda seed, i: _uniform(i)),
            "a picture that is read twice comes in two versions: draw with "
            "np.random.default_rng((seed, i))":
                partial(_Mirrored, draw=lambda seed, i: torch.rand(()).item()),
            "the pictures are still bytes: convert them by (1.1)":
                partial(_Mirrored, convert=lambda x: x),
        },
    ),
    Exercise(
        "1.3",
        "shrink to half the side by averaging",
        _halve,
        [Trial("two pictures of 4×6", lambda f: f(noise(2, 3, 4, 6)))],
        {
            "three of four pixels are dropped, not averaged: this causes aliasing":
                lambda x: x[..., ::2, ::2],
            "this is the sum of the four pixels: divide by 4": lambda x: 4 * _halve(x),
            "each average takes four neighbours of a row, not a square of 2×2":
                lambda x: x.reshape(*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2, 4).mean(-1),
            "only the columns are halved: average the rows too":
                lambda x: (x[..., ::2] + x[..., 1::2]) / 2,
        },
    ),
    Exercise(
        "1.4",
        "the order of the pictures in an epoch",
        _order,
        [Trial("seeds 0 and 1, epochs 0, 1 and 2, 20 pictures", _orders)],
        {
            "every epoch has the same order: epoch belongs in the seed, equation (1.4)":
                lambda seed, epoch, n: np.random.default_rng(seed).permutation(n),
            "seed 0 in epoch 1 is seed 1 in epoch 0: use the pair, not the sum":
                lambda seed, epoch, n: np.random.default_rng(seed + epoch).permutation(n),
            "some pictures come twice and others never: take a permutation":
                lambda seed, epoch, n: np.random.default_rng((seed, epoch)).integers(0, n, n),
            "seed and epoch are swapped": lambda seed, epoch, n: _order(epoch, seed, n),
        },
    ),
]  # fmt: skip
