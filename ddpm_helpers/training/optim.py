"""The optimiser, and its learning rate as a function of the update's number."""

from __future__ import annotations

import math
from typing import Any

import torch

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.model import Network
from ddpm_helpers.training.muon import Muon

DECAY = 0.2  # share of a run in which wsd decays; Hägele et al. 2024 find 10 to 20 % enough


def build_optimizer(model: Network, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimiser of a configuration, for a network that is already on its device."""
    device = next(model.parameters()).device
    lr, decay, fused = config.lr, config.weight_decay, device.type in ("cpu", "cuda")
    if config.optimizer == "muon":
        return Muon(model, lr, weight_decay=decay, fused=fused)
    return torch.optim.AdamW(model.parameters(), lr, weight_decay=decay, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the state of a saved optimiser, but keep this one's options.

    Options such as weight_decay may have changed, and another device may not support fused.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = [
        now | {"params": before["params"]}
        for now, before in zip(own, saved["param_groups"], strict=True)
    ]
    optimizer.load_state_dict(saved | {"param_groups": groups})


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Compute the learning rate of an update: linear warm-up to config.lr, then config.lr_schedule.

    The warm-up takes config.warmup_steps updates, but at most a third of the run.
    cosine: half a cosine down to 0 at the last update.
    wsd (warm-up, stable, decay): constant, then linear to 0 over the last fifth of the run. Until
    the decay begins, you can still choose a longer run.

    Args:
        step: number of the update, from 1; above total, it counts as total.
        total: number of updates in the whole run.
    Source: cosine: Loshchilov & Hutter 2017, eq. 5, one cycle; wsd: Hu et al. 2024, section 4.
    """
    step, warm_up = min(step, total), min(config.warmup_steps, total // 3)
    if step <= warm_up:
        return config.lr * step / warm_up
    if config.lr_schedule == "wsd":
        return config.lr * min(1.0, (total - step) / (DECAY * total))
    progress = (step - warm_up) / max(1, total - warm_up)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
