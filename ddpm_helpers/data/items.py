"""Convert an item of a dataset object to a PIL picture and a label."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

PICTURES, LABELS = ("image", "img"), ("label", "labels")  # keys of items that are dictionaries
NO_LABEL = -(2**63)  # no dataset uses this number
TOLERANCE = 0.5 / 255  # outside of [0, 1], rounds to 0 or 255


class Wrong(Exception):
    """An item that cannot be used; the message completes "item 3 of …"."""


def parts(item: Any) -> tuple[Any, Any]:
    """Picture and label of an item: a pair, a picture alone, or a dictionary `image`, `label`.

    The label is None if there is none.
    """
    if isinstance(item, Mapping):
        picture = next((item[name] for name in PICTURES if name in item), None)
        if picture is None:
            found = ", ".join(map(repr, item))
            raise Wrong(f"is a dictionary with {found}; it needs 'image' and may have 'label'")
        return picture, next((item[name] for name in LABELS if name in item), None)
    if not isinstance(item, (tuple, list)):
        return item, None
    if len(item) not in (1, 2):
        raise Wrong(f"has {len(item)} parts; it must be (picture, label)")
    return item[0], item[1] if len(item) == 2 else None


def whole_label(label: Any) -> int:
    """A label of any integer type as an int; `NO_LABEL` for None."""
    if label is None:
        return NO_LABEL
    number = label.detach().cpu().numpy() if isinstance(label, torch.Tensor) else np.asarray(label)
    if number.size != 1 or number.dtype.kind not in "iub":
        kind = f"{type(label).__name__} of shape {number.shape}" if number.shape else repr(label)
        raise Wrong(
            f"has the label {kind}; it must be one whole number (a target_transform can make one)"
        )
    return int(number.item())


def pil_picture(picture: Any) -> Any:
    """Convert a PIL image, a tensor (C, H, W) or an array (H, W, C) to a PIL image, loaded.

    C is 1, 3 or 4; the shape may be (H, W) too. Values are uint8, or floats in [0, 1].
    """
    from PIL import Image

    if isinstance(picture, Image.Image):
        picture.load()
        return picture
    if isinstance(picture, torch.Tensor):
        values = picture.detach().cpu()
        array = (values.float() if values.is_floating_point() else values).numpy()
    elif isinstance(picture, np.ndarray):
        array = picture
    else:
        kind = type(picture).__name__
        raise Wrong(f"is a {kind}; a picture is a PIL image, a tensor or an array")
    pixels = _bytes(_channels_last(array, channels_first=array is not picture))
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _channels_last(array: np.ndarray, channels_first: bool) -> np.ndarray:
    """(H, W, C); `channels_first` decides where both sides could be the channels."""
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3 and 0 not in array.shape:
        first, last = (array.shape[side] in (1, 3, 4) for side in (0, 2))
        if first and (channels_first or not last):
            return array.transpose(1, 2, 0)
        if last:
            return array
    raise Wrong(
        f"has the shape {array.shape}; a picture is (C, H, W) as a tensor or (H, W, C) as an "
        "array, C = 1, 3 or 4"
    )


def _bytes(array: np.ndarray) -> np.ndarray:
    """uint8 as it is; floats in [0, 1] times 255, rounded."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        span = f"{array.dtype} from {array.min()} to {array.max()}"
        raise Wrong(f"holds {span}; give uint8, or floats in [0, 1]")
    low, high = float(array.min()), float(array.max())  # NaN if there is one
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise Wrong(
            f"holds floats from {low:.4g} to {high:.4g}; give floats in [0, 1] (ToTensor without "
            "Normalize), or uint8"
        )
    return np.ascontiguousarray((array.clip(0, 1) * 255).round().astype(np.uint8))
