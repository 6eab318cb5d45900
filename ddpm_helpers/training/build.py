"""Build the parts of a training, and check that they fit each other."""

from __future__ import annotations

from typing import Any

import torch

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.training.training_data import check_data, image_shape


def build_model(config: TrainConfig, num_classes: int) -> DiffusionNet:
    """Build the network of a configuration; its initial weights depend on config.seed alone."""
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


def check_fit(model: Any, diffusion: Any, dataset: Any, config: TrainConfig) -> None:
    """Refuse a network, diffusion, dataset and configuration that do not fit each other."""
    if not isinstance(model, DiffusionNet):
        raise ValueError(f"the network must be a DiffusionNet, got {type(model).__name__}")
    if not isinstance(diffusion, DiffusionUtils):
        raise ValueError(f"diffusion must be a DiffusionUtils, got {type(diffusion).__name__}")
    check_data(dataset)
    channels, size, _ = model.image_shape
    if size != config.image_size:
        raise ValueError(f"config.image_size is {config.image_size}, the network's is {size}")
    if channels != config.channels:
        raise ValueError(f"config.channels is {config.channels}, the network has {channels}")
    if (found := image_shape(dataset)) != model.image_shape:
        raise ValueError(
            f"the network takes pictures of {model.image_shape}, the dataset holds {found}"
        )
    known = model.num_classes
    if known is not None and not model.classes and known < len(dataset.classes):
        raise ValueError(
            f"the network knows {known} classes, the dataset has {len(dataset.classes)}"
        )
    settings = diffusion.config | {"teacher_steps": getattr(diffusion, "teacher_steps", None)}
    for name, found in settings.items():
        wanted = getattr(config, name, found)
        if found != wanted and not isinstance(found, list):  # a table of betas has no name
            raise ValueError(f"config.{name} is {wanted!r}, the diffusion's is {found!r}")
