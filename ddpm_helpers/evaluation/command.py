"""`ddpm evaluate`: the options, and the job."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `ddpm evaluate`; the caller sets what runs it."""
    add = parser.add_argument
    add("--weights", default="cartoons", help="a shipped name, a file, or a training's folder")
    add("--data", default="cartoons", help="what they were trained on (cartoons)")
    add("--root", help="where the source's files lie")
    add("--n", type=int, default=1000, metavar="N", help="pictures in each compared set (1000)")
    add("--sampler", default="dpm++", help="way to walk from noise to picture (dpm++)")
    add("--steps", type=int, help="sampling steps (50, or T if that is less)")
    add("--guidance", type=float, default=1.0, help="above 1 follows the class more closely (1)")
    add("--seed", type=int, default=0, help="of the samples (0)")
    add("--inception", action="store_true", help="FID, KID and Inception score too, if "
        "torch-fidelity is installed")  # fmt: skip
    add("--out", type=Path, help="JSON file for the numbers")


def check_out(path: Path | None) -> None:
    """Refuse a folder that does not exist before the minutes that drawing may take."""
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"no folder {str(path.parent)!r} for --out")


def write_numbers(numbers: dict, path: Path | None) -> None:
    """The numbers of `evaluate` as JSON, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(numbers, indent=1) + "\n")
        print(f"numbers in {path}")
