"""The progress of `fit`: a bar in a terminal or a notebook, elsewhere a line every half minute."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_helpers.training.pipeline import TrainingPipeline
    from ddpm_helpers.training.report import StepRecord

SECONDS = 30.0  # between two lines where nobody watches, such as a job's log


class Progress:
    """Steps done and to do, time left, the loss and its average, pictures a second."""

    def __init__(self, pipeline: TrainingPipeline) -> None:
        self.total = pipeline.total_steps
        self.smooth: float | None = None
        self.bar: Any = None
        self.quiet = not pipeline.is_main
        if not self.quiet and _somebody_watches():
            from tqdm.auto import tqdm

            self.bar = tqdm(total=self.total, initial=pipeline.step, unit="step")
        self.first, self.started = pipeline.step, time.monotonic()
        self.said = self.started

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, record: StepRecord) -> None:
        """Count one step; the numbers beside the bar change every ten."""
        before = record.loss if self.smooth is None else self.smooth
        self.smooth = 0.98 * before + 0.02 * record.loss
        if self.bar is not None:
            self._move_bar(record)
        elif not self.quiet and time.monotonic() - self.said >= SECONDS:
            self.said = time.monotonic()
            print(self._line(record), file=sys.stderr, flush=True)

    def _move_bar(self, record: StepRecord) -> None:
        self.bar.update()
        if record.step % 10 == 0 or record.step == self.total:
            self.bar.set_postfix(
                {
                    "loss": f"{record.loss:.4f}",
                    "smooth": f"{self.smooth:.4f}",
                    "images/s": f"{record.images_per_second:.0f}",
                }
            )

    def _line(self, record: StepRecord) -> str:
        seconds = (self.said - self.started) / (record.step - self.first)  # a step
        left = round(seconds * (self.total - record.step))
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        return (
            f"step {record.step:,} of {self.total:,}: loss {self.smooth:.4f}, "
            f"{record.images_per_second:.0f} images/s, {clock} left"
        )


def _somebody_watches() -> bool:
    """Whether a bar that is drawn over itself can be seen: in a terminal, or in Jupyter."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    return sys.stderr.isatty() or (kernel is not None and _is_kernel(kernel))


def _is_kernel(module: Any) -> bool:
    return module.ZMQInteractiveShell.initialized()
