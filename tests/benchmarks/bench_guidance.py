"""What the guidance scale buys and costs on photographs: samples of `cifar10-64` at several scales.

All scales start from the same noises. Each row holds the measures of `compare`, with the test
images of the same classes, and two more: *variety*, the standard deviation within a class of the
colours of 4x4 fields, over that of the test images, and *limits*, the share of pixel values beyond
±0.99. The floor is real training images in place of samples, mean and standard deviation over 10
random sets.

    python tests/benchmarks/bench_guidance.py --data PHOTOGRAPHS \
      --numbers ddpm_helpers/evaluation/guidance_cifar10-64.json

About 16 minutes on one core of an AMD EPYC.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ddpm_helpers import ImageDataset, evaluation, load_pretrained
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.evaluation.sets import rows_like

PAIRS = 10  # real sets of the floor
WAY: dict[str, Any] = {"sampler": "dpm++", "steps": 15}


def variety(x: Tensor, y: Tensor) -> float:
    """Standard deviation within a class of the colours of 4x4 fields; x (n, 3, S, S), y (n,)."""
    fields = avg_pool2d(x, x.shape[-1] // 4).flatten(1)  # (n, 48)
    within = [fields[y == k].var(0).mean() for k in y.unique()]
    return torch.stack(within).mean().sqrt().item()


def limits(x: Tensor) -> float:
    """Share of the pixel values that are beyond ±0.99."""
    return (x.abs() > 0.99).double().mean().item()


def real_sets(train: ImageDataset, real: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
    """Variety and limits of random sets of training images: mean and standard deviation."""
    rng, found = np.random.default_rng(0), []
    for _ in range(PAIRS):
        x = torch.from_numpy(train.images[rows_like(train, y, rng)]).float() / 127.5 - 1
        found.append((variety(x, y) / variety(real, y), limits(x)))
    mean, std = np.mean(found, 0).tolist(), np.std(found, 0, ddof=1).tolist()
    names = ("variety", "limits")
    return {"mean": dict(zip(names, mean, strict=True)), "std": dict(zip(names, std, strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="cifar10-64")
    parser.add_argument("--data", required=True, help="folder with train and test")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--scales", type=float, nargs="+", default=[1, 1.5, 2, 3, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--numbers", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    model, diffusion = load_pretrained(args.weights)
    train, test = (
        ImageDataset(args.data, model.image_shape[-1], split=split) for split in ("train", "test")
    )
    real, y = evaluation.take(test, args.n)
    classifier = classifier_for(test)
    floor = asdict(evaluation.noise_floor(train, test, y, reference=real, pairs=PAIRS))
    for name, values in real_sets(train, real, y).items():
        floor[name] |= values
    numbers: dict[str, Any] = {"n": args.n, "floor": floor, "limits_test": limits(real), "rows": []}
    numbers |= WAY
    for seed in args.seeds:
        for w in args.scales:
            started = time.perf_counter()
            drawn = evaluation.draw_samples(
                diffusion, model, args.n, y=y, seed=seed, guidance=w, **WAY
            )
            x = torch.cat(list(drawn))
            row = asdict(evaluation.compare(real, x, y, classifier)) | {"w": w, "seed": seed}
            row |= {"variety": variety(x, y) / variety(real, y), "limits": limits(x)}
            numbers["rows"].append(row)
            args.numbers.write_text(json.dumps(numbers, indent=1) + "\n")
            print(f"{time.perf_counter() - started:.0f} s", json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
