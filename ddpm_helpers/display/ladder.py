"""The figure of the ladder, and the command that measures and draws it.

ddpm train --keep-weights --out runs/a …
python -m ddpm_helpers.display.ladder runs/a --picture ladder.png --numbers ladder.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.display.canvas import figure_png
from ddpm_helpers.display.plots import show_images
from ddpm_helpers.evaluation.ladder import SHOWN, climb, rungs
from ddpm_helpers.pretrained.weights import description


def draw_ladder(numbers: dict[str, Any], pictures: Tensor) -> Figure:
    """One row of pictures a rung, with its epoch and its Fréchet distance beside it.

    Args:
        numbers, pictures: as `climb` returns them.
    """
    floor = numbers["noise_floor"]["frechet"]
    names = [
        f"{row['epoch']} epoch{'s' * (row['epoch'] > 1)}: {row['frechet']:.2f}"
        for row in numbers["rungs"]
    ]
    return show_images(
        pictures, ncols=SHOWN, row_labels=names, scale=1 if pictures.shape[-1] >= 64 else 2,
        title=f"The same noise after more and more training; distance to real pictures "
        f"(their own: {floor:.2f})",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Climb a run's ladder; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ddpm_helpers.display.ladder")
    add = parser.add_argument
    add("run", type=Path, help="folder of a training with --keep-weights")
    add("--data", default="cartoons", help="what it was trained on (cartoons)")
    add("--n", type=int, default=500, help="pictures in each compared set (500)")
    add("--guidance", type=float, default=1.0, help="above 1 follows the class more closely (1)")
    add("--picture", type=Path, help="PNG of the same noises after every rung")
    add("--numbers", type=Path, help="JSON file")
    args = parser.parse_args(argv)
    try:
        first = next(iter(rungs(args.run).values()))
        built = description(first)["model"]
        side, channels = built["image_size"], built["channels"]
        train, test = (
            ImageDataset(args.data, side, split=split, channels=channels)
            for split in ("train", "test")
        )
        numbers, pictures = climb(args.run, train, test, n=args.n, guidance=args.guidance)
        if args.numbers:
            args.numbers.write_text(json.dumps(numbers, indent=1) + "\n")
        if args.picture:
            args.picture.write_bytes(figure_png(draw_ladder(numbers, pictures)))
    except (OSError, ValueError) as error:
        print(f"ladder: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
