"""Ctrl-C and SIGTERM wait until the step is done and saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

WAITING = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what takes a preemptible machine back


class Interrupts:
    """Inside `with interrupts:` a signal is only noted, also a second and a third one.

    Blocks may lie inside each other. Python delivers signals to the main thread alone; in any
    other thread this does nothing.

    Attributes:
        asked: number of the first signal that came, None if none did.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._depth = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in WAITING}
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if error[0] is not None:  # it ends the run by itself; the next one starts unasked
            self.asked = None
        if self._depth == 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number

    def deliver(self) -> None:
        """Outside all blocks: let the signal that was noted do what it would have done."""
        if self._depth == 0 and self.asked is not None:
            number, self.asked = self.asked, None
            signal.raise_signal(number)
