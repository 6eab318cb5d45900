"""Train, sample and measure diffusion models from a shell: `ddpm data | train | sample | …`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from ddpm_helpers import __version__
from ddpm_helpers.commands import data, doctor, evaluate, export, info, sample, train

COMMANDS = {
    "data": (data, "prepare pictures, or show what is cached"),
    "train": (train, "train a network"),
    "sample": (sample, "draw images with trained weights"),
    "evaluate": (evaluate, "measure trained weights and their pictures"),
    "export": (export, "write weights for other programs"),
    "doctor": (doctor, "find what is wrong with weights or pictures"),
    "info": (info, "show versions, hardware and active settings"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its arguments; None takes those of the process.
    Returns:
        Exit status: 0; 2 after a one-line error on stderr; 130 when interrupted, 143 after
        SIGTERM; from `doctor` also 1 or 2, by its verdict.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        return _fail(str(error))
    except torch.OutOfMemoryError as error:
        ours = str(error).startswith(("step ", "sample grid "))  # a training says what to change
        return _fail(str(error) if ours else "out of memory: ask for fewer pictures at a time")
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
    for name, (module, text) in COMMANDS.items():
        module.add_options(commands.add_parser(name, help=text))
    return parser
