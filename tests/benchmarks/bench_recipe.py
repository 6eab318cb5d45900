"""What small changes of the training are worth: equal steps, so equal FLOP, and several seeds.

Each variant trains the same small network on the same pictures. Its averaged weights are then
measured: the loss of held-out pictures with fixed t and noise, distance and accuracy of samples.

    python tests/benchmarks/bench_recipe.py --data PHOTOGRAPHS --steps 400 --seeds 3

The loss of "ten sub-classes" is not comparable: its network is told more about each picture.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_helpers import DiffusionNet, DiffusionUtils, ImageDataset, TrainConfig
from ddpm_helpers.device import bf16_is_fast
from ddpm_helpers.diffusion import draw_steps
from ddpm_helpers.evaluation import compare, draw_samples, noise_floor, take
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.training import ema_decay_at, learning_rate, update_ema
from ddpm_helpers.training.muon import Muon

T, PARTS = 500, 10


def normal(x_0: Tensor) -> Tensor:
    return torch.randn_like(x_0)


def nearest_of_four(x_0: Tensor) -> Tensor:
    """Immiscible noise: of four draws for a picture, the one nearest to it."""
    draws = torch.randn(4, *x_0.shape)  # (4, B, C, S, S)
    nearest = (draws - x_0).flatten(2).square().sum(2).argmin(0)  # (B,)
    return draws[nearest, torch.arange(len(x_0))]


class BestLinearGuess(nn.Module):
    """The network learns what is missing from the best guess of v that is linear in x_t.

    v = c_t x_t with c_t = a b (1 - s²) / (a² s² + b²), for pictures of standard deviation s,
    a = sqrt(alpha_bar_t), b = sqrt(1 - alpha_bar_t).
    """

    def __init__(self, net: DiffusionNet, diffusion: DiffusionUtils, std: float) -> None:
        super().__init__()
        self.net, self.num_classes, self.image_shape = net, net.num_classes, net.image_shape
        a2 = diffusion.alpha_bar
        c = (a2 * (1 - a2)).sqrt() * (1 - std**2) / (a2 * std**2 + 1 - a2)
        self.register_buffer("c", c.float())

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x_t, t, y) + self.c[t].view(-1, 1, 1, 1) * x_t


@dataclass(frozen=True)
class Variant:
    name: str
    t_sampling: str = "uniform"
    noise: Callable[[Tensor], Tensor] = normal
    guess: bool = False
    parts: int = 1  # sub-classes of each class


VARIANTS = (
    Variant("as it is"),
    Variant("t stratified in a batch", t_sampling="stratified"),
    Variant("nearest of four noises", noise=nearest_of_four),
    Variant("best linear guess of v added", guess=True),
    Variant("ten sub-classes of each class", parts=PARTS),
)


def sub_classes(ds: ImageDataset, like: ImageDataset | None = None) -> Tensor:
    """PARTS * label + cluster: k-means on 16 principal components of 8×8 pictures, per class.

    Clusters are those of `like` (the training pictures), to which each picture is nearest.
    """
    pixels, labels = small(ds), torch.from_numpy(ds.labels)
    train, of_train = (small(like), torch.from_numpy(like.labels)) if like else (pixels, labels)
    numbers = torch.zeros(len(ds), dtype=torch.int64)
    for k in range(len(ds.classes)):
        known = train[of_train == k]
        mean = known.mean(0)
        axes = torch.pca_lowrank(known - mean, 16, center=False)[2]  # (192, 16)
        points = (known - mean) @ axes
        centres = points[torch.randperm(len(points))[:PARTS]]
        for _ in range(20):
            nearest = torch.cdist(points, centres).argmin(1)
            rows = (points[nearest == i] for i in range(PARTS))
            centres = torch.stack(
                [r.mean(0) if len(r) else c for r, c in zip(rows, centres, strict=True)]
            )
        mine = torch.cdist((pixels[labels == k] - mean) @ axes, centres).argmin(1)
        numbers[labels == k] = PARTS * k + mine
    return numbers


def small(ds: ImageDataset) -> Tensor:
    x = torch.cat([x for x, _ in ds.batches(500, seed=0, shuffle=False)])
    return nn.functional.interpolate(x, (8, 8), mode="area").flatten(1)  # (N, 192)


def batches(ds: ImageDataset, y: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled pictures and the given labels, epoch after epoch."""
    x = torch.from_numpy(np.array(ds.images))
    generator = torch.Generator().manual_seed(seed)
    for _ in count():
        for rows in torch.randperm(len(x), generator=generator).split(size):
            if len(rows) == size:
                yield x[rows].float() / 127.5 - 1, y[rows]


def train(variant: Variant, ds: ImageDataset, y: Tensor, args: argparse.Namespace, seed: int):
    """A network trained for args.steps steps; returns its averaged weights and the diffusion."""
    torch.manual_seed(seed)
    diffusion = DiffusionUtils(T, "cosine", prediction="v")
    net: nn.Module = DiffusionNet(
        args.size, width=args.width, num_classes=variant.parts * len(ds.classes)
    ).to(memory_format=torch.channels_last)
    optimizer = Muon(net, args.lr)
    if variant.guess:
        std = float(small(ds).std())
        net = BestLinearGuess(net, diffusion, std)
    ema, config = copy.deepcopy(net), TrainConfig(warmup_steps=20, lr=args.lr)
    for step, (x_0, labels) in zip(
        range(1, args.steps + 1), batches(ds, y, args.batch, seed), strict=False
    ):
        hidden = torch.where(torch.rand(len(labels)) < 0.1, -1, labels)
        t, eps = draw_steps(len(x_0), diffusion.alpha_bar, variant.t_sampling), variant.noise(x_0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, config)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_fast(torch.device("cpu"))):
            loss = diffusion.loss(net, x_0, t, eps, hidden).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_ema(ema, net, ema_decay_at(step, 0.99))
    return ema.eval(), diffusion


@torch.no_grad()
def measure(net, diffusion, test: ImageDataset, y: Tensor, parts: int, n: int) -> list[float]:
    """Held-out loss; distance and accuracy of n samples."""
    generator, losses = torch.Generator().manual_seed(0), []
    images = torch.from_numpy(np.array(test.images[:1000])).float() / 127.5 - 1
    for x_0, labels in zip(images.split(100), y.split(100), strict=False):
        t = torch.randint(1, T + 1, (len(x_0),), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator)
        losses.append(diffusion.loss(net, x_0, t, eps, labels).mean())
    x_test, labels = take(test, n)
    fine = labels * parts + torch.arange(n) // len(test.classes) % parts
    drawn = draw_samples(diffusion, net, n, y=fine, sampler="dpm++", steps=15, seed=0)
    samples = torch.cat(list(drawn))
    found = compare(x_test, samples, labels, classifier_for(test))
    return [torch.stack(losses).mean().item(), found.frechet, found.accuracy or 0.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="cartoons", help="a source for ImageDataset (cartoons)")
    for name, default in {
        "size": 32,
        "width": 16,
        "batch": 64,
        "steps": 400,
        "seeds": 3,
        "n": 500,
    }.items():
        add(f"--{name}", type=int, default=default)
    add("--lr", type=float, default=2e-3)
    add("--only", nargs="+", default=[], metavar="WORDS", help="in the names of what to try")
    args = parser.parse_args()
    train_set, test = (ImageDataset(args.data, args.size, split=s) for s in ("train", "test"))
    x_test, labels = take(test, args.n)
    floor = noise_floor(train_set, test, labels, reference=x_test)
    print(f"{len(train_set)} pictures, {args.steps} steps of {args.batch}, n = {args.n}, "
          f"real images: {floor.mean.frechet:.2f} ± {floor.std.frechet:.2f}")  # fmt: skip
    for variant in VARIANTS:
        if args.only and not any(words in variant.name for words in args.only):
            continue
        rows = []
        for seed in range(args.seeds):
            torch.manual_seed(0)
            y, y_test = (torch.from_numpy(ds.labels) for ds in (train_set, test))
            if variant.parts > 1:
                y, y_test = sub_classes(train_set), sub_classes(test, train_set)
            net, diffusion = train(variant, train_set, y, args, seed)
            rows.append(measure(net, diffusion, test, y_test, variant.parts, args.n))
        means = [statistics.mean(column) for column in zip(*rows, strict=True)]
        stds = [
            statistics.stdev(column) if args.seeds > 1 else 0.0
            for column in zip(*rows, strict=True)
        ]
        cells = "  ".join(f"{m:.4f} ± {s:.4f}" for m, s in zip(means, stds, strict=True))
        print(f"{variant.name:32} loss, distance, accuracy: {cells}", flush=True)


if __name__ == "__main__":
    main()
