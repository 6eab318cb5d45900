"""`ddpm train`, and what a training costs here."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers.config import OF_SOURCE, PRESETS, TrainConfig, best_device, settings

BY_DEFAULT = "by default set by DDPM_PRESET, else by the hardware"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every field of `TrainConfig` is an option, and its reason the help."""
    add = parser.add_argument
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--preset", help=f"{', '.join(PRESETS)} ({BY_DEFAULT})")
    base.add_argument("--config", type=Path, metavar="FILE", help="a .toml or .json file instead of"
                      " a preset, such as the config.toml that a run leaves")  # fmt: skip
    add("--data", help="a source, as in `ddpm data` (by default set by DDPM_DATA, else cartoons)")
    add("--root", help="where the source's files lie or are downloaded to")
    add("--out", type=Path, help="folder for checkpoints and sample grids (runs/PRESET)")
    add("--resume", nargs="?", const=True, metavar="FILE", help="go on from the newest whole"
        " checkpoint in that folder, or FILE; `auto` starts anew where there is none")  # fmt: skip
    group = parser.add_argument_group("single settings, on top of the preset")
    for field in fields(TrainConfig):
        kind = str(field.type).removesuffix(" | None")
        how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if kind != "bool":
            how = {"type": {"int": int, "float": float, "str": str}[kind], "metavar": kind.upper()}
        option = "--" + field.name.replace("_", "-")
        text = field.metadata["help"].replace("%", "%%")
        group.add_argument(option, default=argparse.SUPPRESS, help=text, **how)
    parser.set_defaults(run=train)


def train(args: argparse.Namespace) -> int:
    """Train; checkpoints, history and sample grids go to --out. Returns the exit status."""
    from ddpm_helpers.data import ImageDataset
    from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model

    known = settings()
    source = args.data or known.data
    name, config = read_config(args, known.preset, source)
    out = args.out or Path("runs") / name
    ds = ImageDataset(
        source, config.image_size, root=args.root, limit=config.limit, channels=config.channels
    )
    model = build_model(config, len(ds.classes))
    diffusion = build_diffusion(config)
    pipeline = TrainingPipeline(model, diffusion, ds, config, out)
    if args.resume:
        pipeline.resume(None if args.resume is True else args.resume)
    say = print if pipeline.is_main else _silent
    start = f", from step {pipeline.step}" if pipeline.step else ""
    say(f"{name}, {len(ds)} pictures of {source}, {pipeline.device}, writing to {out}{start}")
    history = pipeline.fit()
    if history:
        last = [record.loss for record in history[-100:]]
        mean = sum(last) / len(last)
        say(f"{len(history)} steps, mean loss of the last {len(last)}: {mean:.4f}")
    if pipeline.stopped_by is None:
        return 0
    say("go on with the same command and --resume", file=sys.stderr)
    return 128 + pipeline.stopped_by


def read_config(args: argparse.Namespace, preset: str, source: str) -> tuple[str, TrainConfig]:
    """The configuration that the options ask for, and its name: of the preset or of the file.

    What the source asks for comes on top of a preset; a file says everything itself.
    """
    names = {field.name for field in fields(TrainConfig)}
    changes = {key: value for key, value in vars(args).items() if key in names}
    if args.config is not None:
        return args.config.stem, TrainConfig.load(args.config, **changes)
    preset = args.preset or preset
    return preset, TrainConfig.preset(preset, **OF_SOURCE.get(source, {}) | changes)


def _silent(*words: object, **options: object) -> None:
    """What the processes beside the main one say."""


def forward_flops(config: TrainConfig) -> int:
    """Floating-point operations of the network for one picture, a multiply-add being two."""
    from torch.utils.flop_counter import FlopCounterMode

    from ddpm_helpers.training import build_model

    net = build_model(config, 10).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *net.image_shape), torch.ones(1, dtype=torch.int64))
    return counter.get_total_flops()


def describe_speed(config: TrainConfig, pictures: int = 50_000) -> str:
    """FLOPs and time of an epoch, from a few steps on random pictures here and now."""
    batch = min(config.batch_size, 64 if best_device().type == "cuda" else 16)
    short = replace(config, batch_size=batch, epochs=3, warmup_steps=0, accumulate=1)
    speed = measure_speed(short)
    flops = forward_flops(config)
    return (
        f"{flops / 1e9:.2f} GFLOP forward per picture; {speed:.0f} pictures/s here, "
        f"about {pictures / speed:.0f} s per epoch of {pictures:,} (batch {batch})"
    )


def measure_speed(config: TrainConfig) -> float:
    """Pictures a second of config.epochs steps, without the first, which warms up."""
    from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model

    diffusion = build_diffusion(config)
    data = RandomPictures(config.batch_size, config.image_size, config.channels)
    pipeline = TrainingPipeline(build_model(config, 10), diffusion, data, config)
    images = [(k + 1) * config.batch_size for k in range(pipeline.total_steps)]
    rates = [record.images_per_second for record in pipeline.steps()]
    first, *_, last = (n / rate for n, rate in zip(images, rates, strict=True))  # seconds so far
    return (images[-1] - images[0]) / (last - first)


class RandomPictures:
    """One batch of noise with labels, in the form of an `ImageDataset`."""

    classes, source = tuple("0123456789"), "noise"

    def __init__(self, n: int, size: int, channels: int = 3) -> None:
        self.images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, *, seed: int, epoch: int = 0, device: Any = None) -> Any:
        """The batch, once an epoch, as `ImageDataset.batches` gives it."""
        y = torch.arange(len(self)) % 10
        yield (self.images.float() / 127.5 - 1).to(device), y.to(device)
