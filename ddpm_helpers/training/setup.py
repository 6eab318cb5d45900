"""Build the parts of a training, choose its device, and check that the parts fit."""

from __future__ import annotations

import os
import shutil
import sysconfig
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ddpm_helpers.config import TrainConfig, best_device
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import set_classes
from ddpm_helpers.training.muon import Muon
from ddpm_helpers.training.training_data import check_data, image_shape

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator() -> Accelerator:
    """Hugging Face Accelerate, which knows the device and the other processes of this run.

    Its own mixed precision is one setting for a whole Python process, while a notebook may
    compare two: the pipeline uses torch.autocast itself. Precision and accumulation are those of
    the configuration, whatever `accelerate config` left in the environment.

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


def build_model(config: TrainConfig, num_classes: int) -> DiffusionNet:
    """The network a configuration asks for; its weights depend on config.seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return DiffusionNet(
            config.image_size,
            channels=config.channels,
            width=config.width,
            stem_stride=config.stem_stride,
            num_classes=num_classes if config.class_conditional else None,
        )


def build_diffusion(config: TrainConfig) -> DiffusionUtils:
    """The diffusion a configuration asks for.

    Raises:
        ValueError: a schedule or prediction that does not exist, or zero SNR with eps.
    """
    return DiffusionUtils(
        config.timesteps,
        config.schedule,
        prediction=config.prediction,
        rescale_zero_snr=config.rescale_zero_snr,
    )


def build_optimizer(model: DiffusionNet, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser a configuration asks for, for a network that is on its device already."""
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if config.optimizer == "muon":
        return Muon(model, config.lr, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.AdamW(
        model.parameters(), config.lr, weight_decay=config.weight_decay, fused=fused
    )


def compiled(model: DiffusionNet) -> nn.Module:
    """The network behind torch.compile, which fuses what lies between its convolutions.

    It shares the weights of `model`. Where what the compiler needs is missing, a warning says what,
    and the network comes back as it is.
    """
    compilers = [os.environ.get("CXX"), "g++", "clang++", "cl"]
    if not any(name and shutil.which(name) for name in compilers):
        missing = "a C++ compiler (g++, clang++ or cl; or set CXX)"
    elif not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing = "Python.h (on Debian in python3-dev)"
    else:
        return torch.compile(model, dynamic=False)  # type: ignore[return-value]
    warnings.warn(f"compile=True needs {missing}; training goes on without", stacklevel=3)
    return model


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def check_fit(model: Any, diffusion: Any, dataset: Any, config: TrainConfig) -> None:
    """Refuse parts that do not belong together, before anything is trained."""
    if not all(hasattr(model, name) for name in ("image_shape", "num_classes", "config")):
        raise ValueError(f"the network must be a DiffusionNet, got {type(model).__name__}")
    if not isinstance(diffusion, DiffusionUtils):
        raise ValueError(f"diffusion must be a DiffusionUtils, got {type(diffusion).__name__}")
    check_data(dataset)
    size = config.image_size
    if model.image_shape[1] != size:
        raise ValueError(f"config.image_size is {size}, the network's is {model.image_shape[1]}")
    if model.image_shape[0] != config.channels:
        raise ValueError(
            f"config.channels is {config.channels}, the network has {model.image_shape[0]}"
        )
    if (found := image_shape(dataset)) != model.image_shape:
        raise ValueError(
            f"the network takes pictures of {model.image_shape}, the dataset holds {found}"
        )
    unnamed = model.num_classes is not None and not getattr(model, "classes", ())
    if unnamed and model.num_classes < len(dataset.classes):
        raise ValueError(
            f"the network knows {model.num_classes} classes, the dataset has {len(dataset.classes)}"
        )
    for name, found in diffusion.config.items():
        wanted = getattr(config, name)
        if found != wanted and not isinstance(found, list):  # a table of betas has no name
            raise ValueError(f"config.{name} is {wanted!r}, the diffusion's is {found!r}")


def match_classes(model: DiffusionNet, classes: Sequence[str]) -> str:
    """Make label k of the data the class that a trained network knows as number k.

    A network that takes no labels, or does not know its classes by name, stays as it is.

    Returns:
        One line on what changed; empty where nothing did.
    """
    known = getattr(model, "classes", ())
    if model.num_classes is None or not known or tuple(known) == tuple(classes):
        return ""
    return f"classes of the data and the network differ: {set_classes(model, classes)}"


def thaw(model: DiffusionNet) -> None:
    """Let all weights of a network learn, if none does: `load_pretrained` freezes every one.

    A network of which some weights are frozen on purpose stays as it is.
    """
    if not any(weight.requires_grad for weight in model.parameters()):
        model.requires_grad_(True)
