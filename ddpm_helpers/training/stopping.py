"""What ends a run early: signals, which wait for the end of an update, and a lack of memory."""

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
PATIENCE = 1.0  # ignore a second Ctrl-C within this many seconds: some launchers send two


class HeldSignals:
    """Keeps signals waiting during a block; the first one prints a line.

    Args:
        quiet: print nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self._holding = quiet, False
        self._waiting: int | None = None
        self._since = 0.0

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Delay the first signal until this block ends; yield False inside another such block.

        An inner block delays nothing itself. A second Ctrl-C, more than a second later, raises
        KeyboardInterrupt at once, which also stops a compilation that takes minutes. If the block
        ends with an error, the signal is dropped. A signal that the process ignores stays ignored.
        Python delivers signals only to the main thread, so other threads delay nothing.
        """
        if self._holding or threading.current_thread() is not threading.main_thread():
            yield not self._holding
            return
        self._waiting, self._holding = None, True
        heard = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield True
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._holding = False
        if self._waiting is not None:
            signal.raise_signal(self._waiting)

    def arrived(self, accelerator: Accelerator) -> bool:
        """Whether a signal waits in any process of the run; those without one then get SIGTERM."""
        if accelerator.num_processes > 1:
            votes = torch.tensor(float(self._waiting is not None), device=accelerator.device)
            if accelerator.reduce(votes, "sum"):
                self._waiting = self._waiting or int(signal.SIGTERM)
        return self._waiting is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._waiting is None:
            self._waiting, self._since = number, time.monotonic()
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
