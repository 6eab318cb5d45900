"""The training loop. Read `steps` and `train_step` first.

In the files beside this one: construction, saving and resuming in `state.py`, random draws in
`draws.py`, the optimiser in `optim.py`, averaged weights in `ema.py`, the numbers of a step in
`metrics.py`, signals in `stopping.py`.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ddpm_helpers.training.draws import augment, draw_t_and_eps, step_generator
from ddpm_helpers.training.ema import ema_decay_at, update_ema
from ddpm_helpers.training.metrics import LossByQuarter, Metrics, StepRecord
from ddpm_helpers.training.optim import learning_rate, step_if_finite
from ddpm_helpers.training.progress import Progress
from ddpm_helpers.training.state import TrainingState
from ddpm_helpers.training.stopping import explain_oom
from ddpm_helpers.training.training_data import check_batch, check_epoch


class TrainingPipeline(TrainingState):
    """Trains a network to undo noise.

    The order of the images depends on (seed, epoch) alone, every other draw on (seed, step) alone.
    Under `accelerate launch` the processes share every batch, and the result is that of one
    process, up to rounding.

    Args:
        model: the network, new or with trained weights; moved to the fastest device, channels
            last. A compiled one stays compiled; DataParallel is removed. If its classes are not
            the dataset's, rows of its label embedding are matched by name: see `fine_tune_model`.
        diffusion: a `DiffusionUtils`, which knows T, the schedule and the target.
        dataset: an `ImageDataset` of the network's image size, or any other `TrainingData`.
        config: the settings, such as epochs, batch_size and lr.
        out_dir: folder for checkpoints, history and sample grids; None writes nothing. A folder
            that holds a run is refused when training starts, unless `resume` has read it.
        overwrite: when training starts, remove the run that out_dir holds.
    Attributes:
        diffusion, dataset, config, out_dir: as given; model: as adapted.
        device: where the network is.
        net: `model` compiled, for full batches; or wrapped, for all batches of several processes.
        ema_model: the averaged weights, in eval mode: sample from these.
        optimizer: AdamW or Muon.
        history: a `StepRecord` for each step of `steps`.
        step: steps taken so far; one whose loss or gradient was not finite counts too.
        total_steps, steps_per_epoch: steps of the whole run, and of an epoch.
        grid: the latest sample grid, (3, H, W) in 0..1; None before the first.
        is_main: whether this process is the one that writes files.
        stopped_by: number of the signal that stopped the training, SIGTERM for one of another
            process; else None.
    Raises:
        ValueError: network, diffusion, data and config do not fit together.
        OSError: out_dir cannot be written, or its disk is too full for the checkpoints.
    """

    def steps(self) -> Iterator[StepRecord]:
        """Train step by step and yield each record; leaving saves nothing, a new call goes on.

        Ctrl-C or SIGTERM waits until the step is done and saved, then has its usual effect; several
        processes stop together, at their next read of the losses (every tenth step on a GPU).
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
                self.stopped_by = self._signal_to_stop(record)
                if self.stopped_by is not None:
                    self._save_last_step()
            yield record

    def train_step(self, x_0: Tensor, y: Tensor) -> StepRecord:
        """Train on one batch (Ho et al. 2020, algorithm 1) and return the record of the step.

        x_0: clean images, (B, C, S, S) in [-1, 1]; y: labels, (B,) int64; the same everywhere.
        """
        config, diffusion = self.config, self.diffusion
        net, processes = self._net_for(len(x_0)), self.accelerator.num_processes
        step = self.step + 1  # the number of this one, from 1; self.step were taken before
        generator = step_generator(config.seed, self.step, self.device)
        x_0, y = augment(x_0, y, config, generator)  # some images flipped, some labels hidden
        t, eps = draw_t_and_eps(x_0, diffusion.alpha_bar, generator, config.t_sampling)
        self.model.train()
        self.optimizer.zero_grad()
        quarters = LossByQuarter(diffusion.T, self.device)  # the loss in each quarter of 1..T
        for rows, weight, gradients in self._parts(len(x_0)):  # one part, unless split
            labels = None if self.model.num_classes is None else y[rows]
            with gradients:
                with self.autocast():
                    losses = diffusion.loss(
                        net, x_0[rows], t[rows], eps[rows], labels,
                        min_snr_gamma=config.min_snr_gamma,
                    )  # fmt: skip
                loss = losses.sum() * (weight / len(x_0))  # the part's share of the batch's mean
                (loss * processes).backward()  # processes average, a sum is wanted
            quarters.add(losses, t[rows], weight)
        grad_norm = clip_grad_norm_(self.model.parameters(), config.grad_clip)  # before clipping
        metrics = Metrics(self.accelerator.reduce(quarters.table, "sum"), grad_norm)
        lr = learning_rate(step, self.total_steps, config)
        with self._in_one_piece():  # after an error in here nothing is saved
            step_if_finite(metrics.finite, self.optimizer, lr)  # decided on the GPU, not waited for
            decay = ema_decay_at(step, config.ema_decay)
            update_ema(self.ema_model, self.model, decay, metrics.finite)
            self.step = step
        return StepRecord(step, (step - 1) // self.steps_per_epoch, lr, metrics)

    def fit(
        self, *, watch: Callable[[TrainingPipeline, StepRecord], object] | None = None
    ) -> list[StepRecord]:
        """Train to the end with a progress bar.

        Ctrl-C or SIGTERM stops as in `steps` (during `watch`, after one more step), but returns;
        `stopped_by` then says which.

        Args:
            watch: called as `watch(pipeline, record)` after every step.
        Returns:
            The history.
        Raises:
            FloatingPointError: loss or gradient was not finite in max_bad_steps steps in a row.
            torch.OutOfMemoryError: with what to change.
            FileExistsError: out_dir holds a run that was neither resumed nor to be overwritten.
            ValueError: the dataset yields something other than `TrainingData` describes.
            Once it trains, an error, in `watch` too, saves the last complete step first, unless it
            strikes while weights change.
        """
        progress = Progress(self.step, self.total_steps, quiet=not self.is_main)
        with self._signals, progress:
            for record in self.steps():
                progress.show(record)
                if watch is not None:
                    with self._save_on_error():
                        watch(self, record)
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
            number = 0
            for number, (x_0, y) in enumerate(batches, 1):
                if epoch > first or number > done:
                    check_batch(x_0, y, self.model.image_shape)
                    yield x_0, y
            check_epoch(number, self.steps_per_epoch)

    def _parts(self, batch: int) -> Iterator[tuple[slice, float, AbstractContextManager]]:
        """The parts of a batch that this process computes, of all processes × accumulate parts.

        Yields:
            rows: of the batch; parts differ by one row at most.
            weight: how much each row counts.
            gradients: a context for forward and backward; processes exchange their gradients in
                that of the last part alone.
        """
        processes, accumulate = self.accelerator.num_processes, self.config.accumulate
        parts = processes * accumulate
        for k in range(accumulate):
            part = k * processes + self.accelerator.process_index
            rows = slice(part * batch // parts, (part + 1) * batch // parts)
            gradients = nullcontext() if k == accumulate - 1 else self.accelerator.no_sync(self.net)
            if rows.stop > rows.start:
                yield rows, 1.0, gradients
            else:  # DDP waits for every process: one without a row computes the first, weighted 0
                yield slice(0, 1), 0.0, gradients

    def _net_for(self, batch: int) -> nn.Module:
        """The network for a batch of that many images.

        An epoch's last, smaller batch is not worth another compilation, which takes minutes. Among
        several processes, all go through the wrapper that exchanges gradients.
        """
        full = min(self.config.batch_size, len(self.dataset))
        return self.net if batch == full or self.accelerator.num_processes > 1 else self.model

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """In here signals wait, the clock runs, and an error saves the last complete step."""
        with self._signals, self._save_on_error():
            self._speed.go()
            yield
        if self.stopped_by is not None:
            self._signals.deliver()  # does nothing inside `fit`, which still holds the signals

    def _out_of_memory_explained(self) -> AbstractContextManager:
        batch_size, accumulate = self.config.batch_size, self.config.accumulate
        advice = (
            f"halve batch_size ({batch_size}), or double accumulate ({accumulate}), "
            "which trains the same in smaller parts"
        )
        return explain_oom(f"step {self.step + 1}", self.device, advice)

    def _note(self, record: StepRecord, images: int) -> None:
        """Add a record to the history and its file; where losses are read, check them."""
        self.history.append(record)
        self._bad.unread.append(record)
        if read := self._losses_are_read(record.step):
            self._bad.check()  # waits for the GPU
        record.images_per_second = self._speed.count(images, finished=read)
        self._history_writer.write(record)

    def _losses_are_read(self, step: int) -> bool:
        return step in (1, self.total_steps) or step % self._read_every == 0

    def _signal_to_stop(self, record: StepRecord) -> int | None:
        """The signal that arrived, or SIGTERM where only another process got one."""
        asked = self._signals.asked
        if self.accelerator.num_processes == 1:
            return asked
        if not self._losses_are_read(record.step):
            return None  # asking the other processes would wait for the GPU
        votes = torch.tensor(float(asked is not None), device=self.device)
        return (asked or int(signal.SIGTERM)) if self.accelerator.reduce(votes, "sum") else None
