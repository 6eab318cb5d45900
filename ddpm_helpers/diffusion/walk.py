"""The inputs of a sampler: the network as a denoiser, the noise of each image, and its settings.

The options themselves are declared, with their defaults, by `DiffusionUtils.sample_steps`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.checks import NO_LABEL
from ddpm_helpers.device import device_and_dtype
from ddpm_helpers.diffusion.forward import ForwardProcess
from ddpm_helpers.diffusion.samplers import (
    SAMPLERS,
    VARIANCES,
    Denoise,
    Noise,
    Step,
    is_corrected,
)
from ddpm_helpers.diffusion.schedules import sub_sequence

Model = Callable[..., Tensor]
Labels = Tensor | Sequence[int | str] | int | str


@dataclass(frozen=True, eq=False)
class Walk(Iterator[Step]):
    """A sampler on its way from noise to images: an iterator of `Step`, and its inputs.

    Attributes:
        ts: the steps that it visits, decreasing, 0 last.
        x_T: where it starts, (n, C, H, W), at step ts[0].
        noise: () -> the next standard normal batch, (n, C, H, W).
        denoise: (x_t, t) -> the predicted x_0, with guidance and clipping as asked for.
        steps: the sampler.
    """

    ts: list[int]
    x_T: Tensor
    noise: Noise
    denoise: Denoise
    steps: Iterator[Step]

    def __next__(self) -> Step:
        return next(self.steps)


def network_calls(
    diffusion: ForwardProcess,
    steps: int | Sequence[int] | None = None,
    sampler: str = "ddpm",
    spacing: str = "trailing",
) -> int:
    """How often a sampler calls the network, which is what takes its time.

    Args:
        diffusion: its alpha_bar decides which steps heun corrects (see `is_corrected`); with the
            schedule flow, all but the last.
        steps, sampler, spacing: as for `DiffusionUtils.sample_steps`.
    Returns:
        One call per step, for heun up to two. With guidance, a call takes twice as many images.
    Raises:
        ValueError: as `sample_steps`.
    """
    checks.one_of("sampler", sampler, SAMPLERS)
    ts, bar = sub_sequence(diffusion.T, steps, spacing), diffusion.alpha_bar
    straight = diffusion.schedule == "flow"
    corrected = sum(is_corrected(bar[t], bar[s], straight=straight) for t, s in pairwise(ts))
    return len(ts) - 1 + (corrected if sampler == "heun" else 0)


def picture_noise(
    seed: int | None,
    n: int,
    shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    first: int = 0,
) -> Noise:
    """A source of standard normal batches in which each image has its own random stream.

    The numbers are drawn on the CPU in float32, so they are the same for every device.

    Args:
        seed: at least 0; None draws one from torch's global generator.
        n: number of images, which are numbered first, first + 1, …
        shape: of one image, (C, H, W).
        device, dtype: of the batches.
        first: number of the first image, at least 0.
    Returns:
        A function; each call gives the next batch, (n, C, H, W).
    Raises:
        ValueError: negative seed or first.
    """
    first = checks.count("first", first, least=0)
    seed = int(torch.randint(2**62, ())) if seed is None else checks.count("seed", seed, least=0)
    streams = []
    for i in range(first, first + n):
        state = np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0]
        streams.append(torch.Generator().manual_seed(int(state >> np.uint64(1))))

    def draw() -> Tensor:
        batch = torch.stack([torch.randn(*shape, generator=stream) for stream in streams])
        return batch.to(device, dtype)  # (n, C, H, W)

    return draw


def network_output(model: Model, x_t: Tensor, t: Tensor, y: Labels | None = None) -> Tensor:
    """Call `model(x_t, t, y)`, or `model(x_t, t)` if y is None, with x_t in the network's dtype.

    Args:
        x_t: (B, C, H, W).
        t: steps, (B,) int64, on x_t's device.
        y: labels, likewise, which are passed on unchecked; or any other form of `checks.labels`.
    Returns:
        The output, of x_t's shape (else a ValueError) and dtype.
    """
    if y is not None and not isinstance(y, Tensor):
        y = checks.labels(y, len(x_t), model, x_t.device)
    x = x_t.to(device_and_dtype(model, x_t)[1])
    output = model(x, t) if y is None else model(x, t, y)
    return checks.same_shape("the network's output", output, "x_t", x_t).to(x_t.dtype)


def denoiser(
    diffusion: ForwardProcess,
    model: Model,
    y: Tensor | None,
    guidance: float,
    guided: range,
    clip: bool,
) -> Denoise:
    """The network as a function from x_t to the predicted x_0.

    Args:
        diffusion, model, clip: as for `DiffusionUtils.sample_steps`.
        y: (n,) int64 on the network's device, or None.
        guidance: its scale; 1 is the plain class-conditional prediction.
        guided: the steps at which it is used; there, the network gets a batch twice as large.
    """

    @torch.no_grad()
    def denoise(x_t: Tensor, t: int) -> Tensor:
        steps = torch.full((len(x_t),), t, device=x_t.device)
        if y is None or t not in guided:
            output = network_output(model, x_t, steps, y)
        else:  # Ho & Salimans 2022, eq. 6, with w = guidance - 1: both halves in one batch
            both = torch.cat([y, torch.full_like(y, NO_LABEL)])
            twice = network_output(model, torch.cat([x_t, x_t]), torch.cat([steps, steps]), both)
            with_y, without = twice.chunk(2)
            output = without + guidance * (with_y - without)
        x_0 = diffusion.predict_x_0(output, x_t, torch.full((len(x_t),), t))
        return x_0.clamp(-1, 1) if clip else x_0

    return denoise


def choose_sampler(
    name: str, eta: float | None, variance: str | None, *, straight: bool = False
) -> Callable[..., Iterator[Step]]:
    """The sampler with its own setting: eta of ddim, variance of ddpm, or `straight` of heun."""
    run = SAMPLERS[checks.one_of("sampler", name, SAMPLERS)]
    for setting, value, owner in (("eta", eta, "ddim"), ("variance", variance, "ddpm")):
        if value is not None and name != owner:
            raise ValueError(
                f"{setting} = {value!r} is a setting of {owner}, not of {name}; leave it out"
            )
    if eta is not None:
        return partial(run, eta=checks.number("eta", eta, 0, 1))
    if variance is not None:
        return partial(run, variance=checks.one_of("variance", variance, VARIANCES))
    return partial(run, straight=straight) if name == "heun" else run


def guided_steps(
    guidance: float, interval: tuple[int, int] | None, y: Labels | None, T: int
) -> tuple[float, range]:
    """The guidance as a number, and the steps at which it is used."""
    guidance = checks.number("guidance", guidance)
    if y is None and guidance != 1:
        raise ValueError(f"guidance = {guidance} needs y: it exaggerates what the class changes")
    try:
        low, high = map(operator.index, (0, T) if interval is None else interval)
    except (TypeError, ValueError):
        low, high = -1, -1
    if not 0 <= low <= high <= T:
        raise ValueError(f"guidance_interval must be (low, high) in 0..{T}, got {interval!r}")
    return guidance, range(0) if guidance == 1 else range(low, high + 1)


def image_shape(
    model: Any, shape: Sequence[int] | None, x_T: Tensor | None, n: int
) -> tuple[int, ...]:
    """One image's (C, H, W): the argument's, else the network's, else x_T's, which must agree."""
    known = shape if shape is not None else getattr(model, "image_shape", None)
    if known is None and x_T is not None:
        known = x_T.shape[1:]
    if known is None:
        raise ValueError("shape is unknown: this network has no image_shape, so give (C, H, W)")
    known = tuple(known)
    if len(known) != 3 or min(known) < 1:
        raise ValueError(f"shape must be one image's (C, H, W), got {known}")
    if x_T is not None and tuple(x_T.shape) != (n, *known):
        raise ValueError(f"x_T must be {(n, *known)}, got {tuple(x_T.shape)}")
    return known
