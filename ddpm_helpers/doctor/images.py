"""Checks of both ends of the pipeline: training images and samples."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_helpers.doctor.finding import Finding, broken, decide, look
from ddpm_helpers.doctor.tables import shape_of

# Ranges that people make by mistake: least, most, what they did, what to do instead.
RANGES = (
    (0, 1 / 255, "divided by 255 twice", "x.float() / 127.5 - 1"),
    (-1, -1 + 2 / 255, "divided by 255 twice", "x.float() / 127.5 - 1"),
    (0, 1, "a diffusion model expects -1..1", "2 * x - 1 after ToTensor()"),
    (0, 2, "2 * x without - 1", "2 * x - 1 after ToTensor()"),
    (-3, 1, "2 * x - 1 was applied twice", "Normalise once: either in the data set or in the loop"),
    (0, 255, "whole grey levels", "x.float() / 127.5 - 1"),
    (-1, 509, "2 * x - 1 of whole grey levels", "x.float() / 127.5 - 1"),
    (-127.5, 127.5, "shifted, but not divided by 127.5", "x.float() / 127.5 - 1"),
    (-1, 254, "whole grey levels minus 1", "x.float() / 127.5 - 1"),
    (-0.5, 0.5, "x - 0.5, not divided by 0.5", "(x - 0.5) / 0.5 after ToTensor()"),
)


def _usual_range(least: float, most: float) -> tuple[str, str] | None:
    """What was done, and what to do, if the values fill a range that people make by mistake."""
    for low, high, done, instead in RANGES:
        span, room = high - low, 0.01 * (high - low)
        if low - room <= least and most <= high + room and most - least > 0.7 * span:
            return done, instead
    return None


def check_data(x: Any) -> Finding:
    """Check that images are what a diffusion model expects: float (B, C, H, W) in [-1, 1].

    Args:
        x: one batch as the training gets it, best 32 images or more.
    Returns:
        A `Finding` with `least`, `most`, `mean` and `std`.
    Raises:
        ValueError: not a tensor of four dimensions.
    """
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.numel():
        raise ValueError(f"the doctor expects images, a tensor (B, C, H, W); got {shape_of(x)}")
    values = x.detach().double()
    least, most = float(values.min()), float(values.max())
    mean, std = float(values.mean()), float(values.std())
    digits = 2 if most - least > 0.1 else 4
    span = f"values lie in {least:.{digits}f}..{most:.{digits}f}"
    flat = float(values.flatten(1).std(1).max()) < 0.01 * min(1, most - least) + 1e-9
    usual = None if flat or x.shape[1] not in (1, 3) else _usual_range(least, most)
    done, instead = usual or ("", "")
    return decide(
        "data",
        (x.shape[-1] in (1, 3) and x.shape[1] > 4, broken,
         f"the shape {tuple(x.shape)} has its channels last", "x.permute(0, 3, 1, 2)"),
        (not torch.isfinite(values).all(), broken,
         "some values are NaN or infinite", "Find the file with these values and remove it"),
        (usual is not None, broken, f"{span}; {done}", instead),
        (flat, broken, f"the images are flat, std {std:.3f}", "Show one image: perhaps the files "
         "are not decoded"),
        (not x.is_floating_point() or most > 2 and least >= 0, broken,
         f"{span}: whole grey levels", "x.float() / 127.5 - 1"),
        (least >= -0.01 and most <= 1.01, broken,
         f"{span}; a diffusion model expects -1..1", "2 * x - 1 after ToTensor()"),
        ((least < -1.01 or most > 1.01) and x.shape[1] in (1, 3), broken,
         f"{span}, beyond -1..1, as if normalised by a data set's mean and std",
         "Normalise with mean 0.5 and std 0.5"),
        (most - least < 1 or max(-least, most) < 0.7, look,
         f"{span}: only part of -1..1 is used",
         "If the images are not that dark or pale, use x.float() / 127.5 - 1"),
        (least < -5 or most > 5, look, f"{span}: latents of a large scale",
         "Divide the latents by their standard deviation"),
        (len(x) > 1 and bool((values == values[:1]).all()), look,
         "all images of the batch are the same", "Print the indices that the data loader draws"),
        otherwise=f"{span}, mean {mean:.2f}", least=least, most=most, mean=mean, std=std,
    )  # fmt: skip


def check_samples(samples: Tensor, data: Tensor) -> Finding:
    """Check that samples have the range, brightness, colours and grain of real images.

    A coarse check, not a measure of quality: it finds what can be seen without a network.

    Args:
        samples: (n, C, H, W), as the sampler returns them; 16 or more.
        data: real images of the same classes, (m, C, H, W) in [-1, 1].
    Returns:
        A `Finding` with `brightness` (mean of samples minus data), `contrast` (spread of the
        images' brightness over that of data), `grain` (differences of neighbouring pixels over
        those of data), `limits` (share of values at -1 or 1, minus that of data).
    Raises:
        ValueError: shapes that do not fit, or fewer than 8 images.
    """
    if samples.ndim != 4 or samples.shape[1:] != data.shape[1:] or min(len(samples), len(data)) < 8:
        raise ValueError(
            "the doctor expects 8 samples and 8 images or more of one shape (B, C, H, W); got "
            f"{tuple(samples.shape)} and {tuple(data.shape)}"
        )
    x, real = samples.detach().double().cpu(), data.detach().double().cpu()
    if not torch.isfinite(x).all():
        return broken(
            "samples", "NaN or infinite values, which are shown as black",
            "Run the network in float32 and compare: check_precision",
        )  # fmt: skip
    each, of_real = x.flatten(1).mean(1), real.flatten(1).mean(1)  # brightness of each image
    brightness = float(each.mean() - of_real.mean())
    error = float((each.var() / len(each) + of_real.var() / len(of_real)).sqrt())
    contrast = float(each.std() / of_real.std().clamp(min=1e-6))
    grain = _grain(x) / max(_grain(real), 0.005)
    limits = float((x.abs() > 0.99).double().mean() - (real.abs() > 0.99).double().mean())
    most = float(x.abs().max())
    channel, tint, clear = _tint(x, real)
    turned = clear and not _tint(x.flip(1), real)[2]
    tile = tile_rms(x.mean(0, keepdim=True) - real.mean(0, keepdim=True))
    return decide(
        "samples",
        (float(x.flatten(1).std(1).max()) < 0.01, broken,
         "the samples are flat", "Are the weights loaded? check_weights"),
        (float((x - x[:1]).abs().max()) < 1e-3, broken,
         "all samples are the same", "Seed once, before the loop over batches"),
        (float(x.min()) >= 0 and float(real.min()) < -0.5, broken,
         "no value lies below 0, as in images of 0..1", "Convert to 0..1 only to show them"),
        (most > 1.5, broken,
         f"values reach {most:.1f}: x_0 is not clipped", "Clip the predicted x_0 in each step"),
        (limits > 0.25, broken,
         f"{limits:.0%} more values at the limits than in the data: garish",
         "Use a smaller w, and clip the predicted x_0, not x_{t-1}"),
        (turned, broken, "the channels are in the opposite order, BGR for RGB",
         "Reverse the channels once: x = x.flip(1)"),
        (clear, broken, f"channel {channel} is {tint:+.2f} off the others: a tint",
         "Compare the channels' order and bias with the data's"),
        (abs(brightness) > max(0.15, 4 * error), look,
         f"the brightness of samples is {brightness:+.2f} off the data's",
         "Check that the data lie in -1..1 (check_data) and that the schedule ends in noise "
         "(check_schedule)"),
        (contrast < 0.5 and len(x) >= 16, look,
         f"brightness varies {contrast:.2f} times as much as in the data: very dark and very "
         "bright images are missing", "Begin sampling at T (trailing steps), and check that the "
         "schedule ends in noise"),
        (tile > 0.03, broken,
         f"all samples share a pattern of 2×2 pixels, rms {tile:.2f}: a checkerboard",
         "Check the decoder: check_checkerboard"),
        (grain > 8, look, f"neighbouring pixels differ {grain:.1f} times as much as in the data: "
         "noise is left",
         "Run check_sampler. If it is ok, train longer"),
        otherwise=f"brightness {brightness:+.2f}, grain {grain:.2f} times that of the data",
        brightness=brightness, contrast=contrast, error=error, grain=grain, limits=limits,
    )  # fmt: skip


def _grain(x: Tensor) -> float:
    """Median absolute difference between a pixel and the mean of its four neighbours."""
    kernel = x.new_tensor([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]])[None, None]
    C = x.shape[1]
    return float(F.conv2d(x, kernel.expand(C, 1, 3, 3), groups=C).abs().median())


def _tint(x: Tensor, real: Tensor) -> tuple[int, float, bool]:
    """The most shifted channel, how far it is off the others, and whether any is clearly so."""
    tints = [v.mean((2, 3)) - v.mean((1, 2, 3))[:, None] for v in (x, real)]  # (n, C), (m, C)
    tint = tints[0].mean(0) - tints[1].mean(0)
    error = sum(v.var(0) / len(v) for v in tints).sqrt()  # type: ignore[union-attr]
    channel = int(tint.abs().argmax())
    return channel, float(tint[channel]), bool((tint.abs() > (4 * error).clamp(min=0.08)).any())


def tile_rms(x: Tensor) -> float:
    """Size of a pattern of 2×2 pixels that repeats over the middle half of images.

    Args:
        x: (B, C, H, W), 8×8 pixels or more.
    Returns:
        rms of the repeated tile, without the tile's own mean.
    """
    top, left = x.shape[-2] // 4, x.shape[-1] // 4
    x = x[..., top : top + x.shape[-2] // 4 * 2, left : left + x.shape[-1] // 4 * 2].double()
    # only fast changes: a slope across the image is not a pattern
    fast = x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    tiles = fast.unfold(2, 2, 2).unfold(3, 2, 2).flatten(2, 3)  # (B, C, N, 2, 2)
    tile = tiles.mean(2) - tiles.mean((2, 3, 4))[..., None, None]  # (B, C, 2, 2)
    chance = tiles.var(2).mean() / tiles.shape[2]  # variance of a mean of N noise tiles
    return float((tile.square().mean() - 3 * chance).clamp(min=0).sqrt())
