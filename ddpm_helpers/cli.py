"""Train, sample and measure diffusion models from a shell: `ddpm data | train | sample | …`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

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
        argv: its arguments; None takes those of the process.
    Returns:
        Exit status: 0; 2 after a one-line error on stderr; 130 when interrupted, 143 after
        SIGTERM; from `doctor` also 1 or 2, by its verdict.
    """
    with _safe_output():
        return _run(build_parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    """Run the command that was parsed; errors that a user can repair become one line."""
    try:
        for name, value in vars(args).items():
            if isinstance(value, str | Path):  # no shell expands the ~ of --out=~/runs/a
                setattr(args, name, type(value)(os.path.expanduser(value)))
            if value == "":  # an unset variable of the shell: --data "$ALBUM"
                raise ValueError(f"{name.replace('_', '-')} is empty")
        return args.run(args) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        return _fail(str(error))
    except torch.OutOfMemoryError as error:
        ours = str(error).startswith(("step ", "sample grid "))  # a training says what to change
        return _fail(str(error) if ours else "out of memory: ask for fewer images at a time")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"ddpm: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


@contextmanager
def _safe_output() -> Iterator[None]:
    """Within it, printing never raises, whatever stdout and stderr are."""
    out, err = _SafeStream(sys.stdout), _SafeStream(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):  # type: ignore[type-var]
        try:
            yield
        finally:
            out.flush()
            err.flush()


class _SafeStream:
    """A text stream that never ends a command.

    Characters that a code page lacks are replaced by "?". If a pipe is closed (`ddpm … | head -1`)
    or there is no stream (pythonw), the rest goes nowhere.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = open(os.devnull, "w") if stream is None else stream
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, and return its length."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._send_nowhere()
        return len(text)

    def flush(self) -> None:
        """Send on what was written."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._send_nowhere()

    def _send_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # Python's own flush at exit goes there too
        os.close(nowhere)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, one subparser per command."""
    parser = argparse.ArgumentParser(prog="ddpm", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (module, text) in COMMANDS.items():
        module.add_options(commands.add_parser(name, help=text))
    return parser
