"""Make sets to compare: images of a dataset, and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_helpers import checks
from ddpm_helpers.data import ImageDataset, balanced_order
from ddpm_helpers.data.dataset import to_float
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.diffusion.schedules import sub_sequence
from ddpm_helpers.diffusion.walk import Model


def as_floats(x: Tensor) -> Tensor:
    """Convert images, uint8 or in [-1, 1], to float32 in [-1, 1]."""
    return to_float(x) if x.dtype == torch.uint8 else x.float()


def take(ds: ImageDataset, n: int) -> tuple[Tensor, Tensor]:
    """Take the first n images of a dataset with its class proportions, and their labels.

    Args:
        ds: a dataset.
        n: number of images, in 1..len(ds).
    Returns:
        images (n, C, S, S) in [-1, 1] and labels (n,) int64, in the order of the dataset. A class
        with a share s of the dataset has n·s of the images, rounded up or down.
    Raises:
        ValueError: n is below 1 or above len(ds).
    """
    n = checks.count("n", n, most=len(ds))
    rows = np.sort(balanced_order(ds.labels)[:n])
    return to_float(torch.from_numpy(ds.images[rows])), torch.from_numpy(ds.labels[rows])


def rows_like(ds: ImageDataset, y: Tensor, rng: np.random.Generator | None = None) -> np.ndarray:
    """Find rows of images with given classes, without repeats.

    Args:
        ds: a dataset with these classes.
        y: class numbers, (n,).
        rng: random generator for the rows; None takes the first images of each class.
    Returns:
        (n,) int64; row i has class y[i].
    Raises:
        ValueError: a class has too few images.
    """
    rows = np.empty(len(y), np.int64)
    for k in y.unique().tolist():
        found, wanted = np.flatnonzero(ds.labels == k), (y == k).numpy()
        if len(found) < wanted.sum():
            raise ValueError(
                f"class {ds.classes[k]} has {len(found)} images in the split {ds.split}, "
                f"{wanted.sum()} are needed: lower n"
            )
        found = found if rng is None else rng.permutation(found)
        rows[wanted] = found[: wanted.sum()]
    return rows


def class_numbers_of(model: Model, ds: ImageDataset, y: Tensor) -> Tensor:
    """Translate a dataset's labels, (n,), to the network's numbers for the same classes.

    Raises:
        ValueError: the network does not know a class.
    """
    known = getattr(model, "classes", ())
    if not known or len(known) == len(ds.classes) == 1:
        return y  # no names, or a single class, which fits whatever its name
    return torch.tensor([checks.class_number(name, 0, known) for name in ds.classes])[y]


def draw_samples(
    diffusion: DiffusionUtils,
    model: Model,
    n: int,
    *,
    y: Sequence[int | str] | Tensor | None = None,
    batch_size: int = 50,
    seed: int = 0,
    **options: Any,
) -> Iterator[Tensor]:
    """Draw samples in batches; in a terminal, with a progress bar for each batch.

    Args:
        diffusion, model: as for sampling.
        n: number of images, at least 1.
        y: class numbers or names, (n,); by default all classes in turn if the network has classes.
        batch_size: number of images at a time, at least 1; image i does not depend on it.
        seed, options: as for `sample`.
    Yields:
        images on the CPU, (batch_size, C, H, W); the last batch may be smaller.
    Raises:
        ValueError: n or batch_size is below 1, or an option of `sample` is invalid.
    """
    n, batch_size = checks.count("n", n), checks.count("batch_size", batch_size)
    if y is None and (classes := getattr(model, "num_classes", None)):
        y = torch.arange(n) % classes
    for first in range(0, n, batch_size):
        last = min(first + batch_size, n)
        walk = diffusion.sample_steps(
            model, last - first, y=None if y is None else y[first:last], seed=seed, first=first,
            **options,
        )  # fmt: skip
        total = len(sub_sequence(diffusion.T, options.get("steps")))
        name = f"images {first + 1} to {last} of {n}"
        for step in tqdm(walk, name, total, unit="step", disable=None):
            x_0 = step.x_t
        yield x_0.float().cpu()
