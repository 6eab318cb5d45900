"""Draw the timesteps of a training batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.config import T_SAMPLINGS

LOG_NORMAL = (-0.6, 1.5)  # mean and standard deviation of log(sigma / alpha)


def draw_steps(
    n: int,
    alpha_bar: Tensor,
    t_sampling: str = "uniform",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the timesteps of a training batch at random.

        uniform: every t in 1..T is equally likely, and all are drawn independently.
        stratified: one t from each n-th part of 1..T, in random order: every batch has small and
            large t, so its loss varies less.
        logit_normal: stratified too, with t / T = 1 / (1 + exp(-z)), z ~ N(0, 1), rounded up: more
            t near T / 2, where a network that predicts the flow has the most to learn.
        log_normal: stratified too, with log(sigma_t / alpha_t) ~ N(-0.6, 1.5²), bounded to 1..T:
            more small t, which reduces grain; alpha² = alpha_bar, sigma² = 1 - alpha_bar.

    Args:
        n: number of images.
        alpha_bar: the schedule, (T + 1,); only log_normal uses its values.
        t_sampling: uniform, stratified, logit_normal or log_normal.
        generator: random generator; None uses the global CPU generator.
    Returns:
        (n,) int64 in 1..T, on the generator's device.
    Raises:
        ValueError: t_sampling is unknown.
    Source: stratified: Kingma et al. 2021 (VDM), appendix I.1; logit-normal: Esser et al. 2024
        (Stable Diffusion 3), section 3.1, with location 0 and scale 1; log-normal: Karras et al.
        2022 (EDM), table 1, whose N(-1.2, 1.2²) gives short trainings too few large t.
    """
    T, device = len(alpha_bar) - 1, torch.device("cpu") if generator is None else generator.device
    if checks.one_of("t_sampling", t_sampling, T_SAMPLINGS) == "uniform":
        return torch.randint(1, T + 1, (n,), generator=generator, device=device)
    place = torch.randperm(n, generator=generator, device=device)
    share = (place + torch.rand(n, generator=generator, device=device)) / n  # (n,) in 0..1
    if t_sampling == "log_normal":
        levels = ((1 - alpha_bar[1:]) / alpha_bar[1:]).log() / 2  # log(sigma / alpha), (T,)
        mean, std = LOG_NORMAL
        z = mean + std * torch.special.ndtri(share)
        return (torch.searchsorted(levels.to(z), z) + 1).clamp(1, T)
    if t_sampling == "logit_normal":
        share = torch.special.ndtri(share).sigmoid()
    return (share * T).ceil().long().clamp(1, T)
