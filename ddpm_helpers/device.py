"""Where tensors live and what computes there: device, precision, compiler, processes."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


def best_device() -> torch.device:
    """The fastest device that works here: cuda, then mps, then cpu."""
    if torch.cuda.is_available() and _works("cuda"):
        return torch.device("cuda")
    if torch.backends.mps.is_available() and _works("mps"):
        return torch.device("mps")
    return torch.device("cpu")


@cache
def _works(device: str) -> bool:
    """Whether one addition succeeds there, or else a warning: a driver may be too old for torch."""
    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        why = (str(error).splitlines() or ["no reason given"])[0]
        warnings.warn(f"torch sees {device} but cannot use it ({why}); using the CPU", stacklevel=3)
        return False
    return True


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to another device, without waiting for what a GPU is still computing.

    A copy from pageable memory would wait, so the values go through pinned memory.
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


def compiled(model: nn.Module) -> nn.Module:
    """Compile a network with torch.compile, which fuses the operations between its convolutions.

    The result shares the weights of `model`. What the compiler fails on runs uncompiled, after a
    warning that says why.
    """
    return torch.compile(model, backend=_inductor_or_plain, dynamic=False)  # type: ignore[return-value]


def _inductor_or_plain(graph: Any, inputs: Any) -> Any:
    """torch.compile's own backend; if it fails, usually without a C++ compiler, the plain graph."""
    try:
        return torch._dynamo.lookup_backend("inductor")(graph, inputs)
    except Exception as error:  # compilers fail in many ways
        lines = f"{type(error).__name__}: {error}".splitlines()
        why = next((line for line in lines if "error: " in line), lines[0])
        warnings.warn(f"torch.compile failed ({why}); training continues without it", stacklevel=2)
        return graph


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def make_accelerator() -> Accelerator:
    """Make the `Accelerator`, which knows the device and the other processes of this run.

    Its own mixed precision is one setting for a whole Python process, while a notebook may
    compare two, so the pipeline uses torch.autocast itself. Precision and accumulation are those
    of the configuration, whatever `accelerate config` left in the environment.

    Raises:
        ValueError: launched for FSDP.
    """
    from accelerate import Accelerator  # takes a second: not at import
    from accelerate.utils import GradientAccumulationPlugin

    accelerator = Accelerator(
        cpu=best_device().type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    if accelerator.distributed_type == "FSDP":
        raise ValueError(
            "FSDP splits networks that are too large for one GPU; this one fits on any: "
            "launch with --multi_gpu instead of --use_fsdp"
        )
    return accelerator
