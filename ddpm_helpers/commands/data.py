"""`ddpm data`: make a source's cache and describe it; list or clear the caches."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm_helpers.config import cache_dir

if TYPE_CHECKING:
    from ddpm_helpers.data import ImageDataset

DATA_HELP = (
    "cartoons, cifar10, mnist, fashion_mnist, auto or a folder; or list (what is cached), clear "
    "(remove every cache)"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm data` to a parser, and the function that runs it."""
    add = parser.add_argument
    add("source", nargs="?", help=DATA_HELP)
    add("--image-size", type=int, metavar="N", help="side in pixels (32)")
    add("--split", help="train or test (train)")
    add("--root", help="where the source's files are, or are downloaded to")
    add("--fit", help="how images become square: crop to the centre, or pad (crop)")
    add("--channels", type=int, metavar="N", help="1 for greyscale, 3 for colour (the source's)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Make a source's cache and describe it, or list or clear the caches."""
    from ddpm_helpers.data import ImageDataset, manage
    from ddpm_helpers.data.say import count

    options = ("image_size", "split", "root", "fit", "channels")
    given = {k: getattr(args, k) for k in options if getattr(args, k) is not None}
    verbs = {"list": manage.show, "clear": manage.clear}
    verb = verbs.get(args.source or "list")
    if verb is not None:
        if given:
            option = "--" + next(iter(given)).replace("_", "-")
            raise ValueError(f"{option} does not apply to `data {args.source or 'list'}`")
        for place in manage.places(cache_dir()):
            verb(place)
        return
    try:
        ds = ImageDataset(args.source, **({"image_size": 32} | given))
    except ValueError as error:
        hint = f"; or {', '.join(verbs)}" if str(error).startswith("unknown source") else ""
        raise ValueError(f"{error}{hint}") from None
    size, grey = ds.images.shape[-1], "grey " if ds.channels == 1 else ""
    print(f"{count(len(ds), f'{grey}image')} of {size}×{size}, split {ds.split}")
    _show_counts(ds)


def _show_counts(ds: ImageDataset) -> None:
    """Print the number of images of each class; for a folder, of both splits, and its layout."""
    from ddpm_helpers.data import folder
    from ddpm_helpers.data.say import printable

    columns = {ds.split: Counter(ds.classes[k] for k in ds.labels)}
    if Path(ds.source).is_absolute():
        layout = folder.read_layout(Path(ds.source))
        folder.describe(Path(ds.source), layout)
        for split, files in (("train", layout.train), ("test", layout.test)):
            columns.setdefault(split, Counter(layout.classes[k] for _, k in files))
        print(f"  {'class':<20} {'  '.join(f'{split:>7}' for split in columns)}")
    for name in ds.classes:
        counts = "  ".join(f"{column[name]:>7}" for column in columns.values())
        print(f"  {printable(name):<20} {counts}")
