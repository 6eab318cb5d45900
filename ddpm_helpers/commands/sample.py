"""`ddpm sample`: draw images with trained weights, as a grid or in separate files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.device import best_device


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm sample` to a parser, and the function that runs it."""
    add = parser.add_argument
    add("--weights", default="cartoons", help="a shipped name, a file, or a run's folder")
    add("--n", type=int, default=20, metavar="N", help="number of images (20)")
    add("--batch-size", type=int, default=50, metavar="N", help="images per batch; the images do "
        "not depend on it (50)")  # fmt: skip
    add("--y", nargs="+", metavar="CLASS", help="class names or numbers, used in turn (all)")
    add("--guidance", type=float, default=1.0, help="above 1 follows the class more closely (1)")
    add("--steps", type=steps, help="number of sampling steps, or the t at which each starts, such "
        "as 500,350 (T; for distilled weights their own steps)")  # fmt: skip
    add("--sampler", default="ddpm", help="ddpm, ddim, heun or dpm++ (ddpm)")
    add("--seed", type=int, default=0, help="the same seed draws the same images (0)")
    add("--columns", type=int, default=10, metavar="N", help="images per row of the grid (10)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, default=Path("samples.png"), help="PNG file of a grid "
                       "(samples.png)")  # fmt: skip
    where.add_argument("--out-dir", type=Path, metavar="DIR", help="instead, write a PNG per image "
                       "to this folder: 00000.png, 00001.png, …")  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Draw images, and write them as a PNG grid or as one PNG per image."""
    from torchvision.utils import save_image

    from ddpm_helpers.pretrained import load_pretrained

    for option in ("n", "columns", "batch_size"):
        checks.count("--" + option.replace("_", "-"), getattr(args, option))
    if args.out_dir is None:
        _prepare_png(args.out)
    else:
        _prepare_folder(args.out_dir)
    model, diffusion = load_pretrained(args.weights)
    if args.steps is None:
        args.steps = diffusion.few_step_options.get("steps", diffusion.T)
    model.to(best_device())
    y = class_numbers(args.y, args.n, model.num_classes, model.classes)
    grid: list[Tensor] = []
    for first in range(0, args.n, args.batch_size):
        x_0 = _draw(args, model, diffusion, y, first)  # (B, C, H, W)
        if args.out_dir is None:
            grid.extend(x_0)
            continue
        for i, x in enumerate(x_0, first):
            save_image(x, args.out_dir / f"{i:05}.png", normalize=True, value_range=(-1, 1))
    if args.out_dir is None:
        save_image(grid, args.out, nrow=args.columns, normalize=True, value_range=(-1, 1))
    print(f"{args.n} images in {args.out_dir or args.out}")


def _draw(args: argparse.Namespace, model, diffusion, y: Tensor | None, first: int) -> Tensor:
    """Draw one batch, with a progress bar over its steps in a terminal: (B, C, H, W) on the CPU."""
    from tqdm.auto import tqdm

    count = min(args.batch_size, args.n - first)
    walk = diffusion.sample_steps(
        model,
        count,
        sampler=args.sampler,
        steps=args.steps,
        guidance=args.guidance,
        y=None if y is None else y[first : first + count].to(best_device()),
        seed=args.seed,
        first=first,
    )
    name = f"images {first + 1} to {first + count} of {args.n}"
    calls = args.steps if isinstance(args.steps, int) else len(args.steps)
    for step in tqdm(walk, name, total=calls + 1, unit="step", disable=None):
        last = step
    return last.x_t.float().cpu()


def steps(word: str) -> int | list[int]:
    """Parse a number of steps, or the t at which each step starts, separated by commas."""
    numbers = [int(part) for part in word.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def class_numbers(
    wanted: Sequence[str] | None, n: int, num_classes: int | None, names: Sequence[str]
) -> Tensor | None:
    """Repeat the wanted classes, or all classes, for n images: int64 (n,).

    Returns None if `num_classes` is None: the network takes no labels.

    Raises:
        ValueError: a class does not exist, or the network takes no labels.
    """
    if num_classes is None:
        if wanted:
            raise ValueError("these weights were trained without classes: leave --y out")
        return None
    numbers = list(range(num_classes))
    if wanted:
        numbers = [checks.class_number(word, num_classes, names) for word in wanted]
        for word, number in dict(zip(wanted, numbers, strict=True)).items():
            if word in names and word.isdecimal() and number != int(word) < num_classes:
                print(f"--y {word}: the class named {word}, which has the number {number}")
    return torch.tensor([numbers[i % len(numbers)] for i in range(n)])


def _prepare_png(path: Path) -> None:
    """Check that the file can be written, before drawing takes minutes."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()
    if path.stat().st_size == 0:
        path.unlink()


def _prepare_folder(folder: Path) -> None:
    """Check that the folder holds no images, so that two calls cannot mix their files."""
    from ddpm_helpers.files import prepare_folder

    if any(folder.glob("*.png")):
        raise ValueError(f"--out-dir {str(folder)!r} holds images already: name another folder")
    prepare_folder(folder)
