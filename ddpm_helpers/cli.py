"""The jobs of the notebooks without a notebook.

`ddpm data | train | sample | evaluate | doctor | info`.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddpm_helpers import __version__, cli_train
from ddpm_helpers.config import best_device, cache_dir, settings
from ddpm_helpers.doctor.command import add_doctor
from ddpm_helpers.evaluation.command import add_evaluate, check_options, write_numbers

if TYPE_CHECKING:
    from ddpm_helpers.data import ImageDataset

DATA_HELP = (
    "cartoons, cifar10, auto or a folder; or list (what is cached), verify (read every "
    "checksum), clear (remove every cache)"
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
    _add_sample(commands.add_parser("sample", help="draw pictures with trained weights"))
    quality = commands.add_parser("evaluate", help="measure trained weights and their pictures")
    add_evaluate(quality)
    quality.set_defaults(run=evaluate)
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
    parser.set_defaults(run=prepare_data)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", default="cartoons", help="a shipped name, a file, or a training's folder")
    add("--n", type=int, default=20, metavar="N", help="number of pictures (20)")
    add("--y", nargs="+", metavar="CLASS", help="classes by name or number, in turn (all)")
    add("--guidance", type=float, default=1.0, help="above 1 follows the class more closely (1)")
    add("--steps", type=int, help="sampling steps (by default the T of the training)")
    add("--sampler", default="ddpm", help="way to walk from noise to picture (ddpm)")
    add("--seed", type=int, default=0, help="the same seed draws the same pictures (0)")
    add("--columns", type=int, default=10, metavar="N", help="pictures a row (10)")
    add("--out", type=Path, default=Path("samples.png"), help="PNG to write (samples.png)")
    parser.set_defaults(run=sample)


def prepare_data(args: argparse.Namespace) -> None:
    """Make a source's cache and describe it, or list, verify or clear the caches."""
    from ddpm_helpers.data import manage

    options = ("image_size", "split", "root", "fit")
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
    counts = torch.bincount(torch.as_tensor(ds.labels), minlength=len(ds.classes)).tolist()
    print(f"{len(ds)} pictures of {ds.images.shape[-1]}×{ds.images.shape[-1]}, split {ds.split}")
    for name, count in zip(ds.classes, counts, strict=True):
        print(f"  {name:<20} {count}")


def _dataset(source: str, image_size: int, **options: Any) -> ImageDataset:
    from ddpm_helpers.data import ImageDataset

    return ImageDataset(source, image_size, **options)


def sample(args: argparse.Namespace) -> None:
    """Draw pictures and write them as one PNG grid."""
    from torchvision.utils import save_image
    from tqdm.auto import tqdm

    from ddpm_helpers.pretrained import load_pretrained

    if args.n < 1 or args.columns < 1:
        raise ValueError(f"--n and --columns must be at least 1, got {args.n} and {args.columns}")
    _prepare_png(args.out)
    model, diffusion = load_pretrained(args.weights)
    device = best_device()
    y = class_numbers(args.y, args.n, model.num_classes, getattr(model, "classes", ()))
    walk = diffusion.sample_steps(
        model.to(device),
        args.n,
        sampler=args.sampler,
        steps=args.steps,
        guidance=args.guidance,
        y=None if y is None else y.to(device),
        seed=args.seed,
    )
    for step in tqdm(walk, total=(args.steps or diffusion.T) + 1, unit="step"):
        last = step
    x_0 = last.x_t.float().cpu()  # (n, C, H, W)
    save_image(x_0, args.out, nrow=args.columns, normalize=True, value_range=(-1, 1))
    print(f"{args.n} pictures in {args.out}")


def evaluate(args: argparse.Namespace) -> None:
    """Measure weights: loss per step, and samples against the test pictures."""
    from ddpm_helpers.evaluation import report
    from ddpm_helpers.pretrained import load_pretrained
    from ddpm_helpers.pretrained.weights import description

    check_options(args)
    model, diffusion = load_pretrained(args.weights)
    data = args.data or description(args.weights)["trained"].get("data", "cartoons")
    side = model.image_shape[-1]
    train, test = (_dataset(data, side, split=s, root=args.root) for s in ("train", "test"))
    options = {"sampler": args.sampler, "guidance": args.guidance, "seed": args.seed}
    if args.steps is not None:
        options["steps"] = args.steps
    model.to(best_device())
    report.evaluate(
        diffusion, model, train, test, n=args.n, inception=args.inception_weights,
        keep=lambda numbers: write_numbers(numbers, args.out), **options,
    )  # fmt: skip
    if args.out is not None:
        print(f"numbers in {args.out}")


def class_numbers(
    wanted: Sequence[str] | None, n: int, num_classes: int | None, names: Sequence[str]
) -> torch.Tensor | None:
    """Class names or numbers, repeated in turn for n pictures.

    Args:
        wanted: names or numbers; None takes all classes in turn.
        n: number of pictures.
        num_classes: classes that the network knows; None if it takes no labels.
        names: their names, if known.
    Returns:
        int64 (n,), or None for a network without labels.
    Raises:
        ValueError: a class that does not exist, or classes for a network without labels.
    """
    if num_classes is None:
        if wanted:
            raise ValueError("these weights were trained without classes: leave --y out")
        return None
    numbers = list(range(num_classes))
    if wanted:
        known = {name: i for i, name in enumerate(names)} | {str(i): i for i in numbers}
        for word in wanted:
            if word not in known:
                choices = ", ".join(names) or f"0..{num_classes - 1}"
                raise ValueError(f"unknown class {word!r}; choose from {choices}")
        numbers = [known[word] for word in wanted]
    return torch.tensor([numbers[i % len(numbers)] for i in range(n)])


def _prepare_png(path: Path) -> None:
    """Refuse a file that cannot be written before the minutes that drawing may take."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab"):
        pass
    if path.stat().st_size == 0:
        path.unlink()


def show_info(args: argparse.Namespace) -> None:
    """Print what a report of a problem should say."""
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
