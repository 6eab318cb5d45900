"""Compare the results of two answers, and describe how they differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.exercises.running import Problem, Raised


class Difference(str):
    """Description of how a result differs; empty if it is equal.

    Attributes:
        source: "error" for an exception, a missing result, a dtype or a shape, else "numbers".
    """

    source: str = "error"


class _Numbers(Difference):
    source = "numbers"


def difference(got: Any, want: Any, tolerance: float, exact_dtype: bool = False) -> Difference:
    """Describe how two results differ; empty if they are equal within the tolerance."""
    if isinstance(got, Problem) or isinstance(want, Problem):
        return Difference("" if got == want else getattr(got, "text", f"got {short(got)}"))
    if isinstance(got, Raised) or isinstance(want, Raised):
        return _of_errors(got, want)
    if got is None and want is not None:
        return Difference("it returns nothing; is a `return` missing?")
    if isinstance(want, dict):
        return _of_dicts(got, want, tolerance, exact_dtype)
    if isinstance(want, (tuple, list)):
        return _of_lists(got, want, tolerance, exact_dtype)
    if isinstance(want, (str, bool, type(None))):
        same = type(got) is type(want) and got == want
        kind = _Numbers if isinstance(want, str) else Difference
        return kind("" if same else f"expected {want!r}, got {short(got)}")
    if isinstance(want, int) and not _is_whole(got):
        return Difference(f"expected a whole number, got {short(got)}")
    return _of_numbers(got, want, tolerance, exact_dtype)


def as_tensor(value: Any) -> Tensor | None:
    """Convert a value to a detached CPU tensor; None if it does not hold numbers."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return None


def short(value: Any) -> str:
    """Show a value in at most 60 characters."""
    if isinstance(value, Tensor) and value.ndim:
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_whole(value: Any) -> bool:
    tensor = as_tensor(value)
    return tensor is not None and not (tensor.is_floating_point() or tensor.is_complex())


def _of_errors(got: Any, want: Any) -> Difference:
    if not isinstance(got, Raised):
        return Difference(f"expected a {want.kind}, got {short(got)}")
    if isinstance(want, Raised) and got.kind == want.kind:
        return Difference("")
    if got.where:
        return Difference(f"it raises {got.kind}: {got.text} ({got.where})")
    return Difference(f"what it returns cannot be used ({got.kind}: {got.text})")


def _of_dicts(got: Any, want: dict, tolerance: float, exact_dtype: bool) -> Difference:
    if not isinstance(got, dict) or got.keys() != want.keys():
        return Difference(f"expected a dict with the keys {list(want)}, got {short(got)}")
    for key in want:
        why = difference(got[key], want[key], tolerance, exact_dtype)
        if why:
            return type(why)(f"{key}: {why}")
    return Difference("")


def _of_lists(got: Any, want: tuple | list, tolerance: float, exact_dtype: bool) -> Difference:
    if not isinstance(got, (tuple, list)) or len(got) != len(want):
        return Difference(f"expected {len(want)} values, got {short(got)}")
    for k, (mine, right) in enumerate(zip(got, want, strict=True)):
        why = difference(mine, right, tolerance, exact_dtype)
        if why:
            return type(why)(f"value {k + 1}: {why}")
    return Difference("")


def _of_numbers(got: Any, want: Any, tolerance: float, exact_dtype: bool) -> Difference:
    a, b = as_tensor(got), as_tensor(want)
    if a is None or b is None:
        return Difference(f"expected numbers, got {short(got)}")
    if isinstance(want, Tensor) and want.ndim and not isinstance(got, Tensor):
        return Difference(f"expected a tensor, got {short(got)}")
    if isinstance(got, Tensor) and isinstance(want, Tensor) and got.device != want.device:
        return Difference(f"expected a tensor on {want.device}, got one on {got.device}")
    if a.shape != b.shape:
        return Difference(f"expected the shape {tuple(b.shape)}, got {tuple(a.shape)}")
    if a.is_complex() and not b.is_complex():
        return Difference("expected real numbers, got complex ones: take `.real`")
    if exact_dtype and isinstance(want, Tensor) and a.dtype != b.dtype:
        return Difference(f"expected the dtype {b.dtype}, got {a.dtype}")
    return _of_values(a.double(), b.double(), tolerance)


def _of_values(a: Tensor, b: Tensor, tolerance: float) -> Difference:
    close = torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    if bool(close.all()):
        return Difference("")
    if a.isnan().any() and not b.isnan().any():
        return Difference(f"{int(a.isnan().sum())} of {a.numel()} values are not a number (nan)")
    if a.ndim == 0:
        return _Numbers(f"expected {b.item():.6g}, got {a.item():.6g}")
    return _Numbers(
        f"{int((~close).sum())} of {a.numel()} values differ; "
        f"yours have mean {_mean_std(a)}, the right ones {_mean_std(b)}"
    )


def _mean_std(x: Tensor) -> str:
    return f"{x.mean().item():.4g} and standard deviation {x.std(correction=0).item():.4g}"
