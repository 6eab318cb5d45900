"""Two sets of pictures, compared by a classifier's features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_helpers.data.dataset import to_float
from ddpm_helpers.evaluation.classifier import Classifier, load_classifier
from ddpm_helpers.evaluation.distances import frechet_distance, kernel_distance, precision_recall


@dataclass(frozen=True)
class Comparison:
    """Measures of two sets of n pictures each, compared by the classifier's features.

    Attributes:
        n: pictures in each set.
        frechet: Fréchet distance. Not an FID: other features, other numbers.
        kernel: kernel distance; around 0 for two sets from one source.
        precision, recall: of the second set, each in 0..1.
        accuracy: share of the second set that the classifier gives the right label; None if no
            labels were given.
    """

    n: int
    frechet: float
    kernel: float
    precision: float
    recall: float
    accuracy: float | None = None


@torch.no_grad()
def features_and_classes(classifier: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """The classifier's features of many pictures, and the classes that it predicts.

    Args:
        classifier: see `load_classifier`.
        x: pictures (n, C, S, S), C = 1 or 3, in [-1, 1] or uint8.
    Returns:
        features (n, 64) and class numbers (n,).
    """
    device = next(classifier.parameters()).device
    features, named = [], []
    for part in x.split(250):
        part = part.to(device)
        part = to_float(part) if part.dtype == torch.uint8 else part.float()
        seen = classifier.features(part)  # (B, 64)
        features.append(seen.cpu())
        named.append(classifier.head(seen).argmax(1).cpu())
    return torch.cat(features), torch.cat(named)


def compare(
    real: Tensor, fake: Tensor, y: Tensor | None = None, classifier: Classifier | None = None
) -> Comparison:
    """Compare samples with as many real pictures.

    Args:
        real, fake: pictures (n, C, S, S), C = 1 or 3, in [-1, 1] or uint8; n at least 4.
        y: the labels of the fake ones, (n,), or None.
        classifier: by default the shipped one for cartoons.
    Returns:
        The measures, with n.
    Raises:
        ValueError: sets of different size (the distances depend on n) or shape, fewer than 4
            pictures, or a number of labels other than n.
    """
    y = None if y is None else torch.as_tensor(y).cpu()
    _check_sets(real, fake, y)
    classifier = load_classifier() if classifier is None else classifier
    (a, _), (b, named) = (features_and_classes(classifier, x) for x in (real, fake))
    precision, recall = precision_recall(a, b)
    right = None if y is None else float((named == y).double().mean())
    frechet, kernel = frechet_distance(a, b), kernel_distance(a, b)
    return Comparison(len(a), frechet, kernel, precision, recall, right)


def _check_sets(real: Tensor, fake: Tensor, y: Tensor | None) -> None:
    for x in (real, fake):
        if x.ndim != 4 or not (x.is_floating_point() or x.dtype == torch.uint8):
            raise ValueError(
                f"compare pictures (n, C, S, S), float or uint8; got {x.dtype} {tuple(x.shape)}"
            )
    if real.shape != fake.shape:
        shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"compare sets of one size and shape, got {shapes}")
    if len(real) < 4:  # each has three neighbours
        raise ValueError(f"compare at least 4 pictures, got {len(real)}")
    if y is not None and y.shape != (len(fake),):
        raise ValueError(f"y must be ({len(fake)},), one label per image; got {tuple(y.shape)}")


def table(rows: dict[str, Comparison]) -> str:
    """A text table of comparisons with the test pictures; the row `train` is the noise floor."""
    lines = [
        f"{'compared with test':<20}{'n':>6}{'Frechet':>9}{'kernel':>9}{'precision':>11}"
        f"{'recall':>8}{'accuracy':>10}"
    ]
    for name, row in rows.items():
        right = "-" if row.accuracy is None else f"{row.accuracy:.1%}"
        lines.append(
            f"{name:<20}{row.n:>6}{row.frechet:>9.3f}{row.kernel:>9.3f}{row.precision:>11.3f}"
            f"{row.recall:>8.3f}{right:>10}"
        )
    lines.append("train against test is the noise floor: what perfect samples would get at this n")
    return "\n".join(lines)
