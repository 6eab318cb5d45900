"""The ladder: what more training buys, measured on the weights that a run kept on its way.

Every rung draws the same noises and classes, so that only the training differs. The command and
the figure are `ddpm_helpers.display.ladder`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.config import best_device
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.evaluation.comparison import compare
from ddpm_helpers.evaluation.report import loss_per_step
from ddpm_helpers.evaluation.sets import draw_samples, take, take_like
from ddpm_helpers.pretrained import weights
from ddpm_helpers.pretrained.weights import description, load_pretrained

SHOWN = 10  # pictures a rung in the figure, one of each class where there are ten
LEVELS = 10  # steps t at which the held-out loss is measured


def rungs(run: str | Path) -> dict[int, Path]:
    """Epoch -> weights file, for the weights that a run kept (see `TrainConfig.keep_weights`).

    Raises:
        FileNotFoundError: it kept none.
    """
    files = sorted(Path(run).glob("weights_epoch_*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no weights_epoch_*.safetensors in {run}: train with keep_weights")
    return {int(path.stem.rsplit("_", 1)[1]): path for path in files}


def shipped_ladder(name: str = "cartoons") -> dict[str, Any]:
    """What `climb` found on a training whose ladder README.md shows.

    Args:
        name: cartoons or cifar10-64.
    Raises:
        FileNotFoundError: no ladder of that name; the message lists those that there are.
    """
    found = {p.stem.removeprefix("ladder_"): p for p in sorted(weights.HERE.glob("ladder_*.json"))}
    if name not in found:
        raise FileNotFoundError(f"no ladder of {name!r}; shipped ones: {', '.join(found)}")
    return json.loads(found[name].read_text(encoding="utf-8"))


def climb(
    run: str | Path,
    train: ImageDataset,
    test: ImageDataset,
    *,
    n: int = 500,
    say: Callable[[str], None] = print,
    **options: Any,
) -> tuple[dict[str, Any], Tensor]:
    """Measure each rung on the same test pictures, with the same noises and classes.

    Args:
        run: folder of a training with kept weights.
        train, test: the two splits of its data.
        n: pictures in each of the sets that are compared.
        say: takes a line for each rung.
        options: as for `sample`; by default 15 steps of dpm++.
    Returns:
        The numbers as plain values (`n`, `options`, `noise_floor`, `rungs`), and the first `SHOWN`
        pictures of each rung, (rungs * SHOWN, C, S, S).
    Raises:
        FileNotFoundError: the run kept no weights.
        ValueError: n out of range.
    """
    defaults: dict[str, Any] = {"sampler": "dpm++", "steps": 15, "seed": 0}
    options = defaults | options
    x_test, labels = take(test, n)
    classifier = classifier_for(test)
    known = classifier.classes == tuple(test.classes)
    floor = compare(x_test, take_like(train, labels), labels if known else None, classifier)
    order = torch.cat([torch.arange(SHOWN) % len(test.classes), labels])
    rows, shown = [], []
    for epoch, path in rungs(run).items():
        model, diffusion = load_pretrained(path)
        model.to(best_device())
        y = order if model.num_classes else None
        x = torch.cat([p for p, _ in draw_samples(diffusion, model, len(order), y=y, **options)])
        ts = [max(1, diffusion.T * i // LEVELS) for i in range(1, LEVELS + 1)]
        loss = loss_per_step(diffusion, model, test, ts, n=min(n, 200)).mean().item()
        named = labels if known and y is not None else None
        found = asdict(compare(x_test, x[SHOWN:], named, classifier))
        steps = description(path)["trained"]["steps"]
        rows.append({"epoch": epoch, "steps": steps, "loss": loss} | found)
        shown.append(x[:SHOWN])
        say(f"epoch {epoch}: held-out loss {loss:.4f}, Fréchet distance {found['frechet']:.2f} "
            f"(real pictures {floor.frechet:.2f}), accuracy {found['accuracy']}")  # fmt: skip
    numbers = {"n": n, "options": options, "noise_floor": asdict(floor), "rungs": rows}
    return numbers, torch.cat(shown)
