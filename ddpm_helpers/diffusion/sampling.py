"""Everything around a sampler: checks of what was asked for, its noise, and the network's x_0."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.diffusion.samplers import (
    SAMPLERS,
    VARIANCES,
    Denoise,
    Noise,
    Step,
    looks_ahead,
)
from ddpm_helpers.diffusion.schedules import check_count

if TYPE_CHECKING:
    from ddpm_helpers.diffusion.utils import DiffusionUtils

NO_LABEL = -1  # what a network takes for "no label" among the labels of a batch
SPACINGS = ("trailing", "leading")


@dataclass(frozen=True)
class Walk:
    """What a sampler needs, checked: the steps, where it starts, its noise and the network."""

    ts: list[int]  # falling, 0 last
    x_T: Tensor  # (n, C, H, W), at step ts[0]
    noise: Noise
    denoise: Denoise


def sample_steps(
    diffusion: DiffusionUtils,
    model: Callable[..., Tensor],
    n: int,
    *,
    sampler: str = "ddpm",
    eta: float | None = None,
    variance: str | None = None,
    **options: Any,
) -> Iterator[Step]:
    """What `DiffusionUtils.sample_steps` documents: check everything, then start the sampler."""
    _check_sampler(sampler)
    own = _own_settings(sampler, eta, variance)
    walk = prepare(diffusion, model, n, **options)
    return SAMPLERS[sampler](diffusion, walk.denoise, walk.x_T, walk.ts, walk.noise, **own)


def network_calls(
    diffusion: DiffusionUtils,
    steps: int | Sequence[int] | None = None,
    sampler: str = "ddpm",
    spacing: str = "trailing",
) -> int:
    """How often a walk calls the network: the honest cost of a sampler, in time.

    Args:
        diffusion: with its noise levels; heun looks ahead where they do not fall too fast.
        steps, sampler, spacing: as for `DiffusionUtils.sample_steps`.
    Returns:
        One call a step, for heun up to two. With guidance, a call has twice as many pictures.
    Raises:
        ValueError: as `sample_steps`.
    """
    _check_sampler(sampler)
    ts = sub_sequence(diffusion.T, steps, spacing)
    if sampler != "heun":
        return len(ts) - 1
    bar = diffusion.alpha_bar.tolist()
    return sum(2 if looks_ahead(bar[t], bar[s]) else 1 for t, s in pairwise(ts))


def prepare(
    diffusion: DiffusionUtils,
    model: Callable[..., Tensor],
    n: int,
    *,
    steps: int | Sequence[int] | None = None,
    spacing: str = "trailing",
    guidance: float = 1.0,
    guidance_interval: tuple[int, int] | None = None,
    y: Tensor | Sequence[int] | int | None = None,
    seed: int | None = None,
    x_T: Tensor | None = None,
    clip: bool = True,
    shape: tuple[int, int, int] | None = None,
    first: int = 0,
) -> Walk:
    """All that is common to the ways of drawing pictures.

    Args: as for `DiffusionUtils.sample_steps`.
    Raises:
        ValueError: with the value and the choices.
    """
    n, first = check_count("n", n), check_count("first", first, least=0)
    ts = sub_sequence(diffusion.T, steps, spacing)
    device, dtype = device_and_dtype(model, x_T)
    guidance = _finite("guidance", guidance)
    if y is None and guidance != 1:
        raise ValueError(f"guidance = {guidance} needs y: without a class there is no direction")
    labels = check_labels(y, n, model, device)
    interval = _check_interval(guidance_interval, diffusion.T)
    picture = _picture_shape(model, shape, x_T, n)
    noise = picture_noise(seed, n, picture, device, dtype, first)
    start = noise()  # drawn even if x_T is given: the steps' noise must not repeat it
    if x_T is not None:
        start = x_T.detach().to(device, dtype)
    return Walk(ts, start, noise, _denoiser(diffusion, model, labels, guidance, interval, clip))


def sub_sequence(
    T: int, steps: int | Sequence[int] | None = None, spacing: str = "trailing"
) -> list[int]:
    """The steps that a walk visits.

    Args:
        T: steps of the schedule.
        steps: how many to take, 1..T; None takes all; or the steps themselves, falling, in 1..T.
        spacing: of a number of steps: trailing starts at T, leading ends next to 1 and starts
            lower, where the pictures are not yet pure noise.
    Returns:
        Falling steps, 0 last.
    Raises:
        ValueError: a number out of range, steps that do not fall, or an unknown spacing.
    Source: Lin et al. 2024, table 2.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {spacing!r}; choose from {', '.join(SPACINGS)}")
    if isinstance(steps, (Tensor, np.ndarray)) and steps.ndim == 0:
        steps = steps.item()  # a number in an array
    if isinstance(steps, (Sequence, Tensor, np.ndarray)) and not isinstance(steps, str):
        ts = [check_count("each of steps", t, most=T) for t in steps]
        if not ts or any(s >= t for t, s in zip(ts, ts[1:], strict=False)):
            raise ValueError(f"steps must fall from at most T = {T} to at least 1, got {ts}")
        return [*ts, 0]
    k = T if steps is None else check_count("steps", steps, most=T)
    if spacing == "leading":
        return [*(i * (T // k) + 1 for i in range(k - 1, -1, -1)), 0]
    return [i * T // k for i in range(k, -1, -1)]


def picture_noise(
    seed: int | None,
    n: int,
    shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    first: int = 0,
) -> Callable[[], Tensor]:
    """A source of standard normal batches in which picture i has a stream of its own.

    The numbers are made on the CPU in float32, so that they are the same on every device.

    Args:
        seed: at least 0; None draws one from torch's global generator.
        n: pictures, numbered first, first + 1, …
        shape: of one picture, (C, H, W).
        device, dtype: of the batches.
        first: number of the first picture.
    Returns:
        A function; each call gives the next batch, (n, C, H, W).
    Raises:
        ValueError: negative seed.
    """
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    seed = check_count("seed", seed, least=0)
    streams = []
    for i in range(first, first + n):
        state = np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0]
        streams.append(torch.Generator().manual_seed(int(state >> np.uint64(1))))

    def draw() -> Tensor:
        batch = torch.stack([torch.randn(*shape, generator=stream) for stream in streams])
        return batch.to(device, dtype)  # (n, C, H, W)

    return draw


def _denoiser(
    diffusion: DiffusionUtils,
    model: Callable[..., Tensor],
    y: Tensor | None,
    guidance: float,
    interval: tuple[int, int],
    clip: bool,
) -> Denoise:
    """The network as a function from x_t to the x_0 that it sees there."""

    def output(x_t: Tensor, t: int) -> Tensor:
        steps = torch.full((len(x_t),), t, device=x_t.device)
        if y is None:
            return model(x_t, steps)
        if guidance == 1 or not interval[0] <= t <= interval[1]:
            return model(x_t, steps, y)
        # Ho & Salimans 2022, eq. 6, with w = guidance - 1: both halves in one batch
        both = torch.cat([y, torch.full_like(y, NO_LABEL)])
        with_y, without = model(torch.cat([x_t, x_t]), torch.cat([steps, steps]), both).chunk(2)
        return without + guidance * (with_y - without)

    def denoise(x_t: Tensor, t: int) -> Tensor:
        with torch.no_grad():
            predicted = output(x_t, t).to(x_t.dtype)
        x_0 = diffusion.predict_x_0(predicted, x_t, torch.full((len(x_t),), t))
        return x_0.clamp(-1, 1) if clip else x_0

    return denoise


def _check_sampler(sampler: str) -> None:
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; choose from {', '.join(SAMPLERS)}")


def _own_settings(sampler: str, eta: float | None, variance: str | None) -> dict[str, Any]:
    """The settings that only one sampler has."""
    own: dict[str, Any] = {}
    if eta is not None:
        if sampler != "ddim":
            raise ValueError(f"eta = {eta} is a setting of ddim, not of {sampler}; leave it out")
        own["eta"] = _finite("eta", eta)
        if not 0 <= own["eta"] <= 1:
            raise ValueError(f"eta must lie in 0..1, got {eta}")
    if variance is not None:
        if sampler != "ddpm":
            raise ValueError(
                f"variance = {variance!r} is a setting of ddpm, not of {sampler}; leave it out"
            )
        if variance not in VARIANCES:
            raise ValueError(f"unknown variance {variance!r}; choose from {', '.join(VARIANCES)}")
        own["variance"] = variance
    return own


def _check_interval(interval: tuple[int, int] | None, T: int) -> tuple[int, int]:
    if interval is None:
        return 0, T
    try:
        low, high = map(operator.index, interval)
    except (TypeError, ValueError):
        low, high = -1, -1
    if not 0 <= low <= high <= T:
        raise ValueError(f"guidance_interval must be (low, high) in 0..{T}, got {interval!r}")
    return low, high


def _finite(name: str, value: Any) -> float:
    """value as a float, or one line that says that it is no finite number."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        shown = value if isinstance(value, (Real, str)) else type(value).__name__
        raise ValueError(f"{name} must be a finite number, got {shown!r}")
    return float(value)


def device_and_dtype(model: Any, x_T: Tensor | None = None) -> tuple[torch.device, torch.dtype]:
    """Where and how precisely to work: the network's parameters say, else x_T; float32 at least."""
    parameters = getattr(model, "parameters", None)
    one = next(iter(parameters()), None) if callable(parameters) else None
    one = x_T if one is None else one
    if one is None:
        return torch.device("cpu"), torch.float32
    return one.device, torch.promote_types(one.dtype, torch.float32)


def _picture_shape(
    model: Any, shape: Sequence[int] | None, x_T: Tensor | None, n: int
) -> tuple[int, ...]:
    """One picture's (C, H, W) from the argument, the network or x_T, which must agree."""
    known = shape if shape is not None else getattr(model, "image_shape", None)
    if known is None and x_T is not None:
        known = x_T.shape[1:]
    if known is None:
        raise ValueError("shape is not known: this network has no image_shape, so give (C, H, W)")
    known = tuple(known)
    if len(known) != 3 or min(known) < 1:
        raise ValueError(f"shape must be one picture's (C, H, W), got {known}")
    if x_T is not None and tuple(x_T.shape) != (n, *known):
        raise ValueError(f"x_T must be {(n, *known)}, got {tuple(x_T.shape)}")
    return known


def check_labels(
    y: Tensor | Sequence[int] | int | None, n: int, model: Any, device: torch.device
) -> Tensor | None:
    """y as int64 (n,) on the device, or one line that says why it cannot be."""
    if y is None:
        return None
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"y must be whole class numbers, got {y!r}") from None
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"y must be whole class numbers, got {labels.dtype}")
    if labels.ndim == 0:
        labels = labels.expand(n)
    if labels.shape != (n,):
        raise ValueError(f"y must be ({n},), one label a picture; got {tuple(labels.shape)}")
    classes = getattr(model, "num_classes", NO_LABEL)
    if classes is None:
        raise ValueError("this network takes no labels (num_classes=None), but y was given")
    low, high = int(labels.min()), int(labels.max())
    if low < NO_LABEL or (classes != NO_LABEL and high >= classes):
        top = "" if classes == NO_LABEL else f"..{classes - 1}"
        raise ValueError(f"y must lie in 0{top} (or -1 for no label), got {low}..{high}")
    return labels.to(device, torch.int64)
