"""Measure what `ddpm evaluate` reports: loss per timestep, and samples against real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.checks import count as check_count
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.device import device_and_dtype
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.diffusion.walk import Model
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.evaluation.comparison import compare, noise_floor, table
from ddpm_helpers.evaluation.inception import check_inception, inception_scores
from ddpm_helpers.evaluation.sets import (
    FEW,
    check_shares,
    class_counts,
    class_numbers_of,
    draw_samples,
    take,
    take_like,
)


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
        diffusion, model: the diffusion and the network; labels are passed if it has classes.
        ds: dataset that the network was not trained on.
        ts: timesteps, each in 1..T.
        n: number of images; all timesteps use the same images and the same noise.
        seed: noise seed.
    Returns:
        (len(ts),), the mean of `DiffusionUtils.loss` over the images.
    Raises:
        ValueError: n is 0, or a timestep is out of range.
    """
    x_0, y = take(ds, n)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    device, _ = device_and_dtype(model)
    labelled = getattr(model, "num_classes", None) is not None
    y = class_numbers_of(model, ds, y) if labelled else y
    batches = list(zip(*(every.split(64) for every in (x_0, eps, y)), strict=True))
    means = []
    for number in ts:
        total = 0.0
        for x, e, labels in batches:
            t = torch.full((len(x),), int(number))
            given = (labels.to(device),) if labelled else ()
            total += float(diffusion.loss(model, x.to(device), t, e.to(device), *given).sum())
        means.append(total / len(x_0))
    return torch.tensor(means)


def evaluate(
    diffusion: DiffusionUtils,
    model: Model,
    train: ImageDataset,
    test: ImageDataset,
    *,
    n: int | None = None,
    batch_size: int = 50,
    pairs: int = 10,
    inception: str | Path | None = None,
    anyway: bool = False,
    say: Callable[[str], None] = print,
    keep: Callable[[dict[str, Any]], None] = lambda numbers: None,
    **options: Any,
) -> dict[str, Any]:
    """Measure everything that `ddpm evaluate` reports.

    Args:
        diffusion, model: the network and its diffusion.
        train, test: the two splits of its data. If test has fewer than 50 images, only the loss
            is measured.
        n: images in each compared set, at least 5, or 10 with `inception`; by default 1,000, or all
            if there are fewer.
        batch_size: number of images drawn at a time.
        pairs: number of pairs of real sets for `noise_floor`.
        inception: file of Inception's weights, to add FID, KID and Inception score (see
            `inception_scores`); None leaves them out.
        anyway: compare even if the splits have different class proportions.
        say: called with each line of the report.
        keep: called with the numbers after each part, to save them in case a later part fails.
        options: as for `sample`, without y; by default 50 steps of dpm++.
    Returns:
        A dict of plain numbers: `loss` by timestep, and, if there are enough test images, the
        measures of the `samples` and the `mean` and `std` of the `floor`.
    Raises:
        ValueError: n is out of range, the network does not know a class, the class proportions of
            the splits differ (unless `anyway`), or as `sample` or `inception_scores`.
        FileNotFoundError: as `inception_scores`.
    """
    if len(test) < FEW:
        numbers = _losses(diffusion, model, test, len(test), say)
        keep(numbers)
        say(f"the test split holds {len(test)} images: distances need at least {FEW}, so only the "
            "loss was measured")  # fmt: skip
        return numbers
    most = min(len(train), len(test))
    n = check_count("n", min(1000, most) if n is None else n, least=5, most=most)
    if inception is not None:
        check_inception(inception, n)
    labelled = getattr(model, "num_classes", None) is not None
    x_test, y_test = take(test, n)
    # Without classes, samples have the class proportions of the training split.
    y_train = y_test if labelled else take(train, n)[1]
    counts = say_counts({"test": y_test, "train": y_train}, test.classes, say)
    if not anyway:
        check_shares("train", y_train, "test", y_test, test.classes)
    y = class_numbers_of(model, test, y_test) if labelled else None
    classifier = classifier_for(test).to(device_and_dtype(model)[0])
    known = classifier.classes == tuple(test.classes)
    say(f"features: a classifier of {', '.join(classifier.classes)}; "
        f"accuracy {classifier.accuracy:.1%} on its test images")  # fmt: skip
    numbers = {"classes": counts} | _losses(diffusion, model, test, min(n, 100), say)
    keep(numbers)
    floor = noise_floor(
        train, test, y_test, y_train=y_train, reference=x_test, pairs=pairs, classifier=classifier
    )
    defaults: dict[str, Any] = {"sampler": "dpm++", "steps": min(50, diffusion.T)}
    options = defaults | options
    drawn = draw_samples(diffusion, model, n, y=y, batch_size=batch_size, **options)
    samples = torch.cat([part for part, _ in drawn])
    found = compare(x_test, samples, y_test if known and labelled else None, classifier)
    say(table({"samples": found}, floor))
    numbers |= {"samples": asdict(found), "floor": asdict(floor)}
    keep(numbers)
    if inception is not None:
        real = take_like(train, y_train)
        for name, x, row in (("samples", samples, "samples"), ("real", real, "floor")):
            scores = inception_scores(x, x_test, inception)
            numbers[row] |= scores
            keep(numbers)
            say(f"{name:<20}{n:>6}  " + "  ".join(f"{k} {v:.3f}" for k, v in scores.items()))
    return numbers


def say_counts(
    sets: dict[str, Tensor], classes: Sequence[str], say: Callable[[str], None]
) -> dict[str, dict[str, int]]:
    """Print how many images of each class each set has, from labels (n,); return the counts."""
    counts = {name: class_counts(y, classes) for name, y in sets.items()}
    for name, count in counts.items():
        say(f"{name}, {len(sets[name])} images: " + ", ".join(f"{k} {c}" for k, c in count.items()))
    return counts


def _losses(
    diffusion: DiffusionUtils, model: Model, test: ImageDataset, n: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure and print the loss at eleven timesteps, on n test images."""
    ts = sorted({max(1, diffusion.T * i // 10) for i in range(11)})
    loss = loss_per_step(diffusion, model, test, ts, n=n).tolist()
    values = dict(zip(ts, loss, strict=True))
    say(f"loss per t on {n} test images: "
        + "  ".join(f"{t}: {value:.4f}" for t, value in values.items()))  # fmt: skip
    return {"loss": values, "loss_n": n}
