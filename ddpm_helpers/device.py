"""Choose the device, the precision, the compiler and the processes."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


def best_device() -> torch.device:
    """Find the fastest device that works here: cuda, then mps, then cpu."""
    if torch.cuda.is_available() and _works("cuda"):
        return torch.device("cuda")
    if torch.backends.mps.is_available() and _works("mps"):
        return torch.device("mps")
    return torch.device("cpu")


@cache
def _works(device: str) -> bool:
    """Try an addition on a device, and warn if it fails: a driver may be too old for torch."""
    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        why = (str(error).splitlines() or ["no reason given"])[0]
        warnings.warn(f"torch sees {device} but cannot use it ({why}); using the CPU", stacklevel=3)
        return False
    return True


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to another device without waiting for the GPU.

    Copies from pageable memory wait, so the values are copied to pinned memory first.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def device_and_dtype(
    model: Any, otherwise: Tensor | None = None
) -> tuple[torch.device, torch.dtype]:
    """Find the device and dtype of a network's first floating-point parameter.

    Args:
        model: any callable.
        otherwise: a tensor to use for a model without parameters; None: float32 on the CPU.
    """
    parameters = getattr(model, "parameters", None)
    floats = (p for p in parameters() if p.is_floating_point()) if callable(parameters) else ()
    first = next(iter(floats), otherwise)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)


def compiled(model: nn.Module) -> nn.Module:
    """Compile a network with torch.compile, which fuses the operations between convolutions.

    The result shares the weights of `model`. A part that fails to compile runs
    uncompiled, after a warning with the reason.
    """
    return torch.compile(model, backend=_inductor_or_plain, dynamic=False)  # type: ignore[return-value]


def _inductor_or_plain(graph: Any, inputs: Any) -> Any:
    """Use torch.compile's backend; if it fails, mostly without a C++ compiler, the plain graph."""
    try:
        return torch._dynamo.lookup_backend("inductor")(graph, inputs)
    except Exception as error:  # compilers fail in many ways
        lines = f"{type(error).__name__}: {error}".splitlines()
        why = next((line for line in lines if "error: " in line), lines[0])
        warnings.warn(f"torch.compile failed ({why}); training continues without it", stacklevel=2)
        return graph


def bf16_is_fast(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16 itself rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def make_accelerator() -> Accelerator:
    """Make the `Accelerator`, which manages the device and the processes of this run.

    A Python process has one mixed-precision setting of accelerate, but a notebook may compare two,
    so the pipeline calls torch.autocast itself. Precision and accumulation come from the
    configuration; `accelerate config` is ignored.
    """
    from accelerate import Accelerator  # the import takes a second
    from accelerate.utils import GradientAccumulationPlugin

    return Accelerator(
        cpu=best_device().type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
