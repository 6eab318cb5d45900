"""Noise schedules, and the timesteps that a training draws and a sampler visits.

A schedule is a table of T + 1 betas with betas[0] = 0, so betas[t] belongs to timestep t and
alpha_bar[0] = 1 needs no special case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.config import T_SAMPLINGS

BETA_START, BETA_END = 1e-4, 0.02
COSINE_S, BETA_MAX = 0.008, 0.999
SHIFT = 2  # image side divided by the side for which cosine was designed
SPACINGS = ("trailing", "leading")
LOG_NORMAL = (-0.6, 1.5)  # mean and standard deviation of log(sigma / alpha)


def beta_schedule(name: str, T: int) -> Tensor:
    """Make the table of betas of a named schedule.

    Args:
        name: linear, cosine, quadratic, exponential, sigmoid, shifted_cosine or flow.
        T: number of timesteps, at least 1.
    Returns:
        float64 (T + 1,): betas[0] = 0, and 0 < betas[t] <= 0.999 for t in 1..T; but betas[T] = 1
        with flow, which leaves nothing of the image at T.
    """
    schedule = SCHEDULES[checks.one_of("schedule", name, SCHEDULES)]
    T = checks.count("timesteps", T)
    return torch.cat([torch.zeros(1, dtype=torch.float64), schedule(T)])  # (T + 1,)


def linear(T: int) -> Tensor:
    """Make betas that rise in equal steps from 1e-4 to 0.02; a small T leaves signal at the end.

    Source: Ho et al. 2020, section 4 (T = 1000).
    """
    return _from_to(BETA_START, BETA_END, T)  # (T,)


def cosine(T: int) -> Tensor:
    """Make betas, at most 0.999, whose alpha_bar falls like a squared cosine.

        alpha_bar[t] = f(t) / f(0),   f(t) = cos((t / T + s) / (1 + s) * pi / 2) ** 2

    Source: Nichol & Dhariwal 2021, eq. 17, s = 0.008.
    """
    return _betas_of(_squared_cosine(T))  # (T,)


def shifted_cosine(T: int) -> Tensor:
    """Make the cosine schedule with more noise at every timestep, for 64×64 images.

        SNR[t] = cosine's SNR[t] / SHIFT ** 2,   SNR = alpha_bar / (1 - alpha_bar)

    Neighbouring pixels of a larger image are nearly equal, so averaging them removes noise: an
    image with twice the side needs noise with twice the standard deviation to hide as much.

    Source: Hoogeboom et al. 2023 (simple diffusion), section 3.1.
    """
    f = _squared_cosine(T)  # (T + 1,)
    return _betas_of(f / (f + SHIFT**2 * (f[0] - f)))  # (T,)


def quadratic(T: int) -> Tensor:
    """Make betas whose square roots rise in equal steps from sqrt(1e-4) to sqrt(0.02).

    Source: Song et al. 2021 (DDIM), appendix D.3, with the end points of Ho et al. 2020.
    """
    return _from_to(math.sqrt(BETA_START), math.sqrt(BETA_END), T) ** 2  # (T,)


def exponential(T: int) -> Tensor:
    """Make betas whose logarithms rise in equal steps from log(1e-4) to log(0.02).

    Source: the geometric noise levels of Song & Ermon 2019, section 4.3, applied to betas.
    """
    return _from_to(math.log(BETA_START), math.log(BETA_END), T).exp()  # (T,)


def sigmoid(T: int) -> Tensor:
    """Make betas that rise from 1e-4 to 0.02 in an S shape: the logistic function over -6..6.

    Source: Xu et al. 2022 (GeoDiff), as in its published code.
    """
    rise = torch.sigmoid(_from_to(-6.0, 6.0, T))  # (T,)
    return BETA_START + (BETA_END - BETA_START) * rise


def flow(T: int) -> Tensor:
    """Make the betas of flow matching's straight path, (1 - s) * x_0 + s * eps with s = t / T.

        alpha_bar[t] = (1 - s) ** 2 / ((1 - s) ** 2 + s ** 2)

    The noised image of this schedule is that path divided by sqrt((1 - s) ** 2 + s ** 2), one
    number per timestep, so data with variance 1 keep variance 1.

    Source: Lipman et al. 2023, section 4.1, with sigma_min = 0; Liu et al. 2023, eq. 1.
    """
    s = torch.arange(T + 1, dtype=torch.float64) / T
    alpha_bar = (1 - s) ** 2 / ((1 - s) ** 2 + s**2)  # (T + 1,), from 1 to 0
    return 1 - alpha_bar[1:] / alpha_bar[:-1]  # (T,)


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": linear,
    "cosine": cosine,
    "quadratic": quadratic,
    "exponential": exponential,
    "sigmoid": sigmoid,
    "shifted_cosine": shifted_cosine,
    "flow": flow,
}


def rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Change a schedule so that nothing of the image is left at T: alpha_bar[T] = 0 exactly.

    sqrt(alpha_bar) is shifted to end at 0 and stretched to keep its value at t = 1.

    Args:
        betas: float64 (T + 1,), betas[0] = 0, T at least 2.
    Returns:
        float64 (T + 1,), with betas[1] unchanged and betas[T] = 1.
    Source: Lin et al. 2024, algorithm 1.
    """
    betas = check_betas(betas)
    if len(betas) < 3:
        raise ValueError(f"a zero terminal SNR needs T of at least 2, got T = {len(betas) - 1}")
    root = (1 - betas).cumprod(0).sqrt()  # (T + 1,) sqrt(alpha_bar)
    first, last = root[1].clone(), root[-1].clone()
    root[1:] = (root[1:] - last) * first / (first - last)
    alpha_bar = root**2
    out = betas.clone()
    out[2:] = 1 - alpha_bar[2:] / alpha_bar[1:-1]
    return out


def check_betas(betas: object) -> Tensor:
    """Convert a table of betas to float64 (T + 1,) on the CPU; raise ValueError if invalid."""
    table = torch.as_tensor(betas, dtype=torch.float64).detach().cpu()
    if table.ndim != 1 or len(table) < 2:
        raise ValueError(f"betas must be a table (T + 1,), T at least 1; got {tuple(table.shape)}")
    if table[0] != 0:
        raise ValueError(f"betas[0] must be 0 (t = 0 is the clean image), got {table[0].item()}")
    wrong = ~((table[1:] > 0) & (table[1:] <= 1))  # NaN is wrong too
    wrong[:-1] |= table[1:-1] == 1
    if wrong.any():
        t = int(wrong.nonzero()[0]) + 1
        raise ValueError(
            f"betas[{t}] must be above 0 and below 1 (1 only at T), got {table[t].item()}"
        )
    return table


def sub_sequence(
    T: int, steps: int | Sequence[int] | None = None, spacing: str = "trailing"
) -> list[int]:
    """List the timesteps that a sampler visits.

    Args:
        T: the schedule's number of timesteps.
        steps: number of steps, 1..T; None means T; or decreasing timesteps in 1..T.
        spacing: how a number of steps is spread: trailing starts at T; leading ends at 1 and
            starts lower, where x_t may still contain some of the image.
    Returns:
        Decreasing timesteps, ending with 0.
    Source: Lin et al. 2024, table 2.
    """
    checks.one_of("spacing", spacing, SPACINGS)
    if np.ndim(steps) > 0:  # type: ignore[arg-type]  # a list, range, array or tensor
        ts = [checks.count("each of steps", t, most=T) for t in steps]  # type: ignore[union-attr]
        if not ts or any(s >= t for t, s in pairwise(ts)):
            raise ValueError(f"steps must decrease from at most T = {T} to at least 1, got {ts}")
        return [*ts, 0]
    k = T if steps is None else checks.count("steps", steps, most=T)
    if spacing == "leading":
        return [*(i * (T // k) + 1 for i in range(k - 1, -1, -1)), 0]
    return [i * T // k for i in range(k, -1, -1)]


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


def _squared_cosine(T: int) -> Tensor:
    t = torch.arange(T + 1, dtype=torch.float64)
    return torch.cos((t / T + COSINE_S) / (1 + COSINE_S) * math.pi / 2) ** 2  # (T + 1,)


def _betas_of(alpha_bar: Tensor) -> Tensor:
    """Compute betas (T,), at most 0.999, from decreasing alpha_bar (T + 1,) up to a factor."""
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=BETA_MAX)


def _from_to(start: float, end: float, T: int) -> Tensor:
    return torch.linspace(start, end, T, dtype=torch.float64)
