"""Measure what `ddpm evaluate` reports: the loss at timesteps, and distances of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.device import device_and_dtype
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.diffusion.walk import Model
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.evaluation.comparison import Comparison, Floor, compare, noise_floor
from ddpm_helpers.evaluation.inception import check_inception, inception_scores
from ddpm_helpers.evaluation.sets import class_numbers_of, draw_samples, rows_like, take

FEW = 50  # a test split with fewer images is too small for distances


@torch.no_grad()
def loss_per_step(
    diffusion: DiffusionUtils,
    model: Model,
    ds: ImageDataset,
    ts: Sequence[int],
    *,
    n: int = 256,
    seed: int = 0,
) -> Tensor:
    """Measure the loss at chosen timesteps, on n images with the dataset's class proportions.

    Args:
        diffusion, model: the diffusion and the network, which gets labels if it has classes.
        ds: dataset that the network was not trained on.
        ts: timesteps, each in 1..T.
        n: number of images, 1..len(ds); all timesteps use the same images and the same noise.
        seed: noise seed.
    Returns:
        (len(ts),), the mean of `DiffusionUtils.loss` over the images.
    Raises:
        ValueError: n or a timestep is out of range.
    """
    x_0, y = take(ds, n)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    device, _ = device_and_dtype(model)
    labelled = getattr(model, "num_classes", None) is not None
    y = class_numbers_of(model, ds, y) if labelled else y
    parts = (part.to(device).split(64) for part in (x_0, eps, y))
    batches = list(zip(*parts, strict=True))
    means = []
    for number in ts:
        total = 0.0
        for x, e, labels in batches:
            t = torch.full((len(x),), int(number))
            total += float(diffusion.loss(model, x, t, e, labels if labelled else None).sum())
        means.append(total / len(x_0))
    return torch.tensor(means)


def evaluate(
    diffusion: DiffusionUtils,
    model: Model,
    train: ImageDataset,
    test: ImageDataset,
    *,
    n: int | None = None,
    inception: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure and print everything that `ddpm evaluate` reports.

    Args:
        diffusion, model: the diffusion and the network.
        train, test: the two splits of the network's data. If `test` has fewer than 50 images, only
            the loss is measured.
        n: number of images in each set, at least 5 (10 with `inception`). By default 1,000, or the
            size of the smaller split if that is less.
        inception: file of Inception's weights, to add FID, KID and Inception score (see
            `inception_scores`); None leaves them out.
        options: options of `draw_samples` except y. By default, sampler is dpm++ with 50 steps.
    Returns:
        A dict of plain numbers. `loss`: the loss at each timestep; `loss_n`: the number of images
        it was measured on. With enough test images, also `classes`: the number of images of each
        class in the two sets; `samples`: the measures of the samples; `floor`: `pairs`, `mean` and
        `std` of the noise floor.
    Raises:
        ValueError: n or an option is invalid, the network does not know a class, the file is not
            Inception's, or torch-fidelity is not installed.
        FileNotFoundError: there is no file `inception`.
    """
    if len(test) < FEW:
        numbers = _losses(diffusion, model, test, len(test))
        print(f"the test split has {len(test)} images, and distances need at least {FEW}: only "
              "the loss was measured")  # fmt: skip
        return numbers
    most, least = min(len(train), len(test)), 5 if inception is None else 10
    n = checks.count("n", min(1000, most) if n is None else n, least=least, most=most)
    if inception is not None:
        check_inception(inception)
    labelled = getattr(model, "num_classes", None) is not None
    x_test, y_test = take(test, n)
    # Without classes, samples have the class proportions of the training split.
    y_train = y_test if labelled else take(train, n)[1]
    y = class_numbers_of(model, test, y_test) if labelled else None
    counts = {}
    for name, labels in (("test", y_test), ("train", y_train)):
        counts[name] = {test.classes[k]: (labels == k).sum().item() for k in labels.unique()}
        print(f"{name}, {n} images: " + ", ".join(f"{k} {c}" for k, c in counts[name].items()))
    classifier = classifier_for(test).to(device_and_dtype(model)[0])
    known = classifier.classes == tuple(test.classes)
    print(f"features: from a classifier of {', '.join(classifier.classes)}; "
          f"its accuracy on its own test images is {classifier.accuracy:.1%}")  # fmt: skip
    numbers = {"classes": counts} | _losses(diffusion, model, test, min(n, 100))
    floor = noise_floor(
        train, test, y_test, y_train=y_train, reference=x_test, classifier=classifier
    )
    usual: dict[str, Any] = {"sampler": "dpm++", "steps": min(50, diffusion.T)}
    options = usual | options
    samples = torch.cat(list(draw_samples(diffusion, model, n, y=y, **options)))
    comparison = compare(x_test, samples, y_test if known and labelled else None, classifier)
    _print_table(comparison, floor)
    numbers |= {"samples": asdict(comparison), "floor": asdict(floor)}
    if inception is not None:
        real = torch.from_numpy(train.images[rows_like(train, y_train)])
        for name, x, row in (("samples", samples, "samples"), ("real", real, "floor")):
            scores = inception_scores(x, x_test, inception)
            numbers[row] |= scores
            print(f"{name:<20}{n:>6}  " + "  ".join(f"{k} {v:.3f}" for k, v in scores.items()))
    return numbers


def _losses(diffusion: DiffusionUtils, model: Model, test: ImageDataset, n: int) -> dict[str, Any]:
    """Measure and print the loss at eleven timesteps, on n test images."""
    ts = sorted({max(1, diffusion.T * i // 10) for i in range(11)})
    loss = loss_per_step(diffusion, model, test, ts, n=n).tolist()
    values = dict(zip(ts, loss, strict=True))
    print(f"loss per t on {n} test images: "
          + "  ".join(f"{t}: {value:.4f}" for t, value in values.items()))  # fmt: skip
    return {"loss": values, "loss_n": n}


def _print_table(samples: Comparison, floor: Floor) -> None:
    """Print the measures of the samples, followed by the noise floor."""
    names = ("frechet", "kernel", "precision", "recall", "accuracy")
    print(f"{'compared with test':<20}{'n':>6}" + "".join(f"{name:>16}" for name in names))
    means, stds = asdict(floor.mean), asdict(floor.std)
    real = {k: None if means[k] is None else f"{means[k]:.3f} ± {stds[k]:.3f}" for k in names}
    drawn = {k: None if v is None else f"{v:.3f}" for k, v in asdict(samples).items()}
    for name, row in (("samples", drawn), (f"real, {floor.pairs} pairs", real)):
        cells = "".join(f"{row[k] or '-':>16}" for k in names)
        print(f"{name:<20}{samples.n:>6}{cells}")
    print("real: the noise floor, training images compared with test images (mean ± standard "
          "deviation). Perfect samples would get these values.")  # fmt: skip
