"""Exercises of notebook 01: bytes, a dataset that mirrors, and the order of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, Problem

# ---- 1.1 ---------------------------------------------------------------------------------------


def _to_bytes(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


BYTES = torch.arange(256) / 127.5 - 1
BETWEEN = BYTES[1:-1] + (torch.rand(254, generator=torch.Generator().manual_seed(1)) - 0.5) / 141


# ---- 1.2 ---------------------------------------------------------------------------------------


def _uniform(*seed: int) -> float:
    return np.random.default_rng(seed).random()


def _to_floats(x: Tensor) -> Tensor:
    return x.float() / 127.5 - 1  # (1.1)


@dataclass
class _Mirrored:
    """Images as floats, half of them mirrored; change the last fields to make mistakes."""

    images: np.ndarray
    labels: np.ndarray
    seed: int
    axis: int = -1
    draw: Callable[[int, int], float] = _uniform
    convert: Callable[[Tensor], Tensor] = _to_floats
    is_mirrored: Callable[[float], bool] = lambda number: number < 0.5  # noqa: E731

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x = self.convert(torch.from_numpy(np.array(self.images[i])))  # (3, H, W)
        mirrored = type(self).is_mirrored(self.draw(self.seed, i))
        return (x.flip(self.axis) if mirrored else x), int(self.labels[i])


@dataclass
class _OneGenerator(_Mirrored):
    """Draws from one generator, so an item depends on the items read before."""

    def __post_init__(self) -> None:
        generator = np.random.default_rng(self.seed)
        self.draw = lambda seed, i: generator.random()


class _TheOthers(_Mirrored):
    """Mirrors where the solution does not."""

    is_mirrored = staticmethod(lambda number: number >= 0.5)


READ = (3, 0, 11, 7, 5, 3, 1, 2, 4, 6, 8, 9, 10)  # not in order, and one of them twice


def _items(dataset: Answer, images: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    ds = dataset(images, labels, seed)
    return len(ds), [ds[i] for i in READ]


def _twelve(seed: int) -> Case:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 6), dtype=np.uint8)
    return Case(f"12 images, seed {seed}", (images, np.arange(12) * 5 % 7, seed), _items)


# ---- 1.3 ---------------------------------------------------------------------------------------


def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


EPOCHS = (0, 1, 2, 5, 10, 11, 100)


def _orders(answer: Answer, n: int) -> Any:
    """Properties that the task asks for; any generator seeded by the pair has them."""
    orders: dict[tuple[int, int], tuple] = {}
    for seed in (0, 1, 2, 5, 11):
        for epoch in EPOCHS:
            order = answer(seed, epoch, n)
            if not hasattr(order, "__len__") or np.ndim(order) != 1 or len(order) != n:
                return order if order is None else Problem(f"expected {n} numbers, got {order!r}")
            orders[seed, epoch] = tuple(np.asarray(order).tolist())
    again = tuple(np.asarray(answer(1, 2, n)).tolist())
    steps = [len(set(np.diff(order) % n)) for order in orders.values()]
    by_seed = [{orders[seed, epoch] for seed in (0, 1, 2)} for epoch in EPOCHS]
    by_epoch = [{orders[seed, epoch] for epoch in EPOCHS} for seed in (0, 1, 2)]
    return {
        "whole numbers": all(type(i) is int for order in orders.values() for i in order),
        "no number is repeated": all(len(set(o)) == n for o in orders.values()),
        "smallest and largest": sorted({f(o) for o in orders.values() for f in (min, max)}),
        "the same order for the same seed and epoch": again == orders[1, 2],
        "mixed, not in rising order": min(steps) > 3,
        "another order for another seed": all(len(s) == 3 for s in by_seed),
        "another order for another epoch": all(len(s) == len(EPOCHS) for s in by_epoch),
        "another order for each pair of seed and epoch": len(set(orders.values())) == len(orders),
    }


def _seeded(seed_of: Callable[[int, int], Any]) -> Answer:
    """An order whose generator has a different seed."""
    return lambda seed, epoch, n: np.random.default_rng(seed_of(seed, epoch)).permutation(n)


EXERCISES = [
    Exercise(
        "1.1",
        "from [-1, 1] back to bytes",
        _to_bytes,
        [
            Case("all 256 bytes, once converted", (BYTES,)),
            Case("values between two bytes", (BETWEEN,)),
            Case("values beyond -1 and 1", (torch.tensor([-7.0, -1.02, 1.02, 1.5, 4.0]),)),
        ],
        {
            "decimals are truncated, and many bytes come back one too small: round first, (1.1)":
                lambda x: ((x.clamp(-1, 1) + 1) * 127.5).to(torch.uint8),
            "values outside [-1, 1] wrap around, so white turns black: clamp before the conversion":
                lambda x: ((x + 1) * 127.5).round().long().to(torch.uint8),
            "this converts back from [0, 1]; here the range is [-1, 1], equation (1.1)":
                lambda x: (x.clamp(0, 1) * 255).round().to(torch.uint8),
            "a factor of 128 makes bright pixels one too bright; (1.1) has 127.5":
                lambda x: ((x.clamp(-1, 1) + 1) * 128).round().clamp(max=255).to(torch.uint8),
            "a factor of 127 makes bright pixels one or two too dark; (1.1) has 127.5":
                lambda x: ((x.clamp(-1, 1) + 1) * 127).round().to(torch.uint8),
            "values are rounded before they are scaled to 0..255, so few grey levels are left":
                lambda x: ((x.clamp(-1, 1) + 1).round() * 127.5).to(torch.uint8),
            "this rounds up; the nearest byte may be the one below":
                lambda x: ((x.clamp(-1, 1) + 1) * 127.5).ceil().to(torch.uint8),
            "the factor is 255 for a range of 2: (1.1) has 127.5":
                lambda x: ((x.clamp(-1, 1) + 1) * 255).round().long().to(torch.uint8),
            "the shift by 1 is missing: negative values wrap around":
                lambda x: (x.clamp(-1, 1) * 127.5).round().long().to(torch.uint8),
        },
        exact_dtype=True,
    ),
    Exercise(
        "1.2",
        "a dataset that mirrors half of its images",
        _Mirrored,
        [_twelve(0), _twelve(2)],
        {
            "images are upside down: flip the last axis, which runs from left to right":
                partial(_Mirrored, axis=-2),
            "the colours are flipped: flip the last axis, which runs from left to right":
                partial(_Mirrored, axis=0),
            "all images are mirrored, or none: the seed must include i":
                partial(_Mirrored, draw=lambda seed, i: _uniform(seed)),
            "every seed mirrors the same images: use the pair (seed, i)":
                partial(_Mirrored, draw=lambda seed, i: _uniform(i)),
            "seed 0 with image 1 is seed 1 with image 0: use the pair (seed, i), not the sum":
                partial(_Mirrored, draw=lambda seed, i: _uniform(seed + i)),
            "the pair is (i, seed) here; the task asks for (seed, i)":
                partial(_Mirrored, draw=lambda seed, i: _uniform(i, seed)),
            "reading an image twice gives two versions: draw with "
            "np.random.default_rng((seed, i))":
                partial(_Mirrored, draw=lambda seed, i: torch.rand(()).item()),
            "all images share one generator, so an image depends on what was read before: "
            "make one from (seed, i) in __getitem__":
                _OneGenerator,
            "the other half is mirrored: mirror where the number is below 0.5":
                _TheOthers,
            "no image is mirrored": partial(_Mirrored, draw=lambda seed, i: 1.0),
            "every image is mirrored": partial(_Mirrored, draw=lambda seed, i: 0.0),
            "the images are still bytes: convert them by (1.1)":
                partial(_Mirrored, convert=lambda x: x),
            "the images are in [0, 1]; the range is [-1, 1], equation (1.1)":
                partial(_Mirrored, convert=lambda x: x.float() / 255),
            "the images are in [0, 2]: subtract 1, equation (1.1)":
                partial(_Mirrored, convert=lambda x: x.float() / 127.5),
            "the images are floats, but still in 0..255: convert them by (1.1)":
                partial(_Mirrored, convert=lambda x: x.float()),
        },
        exact_dtype=True,
    ),
    Exercise(
        "1.3",
        "the order of the images in an epoch",
        _order,
        [Case("five seeds, seven epochs, 20 images", (20,), _orders)],
        {
            "every epoch has the same order: the seed must include epoch, equation (1.2)":
                _seeded(lambda seed, epoch: seed),
            "every seed has the same order: use seed in the generator's seed too, equation (1.2)":
                _seeded(lambda seed, epoch: epoch),
            "different pairs of seed and epoch have the same order: use the pair as the seed, "
            "not one number that is computed from both":
                _seeded(lambda seed, epoch: seed + epoch),
            "the order is the same for every seed and epoch: make the generator from "
            "(seed, epoch)":
                lambda seed, epoch, n: np.random.default_rng(0).permutation(n),
            "some images come twice and others never: use a permutation":
                lambda seed, epoch, n: np.random.default_rng((seed, epoch)).integers(0, n, n),
            "a second call gives a different order: make a generator from (seed, epoch)":
                lambda seed, epoch, n: torch.randperm(n),
            "the images are not shuffled": lambda seed, epoch, n: np.arange(n),
            "this runs from 1 to n: images are numbered 0..n-1":
                lambda seed, epoch, n: _order(seed, epoch, n) + 1,
            "some images of 0..n-1 are missing": lambda seed, epoch, n:
                _order(seed, epoch, n - 1),
        },
    ),
]  # fmt: skip
