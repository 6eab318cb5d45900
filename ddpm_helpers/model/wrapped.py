"""Networks inside torch.compile, DataParallel or DistributedDataParallel."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: Any) -> Any:
    """Return the network without its wrappers; the weights are shared."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner  # torch.compile
        elif isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        else:
            return model
