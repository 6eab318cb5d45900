"""A live view of training in a notebook: one figure, redrawn in place."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ddpm_helpers.display.canvas import new_figure
from ddpm_helpers.display.charts import plot_history
from ddpm_helpers.training import StepRecord, TrainingPipeline


class LiveView:
    """Show the loss curve and the latest sample grid: `pipeline.fit(watch=LiveView())`.

    The cell shows one figure at a time; a headless notebook keeps the last figure.

    Args:
        every: redraw after this many updates.
    """

    def __init__(self, every: int = 25) -> None:
        self.every = every
        self._shown: Any = None

    def __call__(self, pipeline: TrainingPipeline, record: StepRecord) -> None:
        """Redraw after every n-th update and after the last update of the run."""
        over = record.step == pipeline.total_steps
        if not pipeline.is_main or (record.step % self.every and not over):
            return
        from IPython.display import display

        figure = draw(pipeline)
        if self._shown is None:
            self._shown = display(figure, display_id=True)
        else:
            self._shown.update(figure)


def draw(pipeline: TrainingPipeline) -> Figure:
    """Show the loss curve on the left, and the latest sample grid, if any, on the right."""
    figure = new_figure(10, 3.6)
    left, right = figure.subplots(1, 2)
    title = f"update {pipeline.step} of {pipeline.total_steps}"
    plot_history(pipeline.history, ax=left, title=title)
    right.axis("off")
    right.set_title("latest samples" if pipeline.grid is not None else "no samples yet")
    if pipeline.grid is not None:
        right.imshow(pipeline.grid.permute(1, 2, 0).numpy())
    return figure
