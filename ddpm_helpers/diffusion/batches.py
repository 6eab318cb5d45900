"""What every method of `DiffusionUtils` asks of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(values: Tensor, like: Tensor) -> Tensor:
    """(B,) float64 on the CPU to (B, 1, 1, 1), rounded once to like's precision and device."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return onto(like.device, values.to(dtype)).reshape(-1, 1, 1, 1)


def onto(device: torch.device, values: Tensor) -> Tensor:
    """Values on another device, on the way there before the GPU has done what it was asked.

    A copy from pageable memory would wait for it.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def check_pictures(name: str, x: Tensor) -> None:
    """Refuse what is no float batch (B, C, H, W)."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"{name} must be float pictures (B, C, H, W), got {x.dtype} {tuple(x.shape)}"
        )


def check_same(name: str, a: Tensor, other: str, b: Tensor) -> None:
    """Refuse two tensors of different shapes."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name} must have the shape of {other}, {tuple(b.shape)}; got {tuple(a.shape)}"
        )
