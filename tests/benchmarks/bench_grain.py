"""How grainy the samples of weights are, and at which steps t the network errs.

Grain is the standard deviation of grey in 3x3 pixels, taken where it is lowest: at the tenth of the
places of each picture that are flattest, pixels in [-1, 1]. The last two columns are the root mean
squared error of the x_0 predicted at t = 33 for test pictures: where that deviation is below 0.03
in the clean picture, and elsewhere.

    python tests/benchmarks/bench_grain.py cartoons cartoons-fast runs/mine

With --ways: the grain of samples by sampler and number of steps, in units of the real pictures',
mean and standard deviation of three draws of noise that share the n pictures.

    python tests/benchmarks/bench_grain.py cartoons --ways ddim:15 ddim:40 dpm++:15 dpm++:40
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_helpers import DiffusionNet, DiffusionUtils, ImageDataset
from ddpm_helpers.evaluation import loss_per_step, take
from ddpm_helpers.pretrained import load_pretrained

TS = (8, 33, 100, 300)


def local_std(x: Tensor) -> Tensor:
    """Standard deviation of grey in 3x3 pixels: (n, C, S, S) -> (n, 1, S-2, S-2)."""
    grey = x.mean(1, keepdim=True)
    mean, square = F.avg_pool2d(grey, 3, 1), F.avg_pool2d(grey**2, 3, 1)
    return (square - mean**2).clamp_min(0).sqrt()


def grain(x: Tensor) -> float:
    """Mean over pictures (n, C, S, S) of the 10 % quantile of the local standard deviation."""
    return local_std(x).flatten(1).quantile(0.1, dim=1).mean().item()


@torch.no_grad()
def errors(
    diffusion: DiffusionUtils, model: DiffusionNet, x_0: Tensor, y: Tensor, at: int = 33
) -> tuple[float, float]:
    """Root mean squared error of the x_0 predicted at step `at`: in flat places, and elsewhere."""
    t = torch.full((len(x_0),), at)
    generator = torch.Generator().manual_seed(0)
    x_t, _ = diffusion.add_noise(x_0, t, torch.randn(x_0.shape, generator=generator))
    error = diffusion.predict_x_0(model(x_t, t, y), x_t, t) - x_0
    square, flat = error.square().mean(1, keepdim=True)[..., 1:-1, 1:-1], local_std(x_0) < 0.03
    return square[flat].mean().sqrt().item(), square[~flat].mean().sqrt().item()


def by_sampler(weights: str, ways: list[str], data: str, n: int, draws: int = 3) -> None:
    """Print the grain of samples of each way, "sampler:steps", over that of real pictures."""
    model, diffusion = load_pretrained(weights)
    channels, side, _ = model.image_shape
    real, y = take(ImageDataset(data, side, split="test", channels=channels), n)
    print(f"{weights}, n = {n} in {draws} draws, real pictures {grain(real):.4f}")
    for way in ways:
        sampler, steps = way.split(":")
        options = {"sampler": sampler, "steps": int(steps)}
        parts = [y[seed::draws] for seed in range(draws)]
        drawn = [
            diffusion.sample(model, len(part), y=part, seed=seed, **options)
            for seed, part in enumerate(parts)
        ]
        times = torch.tensor([grain(x) / grain(real) for x in drawn])
        print(f"{sampler:>6}, {steps:>3} steps: {times.mean():.2f} ± {times.std():.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+", help="shipped names, files or folders of runs")
    parser.add_argument("--data", default="cartoons", help="a source for ImageDataset")
    parser.add_argument("--n", type=int, default=200, help="pictures")
    parser.add_argument("--ways", nargs="+", help="sampler:steps, as ddim:40; measures only grain")
    args = parser.parse_args()
    if args.ways:
        for name in args.weights:
            by_sampler(name, args.ways, args.data, args.n)
        return
    heads = [*(f"loss at {t}" for t in TS), "x_0 flat", "x_0 edges"]
    print(f"{'':32} grain", *(head.rjust(12) for head in heads))
    for name in args.weights:
        model, diffusion = load_pretrained(name)
        channels, side, _ = model.image_shape
        test = ImageDataset(args.data, side, split="test", channels=channels)
        real, y = take(test, args.n)
        way = {"sampler": "dpm++", "steps": 15} | diffusion.few_step_options
        x = diffusion.sample(model, args.n, y=y, seed=0, **way)
        losses = loss_per_step(diffusion, model, test, TS, n=args.n).tolist()
        numbers = [*losses, *errors(diffusion, model, real, y)]
        print(f"{name:32} {grain(x):.4f}", *(f"{number:12.4f}" for number in numbers))
    print(f"{'real pictures':32} {grain(real):.4f}")


if __name__ == "__main__":
    main()
