"""Find samples that are copies of training images."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.evaluation.sets import as_floats

CHUNK = 5000  # compare this many training images at a time


@dataclass(frozen=True)
class Neighbours:
    """The nearest training images of each sample.

    Attributes:
        index: (n, k) int64, indices of the training images, nearest first.
        distance: (n, k), root mean square difference of pixels in [-1, 1].
    """

    index: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Copies:
    """The samples that are copies of a training image.

    Attributes:
        copied: (n,) bool, whether each sample is a copy.
        index: (n,) int64, index of the nearest training image.
        distance, second: (n,), root mean square difference from the nearest training image, and
            from the second nearest one; equal images count once.
    """

    copied: Tensor
    index: Tensor
    distance: Tensor
    second: Tensor

    @property
    def share(self) -> float:
        """Share of the samples that are copies, in 0..1."""
        return float(self.copied.double().mean())


def nearest_neighbours(x: Tensor, images: Tensor | np.ndarray, k: int = 1) -> Neighbours:
    """Find the training images that are nearest to each sample, pixel by pixel.

    Args:
        x: samples, (n, C, H, W), uint8 or in [-1, 1].
        images: training images, (N, C, H, W), uint8 or in [-1, 1], such as `ds.images`.
        k: number of training images to find, in 1..N.
    """
    flat, found = as_floats(x).flatten(1), []  # (n, C * H * W)
    for start in range(0, len(images), CHUNK):
        part = torch.asarray(images[start : start + CHUNK], device=flat.device, copy=True)
        found.append(torch.cdist(flat, as_floats(part).flatten(1)))  # (n, CHUNK)
    nearest = torch.cat(found, 1).topk(k, largest=False)
    return Neighbours(nearest.indices, nearest.values / math.sqrt(flat.shape[1]))


def find_copies(x: Tensor, images: Tensor | np.ndarray, ratio: float = 1 / 2) -> Copies:
    """Find samples that are copies: much nearer to one training image than to any other.

        copied = distance to the nearest < ratio * distance to the second nearest

    A threshold on the distance would depend on the data and on N. The ratio hardly does: a new
    image is about equally far from its two nearest neighbours. To measure the false positive rate,
    apply the rule to test images (at most 2 % for cartoons if N is at least 100).
    Equal training images count as one.

    Args:
        x: samples, (n, C, H, W), uint8 or in [-1, 1].
        images: training images, (N, C, H, W), uint8 or in [-1, 1]; at least two different ones.
        ratio: a sample is a copy if the ratio of its two distances is below this, in 0..1.
    Source: Yoon et al. 2023, section 3. They use 1/3, which misses grainy copies.
    """
    digests = [hashlib.sha1(np.asarray(image).tobytes()).digest() for image in images]
    first = np.sort(np.unique(digests, return_index=True)[1])  # drop duplicates
    near = nearest_neighbours(x, images[first], 2)
    index = torch.from_numpy(first)[near.index[:, 0].cpu()]
    distance, second = near.distance.cpu().unbind(1)
    return Copies(distance < ratio * second, index, distance, second)
