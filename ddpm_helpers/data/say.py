"""Messages about the images of a source."""

from functools import cache
from typing import Any


def say(line: str) -> None:
    """Print a line at once; bytes of a file name that are not text become escapes."""
    print(line.encode("utf-8", "backslashreplace").decode(), flush=True)


@cache
def say_once(line: str, about: Any = None) -> None:
    """Print a line, unless this process has printed the same line about the same thing."""
    say(line)


def count(n: int, noun: str = "image") -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
