"""`ddpm info`: versions, hardware, active settings, and the speed of training on this machine."""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from typing import Any

import torch

from ddpm_helpers import __version__
from ddpm_helpers.config import T_SAMPLINGS, TrainConfig, settings
from ddpm_helpers.data.dataset import to_float
from ddpm_helpers.device import best_device


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the function that runs `ddpm info` to a parser; the command has no options."""
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print what a bug report should contain."""
    from ddpm_helpers.diffusion import PREDICTIONS, SAMPLERS, SCHEDULES
    from ddpm_helpers.model import count_parameters
    from ddpm_helpers.pretrained import available_weights
    from ddpm_helpers.training import build_model

    known = settings()
    parameters = count_parameters(build_model(known.train, 10))
    rows = {
        "ddpm_helpers": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "device": describe_device(known.device),
        "settings": str(known),
        "network": f"{parameters / 1e6:.1f} million parameters with preset {known.preset}",
        "training": describe_speed(known.train),
        "weights": ", ".join(available_weights()) or "none shipped",
        "schedules": ", ".join(SCHEDULES),
        "predictions": ", ".join(PREDICTIONS),
        "t_sampling": ", ".join(T_SAMPLINGS),
        "samplers": ", ".join(SAMPLERS),
        "cache": str(known.cache_dir),
    }
    for name, value in rows.items():
        print(f"{name:<13} {value}")


def describe_device(device: torch.device) -> str:
    """Describe a device by its name; for a GPU, also by its model and memory."""
    if device.type != "cuda":
        return device.type
    card = torch.cuda.get_device_properties(device)
    return f"cuda, {card.name}, {card.total_memory / 2**30:.0f} GiB"


def forward_flops(config: TrainConfig) -> int:
    """Count the network's floating-point operations per image; a multiply-add is two."""
    from torch.utils.flop_counter import FlopCounterMode

    from ddpm_helpers.training import build_model

    net = build_model(config, 10).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *net.image_shape), torch.ones(1, dtype=torch.int64))
    return counter.get_total_flops()


def describe_speed(config: TrainConfig) -> str:
    """Measure FLOPs per image and time per epoch in a few updates on random images."""
    batch = min(config.batch_size, 64 if best_device().type == "cuda" else 16)
    short = replace(config, batch_size=batch, epochs=3, warmup_steps=0, accumulate=1)
    speed = measure_speed(short)
    return (
        f"{forward_flops(config) / 1e9:.2f} GFLOP forward per image; {speed:.0f} images/s "
        f"here, about {50_000 / speed:.0f} s per epoch of 50,000 (batch {batch})"
    )


def measure_speed(config: TrainConfig) -> float:
    """Measure images per second over config.epochs updates, without the first (warm-up)."""
    from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model

    data = RandomImages(config.batch_size, config.image_size, config.channels)
    pipeline = TrainingPipeline(build_model(config, 10), build_diffusion(config), data, config)
    ends = []
    for record in pipeline.steps():
        _ = record.loss  # waits for the device
        ends.append(time.perf_counter())
    return (len(ends) - 1) * config.batch_size / (ends[-1] - ends[0])


class RandomImages:
    """One batch of random images with labels, in the form of `TrainingData`."""

    classes, name = tuple("0123456789"), "noise"

    def __init__(self, n: int, size: int, channels: int = 3) -> None:
        self.images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)
        self.image_shape = tuple(self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, *, seed: int, epoch: int = 0, device: Any = None) -> Any:
        """Yield the batch, as `ImageDataset.batches` does."""
        y = torch.arange(len(self)) % 10
        yield to_float(self.images).to(device), y.to(device)
