"""`ddpm sample`: draw images with trained weights, as a grid or in separate files."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers import checks
from ddpm_helpers.device import best_device
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.files import prepare_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm sample` to a parser, and the function that runs it."""
    add = parser.add_argument
    add_sampling_options(parser, "ddpm", "T")
    add("--n", type=int, default=20, metavar="N", help="number of images (20)")
    add("--batch-size", type=int, default=50, metavar="N", help="images per batch; the images do "
        "not depend on it (50)")  # fmt: skip
    add("--y", nargs="+", metavar="CLASS", help="class names or numbers, used in turn (all)")
    add("--columns", type=int, default=10, metavar="N", help="images per row of the grid (10)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, default=Path("samples.png"), help="PNG file of a grid "
                       "(samples.png)")  # fmt: skip
    where.add_argument("--out-dir", type=Path, metavar="DIR", help="instead, write a PNG per image "
                       "to this folder: 00000.png, 00001.png, …")  # fmt: skip
    parser.set_defaults(run=run)


def add_sampling_options(
    parser: argparse.ArgumentParser, usual_sampler: str, usual_steps: str
) -> None:
    """Add the options that `ddpm sample` and `ddpm evaluate` share."""
    add = parser.add_argument
    add("--weights", default="cartoons", help="a shipped name, a file, or a run's folder")
    add("--sampler", help="ddpm, ddim, heun or dpm++ "
        f"({usual_sampler}; for distilled weights ddpm)")  # fmt: skip
    add("--steps", type=steps, help="number of sampling steps, or the t at which each starts,"
        f" such as 500,350 ({usual_steps}; for distilled weights their own steps)")  # fmt: skip
    add("--guidance", type=float, help="above 1 follows the class more closely (1)")
    add("--seed", type=int, help="the same seed draws the same images (0)")


def steps(word: str) -> int | list[int]:
    """Parse a number of steps, or the t at which each step starts, separated by commas."""
    numbers = [int(part) for part in word.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def sampling_options(args: argparse.Namespace, diffusion: DiffusionUtils) -> dict[str, Any]:
    """Return the options for `sample`: those of distilled weights, replaced by the given ones."""
    given = {name: getattr(args, name) for name in ("sampler", "steps", "guidance", "seed")}
    given = {name: value for name, value in given.items() if value is not None}
    return diffusion.few_step_options | given


def run(args: argparse.Namespace) -> None:
    """Draw images, and write them as a PNG grid or as one PNG per image."""
    from torchvision.utils import save_image

    from ddpm_helpers.evaluation import draw_samples
    from ddpm_helpers.pretrained import load_pretrained

    checks.count("--columns", args.columns)
    if args.out_dir is None and args.out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {str(args.out)!r}")
    folder = prepare_folder(args.out_dir or args.out.parent)  # before drawing takes minutes
    if args.out_dir is not None and any(folder.glob("*.png")):
        raise ValueError(f"--out-dir {str(folder)!r} holds images already: name another folder")
    model, diffusion = load_pretrained(args.weights)
    drawn = draw_samples(
        diffusion,
        model.to(best_device()),
        args.n,
        y=args.y and [args.y[i % len(args.y)] for i in range(args.n)],
        batch_size=args.batch_size,
        **sampling_options(args, diffusion),
    )
    if args.out_dir is None:
        grid = torch.cat(list(drawn))
        save_image(grid, args.out, nrow=args.columns, normalize=True, value_range=(-1, 1))
    else:
        for i, x in enumerate(chain.from_iterable(drawn)):
            save_image(x, folder / f"{i:05}.png", normalize=True, value_range=(-1, 1))
    print(f"{args.n} images in {args.out_dir or args.out}")
