"""Compare two sets of images by a classifier's features, and measure the noise floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.checks import same_shape
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.data.dataset import to_float
from ddpm_helpers.evaluation.classifier import Classifier, classifier_for, load_classifier
from ddpm_helpers.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from ddpm_helpers.evaluation.sets import as_floats, rows_like


@dataclass(frozen=True)
class Comparison:
    """Measures of two sets of n images each, compared by the classifier's features.

    Attributes:
        n: images in each set.
        frechet: Fréchet distance. It is not an FID, which uses different features.
        kernel: kernel distance; around 0 for two random sets from one source.
        precision, recall: precision and recall of the second set, each in 0..1.
        accuracy: share of the second set that the classifier labels correctly; None if no labels
            were given or the classifier does not know the classes.
    """

    n: int
    frechet: float
    kernel: float
    precision: float
    recall: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Floor:
    """Measures of pairs of real sets: the values of perfect samples at this n.

    Attributes:
        pairs: number of pairs.
        mean, std: mean and standard deviation of each measure over the pairs.
    """

    pairs: int
    mean: Comparison
    std: Comparison


@torch.no_grad()
def features_and_classes(classifier: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the classifier's features and predicted classes for many images.

    Args:
        classifier: classifier from `load_classifier`.
        x: images (n, C, S, S), C = 1 or 3, in [-1, 1] or uint8.
    Returns:
        features (n, 64) and class numbers (n,).
    """
    device = next(classifier.parameters()).device
    features, named = [], []
    for part in x.split(250):
        found = classifier.features(as_floats(part.to(device)))  # (B, 64)
        features.append(found.cpu())
        named.append(classifier.head(found).argmax(1).cpu())
    return torch.cat(features), torch.cat(named)


def compare(
    real: Tensor, fake: Tensor, y: Tensor | None = None, classifier: Classifier | None = None
) -> Comparison:
    """Compare samples with the same number of real images.

    Args:
        real, fake: images (n, C, S, S), C = 1 or 3, in [-1, 1] or uint8; n at least 4.
        y: labels of the fake images, (n,), or None.
        classifier: by default the shipped one for cartoons.
    Raises:
        ValueError: the sets differ in size (the distances depend on n) or shape, or the number of
            labels is not n.
    """
    same_shape("fake", fake, "real", real)
    if y is not None and len(y) != len(fake):
        raise ValueError(f"y must hold {len(fake)} labels, one per image; got {len(y)}")
    classifier = load_classifier() if classifier is None else classifier
    (a, _), (b, named) = (features_and_classes(classifier, x) for x in (real, fake))
    return _measures(a, b, named, y)


def noise_floor(
    train: ImageDataset,
    test: ImageDataset,
    y: Tensor,
    *,
    y_train: Tensor | None = None,
    reference: Tensor | None = None,
    pairs: int = 10,
    seed: int = 0,
    classifier: Classifier | None = None,
) -> Floor:
    """Compare random sets of training images with random sets of test images.

    Samples are as close to test images as real images are if their distance is within two standard
    deviations of the mean. If a split has hardly more than n images, all sets contain mostly the
    same images, and the standard deviation is too small.

    Args:
        train, test: the two splits.
        y: labels of the samples, (n,): every set has n images with these labels.
        y_train: labels of the training images, if their class proportions differ.
        reference: the test images that samples are compared with, (n, C, S, S), which then replace
            the random test sets: a single set can be far from the average.
        pairs: number of pairs, at least 2.
        seed: random seed for the sets.
        classifier: by default the shipped one for this data.
    Raises:
        ValueError: a class has too few images.
    """
    classifier = classifier_for(test) if classifier is None else classifier
    y_train = y if y_train is None else y_train
    rng = np.random.default_rng(seed)

    def draw(ds: ImageDataset, y: Tensor) -> tuple[Tensor, Tensor]:
        rows = np.stack([rows_like(ds, y, rng) for _ in range(pairs)])
        return features_of_rows(ds, rows, classifier)

    if reference is None:
        real = draw(test, y)[0]  # (pairs, n, 64)
    else:
        real = features_and_classes(classifier, reference)[0].expand(pairs, -1, -1)
    other, named = draw(train, y_train)
    known = y_train if classifier.classes == tuple(test.classes) else None
    rows = [asdict(_measures(real[k], other[k], named[k], known)) for k in range(pairs)]
    columns = {name: [row[name] for row in rows] for name in rows[0] if rows[0][name] is not None}
    mean: dict[str, Any] = {name: float(np.mean(values)) for name, values in columns.items()}
    std: dict[str, Any] = {name: float(np.std(v, ddof=1)) for name, v in columns.items()}
    mean["n"] = std["n"] = len(y)
    return Floor(pairs, Comparison(**mean), Comparison(**std))


def features_of_rows(
    ds: ImageDataset,
    rows: np.ndarray,
    classifier: Classifier,
    change: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute features (pairs, n, 64) and predicted classes (pairs, n) of the images in rows.

    An image that is in several pairs is computed once. `change` is applied to the images, in
    [-1, 1], before that.
    """
    once, places = np.unique(rows, return_inverse=True)
    x = torch.from_numpy(np.asarray(ds.images[once]))
    if change is not None:
        x = torch.cat([change(to_float(part)) for part in x.split(250)])
    found = features_and_classes(classifier, x)
    places = places.reshape(rows.shape)
    return found[0][places], found[1][places]


def _measures(a: Tensor, b: Tensor, named: Tensor, y: Tensor | None) -> Comparison:
    """Compare real features a and fake features b, (n, 64), with b's predicted classes (n,)."""
    precision, recall = precision_recall(a, b)
    right = None if y is None else float((named == y.cpu()).double().mean())
    frechet, kernel = frechet_distance(a, b), kernel_distance(a, b)
    return Comparison(len(a), frechet, kernel, precision, recall, right)
