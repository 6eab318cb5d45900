"""Build the parts of a training, and check that they fit each other."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet, DiT, Network
from ddpm_helpers.pretrained import set_classes
from ddpm_helpers.training.training_data import check_dataset

FINE_TUNING = 180  # updates that teach the cartoons' weights a new class


def build_model(config: TrainConfig, num_classes: int) -> Network:
    """Build the network of a configuration; its initial weights depend on config.seed alone."""
    classes = num_classes if config.class_conditional else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.network == "transformer":
            return DiT(
                config.image_size, channels=config.channels, patch=config.patch,
                width=config.width, depth=config.depth, heads=config.heads, num_classes=classes,
            )  # fmt: skip
        return DiffusionNet(
            config.image_size, channels=config.channels, width=config.width,
            stem_stride=config.stem_stride, num_classes=classes,
        )  # fmt: skip


def build_diffusion(config: TrainConfig) -> DiffusionUtils:
    """Build the diffusion of a configuration.

    Raises:
        ValueError: an unknown schedule or prediction, or zero terminal SNR with eps.
    """
    return DiffusionUtils(
        config.timesteps,
        config.schedule,
        prediction=config.prediction,
        rescale_zero_snr=config.rescale_zero_snr,
    )


def for_fine_tuning(config: TrainConfig, images: int, chosen: Collection[str]) -> TrainConfig:
    """Change a configuration so that it makes enough updates to fine-tune on a small dataset.

    Args:
        config: its epochs are raised until they make 180 updates, with five checkpoints and sample
            grids in total; its warm-up is lowered to a tenth of the run.
        images: number of images.
        chosen: fields that stay as they are.
    """
    per_epoch = math.ceil(images / config.batch_size)
    changes: dict[str, Any] = {}
    if "epochs" not in chosen and config.epochs * per_epoch < FINE_TUNING:
        changes["epochs"] = epochs = math.ceil(FINE_TUNING / per_epoch)
        for name in {"save_every", "sample_every"} - set(chosen):
            changes[name] = getattr(config, name) and math.ceil(epochs / 5)
    if "warmup_steps" not in chosen:
        total = changes.get("epochs", config.epochs) * per_epoch
        changes["warmup_steps"] = min(config.warmup_steps, total // 10)
    return replace(config, **changes)


def match_classes(network: Network, classes: Sequence[str], *, quiet: bool) -> None:
    """Match the label embedding of a network to the classes of the data by name, in place.

    Label k then means class k of the data. A network without labels, or whose classes have no
    names, stays as it is.
    """
    if network.num_classes and tuple(network.classes) not in ((), tuple(classes)):
        line = set_classes(network, classes)
        if not quiet:
            print(f"classes of the data and the network differ: {line}")


def check_fit(model: Any, diffusion: Any, dataset: Any, config: TrainConfig) -> None:
    """Refuse a network, diffusion, dataset and configuration that do not fit each other."""
    if not isinstance(model, Network):
        raise ValueError(f"the network must be a DiffusionNet or a DiT, got {type(model).__name__}")
    if not isinstance(diffusion, DiffusionUtils):
        raise ValueError(f"diffusion must be a DiffusionUtils, got {type(diffusion).__name__}")
    check_dataset(dataset)
    shape = (config.channels, config.image_size, config.image_size)
    for name, part in (("network", model), ("dataset", dataset)):
        if (found := tuple(part.image_shape)) != shape:
            raise ValueError(f"config says images of {shape}, the {name} has {found}")
    known = model.num_classes
    if known is not None and not model.classes and known < len(dataset.classes):
        raise ValueError(
            f"the network knows {known} classes, the dataset has {len(dataset.classes)}"
        )
    settings = diffusion.config | {"teacher_steps": getattr(diffusion, "teacher_steps", None)}
    for name, value in settings.items():
        wanted = getattr(config, name, value)  # a configuration has no few_steps
        if value != wanted and not isinstance(value, list):  # a table of betas has no name
            raise ValueError(f"config.{name} is {wanted!r}, the diffusion's is {value!r}")
