"""Can a person name what was drawn? Make a shuffled sheet of samples, with the key in another file.

    python tools/blind_naming.py draw --weights cifar10-64 --guidance 2 --out sheet
    python tools/blind_naming.py draw --real FOLDER --out photographs
    python tools/blind_naming.py score sheet.json answers.txt

`draw` writes sheet.png (images numbered from 1, row by row) and sheet.json (the key). Show the
sheet alone, with the list of classes, and write down the answers, one class per line. `score`
counts the right ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.evaluation import draw_samples, take
from ddpm_helpers.pretrained import load_pretrained

COLUMNS = 8


def draw(args: argparse.Namespace) -> None:
    """Write the sheet and its key."""
    from ddpm_helpers.display.canvas import figure_png
    from ddpm_helpers.display.plots import show_images

    if args.real is not None:
        ds = ImageDataset(args.real, args.image_size, split="test")
        names, (x, y) = ds.classes, take(ds, args.n)
    else:
        model, diffusion = load_pretrained(args.weights)
        names, y = model.classes, torch.arange(args.n) % len(model.classes)
        options = {"guidance": args.guidance, "sampler": args.sampler, "steps": args.steps}
        parts = draw_samples(diffusion, model, args.n, y=y, seed=args.seed, **options)
        x = torch.cat(list(parts))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(args.seed))
    x, y = x[order], y[order]
    figure = show_images(
        x, ncols=COLUMNS, titles=[str(i) for i in range(1, len(x) + 1)], scale=args.scale,
        title=f"Which is it: {', '.join(names)}?",
    )  # fmt: skip
    args.out.with_suffix(".png").write_bytes(figure_png(figure))
    key = {"classes": list(names), "key": [names[k] for k in y.tolist()]}
    args.out.with_suffix(".json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    print(f"{args.n} images in {args.out.with_suffix('.png')}, key in the .json beside it")


def score(key: Path, answers: Path) -> dict[str, tuple[int, int]]:
    """Class -> (right answers, images); under "all", their sum.

    Raises:
        ValueError: more or fewer answers than images, or an answer that is not a class.
    """
    about = json.loads(key.read_text(encoding="utf-8"))
    given = answers.read_text(encoding="utf-8").lower().split()
    if len(given) != len(about["key"]):
        raise ValueError(f"{answers} has {len(given)} answers for {len(about['key'])} images")
    if unknown := sorted(set(given) - set(about["classes"])):
        choices = ", ".join(about["classes"])
        raise ValueError(f"{unknown[0]!r} is not a class; choose from {choices}")
    right = np.array([a == b for a, b in zip(given, about["key"], strict=True)])
    truth = np.array(about["key"])
    counts = {c: (int(right[truth == c].sum()), int((truth == c).sum())) for c in about["classes"]}
    return counts | {"all": (int(right.sum()), len(right))}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(prog="python tools/blind_naming.py")
    commands = parser.add_subparsers(required=True, dest="command")
    sheet = commands.add_parser("draw", help="write a sheet and its key")
    add = sheet.add_argument
    add("--weights", default="cifar10-64", help="a shipped name, a file, or a training's folder")
    add("--real", metavar="SOURCE", help="test images of a source instead of samples")
    add("--image-size", type=int, default=64, metavar="S", help="of --real, in pixels (64)")
    add("--n", type=int, default=40, help="images, the classes in turn (40)")
    add("--guidance", type=float, default=2.0, help="above 1 follows the class more closely (2)")
    add("--sampler", default="dpm++", help="(dpm++)")
    add("--steps", type=int, default=15, help="(15)")
    add("--seed", type=int, default=0, help="of the noise and of the order (0)")
    add("--scale", type=int, default=2, help="screen pixels per pixel (2)")
    add("--out", type=Path, default=Path("sheet"), help="name of both files (sheet)")
    marks = commands.add_parser("score", help="count the right answers")
    marks.add_argument("key", type=Path, help="the .json that `draw` wrote")
    marks.add_argument("answers", type=Path, help="a text file with one class per image")
    args = parser.parse_args(argv)
    if args.command == "draw":
        draw(args)
    else:
        for name, (right, n) in score(args.key, args.answers).items():
            print(f"{name:<12} {right} of {n}")


if __name__ == "__main__":
    main()
