"""Build the parts of a training, and check that they fit each other."""

from __future__ import annotations

from typing import Any

import torch

from ddpm_helpers.checks import class_name
from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet, DiT, Network
from ddpm_helpers.training.training_data import TrainingData


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


def check_fit(model: Any, diffusion: Any, dataset: Any, config: TrainConfig) -> None:
    """Refuse a network, diffusion, dataset and configuration that do not fit each other."""
    if not isinstance(model, Network):
        raise ValueError(f"the network must be a DiffusionNet or a DiT, got {type(model).__name__}")
    if not isinstance(diffusion, DiffusionUtils):
        raise ValueError(f"diffusion must be a DiffusionUtils, got {type(diffusion).__name__}")
    if not isinstance(dataset, TrainingData):
        raise ValueError(
            "dataset must be an ImageDataset, or have all attributes of TrainingData; "
            f"got {type(dataset).__name__}"
        )
    shape = (config.channels, config.image_size, config.image_size)
    for name, part in (("network", model), ("dataset", dataset)):
        if (found := tuple(part.image_shape)) != shape:
            raise ValueError(f"config says images of {shape}, the {name} has {found}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("all weights of the network are frozen: load it with fine_tune_model")
    known, names = model.num_classes, [class_name(name) for name in dataset.classes]
    if known is not None and (known < len(names) or list(model.classes or names) != names):
        raise ValueError(
            f"the network knows {known} classes, the dataset has {len(names)}, or their names "
            "differ: load the network with fine_tune_model"
        )
    settings = diffusion.config | {"teacher_steps": getattr(diffusion, "teacher_steps", None)}
    for name, value in settings.items():
        wanted = getattr(config, name, value)  # a configuration has no few_steps
        if value != wanted and not isinstance(value, list):  # a table of betas has no name
            raise ValueError(f"config.{name} is {wanted!r}, the diffusion's is {value!r}")
