"""What the two traps at full resolution cost: held-out loss after the same processor time.

Every variant trains from the same seed on the same pictures, and stops after the same CPU
seconds (of all cores together, so that a busy machine favours none of them).

    python tests/benchmarks/bench_architecture.py --seconds 120
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm_helpers import DiffusionNet, DiffusionUtils, ImageDataset, TrainConfig, TrainingPipeline
from ddpm_helpers.training import build_diffusion, build_model


def strided_stem(net: DiffusionNet) -> None:
    """ResNet-18's stem: a strided convolution, which mixes 2x2 pixels before anyone looks."""
    width = net.config["width"]
    net.encoder.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)


def no_gate(net: DiffusionNet) -> None:
    """The noisy picture itself does not reach the output."""
    net.gate.requires_grad_(False)


def no_stem_map(net: DiffusionNet) -> None:
    """The decoder's last layer sees nothing of the encoder's stem."""

    def blank(module: nn.Module, inputs: tuple, features: list[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(features[0]), *features[1:]]

    net.encoder.register_forward_hook(blank)


def kernel_3(net: DiffusionNet) -> None:
    """Transposed convolutions as most tutorials have them: kernel 3, default weights."""

    def plain(old: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
        c_in, c_out = old.in_channels, old.out_channels
        return nn.ConvTranspose2d(c_in, c_out, 3, 2, padding=1, output_padding=1)

    net.decoder.upsamples = nn.ModuleList(plain(up) for up in net.decoder.upsamples)
    net.decoder.to_pixels = plain(net.decoder.to_pixels)


VARIANTS: dict[str, list[Callable[[DiffusionNet], None]]] = {
    "as built": [],
    "without the gate": [no_gate],
    "without the stem's map": [no_stem_map],
    "strided stem": [strided_stem],
    "kernel 3": [kernel_3],
    "naive: all four": [no_gate, no_stem_map, strided_stem, kernel_3],
}


def held_out_loss(net: nn.Module, diffusion: DiffusionUtils, test: ImageDataset) -> float:
    """Mean loss over 256 test pictures at fixed steps and noise."""
    generator = torch.Generator().manual_seed(123)
    losses = []
    with torch.no_grad():
        for x_0, y in test.batches(64, seed=0, shuffle=False):
            t = torch.randint(1, diffusion.T + 1, (len(x_0),), generator=generator)
            eps = torch.randn(x_0.shape, generator=generator)
            losses.append(diffusion.loss(net, x_0, t, eps, y).mean().item())
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="CPU seconds for each variant")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--data", default="cartoons", help="a source for ImageDataset")
    parser.add_argument("--only", nargs="*", help="names of variants")
    args = parser.parse_args()
    config = TrainConfig.preset(
        "laptop", image_size=args.image_size, lr_schedule="constant", lr=1e-3, epochs=100,
        batch_size=32,
    )  # fmt: skip
    data = ImageDataset(args.data, args.image_size)
    test = ImageDataset(args.data, args.image_size, split="test", limit=256)
    print(f"{'variant':24} {'steps':>6} {'pictures/CPU s':>15} {'held-out loss':>14}")
    for name in args.only or VARIANTS:
        net = build_model(config, len(data.classes))
        for change in VARIANTS[name]:
            change(net)
        diffusion = build_diffusion(config)
        pipeline = TrainingPipeline(net, diffusion, data, config)
        start = time.process_time()
        for _ in pipeline.steps():
            if time.process_time() - start > args.seconds:
                break
        used = time.process_time() - start
        loss = held_out_loss(pipeline.ema_model, diffusion, test)
        seen = pipeline.step * config.batch_size
        print(f"{name:24} {pipeline.step:6} {seen / used:15.1f} {loss:14.4f}", flush=True)


if __name__ == "__main__":
    main()
