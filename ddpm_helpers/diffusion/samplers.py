"""From noise to pictures: a sampler is a loop that walks t = T..0 and yields every `Step`.

Each one pairs a step t with the next, smaller step s, asks the network for x_0, and moves from
x_t towards it, with or without fresh noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.diffusion.schedules import check_count

if TYPE_CHECKING:
    from ddpm_helpers.diffusion.utils import DiffusionUtils

NO_LABEL = -1  # what a network takes for "no label" among the labels of a batch


@dataclass(frozen=True, eq=False)
class Step:
    """One station on the way from noise to a picture.

    Attributes:
        t: its step: T first, 0 last.
        x_t: the pictures at step t, (n, C, H, W); at t = 0 the result.
        x_0_pred: the clean pictures that the network sees in this x_t (clipped, if asked for);
            at t = 0 the result.
    """

    t: int
    x_t: Tensor
    x_0_pred: Tensor


Denoise = Callable[[Tensor, int], Tensor]  # (x_t, t) -> predicted x_0


def ddpm(
    diffusion: DiffusionUtils,
    denoise: Denoise,
    x_t: Tensor,
    ts: list[int],
    noise: Callable[[], Tensor],
    eta: float,
) -> Iterator[Step]:
    """Ancestral sampling: draw x_s from q(x_s | x_t, x_0) with the predicted x_0.

    Source: Ho et al. 2020, algorithm 2, with sigma_t^2 the posterior variance of eq. 7.
    """
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        mean, variance = diffusion.posterior_between(x_0, x_t, _full(t, x_t), _full(s, x_t))
        # The last step is the mean alone: its variance is 0, noise would only stay visible.
        x_t = mean + variance.sqrt() * noise() if s > 0 else mean
    yield Step(0, x_t, x_t)


def ddim(
    diffusion: DiffusionUtils,
    denoise: Denoise,
    x_t: Tensor,
    ts: list[int],
    noise: Callable[[], Tensor],
    eta: float,
) -> Iterator[Step]:
    """Implicit sampling: keep the noise that x_t holds, at the level of step s.

        x_s = sqrt(bar_s) * x_0 + sqrt(1 - bar_s - sigma^2) * eps + sigma * z

    eps is what x_t and the (clipped) x_0 leave, so that the three always agree.
    Source: Song et al. 2021 (DDIM), eq. 12 and 16.
    """
    bar = diffusion.alpha_bar.tolist()
    for t, s in pairwise(ts):
        x_0 = denoise(x_t, t)  # (n, C, H, W)
        yield Step(t, x_t, x_0)
        eps = (x_t - math.sqrt(bar[t]) * x_0) / math.sqrt(1 - bar[t])
        sigma = eta * math.sqrt((1 - bar[s]) / (1 - bar[t]) * (1 - bar[t] / bar[s]))
        along = math.sqrt(max(0.0, 1 - bar[s] - sigma**2))
        x_t = math.sqrt(bar[s]) * x_0 + along * eps
        if sigma > 0:
            x_t = x_t + sigma * noise()
    yield Step(0, x_t, x_t)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {"ddpm": ddpm, "ddim": ddim}


def sample_steps(
    diffusion: DiffusionUtils,
    model: Callable[..., Tensor],
    n: int,
    *,
    sampler: str,
    steps: int | None,
    eta: float | None,
    guidance: float,
    y: Tensor | Sequence[int] | int | None,
    seed: int | None,
    x_T: Tensor | None,
    clip: bool,
    shape: tuple[int, int, int] | None,
    first: int,
) -> Iterator[Step]:
    """What `DiffusionUtils.sample_steps` documents: check everything, then start the sampler."""
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; choose from {', '.join(SAMPLERS)}")
    n, first = check_count("n", n), check_count("first", first, least=0)
    T = diffusion.T
    k = T if steps is None else check_count("steps", steps, most=T)
    ts = [i * T // k for i in range(k, -1, -1)]  # T first, 0 last, evenly spread
    eta = _check_eta(eta, sampler)
    device, dtype = _device_and_dtype(model, x_T)
    labels = _labels(y, n, model, guidance, device)
    picture = _picture_shape(model, shape, x_T, n)
    noise = picture_noise(seed, n, picture, device, dtype, first)
    start = noise()  # drawn even if x_T is given: the steps' noise must not repeat it
    if x_T is not None:
        start = x_T.detach().to(device, dtype)
    denoise = _denoiser(diffusion, model, labels, guidance, clip)
    return SAMPLERS[sampler](diffusion, denoise, start, ts, noise, eta)


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
    clip: bool,
) -> Denoise:
    """The network as a function from x_t to the x_0 that it sees there."""

    def output(x_t: Tensor, t: Tensor) -> Tensor:
        if y is None:
            return model(x_t, t)
        if guidance == 1:
            return model(x_t, t, y)
        # Ho & Salimans 2022, eq. 6, with w = guidance - 1: both halves in one batch
        both = torch.cat([y, torch.full_like(y, NO_LABEL)])
        with_y, without = model(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return without + guidance * (with_y - without)

    def denoise(x_t: Tensor, t: int) -> Tensor:
        steps = torch.full((len(x_t),), t, device=x_t.device)
        with torch.no_grad():
            predicted = output(x_t, steps).to(x_t.dtype)
        x_0 = diffusion.predict_x_0(predicted, x_t, steps)
        return x_0.clamp(-1, 1) if clip else x_0

    return denoise


def _full(t: int, x_t: Tensor) -> Tensor:
    return torch.full((len(x_t),), t)


def _check_eta(eta: float | None, sampler: str) -> float:
    if eta is None:
        return 0.0
    if sampler != "ddim":
        raise ValueError(f"eta = {eta} is a setting of ddim, not of {sampler}; leave it out")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in 0..1, got {eta}")
    return float(eta)


def _device_and_dtype(model: Any, x_T: Tensor | None) -> tuple[torch.device, torch.dtype]:
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


def _labels(
    y: Tensor | Sequence[int] | int | None,
    n: int,
    model: Any,
    guidance: float,
    device: torch.device,
) -> Tensor | None:
    """y as int64 (n,) on the device, or one line that says why it cannot be."""
    if not math.isfinite(guidance):
        raise ValueError(f"guidance must be a finite number, got {guidance}")
    if y is None:
        if guidance != 1:
            raise ValueError(
                f"guidance = {guidance} needs y: without a class there is no direction"
            )
        return None
    labels = torch.as_tensor(y)
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
