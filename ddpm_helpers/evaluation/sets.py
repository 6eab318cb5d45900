"""Make sets to compare: images of a dataset, and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.checks import count as check_count
from ddpm_helpers.data import ImageDataset, balanced_order
from ddpm_helpers.data.dataset import to_float
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.diffusion.walk import Model

FEW = 50  # a test split with fewer images is too small for distances
SAME = 0.05  # shares of a class that differ by at most this, plus one image, count as equal


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
    n = check_count("n", n, most=len(ds))
    return _gather(ds, np.sort(balanced_order(ds.labels)[:n]))


def _gather(ds: ImageDataset, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(np.asarray(ds.images[rows]))  # a copy: the rows are a list
    return to_float(pixels), torch.from_numpy(np.asarray(ds.labels)[rows])


def class_counts(y: Tensor, classes: Sequence[str]) -> dict[str, int]:
    """Count the labels of each class; skip classes without labels."""
    counts = torch.bincount(y, minlength=len(classes)).tolist()
    return {name: count for name, count in zip(classes, counts, strict=True) if count}


def check_shares(name_a: str, a: Tensor, name_b: str, b: Tensor, classes: Sequence[str]) -> None:
    """Check that two sets have equal class proportions, because a distance measures them too.

    Args:
        a, b: labels of the sets, (n,) each; the message calls the sets name_a and name_b.
    Raises:
        ValueError: the shares of a class differ by more than 5 percentage points plus one image.
    """
    shares = [torch.bincount(y, minlength=len(classes)) / len(y) for y in (a, b)]
    worst = int((shares[0] - shares[1]).abs().argmax())
    of_a, of_b = (float(share[worst]) for share in shares)
    if abs(of_a - of_b) > SAME + 1 / min(len(a), len(b)):
        raise ValueError(
            f"{classes[worst]} is {of_a:.0%} of {name_a} and {of_b:.0%} of {name_b}: a distance "
            "would measure that; give both the same shares, or compare --anyway"
        )


def class_numbers_of(model: Model, ds: ImageDataset, y: Tensor) -> Tensor:
    """Translate a dataset's labels to the network's numbers for the same classes.

    Args:
        model: the network; its `classes`, if any, are the names it was trained with.
        ds: the dataset.
        y: labels of the dataset, (n,).
    Returns:
        (n,) int64.
    Raises:
        ValueError: the network does not know a class.
    """
    known = list(getattr(model, "classes", ()))
    most = getattr(model, "num_classes", None) or 0
    if not known and len(ds.classes) > most:
        raise ValueError(f"the network has {most} classes, the dataset {len(ds.classes)}")
    if not known or known == list(ds.classes) or len(known) == len(ds.classes) == 1:
        return y  # a single class is named after its folder, which may be renamed
    if missing := [name for name in ds.classes if name not in known]:
        raise ValueError(
            f"the network does not know the class {missing[0]!r}; it knows {', '.join(known)}"
        )
    return torch.tensor([known.index(name) for name in ds.classes])[y]


def take_like(ds: ImageDataset, y: Tensor) -> Tensor:
    """Take the first images with given classes, without repeats.

    Args:
        ds: a dataset with these classes.
        y: class numbers, (n,).
    Returns:
        (n, C, S, S) in [-1, 1]; image i has class y[i].
    Raises:
        ValueError: a class has too few images.
    """
    return _gather(ds, rows_like(ds, y))[0]


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
        found, wanted = np.flatnonzero(np.asarray(ds.labels) == k), (y == k).numpy()
        if len(found) < wanted.sum():
            raise ValueError(
                f"class {ds.classes[k]} has {len(found)} images in the split {ds.split}, "
                f"{wanted.sum()} are needed: lower n"
            )
        found = found if rng is None else rng.permutation(found)
        rows[wanted] = found[: wanted.sum()]
    return rows


def draw_samples(
    diffusion: DiffusionUtils,
    model: Model,
    n: int,
    *,
    y: Tensor | None = None,
    batch_size: int = 50,
    seed: int = 0,
    **options: Any,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Draw samples in batches; image i does not depend on the batch size.

    Args:
        diffusion, model: as for sampling.
        n: number of images, at least 1.
        y: class numbers, (n,), by default all classes in turn; ignored without classes.
        batch_size: number of images at a time, at least 1.
        seed: as for `sample`.
        options: as for `sample`.
    Yields:
        images on the CPU and their classes, or None for a network without classes.
    Raises:
        ValueError: a number is below 1, the number of labels is not n, or as `sample`.
    """
    n, batch_size = check_count("n", n), check_count("batch_size", batch_size)
    if y is not None and len(y) != n:
        raise ValueError(f"y must be ({n},), one label per image; got {len(y)} labels")
    classes = getattr(model, "num_classes", None)
    y = torch.arange(n) % (classes or 1) if y is None else y
    for first in range(0, n, batch_size):
        count = min(batch_size, n - first)
        part = None if classes is None else y[first : first + count]
        x = diffusion.sample(model, count, y=part, seed=seed, first=first, **options)
        yield x.float().cpu(), part
