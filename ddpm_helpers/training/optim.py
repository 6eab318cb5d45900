"""The optimiser, and its learning rate as a function of the update's number."""

from __future__ import annotations

import math
from typing import Any

import torch

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.device import bf16_is_fast
from ddpm_helpers.model import Network
from ddpm_helpers.training.muon import Muon

DECAY = 0.2  # share of a run in which wsd decays; Hägele et al. 2024 find 10 to 20 % enough


def build_optimizer(model: Network, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimiser of a configuration, for a network that is already on its device."""
    device = next(model.parameters()).device
    lr, decay, fused = config.lr, config.weight_decay, device.type in ("cpu", "cuda")
    if config.optimizer == "muon":
        bf16 = config.precision != "fp32" and bf16_is_fast(device)
        return Muon(model, lr, weight_decay=decay, fused=fused, bf16=bf16)
    return torch.optim.AdamW(model.parameters(), lr, weight_decay=decay, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the averages of a saved optimiser, with the options of this one.

    The options may differ: another weight decay, or a device that has no fused implementation.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = [
        now | {"params": before["params"]}
        for now, before in zip(own, saved["param_groups"], strict=True)
    ]
    optimizer.load_state_dict(saved | {"param_groups": groups})


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of an update: linear warm-up to config.lr, then config.lr_schedule.

    cosine: half a cosine down to 0 at the last update. constant: config.lr to the end.
    wsd (warm-up, stable, decay): constant, then linear to 0 over the last fifth of the run. Before
    that the rate does not depend on `total`, so until then the end of the run can be moved.

    Args:
        step: number of the update, from 1; beyond total, the rate of the last one.
        total: updates of the whole run.
    Source: cosine: Loshchilov & Hutter 2017, eq. 5, one cycle; wsd: Hu et al. 2024, section 4.
    """
    step = min(step, total)
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.lr
    if config.lr_schedule == "wsd":
        return config.lr * min(1.0, (total - step) / (DECAY * total))
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def describe_warm_up(total: int, config: TrainConfig) -> str:
    """One line on a run whose warm-up is longer than a third of it; else empty."""
    if 3 * config.warmup_steps <= total:
        return ""
    return (
        f"the warm-up of {config.warmup_steps} updates is more than a third of this run of {total}"
        ": it will learn little; raise epochs or lower warmup_steps"
    )


def describe_change(step: int, steps_per_epoch: int, old: TrainConfig, new: TrainConfig) -> str:
    """One line on a resumed run whose new end or schedule changes the learning rate at once.

    Args:
        step: updates made so far.
        steps_per_epoch: updates of an epoch.
        old, new: the configuration until now, and from now on.
    Returns:
        The line; empty if the next update has the rate that it would have had.
    """
    was, now = (learning_rate(step + 1, c.epochs * steps_per_epoch, c) for c in (old, new))
    if was == now:
        return ""
    return f"learning rate at step {step + 1}: {now:.3g}, was {was:.3g} before"
