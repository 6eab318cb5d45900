"""What `ddpm evaluate` reports: the loss per step, and samples compared with real pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.checks import count as check_count
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.device import device_and_dtype
from ddpm_helpers.diffusion import DiffusionUtils, network_calls
from ddpm_helpers.diffusion.walk import Model
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.evaluation.comparison import compare, table
from ddpm_helpers.evaluation.inception import check_inception, inception_scores
from ddpm_helpers.evaluation.sets import (
    FEW,
    check_shares,
    class_counts,
    class_numbers_of,
    draw_samples,
    halves,
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
    """The loss at chosen steps, on n pictures of a dataset, in the proportions of its classes.

    Args:
        diffusion, model: the network and its diffusion; the network gets the labels if it takes
            any.
        ds: pictures that the network was not trained on.
        ts: steps, each in 1..T.
        n: number of pictures; all steps use the same pictures and the same noise.
        seed: of the noise.
    Returns:
        (len(ts),), the mean of `DiffusionUtils.loss` over the pictures.
    Raises:
        ValueError: n = 0, or a step out of range.
    """
    x_0, y = take(ds, n)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    device, _ = device_and_dtype(model)
    labelled = getattr(model, "num_classes", None) is not None
    y = class_numbers_of(model, ds, y) if labelled else y
    batches = list(zip(*(every.split(64) for every in (x_0, eps, y)), strict=True))
    means = []
    for t in ts:
        total = 0.0
        for x, e, labels in batches:
            steps = torch.full((len(x),), int(t))
            given = (labels.to(device),) if labelled else ()
            total += float(diffusion.loss(model, x.to(device), steps, e.to(device), *given).sum())
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
    inception: str | Path | None = None,
    anyway: bool = False,
    say: Callable[[str], None] = print,
    keep: Callable[[dict[str, Any]], None] = lambda numbers: None,
    **options: Any,
) -> dict[str, Any]:
    """Measure everything that `ddpm evaluate` reports.

    Args:
        diffusion, model: the network and its diffusion.
        train, test: the two splits of its data. If test has fewer than 50 pictures, the sets are
            halves of both splits together, which training may have seen: the report says so.
        n: pictures in each compared set, at least 5, with `inception` at least 10; by default
            1,000, or as many as there are.
        batch_size: pictures that are drawn at a time.
        inception: file of Inception's weights, to add FID, KID and Inception score (see
            `inception_scores`); None leaves them out.
        anyway: compare even if the splits hold the classes in different proportions.
        say: called with each line of the report; the expected time comes before the drawing.
        keep: called with the numbers after each part, so that they are kept if a later part fails.
        options: as for `sample`, without y; by default 50 steps of dpm++.
    Returns:
        The numbers, as plain values.
    Raises:
        ValueError: n out of range, a class that the network does not know, splits with the classes
            in different proportions (unless `anyway`), or as `sample` or `inception_scores`.
        FileNotFoundError: as `inception_scores`.
    """
    few = len(test) < FEW
    most = (len(train) + len(test)) // 2 if few else min(len(train), len(test))
    n = check_count("n", min(1000, most) if n is None else n, least=5, most=most)
    if inception is not None:
        check_inception(inception, n)
    defaults: dict[str, Any] = {"sampler": "dpm++", "steps": min(50, diffusion.T)}
    options = defaults | options
    labelled = getattr(model, "num_classes", None) is not None
    (x_test, labels), (x_train, others) = _real_sets(train, test, n, labelled, say)
    counts = {k: class_counts(y, test.classes) for k, y in (("test", labels), ("train", others))}
    for name, count in counts.items():
        say(f"{name}, {n} pictures: " + ", ".join(f"{k} {c}" for k, c in count.items()))
    if not anyway:
        check_shares("train", others, "test", labels, test.classes)
    y = class_numbers_of(model, test, labels) if labelled else None
    classifier = classifier_for(test).to(device_and_dtype(model)[0])
    known = classifier.classes == tuple(test.classes)
    say(f"features: a classifier of {', '.join(classifier.classes)}; "
        f"accuracy {classifier.accuracy:.1%} on its test pictures")  # fmt: skip
    _announce(diffusion, model, n, batch_size, options, say)
    numbers = {"classes": counts} | _losses(diffusion, model, test, min(n, 100, len(test)), say)
    keep(numbers)
    drawn = draw_samples(diffusion, model, n, y=y, batch_size=batch_size, **options)
    sets = {"samples": torch.cat([part for part, _ in drawn]), "train": x_train}
    truth = {"samples": labels if labelled else None, "train": others}
    rows = {
        name: compare(x_test, x, truth[name] if known else None, classifier)
        for name, x in sets.items()
    }
    say(table(rows))
    numbers |= {name: asdict(row) for name, row in rows.items()}
    keep(numbers)
    if inception is None:
        return numbers
    for name, x in sets.items():
        scores = inception_scores(x, x_test, inception)
        numbers[name] |= scores
        keep(numbers)
        say(f"{name:<20}{n:>6}  " + "  ".join(f"{k} {v:.3f}" for k, v in scores.items()))
    return numbers


def _real_sets(
    train: ImageDataset, test: ImageDataset, n: int, labelled: bool, say: Callable[[str], None]
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The test pictures and the training pictures that are compared, each with their labels."""
    if len(test) < FEW:
        every = len(train) + len(test)
        say(f"the test split holds {len(test)} pictures, too few: both sets are halves of all "
            f"{every}, which training may have seen; copies look perfect here")  # fmt: skip
        return halves(train, test, n)
    x, y = take(test, n)
    # Samples of a network without classes do not match the test labels; nor do these pictures then.
    return (x, y), (take_like(train, y), y) if labelled else take(train, n)


def _losses(
    diffusion: DiffusionUtils, model: Model, test: ImageDataset, n: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """The loss at eleven steps, on n test pictures."""
    ts = sorted({max(1, diffusion.T * i // 10) for i in range(11)})
    loss = loss_per_step(diffusion, model, test, ts, n=n).tolist()
    values = dict(zip(ts, loss, strict=True))
    say(f"loss per t on {n} test pictures: "
        + "  ".join(f"{t}: {value:.4f}" for t, value in values.items()))  # fmt: skip
    return {"loss": values, "loss_n": n}


def _announce(
    diffusion: DiffusionUtils,
    model: Model,
    n: int,
    batch_size: int,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Say how long the samples will take, from the time of one network call with one batch.

    With a guidance_interval they take less, since the timed call is one with guidance.
    """
    count = min(n, check_count("batch_size", batch_size))
    y = None if getattr(model, "num_classes", None) is None else 0
    always = {"seed": 0} | options | {"guidance_interval": None}
    for _ in range(2):  # the first call of a network is slower than the rest
        started = time.perf_counter()
        first = next(diffusion.sample_steps(model, count, y=y, **always))  # one call
        first.x_0_pred.cpu()  # waits for the device
        seconds = time.perf_counter() - started
    which = {k: v for k, v in options.items() if k in ("steps", "sampler", "spacing")}
    calls = network_calls(diffusion, **which)
    say(f"drawing {n} pictures with {options['sampler']}, {calls} network calls each, "
        f"will take about {seconds * calls * n / count:.0f} s")  # fmt: skip
