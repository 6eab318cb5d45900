"""The steps t of a training batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.config import T_SAMPLINGS


def draw_steps(
    n: int,
    T: int,
    t_sampling: str = "uniform",
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw the steps of a training batch at random.

        uniform: every t in 1..T is equally likely, and all are drawn independently.
        stratified: one t from each n-th part of 1..T, in random order: every batch holds small and
            large t, so its loss varies less.
        logit_normal: stratified too, with t / T = 1 / (1 + exp(-z)), z ~ N(0, 1), rounded up: more
            t near T / 2, where a network that predicts the flow has most to learn.

    Args:
        n: number of images.
        T: the last step.
        t_sampling: uniform, stratified or logit_normal.
        generator, device: of the draws; the two must belong together.
    Returns:
        (n,) int64 in 1..T.
    Raises:
        ValueError: an unknown t_sampling.
    Source: stratified: Kingma et al. 2021 (VDM), appendix I.1; logit-normal: Esser et al. 2024
        (Stable Diffusion 3), section 3.1, with location 0 and scale 1.
    """
    if checks.one_of("t_sampling", t_sampling, T_SAMPLINGS) == "uniform":
        return torch.randint(1, T + 1, (n,), generator=generator, device=device)
    place = torch.randperm(n, generator=generator, device=device)
    share = (place + torch.rand(n, generator=generator, device=device)) / n  # (n,) in 0..1
    if t_sampling == "logit_normal":
        share = torch.special.ndtri(share).sigmoid()
    return (share * T).ceil().long().clamp(1, T)
