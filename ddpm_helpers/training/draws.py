"""The random draws of an update. They depend only on (seed, step), so a run resumes exactly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import draw_steps
from ddpm_helpers.model import NO_LABEL


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the generator of one update; its state depends only on (seed, step)."""
    state = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state >> 1)


def augment(
    x_0: Tensor, y: Tensor, config: TrainConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Flip half of the images horizontally, and hide some of the labels.

    Args:
        x_0: (B, C, H, W).
        y: (B,) int64.
        config: `flip` and `label_dropout`, the share of labels to hide.
        generator: on the device of x_0.
    Returns:
        The images, channels last, and the labels, -1 where hidden.
    """
    flip, hide = torch.rand(2, len(x_0), generator=generator, device=x_0.device)
    if config.flip:
        x_0 = torch.where((flip < 0.5)[:, None, None, None], x_0.flip(-1), x_0)
    x_0 = x_0.contiguous(memory_format=torch.channels_last)
    return x_0, torch.where(hide < config.label_dropout, NO_LABEL, y)


def draw_t_and_eps(
    x_0: Tensor, alpha_bar: Tensor, generator: torch.Generator, t_sampling: str = "uniform"
) -> tuple[Tensor, Tensor]:
    """Draw timesteps t in 1..T and the noise eps ~ N(0, I) for a batch.

    Args:
        x_0: (B, C, H, W).
        alpha_bar: the schedule, (T + 1,), on the CPU.
        generator: on the device of x_0.
        t_sampling: how t is drawn, as for `draw_steps`.
    Returns:
        t, int64 (B,) on the CPU, where the tables are, and eps, shape of x_0 on its device.
    """
    on_cpu = generator.device.type == "cpu"
    host = generator if on_cpu else torch.Generator().manual_seed(generator.initial_seed())
    t = draw_steps(len(x_0), alpha_bar, t_sampling, host)
    eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
    return t, eps
