"""Hold signals back until an update is complete."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
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


@contextmanager
def held_signals(accelerator: Accelerator) -> Iterator[Callable[[], bool]]:
    """Hold signals back during a block, and deliver the first one when the block ends.

    A second Ctrl-C, more than a second later, raises KeyboardInterrupt at once, which also stops a
    compilation that takes minutes. If the block ends with an error, the signal is dropped. A signal
    that the process ignores stays ignored. Outside the main thread, which alone can handle signals
    in Python, nothing is held.

    Yields:
        A function that returns whether a signal has arrived in any process of the run. Call it
        equally often in all processes. At the end, a process without a signal gets SIGTERM.
    """
    held: list[int] = []  # empty, or the first signal
    since = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if not held:
            held.append(number)
            since = time.monotonic()
            if accelerator.is_main_process:
                name = signal.Signals(number).name
                say(f"{name}: stopping after this update; a second Ctrl-C stops at once")
        elif number == signal.SIGINT and time.monotonic() - since > PATIENCE:
            raise KeyboardInterrupt

    def arrived() -> bool:
        if accelerator.num_processes > 1:
            votes = torch.tensor(float(len(held)), device=accelerator.device)
            if accelerator.reduce(votes, "sum") and not held:
                held.append(signal.SIGTERM)
        return bool(held)

    heard = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        heard = []
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])
