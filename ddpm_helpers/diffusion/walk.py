"""The inputs of a sampler: the noise of each image, network calls, and checked options.

`DiffusionUtils.sample_steps` declares the options and their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.device import device_and_dtype
from ddpm_helpers.diffusion.samplers import SAMPLERS, VARIANCES, Noise, Step

Model = Callable[..., Tensor]
Labels = Tensor | Sequence[int | str] | int | str


def picture_noise(
    seed: int | None,
    n: int,
    shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    first: int = 0,
) -> Noise:
    """Make a source of standard normal batches in which each image has its own random stream.

    The numbers are drawn on the CPU in float32, so they are the same on every device.

    Args:
        seed: noise seed, at least 0, of any size; None draws one from torch's global generator.
        n: number of images; their numbers are first, first + 1, …
        shape: shape of one image, (C, H, W).
        device, dtype: device and dtype of the batches.
        first: number of the first image, at least 0.
    Returns:
        A function that returns the next batch, (n, C, H, W), at each call.
    """
    first = checks.count("first", first, least=0)
    seed = int(torch.randint(2**62, ())) if seed is None else checks.count("seed", seed, least=0)
    streams = []
    for i in range(first, first + n):
        state = np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0]
        streams.append(torch.Generator().manual_seed(int(state >> np.uint64(1))))

    def draw() -> Tensor:
        drawn = [torch.randn(*shape, generator=stream, dtype=torch.float32) for stream in streams]
        batch = torch.stack(drawn)
        return batch.to(device, dtype)  # (n, C, H, W)

    return draw


def network_output(model: Model, x_t: Tensor, t: Tensor, y: Labels | None = None) -> Tensor:
    """Call `model(x_t, t, y)`, or `model(x_t, t)` if y is None, with x_t in the network's dtype.

    Args:
        x_t: (B, C, H, W).
        t: timesteps, (B,) int64, on x_t's device.
        y: labels, (B,) int64 on x_t's device, not checked; or a number, a name or a list of these.
    Returns:
        The output, with x_t's dtype and shape; another shape raises ValueError.
    """
    if y is not None and not isinstance(y, Tensor):
        y = checks.labels(y, len(x_t), model, x_t.device)
    x = x_t.to(device_and_dtype(model, x_t)[1])
    output = model(x, t) if y is None else model(x, t, y)
    return checks.same_shape("the network's output", output, "x_t", x_t).to(x_t.dtype)


def device_and_precision(model: Model, x: Tensor | None = None) -> tuple[torch.device, torch.dtype]:
    """Find the device and dtype of a network's images: the network's own, at least float32.

    Args:
        x: a tensor on the device and in the dtype to use if the network has no parameters.
    """
    device, dtype = device_and_dtype(model, x)
    return device, torch.promote_types(dtype, torch.float32)


def choose_sampler(
    name: str, eta: float | None, variance: str | None, schedule: object
) -> Callable[..., Iterator[Step]]:
    """Choose a sampler and its setting: eta for ddim, variance for ddpm, the schedule for heun."""
    run = SAMPLERS[checks.one_of("sampler", name, SAMPLERS)]
    settings: dict[str, Any] = {}
    if eta is not None:
        settings["eta"] = checks.number("eta", eta, 0, 1)
    if variance is not None:
        settings["variance"] = checks.one_of("variance", variance, VARIANCES)
    if name == "heun" and schedule == "flow":
        settings["time"] = "flow"
    return partial(run, **settings)


def guided_range(
    guidance: float, interval: tuple[int, int] | None, y: Labels | None, T: int
) -> range:
    """Check the guidance options, and find the timesteps that use guidance."""
    if guidance == 1:
        return range(0)
    if y is None:
        raise ValueError(f"guidance = {guidance} needs y, the class labels")
    low, high = (0, T) if interval is None else interval
    low = checks.count("guidance_interval[0]", low, 0, T)
    return range(low, checks.count("guidance_interval[1]", high, low, T) + 1)


def image_shape(
    model: Any, shape: Sequence[int] | None, x_T: Tensor | None, n: int
) -> tuple[int, ...]:
    """Find the shape (C, H, W) of an image: the argument, else the network's, else x_T's."""
    if shape is None:
        shape = getattr(model, "image_shape", None if x_T is None else x_T.shape[1:])
    if shape is None:
        raise ValueError("shape is unknown: this network has no image_shape, so give (C, H, W)")
    known = tuple(shape)
    if len(known) != 3:
        raise ValueError(f"shape must be one image's (C, H, W), got {known}")
    if x_T is not None and tuple(x_T.shape) != (n, *known):
        raise ValueError(f"x_T must be {(n, *known)}, got {tuple(x_T.shape)}")
    return known
