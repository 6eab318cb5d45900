"""`ddpm export`: write weights in another program's format."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddpm_helpers import export
from ddpm_helpers.files import megabytes

SUFFIXES = {"onnx": ".onnx", "diffusers": "-diffusers", "hub": "-hub"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm export` to a parser, and the function that runs it."""
    add = parser.add_argument
    add("--weights", default="cartoons", help="a shipped name, a file, or a run's folder")
    add("--to", required=True, choices=SUFFIXES, help="onnx (a file for other runtimes and the "
        "browser), diffusers (a folder for its pipelines), hub (a folder for the Hugging Face "
        "Hub)")  # fmt: skip
    add("--sampler", help="for diffusers' scheduler: ddpm, ddim or dpm++ (ddpm)")
    add("--out", type=Path, help="file or folder to write (named after the weights)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the weights in the chosen format."""
    if args.sampler is not None and args.to != "diffusers":
        raise ValueError(f"--sampler does not apply to {args.to}: it holds no scheduler")
    out = args.out or Path(export.weights_name(args.weights) + SUFFIXES[args.to])
    if args.to == "onnx":
        export.export_onnx(args.weights, out)
    elif args.to == "hub":
        export.export_hub(args.weights, out)
    else:
        export.export_diffusers(args.weights, out, args.sampler or "ddpm")
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    print(f"{out}, {megabytes(sum(file.stat().st_size for file in files))}")
