"""The ladder: what more training buys, measured on the weights that a run kept along the way.

Every rung draws the same noises and classes, so that only the training differs.

    ddpm train --keep-weights --out runs/a …
    python -m tools.ladder runs/a --picture ladder.png --numbers ladder.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.device import best_device
from ddpm_helpers.display.canvas import figure_png
from ddpm_helpers.display.plots import show_images
from ddpm_helpers.evaluation import compare, draw_samples, loss_per_step, noise_floor, take
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.pretrained.weights import description, load_pretrained

SHOWN = 10  # images per rung in the figure, one of each class where there are ten
LEVELS = 10  # timesteps at which the held-out loss is measured


def rungs(run: str | Path) -> dict[int, Path]:
    """Epoch -> weights file, for the weights that a run kept (see `TrainConfig.keep_weights`).

    Raises:
        FileNotFoundError: the run kept none.
    """
    files = sorted(Path(run).glob("weights_epoch_*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no weights_epoch_*.safetensors in {run}: train with keep_weights")
    return {int(path.stem.rsplit("_", 1)[1]): path for path in files}


def climb(
    run: str | Path,
    train: ImageDataset,
    test: ImageDataset,
    *,
    n: int = 500,
    **options: Any,
) -> tuple[dict[str, Any], Tensor]:
    """Measure each rung on the same test images, with the same noises and classes.

    Args:
        run: folder of a training with kept weights.
        train, test: the two splits of its data.
        n: images in each of the sets that are compared.
        options: as for `sample`; by default 15 steps of dpm++.
    Returns:
        The numbers as plain values (`n`, `options`, the mean `noise_floor` and its
        `noise_floor_std`, `rungs`), and the first `SHOWN` images of each rung,
        (rungs * SHOWN, C, S, S).
    Raises:
        FileNotFoundError: the run kept no weights.
        ValueError: n out of range.
    """
    defaults: dict[str, Any] = {"sampler": "dpm++", "steps": 15, "seed": 0}
    options = defaults | options
    x_test, labels = take(test, n)
    classifier = classifier_for(test)
    known = classifier.classes == tuple(test.classes)
    floor = noise_floor(train, test, labels, reference=x_test, classifier=classifier)
    order = torch.cat([torch.arange(SHOWN) % len(test.classes), labels])
    rows, shown = [], []
    for epoch, path in rungs(run).items():
        model, diffusion = load_pretrained(path)
        model.to(best_device())
        y = order if model.num_classes else None
        x = torch.cat(list(draw_samples(diffusion, model, len(order), y=y, **options)))
        ts = [max(1, diffusion.T * i // LEVELS) for i in range(1, LEVELS + 1)]
        loss = loss_per_step(diffusion, model, test, ts, n=min(n, 200)).mean().item()
        named = labels if known and y is not None else None
        found = asdict(compare(x_test, x[SHOWN:], named, classifier))
        steps = description(path)["trained"]["steps"]
        rows.append({"epoch": epoch, "steps": steps, "loss": loss} | found)
        shown.append(x[:SHOWN])
        print(f"epoch {epoch}: held-out loss {loss:.4f}, Fréchet distance {found['frechet']:.2f} "
              f"(real images {floor.mean.frechet:.2f} ± {floor.std.frechet:.2f}), "
              f"accuracy {found['accuracy']}")  # fmt: skip
    numbers = {
        "n": n, "options": options, "noise_floor": asdict(floor.mean),
        "noise_floor_std": asdict(floor.std), "noise_floor_pairs": floor.pairs, "rungs": rows,
    }  # fmt: skip
    return numbers, torch.cat(shown)


def draw_ladder(numbers: dict[str, Any], pictures: Tensor) -> Figure:
    """One row of images per rung, labelled with its epoch and its Fréchet distance.

    Args:
        numbers, pictures: as `climb` returns them.
    """
    floor, spread = (numbers[key]["frechet"] for key in ("noise_floor", "noise_floor_std"))
    names = [
        f"{row['epoch']} epoch{'s' * (row['epoch'] > 1)}: {row['frechet']:.2f}"
        for row in numbers["rungs"]
    ]
    return show_images(
        pictures, ncols=SHOWN, row_labels=names,
        title=f"The same noise after more and more training; distance to real images "
        f"(their own: {floor:.2f} ± {spread:.2f})",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Climb a run's ladder."""
    parser = argparse.ArgumentParser(prog="python -m tools.ladder")
    add = parser.add_argument
    add("run", type=Path, help="folder of a training with --keep-weights")
    add("--data", default="cartoons", help="what it was trained on (cartoons)")
    add("--n", type=int, default=500, help="images in each compared set (500)")
    add("--guidance", type=float, default=1.0, help="above 1 follows the class more closely (1)")
    add("--picture", type=Path, help="PNG of the same noises after every rung")
    add("--numbers", type=Path, help="JSON file")
    args = parser.parse_args(argv)
    first = next(iter(rungs(args.run).values()))
    built = description(first)["model"]
    side, channels = built["image_size"], built["channels"]
    train, test = (
        ImageDataset(args.data, side, split=split, channels=channels) for split in ("train", "test")
    )
    numbers, pictures = climb(args.run, train, test, n=args.n, guidance=args.guidance)
    if args.numbers:
        args.numbers.write_text(json.dumps(numbers, indent=1) + "\n")
    if args.picture:
        args.picture.write_bytes(figure_png(draw_ladder(numbers, pictures)))


if __name__ == "__main__":
    main()
