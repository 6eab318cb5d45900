"""Messages about the images of a source, in characters that any terminal can print."""

import sys
from functools import cache
from typing import Any


def printable(name: Any) -> str:
    """Convert a name to one line that this terminal can print, even if it is not valid text."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = str(name).encode(encoding, "backslashreplace").decode(encoding)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@cache
def say_once(line: str, about: Any = None) -> None:
    """Print a line, unless this process has printed the same line about the same thing."""
    print(printable(line), flush=True)


def count(n: int, noun: str = "image") -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
