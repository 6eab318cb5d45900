"""The gradient of one batch, in the parts that processes and accumulation split it into."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddpm_helpers.device import to_device
from ddpm_helpers.training.draws import augment, draw_noise, rows_of, step_generator

if TYPE_CHECKING:
    from ddpm_helpers.training.pipeline import TrainingPipeline


def batch_gradient(
    pipeline: TrainingPipeline, net: nn.Module, x_0: Tensor, y: Tensor, *, stop: bool
) -> Tensor:
    """Add the gradient of a batch's mean loss to the weights' `.grad`, clipped; nothing is read.

    Args:
        pipeline: what the training consists of.
        net: its network, as it is to be called: compiled, wrapped for several processes, or plain.
        x_0: clean pictures, (B, C, H, W), the whole batch: each process takes its part.
        y: their labels, (B,).
        stop: whether this process was asked to stop.
    Returns:
        The (10,) numbers that `report.read` explains, of all processes, on the device.
    Source: Ho et al. 2020, algorithm 1, lines 2 to 5.
    """
    config, accelerator = pipeline.config, pipeline.accelerator
    device, T = pipeline.device, pipeline.diffusion.T
    generator = step_generator(config.seed, pipeline.batches_seen, device)
    x_0, y = augment(x_0, y, config, generator)
    t, eps = draw_noise(x_0, T, generator, config.t_sampling)
    pipeline.model.train()
    processes, parts = accelerator.num_processes, config.accumulate
    numbers = torch.zeros(9, device=device)
    for k in range(parts):
        part = k * processes + accelerator.process_index
        rows = rows_of(part, parts * processes, len(x_0))
        weight = 1.0 if rows.stop > rows.start else 0.0  # fewer pictures than parts: one that
        rows = rows if weight else slice(0, 1)  # counts for nothing, as all must take part
        labels = None if pipeline.model.num_classes is None else y[rows]
        last = k == parts - 1  # the processes average their gradients once
        with nullcontext() if last else accelerator.no_sync(net):
            with pipeline.autocast():
                losses = pipeline.diffusion.loss(
                    net, x_0[rows], t[rows], eps[rows], labels, min_snr_gamma=config.min_snr_gamma
                )  # (rows,)
            # DDP averages over processes, so that * processes / B makes the batch's mean.
            accelerator.backward(losses.sum() * (weight * processes / len(x_0)))
        quarter = to_device((t[rows] - 1) * 4 // T, device)  # (rows,) in 0..3
        numbers[:4].index_add_(0, quarter, losses.detach().float() * weight)
        numbers[4:8].index_add_(0, quarter, torch.full_like(losses.detach(), weight))
    numbers[8] = float(stop)
    if processes > 1:  # all stop after the same step, whichever was asked to
        numbers = accelerator.reduce(numbers, "sum")
    length = accelerator.clip_grad_norm_(pipeline.model.parameters(), config.grad_clip)
    return torch.cat([numbers, length[None]])  # (10,)
