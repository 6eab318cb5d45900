"""Measurements of a trained network: what it has learned, and how good its pictures are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.diffusion import DiffusionUtils, network_calls
from ddpm_helpers.diffusion.sampling import device_and_dtype
from ddpm_helpers.diffusion.schedules import check_count
from ddpm_helpers.evaluation.classifier import Classifier, classifier_for, load_classifier
from ddpm_helpers.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from ddpm_helpers.evaluation.inception import check_inception, inception_scores

Model = Callable[..., Tensor]


@dataclass(frozen=True)
class Comparison:
    """Two sets of pictures of the same size n, compared on the classifier's features.

    Attributes:
        n: pictures in each set.
        frechet: Fréchet distance. Not an FID: other features, other numbers.
        kernel: kernel distance; around 0 for two sets from one source.
        precision, recall: in 0..1.
        accuracy: share of the second set's pictures that are named as their label says, or None.
    """

    n: int
    frechet: float
    kernel: float
    precision: float
    recall: float
    accuracy: float | None = None


@torch.no_grad()
def features_and_classes(
    classifier: Classifier, x: Tensor, batch_size: int = 250
) -> tuple[Tensor, Tensor]:
    """What the classifier sees in many pictures, and which class it names.

    Args:
        classifier: see `load_classifier`.
        x: pictures (n, 3, S, S), in [-1, 1] or uint8.
        batch_size: pictures at a time.
    Returns:
        features (n, 64) and class numbers (n,).
    """
    device = next(classifier.parameters()).device
    features, named = [], []
    for part in x.split(batch_size):
        part = part.to(device).float() / 127.5 - 1 if part.dtype == torch.uint8 else part.to(device)
        seen = classifier.features(part.float())  # (B, 64)
        features.append(seen.cpu())
        named.append(classifier.head(seen).argmax(1).cpu())
    return torch.cat(features), torch.cat(named)


def compare(
    real: Tensor, fake: Tensor, y: Tensor | None = None, classifier: Classifier | None = None
) -> Comparison:
    """Compare pictures with real ones.

    Args:
        real, fake: pictures (n, 3, S, S), in [-1, 1] or uint8; as many of each, 4 or more.
        y: what the fakes should be, (n,), or None.
        classifier: by default the shipped one, of the cartoons.
    Returns:
        The measures, with n.
    Raises:
        ValueError: sets of different size (the distances depend on n) or shape, fewer than 4
            pictures, or labels that are not one a picture.
    """
    _check_sets(real, fake, y)
    classifier = load_classifier() if classifier is None else classifier
    (a, _), (b, named) = (features_and_classes(classifier, x) for x in (real, fake))
    precision, recall = precision_recall(a, b)
    right = None if y is None else float((named == torch.as_tensor(y).cpu()).double().mean())
    return Comparison(
        len(a), frechet_distance(a, b), kernel_distance(a, b), precision, recall, right
    )


def _check_sets(real: Tensor, fake: Tensor, y: Tensor | None) -> None:
    for x in (real, fake):
        if x.ndim != 4 or not (x.is_floating_point() or x.dtype == torch.uint8):
            raise ValueError(
                f"compare pictures (n, 3, S, S), float or uint8; got {x.dtype} {tuple(x.shape)}"
            )
    if real.shape != fake.shape:
        shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"compare sets of one size and shape, got {shapes}")
    if len(real) < 4:  # each has three neighbours
        raise ValueError(f"compare at least 4 pictures, got {len(real)}")
    if y is not None and tuple(torch.as_tensor(y).shape) != (len(fake),):
        raise ValueError(
            f"y must be ({len(fake)},), one label a picture; got {tuple(torch.as_tensor(y).shape)}"
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
    batch_size: int = 64,
) -> Tensor:
    """The loss at chosen steps, on the first n pictures of a dataset.

    Args:
        diffusion, model: a network and what it was trained with; it is given the labels if it
            takes any.
        ds: pictures that the network was not trained on.
        ts: steps, each in 1..T.
        n: pictures a step, the same for all, with the same noise.
        seed: of the noise.
        batch_size: pictures at a time.
    Returns:
        (len(ts),), the mean of `DiffusionUtils.loss` over the pictures.
    Raises:
        ValueError: n = 0, or a step out of range.
    """
    x_0, y = take(ds, n)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    device, _ = device_and_dtype(model)
    labelled = getattr(model, "num_classes", None) is not None
    means = []
    for t in ts:
        total = 0.0
        for i in range(0, len(x_0), batch_size):
            part = slice(i, i + batch_size)
            x, e = x_0[part].to(device), eps[part].to(device)
            steps = torch.full((len(x),), int(t), device=device)
            labels = y[part].to(device) if labelled else None
            total += float(diffusion.loss(model, x, steps, e, labels).sum())
        means.append(total / len(x_0))
    return torch.tensor(means)


def take(ds: ImageDataset, n: int) -> tuple[Tensor, Tensor]:
    """The first n pictures of a dataset, (n, 3, S, S) in [-1, 1], and their labels (n,).

    Raises:
        ValueError: n below 1, or more than there are.
    """
    n = check_count("n (of the pictures there are)", n, most=len(ds))
    return next(ds.batches(n, seed=0, shuffle=False))


def take_like(ds: ImageDataset, y: Tensor) -> Tensor:
    """Pictures of given classes, each one once: as many of every class as there are in y.

    Args:
        ds: a dataset with these classes.
        y: class numbers, (n,).
    Returns:
        (n, 3, S, S) in [-1, 1]; picture i has class y[i].
    Raises:
        ValueError: a class with too few pictures.
    """
    labels, queues = torch.as_tensor(ds.labels), {}
    for k, count in zip(*torch.unique(y, return_counts=True), strict=True):
        found = (labels == k).nonzero().flatten().tolist()
        if len(found) < count:
            raise ValueError(f"class {int(k)} has {len(found)} pictures, {int(count)} are needed")
        queues[int(k)] = iter(found)
    return torch.stack([ds[next(queues[int(k)])][0] for k in y])


def draw_samples(
    diffusion: DiffusionUtils,
    model: Model,
    n: int,
    *,
    y: Tensor | None = None,
    batch_size: int = 50,
    seed: int = 0,
    **options: Any,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Samples in batches: picture i is the same whatever the batch size.

    Args:
        diffusion, model: as for sampling.
        n: pictures, at least 1.
        y: their classes, (n,), by default all classes in turn; not for a network without.
        batch_size: pictures at a time, at least 1.
        seed: as for `sample`.
        options: as for `sample`.
    Yields:
        pictures on the CPU and their classes, or None for a network without classes.
    Raises:
        ValueError: a number below 1, labels that are not one a picture, or as `sample`.
    """
    n, batch_size = check_count("n", n), check_count("batch_size", batch_size)
    if y is not None and len(y) != n:
        raise ValueError(f"y must be ({n},), one label a picture; got {len(y)} labels")
    classes = getattr(model, "num_classes", None)
    for first in range(0, n, batch_size):
        count = min(batch_size, n - first)
        part = None
        if classes is not None:
            every = torch.arange(n) % classes if y is None else y
            part = every[first : first + count]
        x = diffusion.sample(model, count, y=part, seed=seed, first=first, **options)
        yield x.float().cpu(), part


def evaluate(
    diffusion: DiffusionUtils,
    model: Model,
    train: ImageDataset,
    test: ImageDataset,
    *,
    n: int = 1000,
    batch_size: int = 50,
    inception: str | Path | None = None,
    say: Callable[[str], None] = print,
    keep: Callable[[dict[str, Any]], None] = lambda numbers: None,
    **options: Any,
) -> dict[str, Any]:
    """Everything that `ddpm evaluate` reports.

    Args:
        diffusion, model: a network and what it was trained with.
        train, test: the two splits of its data, at least n pictures each.
        n: pictures in each of the sets that are compared, at least 5, with Inception 10.
        batch_size: pictures that are drawn at a time.
        inception: file of Inception's weights for FID, KID and Inception score too, by
            `inception_scores`; None leaves them out.
        say: takes the lines of the report as they come; the expected time before the drawing.
        keep: takes the numbers after each part: what was measured stays, should a later part fail.
        options: as for `sample`, without y; by default 50 steps of dpm++.
    Returns:
        The numbers, as plain values.
    Raises:
        ValueError: n out of range, or as `sample` or `inception_scores`.
        FileNotFoundError: as `inception_scores`.
    """
    if inception is not None:
        check_inception(inception, n)
    n = check_count("n", n, least=5, most=min(len(train), len(test)))
    defaults: dict[str, Any] = {"sampler": "dpm++", "steps": min(50, diffusion.T)}
    options = defaults | options
    x_test, labels = take(test, n)
    classes = getattr(model, "num_classes", None)
    # a network without classes leaves them to chance, and so must the pictures it is held against
    x_train = take(train, n)[0] if classes is None else take_like(train, labels)
    y = None if classes is None else labels
    classifier = classifier_for(test).to(device_and_dtype(model)[0])
    known = classifier.classes == tuple(test.classes)
    say(f"features: a classifier of {', '.join(classifier.classes)}; "
        f"it names {classifier.accuracy:.1%} of its test pictures rightly")  # fmt: skip
    _announce(diffusion, model, n, batch_size, options, say)
    numbers = _losses(diffusion, model, test, min(n, 100), say)
    keep(numbers)
    drawn = draw_samples(diffusion, model, n, y=y, batch_size=batch_size, **options)
    sets = {"samples": torch.cat([part for part, _ in drawn]), "train": x_train}
    rows = {name: compare(x_test, x, y if known else None, classifier) for name, x in sets.items()}
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


def table(rows: dict[str, Comparison]) -> str:
    """Comparisons with the test pictures as lines of text; `train` is the noise floor."""
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


def _losses(
    diffusion: DiffusionUtils,
    model: Model,
    test: ImageDataset,
    n: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The loss at eleven steps, on fewer pictures than the sets that are compared."""
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
    """Say how long the samples will take, from one network call with one batch.

    With a guidance_interval it takes less: the call is one with guidance.
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
