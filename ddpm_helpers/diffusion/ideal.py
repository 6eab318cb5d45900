"""The ideal denoiser: predictions of a perfect network for images from a known set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.checks import NO_LABEL
from ddpm_helpers.diffusion.process import DiffusionUtils
from ddpm_helpers.diffusion.walk import Labels

BLOCK = 2**18  # convert this many values to float64 at a time, 2 MB
ROWS = 64  # compare this many noisy images with the set at a time
NEGLIGIBLE = 1e-25  # weights below this do not change the mean in float64
LEAST_VARIANCE = 1e-10  # replaces 1 - alpha_bar[0] = 0, so that t = 0 is the limit of small t


class IdealDenoiser:
    """The denoiser with the smallest squared error if all images of a set are equally likely.

        w_i(x_t) = softmax_i(-|x_t - sqrt(alpha_bar[t]) * x_i|^2 / (2 * (1 - alpha_bar[t])))
        E[x_0 | x_t] = sum_i w_i(x_t) * x_i

    Use it like a network: for `DiffusionUtils.sample`, `loss`, guidance and evaluation. It needs no
    training and can only draw the images of its set. It computes in float64 and in blocks, and
    never copies the whole set.

    Args:
        diffusion: determines alpha_bar and the kind of prediction.
        images: the set, (N, C, H, W), N at least 1: floats in [-1, 1], or uint8 in 0..255 such as
            `ds.images`. A memory map is read in blocks; a tensor is used on its device.
        labels: class of each image, (N,) integers, -1 for no class; None for a set without classes.
    Attributes:
        image_shape: (C, H, W).
        num_classes: largest label + 1; None without classes.
        classes: names of the classes, class 0 first; empty until you set it.
    Source: the posterior mean of a mixture of Gaussians; for diffusion models, Karras et al. 2022
        (EDM), appendix B.3.
    """

    def __init__(
        self,
        diffusion: DiffusionUtils,
        images: Tensor | np.ndarray,
        labels: Tensor | Sequence[int] | None = None,
    ) -> None:
        self.diffusion = diffusion
        self.images = _checked_images(images)
        self.image_shape = tuple(self.images.shape[1:])
        # x_i = scale * stored values + shift. Sums use the stored values, because converting them
        # to [-1, 1] would take most of the time of a query.
        is_bytes = self.images.dtype == torch.uint8
        self._scale, self._shift = (1 / 127.5, -1.0) if is_bytes else (1.0, 0.0)
        self._squares = torch.empty(len(images), dtype=torch.float64, device=self.images.device)
        for rows, block in self._blocks():
            x = block * self._scale + self._shift
            self._squares[rows] = x.square().sum(1)  # (N,), |x_i|^2
        if not self._squares.isfinite().all():
            raise ValueError("images hold NaN or infinite numbers")
        self.labels: Tensor | None = None
        if labels is not None:
            self.labels = checks.labels(labels, len(images), None, self.images.device)
        most = NO_LABEL if self.labels is None else int(self.labels.max())
        self.num_classes = most + 1 if most > NO_LABEL else None
        self.classes: tuple[str, ...] = ()

    def __call__(self, x_t: Tensor, t: Tensor, y: Labels | None = None) -> Tensor:
        """Predict eps, x_0, v or flow, as given by `diffusion.prediction`.

        Args:
            x_t: noisy images, (B, C, H, W).
            t: timesteps of x_t, (B,) int64 in 0..T. At 0, eps is 0 and x_0 is the nearest image.
            y: class labels, (B,), which restrict the set; -1 or None for the whole set.
        Returns:
            (B, C, H, W), in x_t's dtype.
        """
        x = x_t.to(self.images.device).double()
        x_0, bar = self.mean(x, t, y), self._alpha_bar(t, x).reshape(-1, 1, 1, 1)
        noise = (x - bar.sqrt() * x_0) / _variance(bar).sqrt()
        eps = torch.where(bar < 1, noise, 0.0)  # E[eps | x_t]; x_0 holds no noise
        return self.diffusion.target(x_0, eps, t).to(x_t)

    def mean(self, x_t: Tensor, t: Tensor, y: Labels | None = None) -> Tensor:
        """Compute E[x_0 | x_t], the mean of the images that are still possible.

        Args: as for a call.
        Returns:
            (B, C, H, W), in x_t's dtype.
        """
        means = []
        for weights in self._weights_in_parts(x_t, t, y):  # (b, N)
            mean = weights.new_zeros(len(weights), math.prod(self.image_shape))  # (b, D)
            for rows, block in self._blocks(needed=weights.amax(dim=0) > NEGLIGIBLE):
                mean += weights[:, rows] @ block
            means.append(mean * self._scale + self._shift)
        return torch.cat(means).reshape(x_t.shape).to(x_t)

    def weights(self, x_t: Tensor, t: Tensor, y: Labels | None = None) -> Tensor:
        """Compute the probability of each image of the set, if x_t is one of them with noise.

        Args: as for a call.
        Returns:
            (B, N) float64, on the device of the set; each row sums to 1.
        """
        return torch.cat(list(self._weights_in_parts(x_t, t, y)))

    def possible(self, x_t: Tensor, t: Tensor, y: Labels | None = None) -> Tensor:
        """Compute how many images are still possible: exp(entropy of the weights), in 1..N.

        Args: as for a call.
        Returns:
            (B,) float64, on the device of the set.
        """
        return torch.cat([count_possible(w) for w in self._weights_in_parts(x_t, t, y)])

    def _weights_in_parts(self, x_t: Tensor, t: Tensor, y: Labels | None) -> Iterator[Tensor]:
        """Check the arguments, and yield the weights, (b, N), of up to ROWS noisy images."""
        if tuple(x_t.shape[1:]) != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise ValueError(f"x_t must be (B, {shape}), got {tuple(x_t.shape)}")
        device = self.images.device
        labels = torch.full((len(x_t),), NO_LABEL, device=device)
        if y is not None:
            labels = checks.labels(y, len(x_t), self, device)
            for label in labels.unique().tolist():
                if label != NO_LABEL and not (self.labels == label).any():
                    raise ValueError(f"no image of the set has the label {label}")
        batch = x_t.to(device).double().flatten(1)  # (B, D)
        columns = (batch, self._alpha_bar(t, x_t)[:, None], labels[:, None])
        for x, bar, label in zip(*(column.split(ROWS) for column in columns), strict=True):
            inner = x.new_empty(len(x), len(self.images))
            for rows, block in self._blocks():
                inner[:, rows] = x @ block.T
            inner = inner * self._scale + x.sum(1, keepdim=True) * self._shift  # <x_t, x_i>
            # |x_t|^2 is the same for all images, so it is left out.
            logits = (bar.sqrt() * inner - bar / 2 * self._squares) / _variance(bar)
            if self.labels is not None:
                other = (label != NO_LABEL) & (label != self.labels)
                logits = logits.masked_fill(other, -torch.inf)
            yield logits.softmax(dim=1)

    def _blocks(self, needed: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows of the set and their stored values in float64, (n, D), or skip them.

        All blocks share one buffer: allocating memory for each takes longer than the conversion.
        """
        images = self.images.flatten(1)  # (N, D)
        size = max(1, BLOCK // images.shape[1])
        memory = torch.empty(size, images.shape[1], dtype=torch.float64, device=images.device)
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            if needed is None or needed[rows].any():
                stored = images[rows]
                yield rows, memory[: len(stored)].copy_(stored)

    def _alpha_bar(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Look up alpha_bar[t], (B,) float64 on the set's device."""
        return self.diffusion.alpha_bar[self.diffusion.check_timesteps(t, x_t)].to(
            self.images.device
        )


def count_possible(weights: Tensor) -> Tensor:
    """Compute exp(entropy) of each row of weights, (B, N): the effective number of images, (B,)."""
    return torch.special.entr(weights).sum(1).exp()


def _variance(bar: Tensor) -> Tensor:
    return (1 - bar).clamp(min=LEAST_VARIANCE)


def _checked_images(images: Tensor | np.ndarray) -> Tensor:
    if isinstance(images, np.ndarray):
        with warnings.catch_warnings():  # torch warns about read-only memory
            warnings.simplefilter("ignore")
            images = torch.from_numpy(images)
    known = images.is_floating_point() or images.dtype == torch.uint8
    if images.ndim != 4 or not images.numel() or not known:
        got = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images must be (N, C, H, W), float or uint8; got {got}")
    return images
