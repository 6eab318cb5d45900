"""What a dataset must offer for training, and what a checkpoint stores about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

PROBES = 64  # pictures that tell one dataset from another
NEEDED = ("__len__", "batches", "classes")


@runtime_checkable
class TrainingData(Protocol):
    """Labelled pictures in whole batches: what `TrainingPipeline` asks of a dataset.

    `ImageDataset` is one. Instead of `image_shape` it may have `images`, an array (N, C, S, S) of
    bytes, and instead of `name` a `source`, a word or a path. If it has `images` and `labels`, a
    checkpoint recognises the data under any name.

    Attributes:
        classes: names, in the order of the labels.
        image_shape: (C, S, S) of a picture.
        name: what weights that were trained on it call it.
    """

    classes: Sequence[str]
    image_shape: tuple[int, int, int]
    name: str

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def batches(
        self, batch_size: int, *, seed: int, epoch: int = 0, device: Any = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in batches of batch_size, the last of which holds the rest.

        Whatever is drawn at random must depend on (seed, epoch) alone, because a resumed run skips
        the batches that it has already seen.

        Yields:
            x_0, float32 (B, C, S, S) in [-1, 1], and y, int64 (B,), both on `device`.
        """
        ...


def check_data(dataset: Any) -> None:
    """Refuse a dataset that cannot be trained on, in one line."""
    lacks = [f"`{name}`" for name in NEEDED if not hasattr(dataset, name)]
    lacks += ["`image_shape`"] if image_shape(dataset) is None else []
    lacks += ["`name`"] if data_name(dataset) == "" else []
    if lacks:
        raise ValueError(
            f"the dataset, of type {type(dataset).__name__}, lacks {', '.join(lacks)}: take an "
            "ImageDataset, or offer what ddpm_helpers.training.TrainingData describes"
        )
    if len(dataset) < 1:
        raise ValueError(f"the dataset {data_name(dataset)!r} holds no pictures")


def check_batch(x_0: Tensor, y: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a batch that is not what `TrainingData.batches` describes."""
    if x_0.dtype != torch.float32 or x_0.shape[1:] != shape:
        raise ValueError(
            f"batches must yield x_0, float32 (B, {', '.join(map(str, shape))}) in [-1, 1]; "
            f"got {x_0.dtype}, {tuple(x_0.shape)}".replace("torch.", "")
        )
    if y.dtype != torch.int64 or y.shape != x_0.shape[:1]:
        raise ValueError(
            f"batches must yield y, int64 ({len(x_0)},), one label per image; "
            f"got {y.dtype}, {tuple(y.shape)}".replace("torch.", "")
        )


def check_epoch(batches: int, expected: int) -> None:
    """Refuse an epoch of fewer or more batches than the number of pictures says."""
    if batches != expected:
        raise ValueError(
            f"the dataset's batches() gave {batches} batches, {expected} are needed to hold each "
            "of its pictures once; the last one may be smaller"
        )


def image_shape(dataset: Any) -> tuple[int, ...] | None:
    """(C, S, S) of a dataset's pictures; None where it does not say."""
    shape = getattr(dataset, "image_shape", None) or getattr(dataset, "images", None)
    if shape is None:
        return None
    return tuple(shape if isinstance(shape, tuple) else shape.shape[1:])


def data_name(dataset: Any) -> str:
    """What weights call the data: its name, or the last part of its path; "" if it has neither."""
    return getattr(dataset, "name", None) or Path(getattr(dataset, "source", None) or "").name


def fingerprint(dataset: Any) -> dict[str, Any]:
    """What identifies a dataset, whatever its folder is called.

    Returns:
        `name`, `pictures` (their number), and, if the dataset has arrays `images` and `labels`, the
        mean `brightness` in 0..255 and the `labels` of some of its pictures, spread evenly.
    """
    found = {"name": data_name(dataset), "pictures": len(dataset)}
    images, labels = getattr(dataset, "images", None), getattr(dataset, "labels", None)
    if images is None or labels is None:
        return found
    where = np.linspace(0, len(dataset) - 1, min(PROBES, len(dataset))).round().astype(int).tolist()
    means = [float(np.asarray(images[i], dtype=np.float64).mean()) for i in where]
    return found | {"brightness": means, "labels": [int(labels[i]) for i in where]}


def describe(found: dict[str, Any]) -> str:
    """A fingerprint in words."""
    return f"{found['pictures']} pictures of {found['name']}"


def same_data(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two fingerprints belong to the same pictures in the same order.

    Another decoder may change a mean by a fraction of a level. Without pictures, names decide.
    """
    if a["pictures"] != b["pictures"]:
        return False
    if "brightness" not in a or "brightness" not in b:
        return a["name"] == b["name"]
    alike = np.allclose(a["brightness"], b["brightness"], rtol=0, atol=1.0)
    return a["labels"] == b["labels"] and bool(alike)
