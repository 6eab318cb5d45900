"""How a run ends early: signals that wait for the step, and out of memory in one line."""

from __future__ import annotations

import gc
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

WAITING = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and the end of a preemptible machine


class StopSignals:
    """Inside `with stop_signals:` every signal is only noted, also a second and a third one.

    A signal that the process ignores stays ignored. Blocks may be nested. Python delivers signals
    to the main thread only; in any other thread this does nothing.

    Attributes:
        asked: number of the first signal that arrived in the outermost block; None if none did.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._depth = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._depth += 1
        if self._depth == 1:
            self.asked = None
            if threading.current_thread() is threading.main_thread():
                heard = [one for one in WAITING if signal.getsignal(one) is not signal.SIG_IGN]
                self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number

    def deliver(self) -> None:
        """Outside all blocks: raise the noted signal, so that it has its usual effect."""
        if self._depth == 0 and self.asked is not None:
            number, self.asked = self.asked, None
            signal.raise_signal(number)


@contextmanager
def explain_oom(what: str, device: torch.device, advice: str) -> Iterator[None]:
    """Turn running out of memory into a one-line error, and free what was allocated in here.

    Args:
        what: was being done.
        device: the one that computes.
        advice: what needs less memory.

    Raises:
        torch.OutOfMemoryError: the line.
    """
    try:
        yield
    except RuntimeError as error:
        words = str(error).lower()  # of the CPU on Linux, on Windows, of MPS
        full = any(w in words for w in ("allocate memory", "not enough memory", "out of memory"))
        if not full and not isinstance(error, torch.OutOfMemoryError):
            raise
        traceback.clear_frames(error.__traceback__)  # they keep every tensor of the stack alive
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise torch.OutOfMemoryError(f"{what}: the memory of {device} is full: {advice}") from None
