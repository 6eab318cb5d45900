"""How grainy the samples of weights are, and at which steps t the network errs.

Grain is the standard deviation of grey in 3x3 pixels, taken where it is lowest: at the tenth of the
places of each picture that are flattest, pixels in [-1, 1].

    python tests/benchmarks/bench_grain.py cartoons cartoons-fast runs/mine
"""

from __future__ import annotations

import argparse

import torch.nn.functional as F
from torch import Tensor

from ddpm_helpers import ImageDataset
from ddpm_helpers.evaluation import loss_per_step, take
from ddpm_helpers.pretrained import load_pretrained
from ddpm_helpers.pretrained.weights import few_steps

TS = (8, 33, 100, 300)


def grain(x: Tensor) -> float:
    """Mean over pictures (n, C, S, S) of the 10 % quantile of the local standard deviation."""
    grey = x.mean(1, keepdim=True)
    mean, square = F.avg_pool2d(grey, 3, 1), F.avg_pool2d(grey**2, 3, 1)
    std = (square - mean**2).clamp_min(0).sqrt().flatten(1)  # (n, places)
    return std.quantile(0.1, dim=1).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+", help="shipped names, files or folders of runs")
    parser.add_argument("--data", default="cartoons", help="a source for ImageDataset")
    parser.add_argument("--n", type=int, default=200, help="pictures")
    args = parser.parse_args()
    print(f"{'':32} grain", *(f"loss at {t}".rjust(12) for t in TS))
    for name in args.weights:
        model, diffusion = load_pretrained(name)
        channels, side, _ = model.image_shape
        test = ImageDataset(args.data, side, split="test", channels=channels)
        real, y = take(test, args.n)
        way = {"sampler": "dpm++", "steps": 15}
        if few := few_steps(name):
            way = {"sampler": "ddpm", "steps": few}
        x = diffusion.sample(model, args.n, y=y, seed=0, **way)
        losses = loss_per_step(diffusion, model, test, TS, n=args.n).tolist()
        print(f"{name:32} {grain(x):.4f}", *(f"{loss:12.4f}" for loss in losses))
    print(f"{'real pictures':32} {grain(real):.4f}")


if __name__ == "__main__":
    main()
