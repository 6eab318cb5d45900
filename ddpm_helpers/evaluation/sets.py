"""The sets that are compared: so many pictures of a dataset, and so many samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.checks import count as check_count
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.diffusion import DiffusionUtils

Model = Callable[..., Tensor]


def take(ds: ImageDataset, n: int) -> tuple[Tensor, Tensor]:
    """The first n pictures of a dataset, (n, 3, S, S) in [-1, 1], and their labels (n,).

    Raises:
        ValueError: n below 1, or more than there are.
    """
    n = check_count("n (of the pictures there are)", n, most=len(ds))
    return next(ds.batches(n, seed=0, shuffle=False))


def take_like(ds: ImageDataset, y: Tensor) -> Tensor:
    """Pictures of given classes, each one once: as many of every class as there are in y.

    Args:
        ds: a dataset with these classes.
        y: class numbers, (n,).
    Returns:
        (n, 3, S, S) in [-1, 1]; picture i has class y[i].
    Raises:
        ValueError: a class with too few pictures.
    """
    labels, queues = torch.as_tensor(ds.labels), {}
    for k, count in zip(*torch.unique(y, return_counts=True), strict=True):
        found = (labels == k).nonzero().flatten().tolist()
        if len(found) < count:
            raise ValueError(f"class {int(k)} has {len(found)} pictures, {int(count)} are needed")
        queues[int(k)] = iter(found)
    return torch.stack([ds[next(queues[int(k)])][0] for k in y])


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
    """Samples in batches: picture i is the same whatever the batch size.

    Args:
        diffusion, model: as for sampling.
        n: pictures, at least 1.
        y: their classes, (n,), by default all classes in turn; not for a network without.
        batch_size: pictures at a time, at least 1.
        seed: as for `sample`.
        options: as for `sample`.
    Yields:
        pictures on the CPU and their classes, or None for a network without classes.
    Raises:
        ValueError: a number below 1, labels that are not one a picture, or as `sample`.
    """
    n, batch_size = check_count("n", n), check_count("batch_size", batch_size)
    if y is not None and len(y) != n:
        raise ValueError(f"y must be ({n},), one label a picture; got {len(y)} labels")
    classes = getattr(model, "num_classes", None)
    for first in range(0, n, batch_size):
        count = min(batch_size, n - first)
        part = None
        if classes is not None:
            every = torch.arange(n) % classes if y is None else y
            part = every[first : first + count]
        x = diffusion.sample(model, count, y=part, seed=seed, first=first, **options)
        yield x.float().cpu(), part
