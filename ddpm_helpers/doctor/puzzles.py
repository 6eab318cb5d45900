"""Five short programs with one mistake each: the exercises of notebook 10.

They are written in five different styles, as in real code. Find the mistake by reading, then let
the doctor find it: `diagnose(3)`. `grade(3, "e")` compares your letter with the notebook's list of
causes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.doctor.finding import Finding
from ddpm_helpers.doctor.guidance import check_label_dropout
from ddpm_helpers.doctor.sampler import check_sampler
from ddpm_helpers.doctor.schedule import check_noising

TABLE = DiffusionUtils(100, "cosine").alpha_bar[1:].float()  # t = 0..99


def program_1(model: Callable, x: Tensor, alpha_bar: Tensor = TABLE) -> Tensor:
    """Ho et al. 2020, algorithm 2."""
    alpha_bar_prev = torch.cat([torch.ones(1), alpha_bar[:-1]])
    alpha = alpha_bar / alpha_bar_prev
    beta = 1 - alpha
    variance = beta * (1 - alpha_bar_prev) / (1 - alpha_bar)
    for t in range(len(alpha_bar) - 1, -1, -1):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * eps) / alpha[t].sqrt()
        z = torch.randn_like(x) if t > 0 else 0
        x = mean + variance[t] * z
    return x


def program_2(model: Callable, x: Tensor, alpha_bar: Tensor = TABLE) -> Tensor:
    """Song et al. 2021 (DDIM), 20 steps."""
    steps = torch.arange(len(alpha_bar), 0, -5)  # 100, 95, …, 5
    following = torch.cat([steps[1:], torch.zeros(1, dtype=torch.long)])
    padded = torch.cat([torch.ones(1), alpha_bar])  # padded[t] belongs to step t = 1..100
    for t, s in zip(steps, following, strict=True):
        eps = model(x, t.expand(len(x)))
        x_0 = (x - (1 - padded[t]).sqrt() * eps) / padded[t].sqrt()
        x_0 = x_0.clamp(-1, 1)
        eps = (x - padded[t].sqrt() * x_0) / (1 - padded[t]).sqrt()
        x = padded[s].sqrt() * x_0 + (1 - padded[s]).sqrt() * eps
    return x


def program_3(model: Callable, x: Tensor, alpha_bar: Tensor = TABLE) -> Tensor:
    """DDPM through x_0, with the clip that everybody recommends."""
    before = torch.cat([torch.ones(1), alpha_bar[:-1]])
    alpha, beta = alpha_bar / before, 1 - alpha_bar / before
    for t in reversed(range(len(alpha_bar))):
        eps = model(x, torch.full((len(x),), t))
        x_0 = (x - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()
        mean = before[t].sqrt() * beta[t] / (1 - alpha_bar[t]) * x_0
        mean = mean + alpha[t].sqrt() * (1 - before[t]) / (1 - alpha_bar[t]) * x
        mean = mean.clamp(-1, 1)
        sigma = (beta[t] * (1 - before[t]) / (1 - alpha_bar[t])).sqrt()
        x = mean + sigma * torch.randn_like(x)
    return x


def program_4(x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor = TABLE) -> Tensor:
    """The noising of a training step: every image of the batch has its own t."""
    beta = 1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]])
    alpha = 1 - beta
    rebuilt = torch.cumprod(alpha, 0)
    assert torch.allclose(rebuilt, alpha_bar, atol=1e-4)
    bar = rebuilt[t].view(-1, 1, 1, 1)
    signal = bar.sqrt()
    noise = 1 - bar
    return signal * x_0 + noise * eps


def program_5(y: Tensor, null: int = -1, share: float = 0.1) -> Tensor:
    """Label dropout for classifier-free guidance."""
    if torch.rand(()) < share:
        return torch.full_like(y, null)
    return y


PROGRAMS = (program_1, program_2, program_3, program_4, program_5)
ANSWERS = "ghcba"  # letters of the notebook's list, checked by tests against `diagnose`


def diagnose(k: int) -> Finding:
    """The doctor's finding about program k.

    Args:
        k: 1..5.
    Raises:
        ValueError: no such program.
    """
    _check(k)
    if k <= 3:
        return check_sampler(PROGRAMS[k - 1], TABLE)
    if k == 4:
        return check_noising(program_4, TABLE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return check_label_dropout(program_5, num_classes=10, null=-1)


def grade(k: int, letter: str) -> str:
    """Say whether a letter of the notebook's list names the mistake in program k."""
    _check(k)
    if letter == "?":
        return "not answered yet"
    return "right" if letter.strip().lower() == ANSWERS[k - 1] else "no, look again"


def _check(k: int) -> None:
    if k not in range(1, len(PROGRAMS) + 1):
        raise ValueError(f"there is no program {k}; choose from 1..{len(PROGRAMS)}")
