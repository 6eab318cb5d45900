"""The built-in dataset: ten classes of cartoons with CIFAR-10's names, shapes and sizes.

NumPy draws them in seconds, without a network, the same on every machine. They are drawn in blocks
of 500. A block depends only on its split and its number, so an image is the same however many are
drawn. The recipes are in `cartoon_recipes`, the shapes in `cartoon_shapes`.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from ddpm_helpers import checks

from .cartoon_recipes import RECIPES
from .cartoon_shapes import SIZE, Scene
from .collection import Chunks, Collection

CLASSES = tuple(RECIPES)
COUNTS = {"train": 50_000, "test": 10_000}

_BLOCK = 500  # images drawn together, a multiple of the number of classes


def collection(split: str, limit: int | None = None) -> Collection:
    """The cartoons of a split, at most the first `limit`."""
    n = COUNTS[split] if limit is None else min(limit, COUNTS[split])

    def read(size: int) -> tuple[tuple[str, ...], Chunks]:
        return CLASSES, ((resize(images, size), labels) for images, labels in _blocks(split, n))

    return Collection("cartoons", {"kind": "cartoons", "split": split, "n": n}, read, balance=False)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize square images, (N, C, H, H) uint8 -> (N, C, size, size) uint8.

    The filter is bicubic, because a linear one blurs edges. It is antialiased: it widens when
    images shrink, so that fine patterns fade.
    """
    if images.shape[-1] == size:
        return images
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized.numpy()  # (N, C, size, size)


def draw(split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the first n cartoons of a split.

    Args:
        split: "train" (50,000 images) or "test" (10,000 different images).
        n: number of images, from 1 to the split's size.
    Returns:
        images, (n, 3, 32, 32) uint8, and labels, (n,) int64, indices into `CLASSES`. Every block
        of 500 holds each class 50 times, in shuffled order.
    Raises:
        ValueError: unknown split, or n outside 1..the split's size.
    """
    n = checks.count("n", n, 1, COUNTS[checks.one_of("split", split, COUNTS)])
    images, labels = zip(*_blocks(split, n), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _blocks(split: str, n: int) -> Chunks:
    """Draw blocks in threads (numpy releases the GIL), and cut the last one to make n images."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        blocks = range(-(-n // _BLOCK))
        drawn = partial(_draw_block, split)
        # Without a name for pool.map, leaving the loop closes it, which cancels the other blocks.
        for block, (images, labels) in zip(blocks, pool.map(drawn, blocks), strict=True):
            left = n - block * _BLOCK
            yield images[:left], labels[:left]


def _draw_block(split: str, block: int) -> tuple[np.ndarray, np.ndarray]:
    """One block: (500, 3, 32, 32) uint8 and (500,) int64."""
    seed = (list(COUNTS).index(split), block)
    each = _BLOCK // len(CLASSES)
    labels = _generator(*seed, len(CLASSES)).permutation(np.repeat(np.arange(len(CLASSES)), each))
    images = np.empty((_BLOCK, 3, SIZE, SIZE), np.uint8)
    for label, recipe in enumerate(RECIPES.values()):
        scene = Scene(_generator(*seed, label), each)
        recipe(scene)
        images[labels == label] = np.clip(scene.pixels * 255 + 0.5, 0, 255).astype(np.uint8)
    return images, labels


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
