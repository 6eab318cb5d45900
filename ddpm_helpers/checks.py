"""Checks of arguments: each returns the value, or raises one line that names it and the choices.

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
    """A whole number in least..most."""
    span = f"at least {least}" if most is None else f"in {least}..{most}"
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number {span}, got {value!r}") from None
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise ValueError(f"{name} must be a whole number {span}, got {value!r}")
    return number


def number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number in least..most; a tensor that holds one number counts as a number."""
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
    """One of several names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
    return value


def same_shape(name: str, a: Tensor, other: str, b: Tensor) -> Tensor:
    """A tensor a of the same shape as b, which the message calls `other`."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name} must have the shape of {other}, {tuple(b.shape)}; got {tuple(a.shape)}"
        )
    return a


def images(name: str, x: Tensor) -> Tensor:
    """A batch of floating-point images, (B, C, H, W)."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"{name} must be float images (B, C, H, W), got {x.dtype} {tuple(x.shape)}"
        )
    return x


def labels(
    y: Tensor | Sequence[int | str] | int | str, n: int, model: Any, device: torch.device
) -> Tensor:
    """One class label for each of n images.

    Args:
        y: class numbers or names, one for each image or one for all; NO_LABEL for no class.
        n: number of images.
        model: its `num_classes` is the number of classes (None: it takes no labels), its `classes`
            their names; if it has no `num_classes`, every number is accepted.
        device: where the labels go.
    Returns:
        int64 (n,).
    Raises:
        ValueError: an unknown class, a wrong number of labels, or a network that takes none.
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
    """A class name as text: in Unicode's form NFC, whichever way a drive stores accents.

    A number becomes its digits, and bytes of a file name that are not text become escapes.
    """
    text = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    return unicodedata.normalize("NFC", text)


def class_number(word: str, classes: float, names: Sequence[str]) -> int:
    """The number of the class that `word` names, or else the number that `word` spells.

    `classes` is the number of classes, infinite if it is not known; `names` may be empty.

    Raises:
        ValueError: neither a name nor a number in 0..classes-1.
    """
    known = [class_name(name) for name in names]
    if class_name(word) in known:
        return known.index(class_name(word))
    if word.isdecimal() and int(word) < classes:
        return int(word)
    choices = ", ".join(known) or f"0..{classes - 1}"
    raise ValueError(f"unknown class {word!r}; choose from {choices}")


def _without_names(y: Any, classes: float, names: Sequence[str]) -> Any:
    """y with every word replaced by the class number it stands for, where that can be known."""
    if isinstance(y, np.ndarray):
        y = y.tolist()
    if isinstance(y, (list, tuple)):
        return [_without_names(one, classes, names) for one in y]
    if isinstance(y, str) and (names or y.isdecimal()):
        return class_number(y, classes, names)
    return y
