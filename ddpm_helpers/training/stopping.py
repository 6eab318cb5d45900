"""How a run ends early: signals stop it after an update; running out of memory is one line."""

from __future__ import annotations

import gc
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import torch

from ddpm_helpers.training.progress import say

if TYPE_CHECKING:
    from accelerate import Accelerator

# Ctrl-C, the end of a preemptible machine, a closed terminal (not on Windows).
SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
PATIENCE = 1.0  # ignore a second Ctrl-C within this many seconds


class StopFlag:
    """A flag that signals set; training reads it after each update.

    The first signal prints a line. A second Ctrl-C, more than a second later, raises
    KeyboardInterrupt at once, which also stops a compilation that takes minutes.

    Args:
        quiet: print nothing.
    Attributes:
        signal: number of the first signal, or None.
        held: whether signals currently set the flag.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self.held = quiet, False
        self.signal: int | None = None
        self._since = 0.0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Clear the flag and let signals set it inside this block; nested blocks do nothing.

        A signal that the process ignores stays ignored. Python delivers signals to the main thread
        only, so this does nothing in other threads.
        """
        if self.held or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.signal, self.held = None, True
        heard = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.held = False

    def signal_for_all(self, accelerator: Accelerator) -> int | None:
        """The signal that arrived, SIGTERM if only another process got a signal, or None."""
        if accelerator.num_processes == 1:
            return self.signal
        votes = torch.tensor(float(self.signal is not None), device=accelerator.device)
        asked = bool(accelerator.reduce(votes, "sum"))
        return (self.signal or int(signal.SIGTERM)) if asked else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
            if not self.quiet:
                name = signal.Signals(number).name
                say(f"{name}: stopping after this update; Ctrl-C stops at once")
        elif number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt


@contextmanager
def explain_oom(what: str, device: torch.device, advice: str) -> Iterator[None]:
    """Turn out-of-memory errors into one line, and free what was allocated in the block.

    Args:
        what: description of the block, for the message.
        device: device that computes.
        advice: how to use less memory, for the message.
    Raises:
        torch.OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        words = str(error).lower()  # messages of CPU on Linux, CPU on Windows, MPS
        full = any(w in words for w in ("allocate memory", "not enough memory", "out of memory"))
        if not full and not isinstance(error, torch.OutOfMemoryError):
            raise
        traceback.clear_frames(error.__traceback__)  # frames keep their tensors alive
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise torch.OutOfMemoryError(f"{what}: the memory of {device} is full: {advice}") from None
