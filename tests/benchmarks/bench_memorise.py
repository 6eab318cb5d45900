"""Memorise or generalise: networks trained on the first 10, 100, 1,000 and 10,000 cartoons.

All make the same number of updates with preset `laptop`, batches of 32 and no flips; each sees its
N images, repeated to 10,000 rows, in a random order. One more training has 10,000 rows of which
1,000 are one planted image. Each is measured by the squared error of x_0 on training and on test
images at several t, beside the ideal denoiser's, and by the copies among 100 samples.

    python tests/benchmarks/bench_memorise.py --updates 4000 --seeds 0 --out /tmp/memorise
    python tests/benchmarks/bench_memorise.py --seeds 0 --out /tmp/memorise --measure \
      --numbers ddpm_helpers/evaluation/memorise_cartoons.json --picture images/memorise.png
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers import DiffusionUtils, ImageDataset, TrainConfig, TrainingPipeline
from ddpm_helpers.data import balanced_order
from ddpm_helpers.diffusion.walk import Model
from ddpm_helpers.display.canvas import figure_png
from ddpm_helpers.display.plots import show_images
from ddpm_helpers.evaluation import draw_samples, find_copies, take
from ddpm_helpers.pretrained import load_pretrained
from ddpm_helpers.training import build_diffusion, build_model

SIZES = (10, 100, 1000, 10_000)
PLANTED, COPIES = "10000, one of them 1000 times", 1000
ROWS = 10_000  # of an epoch, for every N
TS = (25, 50, 100, 200, 300, 400, 450)
SAMPLES = 100  # drawn from each network
MEASURED = 200  # images whose error is measured, or all N
WAY: dict[str, Any] = {"sampler": "ddim", "steps": 50}


class Rows:
    """Chosen images of a dataset, each as often as it is named: what a training reads."""

    def __init__(self, ds: ImageDataset, rows: np.ndarray, name: str) -> None:
        self.images, self.labels = ds.images[rows], np.asarray(ds.labels)[rows]
        self.classes, self.name = ds.classes, name
        self.image_shape = tuple(self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, batch_size: int, *, seed: int, epoch: int = 0, device: Any = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            x = torch.from_numpy(self.images[rows]).float() / 127.5 - 1
            yield x.to(device), torch.from_numpy(self.labels[rows]).to(device)


def rows_of(name: str, ds: ImageDataset) -> np.ndarray:
    """The rows of the cartoons that a training sees; the last image is the planted one.

    The first N cartoons have random classes: about as many of each. Ten have one of each class.
    """
    if name == PLANTED:
        return np.append(np.arange(ROWS - COPIES), np.full(COPIES, ROWS))
    n = int(name)
    return np.resize(balanced_order(ds.labels)[:n] if n == 10 else np.arange(n), ROWS)


def train(name: str, ds: ImageDataset, seed: int, updates: int, width: int, out: Path) -> None:
    """Train one network and keep its averaged weights, unless `out` has them already."""
    if (out / "weights.safetensors").exists():
        return
    config = TrainConfig.preset(
        "laptop", width=width, flip=False, seed=seed, epochs=1000, sample_every=0, save_every=0,
    )  # fmt: skip
    data = Rows(ds, rows_of(name, ds), f"cartoons, {name}")
    pipeline = TrainingPipeline(
        build_model(config, len(ds.classes)), build_diffusion(config), data, config, out
    )
    pipeline.total_steps = updates
    started = time.perf_counter()
    for record in pipeline.steps():
        if record.step % 500 == 0 or record.step == 100:
            seconds = time.perf_counter() - started
            print(f"{name}, seed {seed}: update {record.step}, loss {record.loss:.4f}, "
                  f"{seconds:.0f} s", flush=True)  # fmt: skip
    pipeline.save()


@torch.no_grad()
def errors(diffusion: DiffusionUtils, model: Model, x_0: Tensor, y: Tensor) -> list[float]:
    """Mean squared error of the predicted x_0, for each t of TS, with the same noise everywhere."""
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for number in TS:
        t = torch.full((len(x_0),), number)
        x_t, _ = diffusion.add_noise(x_0, t, eps)
        guess = torch.cat([
            diffusion.predict_x_0(model(x, s, labels), x, s)
            for x, s, labels in zip(x_t.split(50), t.split(50), y.split(50), strict=True)
        ])  # fmt: skip
        found.append((guess - x_0).square().mean().item())
    return found


def measure(
    name: str, ds: ImageDataset, test: tuple[Tensor, Tensor], weights: Path
) -> tuple[dict[str, Any], Tensor]:
    """The numbers of one network, and its first ten samples above their nearest training images."""
    from ddpm_helpers.diffusion import IdealDenoiser

    model, diffusion = load_pretrained(weights)
    rows = np.unique(rows_of(name, ds))
    images, labels = torch.from_numpy(ds.images[rows]), torch.from_numpy(ds.labels[rows])
    seen = images[:MEASURED].float() / 127.5 - 1, labels[:MEASURED]
    all_rows = rows_of(name, ds) if name == PLANTED else rows
    ideal = IdealDenoiser(diffusion, ds.images[all_rows], torch.from_numpy(ds.labels[all_rows]))
    x = torch.cat(list(draw_samples(diffusion, model, SAMPLES, seed=0, **WAY)))
    copies = find_copies(x, images)
    row: dict[str, Any] = {
        "train": errors(diffusion, model, *seen), "test": errors(diffusion, model, *test),
        "ideal_train": errors(diffusion, ideal, *seen),
        "ideal_test": errors(diffusion, ideal, *test),
        "copies": copies.share, "copies_third": find_copies(x, images, 1 / 3).share,
        "distance": copies.distance.median().item(),
        "copies_among_test": find_copies(test[0], images).share,
    }  # fmt: skip
    if name == PLANTED:
        row |= planted(ds, model, diffusion, images)
    shown = copies.index[:10]
    return row, torch.cat([x[:10], images[shown].float() / 127.5 - 1])


def planted(
    ds: ImageDataset, model: Model, diffusion: DiffusionUtils, images: Tensor
) -> dict[str, Any]:
    """How often the planted image is drawn: of samples of its class, and of its class without."""
    label = int(ds.labels[ROWS])
    row: dict[str, Any] = {"planted_class": ds.classes[label]}
    same = int((ds.labels[: ROWS - COPIES] == label).sum())
    row["planted_share"] = COPIES / (same + COPIES)
    y = torch.full((SAMPLES,), label)
    x = torch.cat(list(draw_samples(diffusion, model, SAMPLES, y=y, **WAY)))
    found = find_copies(x, images)
    drawn = found.index == len(images) - 1
    row["planted_nearest"] = drawn.double().mean().item()
    row["planted_copied"] = (drawn & found.copied).double().mean().item()
    row["planted_others_copied"] = (~drawn & found.copied).double().mean().item()
    return row


def label(name: str) -> str:
    """A row label for one training, such as "N = 1,000"."""
    size, _, planted = name.partition(",")
    return f"N = {int(size):,}" + ",\none planted" * bool(planted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--names", nargs="+", default=[*map(str, SIZES), PLANTED])
    parser.add_argument("--out", type=Path, required=True, help="folder for the networks")
    parser.add_argument("--measure", action="store_true", help="measure the networks in --out")
    parser.add_argument("--numbers", type=Path, help="JSON file")
    parser.add_argument("--picture", type=Path, help="PNG of samples and their nearest images")
    args = parser.parse_args()
    ds, test = (ImageDataset("cartoons", 32, split=split) for split in ("train", "test"))
    held_out = take(test, MEASURED)
    rows, shown = [], []
    for seed in args.seeds:
        for name in args.names:
            folder = args.out / f"{name.split(',')[0]}{'p' * (name == PLANTED)}-{seed}"
            if not args.measure:
                train(name, ds, seed, args.updates, args.width, folder)
            elif (folder / "weights.safetensors").exists():
                row, images = measure(name, ds, held_out, folder)
                rows.append({"images": name, "seed": seed} | row)
                shown.append(images)
                print(json.dumps(rows[-1]), flush=True)
    if args.numbers:
        about = {"updates": args.updates, "width": args.width, "batch": 32, "t": TS,
                 "samples": SAMPLES, "sampler": WAY, "measured": MEASURED}  # fmt: skip
        args.numbers.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    if args.picture:
        labels = [s for row in rows[: len(args.names)] for s in (label(row["images"]), "nearest")]
        figure = show_images(torch.cat(shown[: len(args.names)]), ncols=10, row_labels=labels)
        args.picture.write_bytes(figure_png(figure))


if __name__ == "__main__":
    main()
