"""What each part of the network is worth: pictures drawn after the same number of updates.

Every variant trains from the same seeds, its learning rate falling to 0 at the last update. Then it
draws the same noises. Notebook 04 shows the numbers and the picture.

    python tests/benchmarks/bench_architecture.py --updates 700 --seeds 0 1 2 \
      --numbers ddpm_helpers/evaluation/parts_cartoons.json --picture images/network_parts.png
    python tests/benchmarks/bench_architecture.py --updates 2500 --seeds 0 1 \
      --only "as built" "no feature maps" --picture images/network_parts_long.png \
      --numbers ddpm_helpers/evaluation/parts_cartoons_long.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_grain import grain
from torch import Tensor, nn

from ddpm_helpers import DiffusionNet, DiffusionUtils, ImageDataset, TrainConfig, TrainingPipeline
from ddpm_helpers.display.canvas import figure_png
from ddpm_helpers.display.plots import show_images
from ddpm_helpers.evaluation import compare, draw_samples, noise_floor, take
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.training import build_diffusion

Change = Callable[[DiffusionNet], object]


def no_gate(net: DiffusionNet) -> None:
    """The noisy picture itself does not reach the output."""
    net.gate.requires_grad_(False)


def resnet_stem(net: DiffusionNet) -> None:
    """ResNet-18's own stem: it keeps a quarter of the side, and so do the stages."""
    width = net.config["width"]
    net.encoder.stem = nn.Sequential(
        nn.Conv2d(net.config["channels"], width, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def kernel_3(net: DiffusionNet) -> None:
    """Transposed convolutions as most tutorials have them: kernel 3, default weights."""

    def plain(old: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
        c_in, c_out = old.in_channels, old.out_channels
        return nn.ConvTranspose2d(c_in, c_out, 3, 2, padding=1, output_padding=1)

    net.decoder.upsamples = nn.ModuleList(plain(up) for up in net.decoder.upsamples)
    net.decoder.to_pixels = plain(net.decoder.to_pixels)


def no_maps(net: DiffusionNet) -> None:
    """The decoder sees the coarsest map alone."""

    def blank(module: nn.Module, inputs: tuple, maps: list[Tensor]) -> list[Tensor]:
        return [*(torch.zeros_like(m) for m in maps[:-1]), maps[-1]]

    net.encoder.register_forward_hook(blank)


def no_time(net: DiffusionNet) -> None:
    """The network is told the class, but not the step."""
    net.time.register_forward_hook(lambda module, inputs, t_emb: torch.zeros_like(t_emb))


# What is changed, and what the stem divides the side by.
VARIANTS: dict[str, tuple[list[Change], int]] = {
    "as built": ([], 2),
    "no gate": ([no_gate], 2),
    "ResNet's own stem": ([resnet_stem], 4),
    "ResNet's own stem, no gate": ([resnet_stem, no_gate], 4),
    "kernel 3, random start": ([kernel_3], 2),
    "no feature maps": ([no_maps], 2),
    "no time": ([no_time], 2),
}


def make(name: str, config: TrainConfig, data: ImageDataset) -> TrainingPipeline:
    """A variant before its first step."""
    changes, stem_stride = VARIANTS[name]
    torch.manual_seed(config.seed)
    net = DiffusionNet(
        config.image_size, channels=config.channels, width=config.width,
        num_classes=len(data.classes), stem_stride=stem_stride,
    )  # fmt: skip
    for change in changes:
        change(net)
    return TrainingPipeline(net, build_diffusion(config), data, config)


@torch.no_grad()
def held_out_loss(net: nn.Module, diffusion: DiffusionUtils, test: ImageDataset) -> list[float]:
    """Mean loss over test images at fixed timesteps and noise, for each quarter of 1..T."""
    generator = torch.Generator().manual_seed(123)
    losses, ts = [], []
    for x_0, y in test.batches(64, seed=0, shuffle=False):
        t = torch.randint(1, diffusion.T + 1, (len(x_0),), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator)
        losses.append(diffusion.loss(net, x_0, t, eps, y))
        ts.append(t)
    loss, quarter = torch.cat(losses), (torch.cat(ts) - 1) * 4 // diffusion.T
    return [loss[quarter == k].mean().item() for k in range(4)]


def measure(
    pipeline: TrainingPipeline, test: ImageDataset, real: Tensor, y: Tensor, classifier: Any
) -> dict[str, float | list[float]]:
    """The numbers of a trained network."""
    net, diffusion = pipeline.ema_model, pipeline.diffusion
    options = {"y": y, "sampler": "dpm++", "steps": 15}
    drawn = torch.cat(list(draw_samples(diffusion, net, len(y), **options)))
    row = compare(real, drawn, y, classifier)
    quarters = held_out_loss(net, diffusion, test)
    return {
        "loss": sum(quarters) / 4, "loss_by_quarter": quarters,
        "distance": row.frechet, "accuracy": row.accuracy, "grain": grain(drawn),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=700, help="of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--data", default="cartoons", help="a source for ImageDataset")
    parser.add_argument("--n", type=int, default=500, help="images drawn and compared")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, metavar="NAME", help="of a variant")
    parser.add_argument("--numbers", type=Path, help="JSON file")
    parser.add_argument("--picture", type=Path, help="write ten samples of each, of the first seed")
    args = parser.parse_args()
    names = args.only or list(VARIANTS)
    config = TrainConfig.preset(
        "laptop", width=args.width, batch_size=args.batch_size, epochs=1000, ema_decay=0.995,
        warmup_steps=50,
    )  # fmt: skip
    data = ImageDataset(args.data, config.image_size)
    test = ImageDataset(args.data, config.image_size, split="test")
    some = ImageDataset(args.data, config.image_size, split="test", limit=512)
    real, y = take(test, args.n)
    classifier = classifier_for(data)
    floor = noise_floor(data, test, y, reference=real, classifier=classifier)
    found: dict[str, Any] = {
        "updates": args.updates, "width": args.width, "batch": args.batch_size, "n": args.n,
        "floor": [floor.mean.frechet, floor.std.frechet], "real_grain": grain(real), "rows": [],
    }  # fmt: skip
    print(json.dumps(found), flush=True)
    shown = []
    for seed in args.seeds:
        for name in names:
            pipeline = make(name, replace(config, seed=seed), data)
            pipeline.total_steps = args.updates
            began = time.process_time()
            for _ in pipeline.steps():
                pass
            row = {"network": name, "seed": seed, "seconds": time.process_time() - began}
            row |= measure(pipeline, some, real, y, classifier)
            found["rows"].append(row)
            print(json.dumps(row), flush=True)
            if seed == args.seeds[0]:
                shown.append(pipeline.samples(10))
            if args.numbers:
                args.numbers.write_text(json.dumps(found, indent=1) + "\n")
        if args.picture and seed == args.seeds[0]:
            titles = [*data.classes, *[""] * 10 * (len(shown) - 1)]
            sheet = show_images(
                torch.cat(shown), ncols=10, titles=titles if len(data.classes) == 10 else None,
                row_labels=names,
                title=f"Ten samples of each network, after {args.updates:,} updates",
            )  # fmt: skip
            args.picture.write_bytes(figure_png(sheet))


if __name__ == "__main__":
    main()
