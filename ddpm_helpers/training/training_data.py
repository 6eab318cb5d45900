"""What a training needs of its dataset: batches, and a description for checkpoints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ddpm_helpers.config import TrainConfig

PROBES = 64  # number of images that are compared to recognise a dataset


@runtime_checkable
class TrainingData(Protocol):
    """The dataset interface that `TrainingPipeline` needs: labelled images in batches.

    `ImageDataset` implements it. A checkpoint recognises the dataset by the content of its arrays
    `images` and `labels` if it has them, otherwise by the number of images.

    Attributes:
        classes: names, in the order of the labels.
        image_shape: (C, S, S) of an image.
        name: short name of the data, stored in weights that are trained on it.
    """

    classes: Sequence[str]
    image_shape: tuple[int, int, int]
    name: str

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batches(
        self, batch_size: int, *, seed: int, epoch: int = 0, device: Any = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch in batches of batch_size; the last batch may be smaller.

        Random choices must depend on (seed, epoch) alone, because a resumed run skips the batches
        that it has already used.

        Yields:
            x_0, float32 (B, C, S, S) in [-1, 1], and y, int64 (B,), both on `device`.
        """
        ...


def batches_from(
    dataset: TrainingData, config: TrainConfig, step: int, device: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches that follow the first `step` ones, epoch after epoch without end.

    Raises:
        ValueError: an epoch does not have the number of batches that its images need.
    """
    per_epoch = math.ceil(len(dataset) / config.batch_size)
    first, done = divmod(step, per_epoch)
    for epoch in itertools.count(first):
        batches = dataset.batches(config.batch_size, seed=config.seed, epoch=epoch, device=device)
        number = 0
        for number, batch in enumerate(batches, start=1):
            if epoch > first or number > done:
                yield batch
        if number != per_epoch:
            raise ValueError(
                f"the dataset's batches() gave {number} batches; {len(dataset)} images need "
                f"{per_epoch}"
            )


def parts_of(
    batch: int, accumulate: int, processes: int, process: int
) -> Iterator[tuple[slice, float]]:
    """Yield the parts of a batch that one process computes, each as (rows, weight of a row).

    The batch has accumulate × processes parts, whose sizes differ by at most one row. DDP waits
    for every process, so a process whose part is empty computes row 0 with weight 0.
    """
    parts = accumulate * processes
    for part in range(process, parts, processes):
        rows = slice(part * batch // parts, (part + 1) * batch // parts)
        yield (rows, 1.0) if rows.stop > rows.start else (slice(0, 1), 0.0)


def identify(dataset: Any) -> dict[str, Any]:
    """Describe a dataset for a checkpoint, so it is recognised even if its folder is renamed.

    Returns:
        `name`, `images` (their number), and, if the dataset has arrays `images` and `labels`, the
        mean `brightness` in 0..255 and the `labels` of up to 64 evenly spaced images.
    """
    n = len(dataset)
    found: dict[str, Any] = {"name": dataset.name, "images": n, "brightness": [], "labels": []}
    images, labels = getattr(dataset, "images", None), getattr(dataset, "labels", None)
    if images is not None and labels is not None:
        where = np.linspace(0, n - 1, min(PROBES, n)).round().astype(int).tolist()
        means = [float(np.asarray(images[i], dtype=np.float64).mean()) for i in where]
        found |= {"brightness": means, "labels": [int(labels[i]) for i in where]}
    return found


def check_same_data(saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse a checkpoint of other images, labels, or another order, as `identify` describes them.

    Another version of a JPEG decoder may change a mean brightness by up to one level.
    """
    if (
        saved["images"] != own["images"]
        or saved["labels"] != own["labels"]
        or not np.allclose(saved["brightness"], own["brightness"], rtol=0, atol=1.0)
    ):
        was, now = (f"{one['images']} images of {one['name']}" for one in (saved, own))
        raise ValueError(f"the checkpoint was trained on {was}, not on the present {now}")
