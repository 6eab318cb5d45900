"""Train, sample and measure diffusion models from a shell: `ddpm data | train | sample | …`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ddpm_helpers import __version__
from ddpm_helpers.commands import data, doctor, evaluate, export, info, sample, train

COMMANDS = {
    "data": (data, "prepare images, or show what is cached"),
    "train": (train, "train a network"),
    "sample": (sample, "draw images with trained weights"),
    "evaluate": (evaluate, "measure trained weights and their images"),
    "export": (export, "write weights for other programs"),
    "doctor": (doctor, "find what is wrong with weights or images"),
    "info": (info, "show versions, hardware and active settings"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: command-line arguments; None uses those of the process.
    Returns:
        Exit status: 0; 2 after a one-line error on stderr; 130 after Ctrl-C. The verdict of
        `doctor` is 0, 1 or 2.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # some code pages lack characters
    try:
        try:
            return _run(build_parser().parse_args(argv))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # `ddpm … | head -1`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python flushes once more at exit
        return 128 + 13  # the status of a process that SIGPIPE kills


def _run(args: argparse.Namespace) -> int:
    """Run the parsed command; print an error that the user can fix in one line."""
    try:
        for name, value in vars(args).items():
            if isinstance(value, str | Path):  # shells do not expand ~ in --out=~/runs/a
                setattr(args, name, type(value)(os.path.expanduser(value)))
            if value == "":  # an unset shell variable: --data "$ALBUM"
                raise ValueError(f"{name.replace('_', '-')} is empty")
        return args.run(args) or 0
    except BrokenPipeError:
        raise
    except (ValueError, OSError, FloatingPointError) as error:
        return _fail(str(error))
    except torch.OutOfMemoryError:
        return _fail("out of memory: halve --batch-size, or double --accumulate in training")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"ddpm: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    """Build the parser, with one subparser per command."""
    parser = argparse.ArgumentParser(prog="ddpm", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (module, text) in COMMANDS.items():
        module.add_options(commands.add_parser(name, help=text))
    return parser
