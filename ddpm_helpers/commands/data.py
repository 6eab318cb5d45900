"""`ddpm data`: make a source's cache and describe it."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddpm_helpers.data import ImageDataset

DATA_HELP = "cartoons, cifar10, mnist, fashion_mnist, auto or a folder"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm data` to a parser, and the function that runs it."""
    add = parser.add_argument
    add("source", help=DATA_HELP)
    add("--image-size", type=int, metavar="N", help="side in pixels (32)")
    add("--split", help="train or test (train)")
    add("--root", help="folder of the source's files, or for its downloads")
    add("--fit", help="how images become square: crop to the centre, or pad (crop)")
    add("--channels", type=int, metavar="N", help="1 for greyscale, 3 for colour (the source's)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Make a source's cache and describe it."""
    from ddpm_helpers.data import ImageDataset
    from ddpm_helpers.data.say import count

    options = ("image_size", "split", "root", "fit", "channels")
    given = {k: getattr(args, k) for k in options if getattr(args, k) is not None}
    ds = ImageDataset(args.source, **({"image_size": 32} | given))
    size, grey = ds.images.shape[-1], "grey " if ds.channels == 1 else ""
    print(f"{count(len(ds), f'{grey}image')} of {size}×{size}, split {ds.split}")
    _show_counts(ds)


def _show_counts(ds: ImageDataset) -> None:
    """Print the number of images of each class; for a folder, its layout and both splits too."""
    from ddpm_helpers.data import image_folder

    columns = {ds.split: Counter(ds.classes[k] for k in ds.labels)}
    if Path(ds.source).is_absolute():
        layout = image_folder.read_layout(Path(ds.source))
        for split, files in (("train", layout.train), ("test", layout.test)):
            columns.setdefault(split, Counter(layout.classes[k] for _, k in files))
        print(f"  {'class':<20} {'  '.join(f'{split:>7}' for split in columns)}")
    for name in ds.classes:
        counts = "  ".join(f"{column[name]:>7}" for column in columns.values())
        print(f"  {name:<20} {counts}")
