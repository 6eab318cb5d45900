"""Find out why "my FID does not match": measure the effect of common mistakes on a distance.

The clinic makes each mistake on purpose, with real images, and measures its error by the features
of our own classifier. It works on any data.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_helpers.checks import count as check_count
from ddpm_helpers.data import ImageDataset, balanced_order
from ddpm_helpers.data.dataset import to_bytes, to_float
from ddpm_helpers.evaluation.classifier import FEATURES, Classifier, classifier_for
from ddpm_helpers.evaluation.comparison import features_of_rows
from ddpm_helpers.evaluation.distances import frechet_distance
from ddpm_helpers.evaluation.sets import rows_like, take

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
    classifier: Classifier | None = None,
) -> list[Finding]:
    """Measure the effect of each common cause of a wrong distance, with real images.

    A pair has a reference of n test images and a set of n training images. Both have the class
    proportions of the test split.

    Args:
        train, test: the two splits of any data.
        n: images in a set, at least 20; by default 300, or all if there are fewer.
        pairs: number of random pairs of sets, at least 2.
        classifier: by default the shipped one for this data.
    Returns:
        One finding for each cause, the noise floor first.
    Raises:
        ValueError: n is out of range, or a class has too few images.
    """
    most = min(len(train), len(test))
    n = check_count("n", min(300, most) if n is None else n, least=20, most=most)
    y = take(test, n)[1]
    classifier = classifier_for(test) if classifier is None else classifier
    rng = np.random.default_rng(0)

    def draw(ds: ImageDataset, y: Tensor) -> np.ndarray:
        return np.stack([rows_like(ds, y, rng) for _ in range(pairs)])  # (pairs, n)

    def features(
        ds: ImageDataset, rows: np.ndarray, change: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        return features_of_rows(ds, rows, classifier, change)[0]  # (pairs, n, 64)

    test_rows, train_rows = draw(test, y), draw(train, y)
    real, same = features(test, test_rows), features(train, train_rows)
    sets: Sets = {"the noise floor: train against test": (real, same)}

    order = torch.from_numpy(balanced_order(y.numpy()))  # its start has the class proportions too
    for m in (n // 4, FEATURES - 2):
        if m < n:
            name = f"only {m} images" + f" for {FEATURES} features" * (m < FEATURES)
            sets[name] = real[:, order[:m]], same[:, order[:m]]
    sets["unequal sizes"] = real, same[:, order[: n // 4]]
    if len(y.unique()) > 1:
        chance = np.stack([rng.permutation(len(train))[:n] for _ in range(pairs)])
        sets["classes by chance in one set"] = real, features(train, chance)
    twice = torch.cat([y, y])
    if (np.bincount(train.labels) >= np.bincount(twice, minlength=len(train.classes))).all():
        a, b = features(train, draw(train, twice)).chunk(2, 1)
        sets["reference from the training split"] = a, b
    half = order[: n // 2]
    sets["half of the images in both sets"] = real, same.index_copy(1, half, real[:, half])

    for name, spoil in SPOILS.items():
        sets[name] = real, features(train, train_rows, spoil)
    halved = features(test, test_rows, partial(halve, mode="antialias"))
    for mode, name in RESIZED.items():
        sets[name] = halved, features(train, train_rows, partial(halve, mode=mode))
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


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Save images as JPEG with a quality in 1..95, and load them again."""
    from PIL import Image

    loaded = []
    for pixels in to_bytes(x).movedim(1, -1).numpy():  # (S, S, C)
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "jpeg", quality=quality)
        loaded.append(np.array(Image.open(file)).reshape(pixels.shape))
    return to_float(torch.from_numpy(np.stack(loaded)).movedim(-1, 1).contiguous())


def halve(x: Tensor, mode: str) -> Tensor:
    """Halve the image size by `antialias` (antialiased bilinear), `bilinear` or `nearest`."""
    size = (x.shape[-2] // 2, x.shape[-1] // 2)
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest")
    return F.interpolate(x, size, mode="bilinear", antialias=mode == "antialias")


def _truncated(x: Tensor) -> Tensor:
    """Move values between grey levels, like samples, and truncate them instead of rounding."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    levels = (x + 1) * 127.5 + noise  # rounding gives the original bytes
    return levels.floor().clamp(0, 255) / 127.5 - 1


SPOILS: dict[str, Callable[[Tensor], Tensor]] = {
    "saved as JPEG, quality 95": partial(jpeg, quality=95),
    "saved as JPEG, quality 75": partial(jpeg, quality=75),
    "saved as JPEG, quality 50": partial(jpeg, quality=50),
    "range [0, 1] instead of [-1, 1]": lambda x: (x + 1) / 2,
    "bytes cut off instead of rounded": _truncated,
    "channels in the order BGR": lambda x: x.flip(1),
}

RESIZED = {
    "antialias": "half size: both antialiased",
    "bilinear": "half size: one not antialiased",
    "nearest": "half size: one by nearest pixel",
}


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
