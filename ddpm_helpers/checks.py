"""Check arguments: each function returns the value, or raises a one-line error that names it.

For example, `n = checks.count("n", n)` may raise "n must be a whole number at least 1, got 0".
"""

from __future__ import annotations

import math
import operator
import unicodedata
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

NO_LABEL = -1  # the label of an image without a class


def count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Check that value is a whole number in least..most, and return it as an int."""
    span = f"at least {least}" if most is None else f"in {least}..{most}"
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number {span}, got {value!r}") from None
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise ValueError(f"{name} must be a whole number {span}, got {value!r}")
    return number


def number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """Check that value is a finite number in least..most, or such a tensor, (); return a float."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        shown = value if isinstance(value, (Real, str)) else type(value).__name__
        raise ValueError(f"{name} must be a finite number, got {shown!r}")
    number = float(value)
    if not least <= number <= most:
        raise ValueError(f"{name} must lie in {least}..{most}, got {value}")
    return number


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """Check that value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
    return value


def same_shape(name: str, a: Tensor, other: str, b: Tensor) -> Tensor:
    """Check that a has the shape of b, which the message calls `other`; return a."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name} must have the shape of {other}, {tuple(b.shape)}; got {tuple(a.shape)}"
        )
    return a


def images(name: str, x: Tensor) -> Tensor:
    """Check that x is a batch of floating-point images, (B, C, H, W)."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"{name} must be float images (B, C, H, W), got {x.dtype} {tuple(x.shape)}"
        )
    return x


def labels(
    y: Tensor | Sequence[int | str] | int | str, n: int, model: Any, device: torch.device
) -> Tensor:
    """Convert class numbers or names to one label for each of n images.

    Args:
        y: class numbers or names, (n,), or a single label for all images; NO_LABEL for no class.
        n: number of images.
        model: `num_classes` is the number of classes (None: it takes no labels) and `classes` holds
            their names; without `num_classes`, every number is accepted.
        device: device of the labels.
    Returns:
        int64 (n,).
    Raises:
        ValueError: a class is unknown, the number of labels is wrong, or the network takes none.
    """
    classes = getattr(model, "num_classes", math.inf)
    if classes is None:
        raise ValueError("this network takes no labels (num_classes=None), but y was given")
    numbers = _without_names(y, classes, getattr(model, "classes", ()))
    try:
        numbers = torch.as_tensor(numbers)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"y must be whole class numbers, got {y!r}") from None
    if numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise ValueError(f"y must be whole class numbers, got {numbers.dtype}")
    if numbers.ndim == 0:
        numbers = numbers.expand(n)
    if numbers.shape != (n,):
        raise ValueError(f"y must be ({n},), one label per image; got {tuple(numbers.shape)}")
    low, high = int(numbers.min()), int(numbers.max())
    if low < NO_LABEL or high >= classes:
        top = "" if classes == math.inf else f"..{classes - 1}"
        raise ValueError(f"y must lie in 0{top} (or -1 for no label), got {low}..{high}")
    return numbers.to(device, torch.int64)


def class_name(name: Any) -> str:
    """Convert a class name to text in Unicode's form NFC, because drives store accents differently.

    A number becomes its digits. Bytes of a file name that are not text become escapes.
    """
    text = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    return unicodedata.normalize("NFC", text)


def class_number(word: str, classes: float, names: Sequence[str]) -> int:
    """Find the number of the class called `word`; if there is none, read `word` as a number.

    `classes` is the number of classes, infinite if it is unknown; `names` may be empty.

    Raises:
        ValueError: `word` is neither a class name nor a number in 0..classes-1.
    """
    known = [class_name(name) for name in names]
    if class_name(word) in known:
        return known.index(class_name(word))
    if word.isdecimal() and int(word) < classes:
        return int(word)
    choices = ", ".join(known) or f"0..{classes - 1}"
    raise ValueError(f"unknown class {word!r}; choose from {choices}")


def _without_names(y: Any, classes: float, names: Sequence[str]) -> Any:
    """Replace the class names in y by their numbers, if the names are known."""
    if isinstance(y, np.ndarray):
        y = y.tolist()
    if isinstance(y, (list, tuple)):
        return [_without_names(one, classes, names) for one in y]
    if isinstance(y, str) and (names or y.isdecimal()):
        return class_number(y, classes, names)
    return y
