"""The progress bar of `fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddpm_helpers.training.pipeline import TrainingPipeline
    from ddpm_helpers.training.report import StepRecord


class Progress:
    """Steps done and to do, time left, the loss and its average, pictures a second."""

    def __init__(self, pipeline: TrainingPipeline) -> None:
        from tqdm.auto import tqdm

        self.total = pipeline.total_steps
        self.smooth: float | None = None
        self.bar = tqdm(
            total=self.total, initial=pipeline.step, unit="step", disable=not pipeline.is_main
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, record: StepRecord) -> None:
        """Count one step; the numbers beside the bar change every ten."""
        before = record.loss if self.smooth is None else self.smooth
        self.smooth = 0.98 * before + 0.02 * record.loss
        self.bar.update()
        if record.step % 10 == 0 or record.step == self.total:
            self.bar.set_postfix(
                {
                    "loss": f"{record.loss:.4f}",
                    "smooth": f"{self.smooth:.4f}",
                    "images/s": f"{record.images_per_second:.0f}",
                }
            )
