"""The training loop: `steps` and `train_step` are the training, all else serves them."""

from __future__ import annotations

import functools
import itertools
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from ddpm_helpers.training.draws import augment, draw_t_and_eps, step_generator
from ddpm_helpers.training.ema import ema_decay_at, update_ema
from ddpm_helpers.training.metrics import LossByQuarter, Metrics, StepRecord
from ddpm_helpers.training.optim import learning_rate, step_if_finite
from ddpm_helpers.training.progress import Progress
from ddpm_helpers.training.state import TrainingState
from ddpm_helpers.training.stopping import explain_oom
from ddpm_helpers.training.training_data import check_batch

TrainStep = Callable[["TrainingPipeline", Tensor, Tensor], StepRecord]


def without_compiler_if_it_fails(train_step: TrainStep) -> TrainStep:
    """Retry a step that fails in a compiled network, uncompiled and with the same draws.

    If that works, training continues without the compiler.
    """

    @functools.wraps(train_step)
    def attempt(self: TrainingPipeline, x_0: Tensor, y: Tensor) -> StepRecord:
        net = self.net
        try:
            return train_step(self, x_0, y)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Torn: some weights have moved already, and a second try would move them twice.
            several = self.accelerator.num_processes > 1
            if self._torn or several or self._net_for(len(x_0)) is self.model:
                raise
            cause = getattr(error, "inner_exception", error)  # of torch's BackendCompilerFailed
            why = f"{type(cause).__name__}: {cause}".splitlines()[0]
        self.net = self.model
        try:
            record = train_step(self, x_0, y)
        except BaseException:  # not the compiler's fault
            self.net = net
            raise
        text = f"step {record.step}: torch.compile failed ({why}); training goes on without it"
        warnings.warn(text, stacklevel=2)
        return record

    return attempt


class TrainingPipeline(TrainingState):
    """Trains a network to undo noise.

    The order of the images depends on (seed, epoch) alone, every other draw on (seed, step) alone.
    Under `accelerate launch` the processes share each batch, and the training is the same as in
    one process.

    Args:
        model: the network, new or with trained weights; moved to the fastest device, channels
            last. If it is compiled, that is used; DataParallel is removed. A network from
            `load_pretrained` gets the classes of the dataset, as `fine_tune_model` describes.
        diffusion: a `DiffusionUtils`, which knows T, the schedule and the target.
        dataset: an `ImageDataset` of the network's image size, or any other `TrainingData`.
        config: the settings, such as epochs, batch_size and lr.
        out_dir: folder for checkpoints, history and sample grids; None writes nothing. A folder
            that holds a run is refused when training starts, unless that run has been resumed.
        overwrite: when training starts, remove the run that out_dir holds.
    Attributes:
        net: `model` as training calls it: compiled, or wrapped for several processes.
        ema_model: the averaged weights, in eval mode: sample from these.
        optimizer: AdamW or Muon.
        history: a `StepRecord` for each step taken.
        step: steps taken so far; a batch that was left out counts as one.
        total_steps, steps_per_epoch: steps of the whole run, and of an epoch.
        grid: the latest sample grid, (3, H, W) in 0..1; None before the first.
        is_main: whether this process is the one that writes files.
        stopped_by: number of the signal that stopped the training, else None.
    Raises:
        ValueError: network, diffusion, data and config do not fit together.
        OSError: out_dir cannot be written, or its disk is too full for the checkpoints.
    """

    def steps(self) -> Iterator[StepRecord]:
        """Train step by step; the caller owns the loop and may leave it at any time.

        Ctrl-C or SIGTERM waits until the step is done and saved, then has its usual effect.

        Yields:
            A `StepRecord` after each step. Calling `steps()` again continues from there.
        """
        self._start()
        batches = self._batches()
        while self.step < self.total_steps and self.stopped_by is None:
            with self._guarded():
                x_0, y = next(batches)
                with self._out_of_memory_explained():
                    record = self.train_step(x_0, y)
                self._note(record, len(x_0))
                self._save_if_due()
            yield record

    @without_compiler_if_it_fails
    def train_step(self, x_0: Tensor, y: Tensor) -> StepRecord:
        """Train on one batch (Ho et al. 2020, algorithm 1) and return the record of the step.

        Args:
            x_0: clean images, (B, C, S, S) in [-1, 1]: the whole batch, in every process.
            y: their labels, (B,) int64.
        """
        config, diffusion, step = self.config, self.diffusion, self.step + 1  # counted from 1
        net, processes = self._net_for(len(x_0)), self.accelerator.num_processes
        generator = step_generator(config.seed, self.step, self.device)
        x_0, y = augment(x_0, y, config, generator)  # some images flipped, some labels hidden
        t, eps = draw_t_and_eps(x_0, diffusion.alpha_bar, generator, config.t_sampling)
        self.model.train()
        self.optimizer.zero_grad()
        quarters = LossByQuarter(diffusion.T, self.device)  # of the range of t
        for rows, weight in self._parts(len(x_0)):  # all rows at once, as a rule
            labels = None if self.model.num_classes is None else y[rows]
            with self.autocast():
                losses = diffusion.loss(
                    net, x_0[rows], t[rows], eps[rows], labels, min_snr_gamma=config.min_snr_gamma
                )  # (rows,)
            (losses.sum() * (weight * processes / len(x_0))).backward()  # processes average
            quarters.add(losses, t[rows], weight)
        grad_norm = clip_grad_norm_(self.model.parameters(), config.grad_clip)  # before clipping
        metrics = Metrics(self.accelerator.reduce(quarters.table, "sum"), grad_norm)
        lr = learning_rate(step, self.total_steps, config)
        with self._in_one_piece():  # what fails in here is neither tried again nor saved
            step_if_finite(metrics.finite, self.optimizer, lr)  # decided on the GPU, not waited for
            decay = ema_decay_at(step, config.ema_decay)
            update_ema(self.ema_model, self.model, decay, metrics.finite)
            self.step = step
        return StepRecord(step, (step - 1) // self.steps_per_epoch, lr, metrics)

    def fit(
        self, *, watch: Callable[[TrainingPipeline, StepRecord], object] | None = None
    ) -> list[StepRecord]:
        """Train to the end with a progress bar.

        Ctrl-C or SIGTERM finishes the step, saves, and returns; `stopped_by` then says which.

        Args:
            watch: called as `watch(pipeline, record)` after every step.
        Returns:
            The history.
        Raises:
            FloatingPointError: max_bad_steps batches in a row had no finite loss or gradient.
            torch.OutOfMemoryError: in one line that says what to halve.
            FileExistsError: out_dir holds a run that was neither resumed nor to be overwritten.
            Whatever else ends it, an error in `watch` too: the last complete step is saved first.
        """
        progress = Progress(self.step, self.total_steps, quiet=not self.is_main)
        with self._signals, progress:
            for record in self.steps():
                progress.show(record)
                if watch is not None:
                    with self._save_on_error():
                        watch(self, record)
        self._signals.asked = None
        if self.stopped_by is not None and self.is_main:
            name, saved = signal.Signals(self.stopped_by).name, "; saved" if self.out_dir else ""
            print(f"{name}: stopped after step {self.step} of {self.total_steps}{saved}",
                  file=sys.stderr)  # fmt: skip
        return self.history

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from `self.step` on, without end, in the order that (seed, epoch) decides."""
        first, done = divmod(self.step, self.steps_per_epoch)
        for epoch in itertools.count(first):
            batches = self.dataset.batches(
                self.config.batch_size, seed=self.config.seed, epoch=epoch, device=self.device
            )
            for x_0, y in itertools.islice(batches, done if epoch == first else 0, None):
                check_batch(x_0, y, self.model.image_shape)
                yield x_0, y

    def _parts(self, batch: int) -> Iterator[tuple[slice, float]]:
        """Rows that this process computes at once, and how much each row counts.

        Every process and every accumulation step takes one of several equal parts, so each image
        keeps the t and eps of its place in the whole batch, whatever the number of processes. The
        caller's forward and backward run inside the `with`: processes average their gradients in
        the last part's backward only.
        """
        processes, accumulate = self.accelerator.num_processes, self.config.accumulate
        parts = processes * accumulate
        for k in range(accumulate):
            part = k * processes + self.accelerator.process_index
            rows = slice(part * batch // parts, (part + 1) * batch // parts)
            with nullcontext() if k == accumulate - 1 else self.accelerator.no_sync(self.net):
                # Fewer images than parts: one counts for nothing, as all processes must take part.
                yield (rows, 1.0) if rows.stop > rows.start else (slice(0, 1), 0.0)

    def _net_for(self, batch: int) -> Any:
        """The network for a batch of that many images.

        An epoch's last, smaller batch is not worth another compilation, which takes minutes.
        """
        full = min(self.config.batch_size, len(self.dataset))
        return self.net if batch == full or self.accelerator.num_processes > 1 else self.model

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """In here, signals wait, and any error saves the last step."""
        with self._signals, self._save_on_error():
            self._speed.go()
            yield
        if self.stopped_by is not None:
            self._signals.deliver()  # not inside `fit`, which holds the signals itself

    def _out_of_memory_explained(self) -> AbstractContextManager:
        batch_size, accumulate = self.config.batch_size, self.config.accumulate
        advice = (
            f"halve batch_size ({batch_size}), or double accumulate ({accumulate}), "
            "which trains the same in smaller parts"
        )
        return explain_oom(f"step {self.step + 1}", self.device, advice)

    def _note(self, record: StepRecord, images: int) -> None:
        """Add a record to the history, now and then check the losses, and see whether to stop."""
        self.history.append(record)
        self._bad.unread.append(record)
        look = record.step in (1, self.total_steps) or record.step % self._read_every == 0
        if look:
            self._bad.check()  # waits for a GPU
        record.images_per_second = self._speed.count(images, finished=look)
        self._history_writer.write(record)
        self.stopped_by = self._signals.asked
        if self.accelerator.num_processes > 1:  # all stop after the same step
            self.stopped_by = self._signal_of_any_process() if look else None

    def _signal_of_any_process(self) -> int | None:
        asked = self._signals.asked
        votes = torch.tensor(float(asked is not None), device=self.device)
        return (asked or int(signal.SIGTERM)) if self.accelerator.reduce(votes, "sum") else None
