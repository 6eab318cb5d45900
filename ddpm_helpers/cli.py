"""The jobs of the notebooks without a notebook: `ddpm data | train | sample | evaluate | …`."""

from __future__ import annotations

import argparse
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddpm_helpers import __version__, cli_sample, cli_train
from ddpm_helpers.cli_sample import class_numbers
from ddpm_helpers.config import T_SAMPLINGS, best_device, cache_dir, settings
from ddpm_helpers.doctor.command import add_doctor
from ddpm_helpers.evaluation.command import add_evaluate, check_options, write_numbers
from ddpm_helpers.export import command as export_command

if TYPE_CHECKING:
    from ddpm_helpers.data import ImageDataset

__all__ = ["class_numbers", "main"]

DATA_HELP = (
    "cartoons, cifar10, mnist, fashion_mnist, auto or a folder; or list (what is cached), verify "
    "(read every checksum), clear (remove every cache)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its words; those of the command line if None.
    Returns:
        Exit status: 0, or 2 after a one-line error on stderr, or 130 when interrupted, or 143
        after SIGTERM; of `doctor` also 1 and 2 by its verdict.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        return _fail(str(error))
    except torch.OutOfMemoryError as error:
        ours = str(error).startswith("step ")  # a training says itself what to halve
        return _fail(str(error) if ours else "the memory is full: ask for fewer pictures at a time")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"ddpm: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, one subparser per command."""
    parser = argparse.ArgumentParser(prog="ddpm", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_data(commands.add_parser("data", help="prepare pictures, or show what is cached"))
    cli_train.add_options(commands.add_parser("train", help="train a network"))
    cli_sample.add_options(
        commands.add_parser("sample", help="draw images with trained weights")
    )
    quality = commands.add_parser("evaluate", help="measure trained weights and their pictures")
    add_evaluate(quality)
    quality.set_defaults(run=evaluate)
    other = commands.add_parser("export", help="write weights for other programs")
    export_command.add_options(other)
    add_doctor(commands.add_parser("doctor", help="find what is wrong with weights or pictures"))
    info = commands.add_parser("info", help="show versions, hardware and active settings")
    info.set_defaults(run=show_info)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="?", help=DATA_HELP)
    add("--image-size", type=int, metavar="N", help="side in pixels (32)")
    add("--split", help="train or test (train)")
    add("--root", help="where the source's files lie or are downloaded to")
    add("--fit", help="pictures of a folder: crop to the centre, or pad (crop)")
    add("--channels", type=int, metavar="N", help="1 for grey, 3 for colour (as the source is)")
    parser.set_defaults(run=prepare_data)


def prepare_data(args: argparse.Namespace) -> None:
    """Make a source's cache and describe it, or list, verify or clear the caches."""
    from ddpm_helpers.data import manage

    options = ("image_size", "split", "root", "fit", "channels")
    given = {k: getattr(args, k) for k in options if getattr(args, k) is not None}
    verbs = {"list": manage.show, "verify": manage.verify, "clear": manage.clear}
    verb = verbs.get(args.source or "list")
    if verb is not None:
        if given:
            option = "--" + next(iter(given)).replace("_", "-")
            raise ValueError(f"{option} means nothing to `data {args.source or 'list'}`")
        for place in manage.places(cache_dir()):
            verb(place)
        return
    try:
        ds = _dataset(args.source, **({"image_size": 32} | given))
    except ValueError as error:
        hint = f"; or {', '.join(verbs)}" if str(error).startswith("unknown source") else ""
        raise ValueError(f"{error}{hint}") from None
    size, grey = ds.images.shape[-1], "grey " if ds.channels == 1 else ""
    print(f"{len(ds)} {grey}pictures of {size}×{size}, split {ds.split}")
    _show_counts(ds)


def _show_counts(ds: ImageDataset) -> None:
    """Pictures of each class; of a folder also those listed in the other split, and its layout."""
    from ddpm_helpers.data import folder

    columns = {ds.split: Counter(ds.classes[k] for k in ds.labels)}
    if Path(ds.source).is_absolute():
        layout = folder.describe(Path(ds.source))
        for split, files in (("train", layout.train), ("test", layout.test)):
            names = layout.classes or ds.classes
            columns.setdefault(split, Counter(names[k] for _, k in files))
        print(f"  {'class':<20} {'  '.join(f'{split:>7}' for split in columns)}")
    for name in ds.classes:
        print(f"  {name:<20} {'  '.join(f'{column[name]:>7}' for column in columns.values())}")


def _dataset(source: str, image_size: int, **options: Any) -> ImageDataset:
    from ddpm_helpers.data import ImageDataset

    return ImageDataset(source, image_size, **options)


def evaluate(args: argparse.Namespace) -> None:
    """Measure weights: loss per step, and samples against the test pictures."""
    from ddpm_helpers.evaluation import report
    from ddpm_helpers.pretrained import load_pretrained
    from ddpm_helpers.pretrained.weights import data_of_weights

    check_options(args)
    model, diffusion = load_pretrained(args.weights)
    data = data_of_weights(args.weights, args.data, args.root)
    source, side = data.pop("source", "cartoons"), model.image_shape[-1]
    train, test = (_dataset(source, side, split=s, **data) for s in ("train", "test"))
    options = {"sampler": args.sampler, "guidance": args.guidance, "seed": args.seed}
    if args.steps is not None:
        options["steps"] = args.steps
    model.to(best_device())
    report.evaluate(
        diffusion, model, train, test, n=args.n, anyway=args.anyway,
        inception=args.inception_weights,
        keep=lambda numbers: write_numbers(numbers, args.out), **options,
    )  # fmt: skip
    if args.out is not None:
        print(f"numbers in {args.out}")


def show_info(args: argparse.Namespace) -> None:
    """Print what a report of a problem should say."""
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
        "training": cli_train.describe_speed(known.train),
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
    """The device's name, and its memory where torch knows it."""
    if device.type != "cuda":
        return device.type
    card = torch.cuda.get_device_properties(device)
    return f"cuda, {card.name}, {card.total_memory / 2**30:.0f} GiB"
