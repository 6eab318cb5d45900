"""What a dataset must offer for training, and how a checkpoint recognises it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.config import TrainConfig

PROBES = 64  # images that tell one dataset from another
NEEDED = ("__len__", "batches", "classes", "image_shape", "name")


@runtime_checkable
class TrainingData(Protocol):
    """Labelled images in whole batches: what `TrainingPipeline` needs of a dataset.

    `ImageDataset` is one. If a dataset also has arrays `images` and `labels`, a checkpoint
    recognises it by their content, else by its name.

    Attributes:
        classes: names, in the order of the labels.
        image_shape: (C, S, S) of an image.
        name: a word for the data; weights that were trained on it store it.
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
        """One epoch in batches of batch_size, the last of which holds the rest.

        Whatever is drawn at random must depend on (seed, epoch) alone, because a resumed run skips
        the batches that it has seen already.

        Yields:
            x_0, float32 (B, C, S, S) in [-1, 1], and y, int64 (B,), both on `device`.
        """
        ...


def check_dataset(dataset: Any) -> None:
    """Refuse a dataset that cannot be trained on, in one line."""
    if lacks := [f"`{name}`" for name in NEEDED if not hasattr(dataset, name)]:
        raise ValueError(
            f"the dataset, of type {type(dataset).__name__}, lacks {', '.join(lacks)}: use an "
            "ImageDataset, or offer what ddpm_helpers.training.TrainingData describes"
        )
    if len(dataset) < 1:
        raise ValueError(f"the dataset {dataset.name!r} holds no images")
    if not all(isinstance(name, str) for name in dataset.classes):
        raise ValueError(f"classes must be names, got {list(dataset.classes)[:5]!r}")


def batches_from(
    dataset: TrainingData, config: TrainConfig, step: int, shape: tuple[int, ...], device: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches after the first `step` updates, epoch after epoch without end; each is checked.

    Args:
        shape: (C, S, S), which every image must have.
        device: of the batches.
    """
    per_epoch = math.ceil(len(dataset) / config.batch_size)
    first, done = divmod(step, per_epoch)
    for epoch in itertools.count(first):
        found = dataset.batches(config.batch_size, seed=config.seed, epoch=epoch, device=device)
        number = 0
        for number, (x_0, y) in enumerate(found, 1):
            if epoch > first or number > done:
                _check_batch(x_0, y, shape)
                yield x_0, y
        if number != per_epoch:
            raise ValueError(
                f"the dataset's batches() gave {number} batches, {per_epoch} are needed to hold "
                "each of its images once; the last one may be smaller"
            )


def _check_batch(x_0: Tensor, y: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a batch that is not what `TrainingData.batches` describes."""
    if x_0.dtype != torch.float32 or x_0.shape[1:] != shape:
        raise ValueError(
            f"batches must yield x_0, float32 (B, {', '.join(map(str, shape))}) in [-1, 1]; "
            f"got {x_0.dtype}, {tuple(x_0.shape)}"
        )
    if y.dtype != torch.int64 or y.shape != x_0.shape[:1]:
        raise ValueError(
            f"batches must yield y, int64 ({len(x_0)},), one label per image; "
            f"got {y.dtype}, {tuple(y.shape)}"
        )


def identify(dataset: Any) -> dict[str, Any]:
    """What a checkpoint stores about a dataset, to recognise it when its folder was renamed.

    Returns:
        `name`, `images` (their number), and, if the dataset has arrays `images` and `labels`, the
        mean `brightness` in 0..255 and the `labels` of up to 64 images, spread evenly.
    """
    found = {"name": dataset.name, "images": len(dataset)}
    images, labels = getattr(dataset, "images", None), getattr(dataset, "labels", None)
    if images is None or labels is None:
        return found
    where = np.linspace(0, len(dataset) - 1, min(PROBES, len(dataset))).round().astype(int).tolist()
    means = [float(np.asarray(images[i], dtype=np.float64).mean()) for i in where]
    return found | {"brightness": means, "labels": [int(labels[i]) for i in where]}


def check_same_data(file: str, saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse a checkpoint of other data: other images, labels or order.

    Another decoder may change a mean brightness by up to one level. Without arrays to compare, the
    names decide.

    Args:
        file: name of the checkpoint, for the message.
        saved, own: what `identify` returned, then and now.
    """
    if "brightness" in saved and "brightness" in own:
        same = saved["labels"] == own["labels"] and np.allclose(
            saved["brightness"], own["brightness"], rtol=0, atol=1.0
        )
    else:
        same = saved["name"] == own["name"]
    if saved["images"] != own["images"] or not same:
        was, now = (f"{one['images']} images of {one['name']}" for one in (saved, own))
        raise ValueError(f"{file} was trained on {was}, not on {'other ' * (was == now)}{now}")
