"""Draw images during training, and arrange them in a grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import Network


def draw_samples(
    model: Network, diffusion: DiffusionUtils, n: int, steps: int, seed: int
) -> Tensor:
    """Draw n images of all classes in turn, from the same noise every time.

    Args:
        steps: number of DDIM steps, at most T; distilled weights take the few they are made for.
    Returns:
        (n, C, S, S) in [-1, 1], on the CPU.
    """
    y = None if model.num_classes is None else torch.arange(n) % model.num_classes
    options: dict[str, Any] = {"sampler": "ddim", "steps": min(steps, diffusion.T)}
    options |= diffusion.few_step_options
    return diffusion.sample(model, n, y=y, seed=seed, **options).float().cpu()


def make_grid(x: Tensor) -> Tensor:
    """Arrange images, (n, C, S, S) in [-1, 1], in one grid, (3, H, W) in 0..1, ten per row."""
    from torchvision import utils

    return utils.make_grid(x, nrow=10, normalize=True, value_range=(-1, 1), padding=1)
