"""Where tensors live, and in which precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor on another device, without waiting for what a GPU is still computing.

    A copy from pageable memory would wait, so values go through pinned memory.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def device_and_dtype(
    model: Any, otherwise: Tensor | None = None
) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a network's first floating-point parameter.

    Args:
        model: any callable.
        otherwise: a tensor that decides for a model without parameters; None: float32 on the CPU.
    """
    parameters = getattr(model, "parameters", None)
    floats = (p for p in parameters() if p.is_floating_point()) if callable(parameters) else ()
    first = next(iter(floats), otherwise)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
