"""Find out why "my FID does not match": measure the effect of common mistakes on a distance.

The clinic makes each mistake on purpose, with real images, and measures its error by the features
of our own classifier. It works on any data.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_helpers.checks import count as check_count
from ddpm_helpers.data import ImageDataset, balanced_order
from ddpm_helpers.data.dataset import to_bytes, to_float
from ddpm_helpers.evaluation.classifier import FEATURES, Classifier, classifier_for
from ddpm_helpers.evaluation.comparison import features_and_classes, features_of_rows
from ddpm_helpers.evaluation.distances import frechet_distance
from ddpm_helpers.evaluation.sets import rows_like, take

Spoil = Callable[[Tensor], Tensor]  # images (n, C, S, S) in [-1, 1] to images
Sets = dict[str, tuple[Tensor, Tensor]]  # features (pairs, n, 64) of reference and other set


@dataclass(frozen=True)
class Finding:
    """The Fréchet distances for one cause.

    Attributes:
        cause: description of the cause.
        sizes: number of images in the reference set and in the other set.
        distances: one distance for each pair of sets.
        error: mean and standard deviation, over pairs, of the difference from the noise floor.
    """

    cause: str
    sizes: tuple[int, int]
    distances: tuple[float, ...]
    error: tuple[float, float]

    @property
    def mean(self) -> float:
        """Mean of the distances."""
        return float(np.mean(self.distances))

    @property
    def std(self) -> float:
        """Standard deviation of the distances."""
        return float(np.std(self.distances, ddof=1))


def clinic(
    train: ImageDataset,
    test: ImageDataset,
    *,
    n: int | None = None,
    pairs: int = 5,
    seed: int = 0,
    samples: Mapping[str, Tensor] | None = None,
    classifier: Classifier | None = None,
) -> list[Finding]:
    """Measure the effect of each common cause of a wrong distance, with real images.

    A pair has a reference of n test images and a set of n training images. Both have the class
    proportions of the test split.

    Args:
        train, test: the two splits of any data.
        n: images in a set, at least 20; by default 300, or all if there are fewer.
        pairs: number of random pairs of sets, at least 2.
        seed: random seed for the pairs.
        samples: more sets to compare with the references, by name: (n, C, S, S) in [-1, 1], with
            the labels of `take(test, n)`.
        classifier: by default the shipped one for this data.
    Returns:
        One finding for each cause, the noise floor first.
    Raises:
        ValueError: n is out of range, or a class has too few images.
    """
    n, y = _labels(train, test, n)
    check_count("pairs", pairs, least=2)
    classifier = classifier_for(test) if classifier is None else classifier
    rng = np.random.default_rng(seed)

    def draw(ds: ImageDataset, y: Tensor) -> np.ndarray:
        return np.stack([rows_like(ds, y, rng) for _ in range(pairs)])  # (pairs, n)

    test_rows, rows = draw(test, y), draw(train, y)
    real, _ = features_of_rows(test, test_rows, classifier)  # (pairs, n, 64)
    same, _ = features_of_rows(train, rows, classifier)
    sets = {"the noise floor: train against test": (real, same)}
    sets |= _sizes(y, real, same)
    if len(y.unique()) > 1:
        chance = np.stack([rng.permutation(len(train))[:n] for _ in range(pairs)])
        other, _ = features_of_rows(train, chance, classifier)
        sets["classes by chance in one set"] = real, other
    sets |= _splits(train, y, real, same, rng, classifier)
    for name, spoil in SPOILS.items():
        sets[name] = real, features_of_rows(train, rows, classifier, spoil)[0]
    halved, _ = features_of_rows(test, test_rows, classifier, halve("antialias"))
    for mode in ("antialias", "bilinear", "nearest"):
        other, _ = features_of_rows(train, rows, classifier, halve(mode))
        sets[f"half size: reference antialiased, other {mode}"] = halved, other
    for name, x in (samples or {}).items():
        sets[name] = real, features_and_classes(classifier, x)[0].expand(pairs, -1, -1)
    return _findings(sets)


def clinic_table(findings: Sequence[Finding]) -> str:
    """Make a text table of each distance and its difference from the noise floor."""
    lines = [f"{'cause':<48}{'n':>9}{'Fréchet distance':>18}{'error':>18}"]
    for one in findings:
        sizes = str(one.sizes[0]) if one.sizes[0] == one.sizes[1] else "{}, {}".format(*one.sizes)
        distance = f"{one.mean:.3f} ± {one.std:.3f}"
        error = "" if one is findings[0] else "{:+.3f} ± {:.3f}".format(*one.error)
        lines.append(f"{one.cause:<48}{sizes:>9}{distance:>18}{error:>18}")
    lines.append(f"error: the difference from the noise floor; mean ± standard deviation over "
                 f"{len(findings[0].distances)} pairs of sets")  # fmt: skip
    return "\n".join(lines)


def jpeg(quality: int) -> Spoil:
    """Save images as JPEG with a quality in 1..95, and load them again."""

    def spoil(x: Tensor) -> Tensor:
        from PIL import Image

        out = []
        for pixels in to_bytes(x).movedim(1, -1).numpy():  # (S, S, C)
            file = io.BytesIO()
            grey = pixels.shape[-1] == 1
            Image.fromarray(pixels[..., 0] if grey else pixels).save(file, "jpeg", quality=quality)
            read = torch.from_numpy(np.array(Image.open(file)))
            out.append(read[None] if grey else read.movedim(-1, 0))
        return to_float(torch.stack(out))

    return spoil


def halve(mode: str) -> Spoil:
    """Halve the image size by `antialias` (antialiased bilinear), `bilinear` or `nearest`."""

    def spoil(x: Tensor) -> Tensor:
        size = (x.shape[-2] // 2, x.shape[-1] // 2)
        if mode == "nearest":
            return F.interpolate(x, size, mode="nearest")
        return F.interpolate(x, size, mode="bilinear", antialias=mode == "antialias")

    return spoil


def _truncated(x: Tensor) -> Tensor:
    """Move values between grey levels, like samples, and truncate them instead of rounding."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    levels = (x + 1) * 127.5 + noise  # rounding gives the original bytes
    return levels.floor().clamp(0, 255) / 127.5 - 1


SPOILS: dict[str, Spoil] = {
    "saved as JPEG, quality 95": jpeg(95),
    "saved as JPEG, quality 75": jpeg(75),
    "saved as JPEG, quality 50": jpeg(50),
    "range [0, 1] instead of [-1, 1]": lambda x: (x + 1) / 2,
    "bytes cut off instead of rounded": _truncated,
    "channels in the order BGR": lambda x: x.flip(1),
}


def _labels(train: ImageDataset, test: ImageDataset, n: int | None) -> tuple[int, Tensor]:
    most = min(len(train), len(test))
    n = check_count("n", min(300, most) if n is None else n, least=20, most=most)
    return n, take(test, n)[1]


def _sizes(y: Tensor, real: Tensor, same: Tensor) -> Sets:
    """Make sets smaller than n with the same class proportions."""
    n, order = len(y), torch.from_numpy(balanced_order(y.numpy()))
    sets = {}
    for m in (n // 4, FEATURES - 2):
        if 4 <= m < n:
            name = f"only {m} images" + f" for {FEATURES} features" * (m < FEATURES)
            sets[name] = real[:, order[:m]], same[:, order[:m]]
    return sets | {"unequal sizes": (real, same[:, order[: n // 4]])}


def _splits(
    train: ImageDataset,
    y: Tensor,
    real: Tensor,
    same: Tensor,
    rng: np.random.Generator,
    classifier: Classifier,
) -> Sets:
    """Make references from training images, and sets that share images."""
    twice, sets = torch.cat([y, y]), {}
    half = torch.from_numpy(balanced_order(y.numpy()))[: len(y) // 2]
    shared = same.index_copy(1, half, real[:, half])
    if (np.bincount(train.labels) >= np.bincount(twice, minlength=len(train.classes))).all():
        rows = np.stack([rows_like(train, twice, rng) for _ in same])  # (pairs, 2 n), no row twice
        a, b = features_of_rows(train, rows, classifier)[0].chunk(2, 1)
        sets["reference from the training split"] = a, b
    return sets | {"half of the images in both sets": (real, shared)}


def _findings(sets: Sets) -> list[Finding]:
    """Compute Fréchet distances and their differences from the first, the noise floor."""
    found: list[Finding] = []
    for cause, (real, other) in sets.items():
        distances = [frechet_distance(a, b) for a, b in zip(real, other, strict=True)]
        floor = found[0].distances if found else distances
        error = np.subtract(distances, floor)
        found.append(Finding(
            cause, (real.shape[1], other.shape[1]), tuple(distances),
            (float(error.mean()), float(error.std(ddof=1))),
        ))  # fmt: skip
    return found
