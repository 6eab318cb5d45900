"""The training loop: draw t and eps, predict, step, average, save."""

from __future__ import annotations

import copy
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.config import TrainConfig, data_table
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.model.wrapped import unwrapped
from ddpm_helpers.training import checkpoint, files, grids
from ddpm_helpers.training.ema import ema_decay_at, update_ema
from ddpm_helpers.training.gradient import batch_gradient
from ddpm_helpers.training.interrupts import Interrupts
from ddpm_helpers.training.logbook import Logbook
from ddpm_helpers.training.memory import memory_in_one_line
from ddpm_helpers.training.progress import Progress
from ddpm_helpers.training.report import Report, Speed, StepRecord, read
from ddpm_helpers.training.schedule import describe_change, learning_rate
from ddpm_helpers.training.setup import (
    bf16_is_fast,
    build_optimizer,
    check_fit,
    compiled,
    make_accelerator,
    match_classes,
    thaw,
)
from ddpm_helpers.training.snapshot import Snapshot
from ddpm_helpers.training.training_data import TrainingData, check_batch

Batch = tuple[Tensor, Tensor]  # x_0, y


class TrainingPipeline:
    """Trains a network to undo noise.

    Each step takes a batch x_0, draws t from 1..T and eps ~ N(0, I), and lowers the mean squared
    error between the network's output and its target (eps, x_0 or v). The order of the pictures
    depends on (seed, epoch), every other draw on (seed, step), on nothing else. Under `accelerate
    launch` the processes share each batch, and the training is the same as on one.

    Args:
        model: the network, fresh or with trained weights; moved to the fastest device, channels
            last. torch.compile around it is used, DataParallel taken off. One from
            `load_pretrained` gets the classes of the dataset, as `fine_tune_model` describes.
        diffusion: a `DiffusionUtils`, which knows T, the schedule and the target.
        dataset: an `ImageDataset` of the network's image size, or any other `TrainingData`.
        config: the settings; `epochs, batch_size, lr, …` are read from here.
        out_dir: folder for checkpoints, history and sample grids; None writes nothing. One that
            holds a run is refused when training starts, unless that run has been resumed.
        overwrite: remove the run that out_dir holds when training starts.
    Attributes:
        net: `model` as it is called in training: compiled, or wrapped for several processes.
        ema_model: the averaged weights, in eval mode: sample from these.
        history: a `StepRecord` for each step taken.
        step: optimiser steps taken so far.
        skipped, skipped_in_a_row: batches left out because their loss or gradient was not finite,
            in all and since the last good one.
        total_steps: steps of the whole run.
        grid: the latest sample grid, (3, H, W) in 0..1; None before the first.
        stopped_by: number of the signal that ended `fit`, None if it went to the end.
    Raises:
        ValueError: network, diffusion, data and config do not fit together.
        OSError: out_dir cannot be written, or its disk is too full for the checkpoints.
    Source: Ho et al. 2020, algorithm 1.
    """

    def __init__(
        self,
        model: DiffusionNet,
        diffusion: Any,
        dataset: TrainingData | Any,
        config: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
        out_dir: str | Path | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        network = unwrapped(model)
        check_fit(network, diffusion, dataset, config)
        self.config, self.diffusion, self.dataset = config, diffusion, dataset
        self.accelerator = make_accelerator()
        self.device = self.accelerator.device
        if (line := match_classes(network, dataset.classes)) and self.is_main:
            print(line)
        self.model = network.to(self.device).to(memory_format=torch.channels_last)
        thaw(self.model)
        self.ema_model = copy.deepcopy(self.model).eval().requires_grad_(False)
        optimizer = build_optimizer(self.model, config)
        net = compiled(self.model) if config.compile else self.model
        if getattr(model, "_orig_mod", None) is network:
            net = model  # compiled by the caller, in a way of their own
        # On one process, prepare leaves the network as it is; on several, it averages gradients.
        self.net, self.optimizer = self.accelerator.prepare(net, optimizer)
        self.history: list[StepRecord] = []
        self.grid: Tensor | None = None
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.steps_per_epoch = math.ceil(len(dataset) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        wanted = config.precision
        self.bf16 = wanted == "bf16" or (wanted == "auto" and bf16_is_fast(self.device))
        self.out_dir = None if out_dir is None else Path(out_dir)
        if self.out_dir is not None and self.is_main:
            files.prepare_folder(self.out_dir, checkpoint.bytes_needed(self))
        self._overwrite, self._folder_is_ours = overwrite, False
        self._saved, self._save_at = (0, 0), 0.0  # step and skipped; the clock of the next save
        self._in_a_step = False
        self._interrupts = Interrupts()
        self.stopped_by: int | None = None
        self._logbook = Logbook(self.out_dir if self.is_main else None)

    @property
    def batches_seen(self) -> int:
        """Batches drawn so far; those that were left out count too."""
        return self.step + self.skipped

    def autocast(self) -> AbstractContextManager:
        """Inside, the network computes in bf16 where this training does."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.accelerator.is_main_process

    def fit(
        self, *, watch: Callable[[TrainingPipeline, StepRecord], object] | None = None
    ) -> list[StepRecord]:
        """Train to the end with a progress bar.

        Ctrl-C or SIGTERM finishes the step, saves, and returns; `stopped_by` then says which.

        Args:
            watch: called as `watch(pipeline, record)` after every step; with config.read_every = n,
                n times after each n steps.
        Returns:
            The history.
        Raises:
            FloatingPointError: max_bad_steps batches in a row had no finite loss or gradient.
            torch.OutOfMemoryError: in one line; after a smaller setting `fit` works again.
            FileExistsError: out_dir holds a run that was neither resumed nor to be overwritten.
            Whatever else ends it, `watch` included: the last whole step is saved first.
        """
        with self._interrupts, Progress(self) as progress:
            for record in self.steps():
                progress.show(record)
                if watch is not None:
                    with self._saved_first():
                        watch(self, record)
        self._interrupts.asked = None
        if self.stopped_by is not None and self.is_main:
            name, saved = signal.Signals(self.stopped_by).name, "; saved" if self.out_dir else ""
            print(f"{name}: stopped after step {self.step} of {self.total_steps}{saved}",
                  file=sys.stderr)  # fmt: skip
        return self.history

    def steps(self) -> Iterator[StepRecord]:
        """Train step by step; the caller owns the loop and may leave it at any time.

        Ctrl-C or SIGTERM waits until the step is done and saved.

        Yields:
            A `StepRecord` after each optimiser step; with config.read_every = n, n of them after
            each n steps. Calling `steps()` again goes on from there.
        """
        self.stopped_by = None
        self._take_folder()
        self._logbook.start(self.history)
        if self.out_dir is not None and self.is_main:
            text = self.config.to_toml() + data_table(getattr(self.dataset, "settings", {}))
            files.write_whole(self.out_dir / "config.toml", text.encode())
        speed = Speed()
        while self.step < self.total_steps:
            epoch, done = divmod(self.batches_seen, self.steps_per_epoch)
            batches = self.dataset.batches(
                self.config.batch_size, seed=self.config.seed, epoch=epoch, device=self.device
            )
            batches = islice(batches, done, None)
            speed.go()
            while group := self._take(batches):
                with self._interrupts, self._saved_first():
                    records = self._train_group(group, epoch, speed)
                    self._save_if_due()
                over = self.stopped_by is not None or self.step == self.total_steps
                if over:  # inside fit, which waits for signals itself, this does nothing
                    self._interrupts.deliver()
                yield from records
                if over:
                    return
                speed.go()

    def _take(self, batches: Iterator[Batch]) -> list[Batch]:
        """Batches until the losses are read: config.read_every, fewer at the end of the run."""
        with self._saved_first(), memory_in_one_line(self):
            few = min(self.config.read_every, self.total_steps - self.step)
            group = list(islice(batches, few))
            for x_0, y in group:
                check_batch(x_0, y, self.model.image_shape)
            return group

    def _train_group(self, group: list[Batch], epoch: int, speed: Speed) -> list[StepRecord]:
        """Train on some batches."""
        try:
            with memory_in_one_line(self):
                if len(group) > 1 and (reports := self._train_unseen(group)):
                    return self._note(reports, epoch, speed)
                records = []
                for batch in group:
                    records += self._note(self._train_step(*batch), epoch, speed)
                return records
        except BaseException:
            group.clear()  # the error outlives this run in a notebook, and what it holds on to
            raise

    @contextmanager
    def _saved_first(self) -> Iterator[None]:
        """Whatever ends the training in here, the last whole step is saved before it goes on."""
        try:
            yield
        except BaseException:
            new = self._saved != (self.step, self.skipped) and not self._in_a_step
            if self.out_dir is not None and new:
                try:
                    self.save()
                except Exception as error:  # the first one tells more: it goes on
                    warnings.warn(f"while saving step {self.step}: {error}", stacklevel=2)
            raise

    def _train_unseen(self, group: list[Batch]) -> list[Report]:
        """Optimiser steps one after another, looked at once they are all on their way to the GPU.

        Empty, and nothing has changed, if one of them was not finite: take them one by one then.
        """
        before, done = Snapshot(self), False
        try:
            rows = []
            for batch in group:
                rows.append(self._gradient(*batch))
                self._advance()
                if self._asked_to_stop():
                    break
            reports = self._look(rows)
            done = all(report.finite for report in reports)
        finally:
            if not done:
                before.restore()
                self._in_a_step = False
        return reports if done else []

    def _train_step(self, x_0: Tensor, y: Tensor) -> list[Report]:
        """One optimiser step; empty, and nothing has changed, if it was not finite."""
        (report,) = self._look([self._gradient(x_0, y)])
        if not report.finite:
            self._skip(report)
            return []
        self._advance()
        return [report]

    def _gradient(self, x_0: Tensor, y: Tensor) -> Tensor:
        """Gradient of one batch, and its row of numbers, still on the device.

        If it fails in a compiled network, it is computed once more without the compiler, with the
        same draws: where that works, training goes on without it.
        """
        net, stop = self._net_for(len(x_0)), self._interrupts.asked is not None
        try:
            return batch_gradient(self, net, x_0, y, stop=stop)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if net is self.model or self.accelerator.num_processes > 1:
                raise
            cause = getattr(error, "inner_exception", error)  # of torch's BackendCompilerFailed
            why = f"{type(cause).__name__}: {cause}".splitlines()[0]
        self.optimizer.zero_grad()
        numbers = batch_gradient(self, self.model, x_0, y, stop=stop)
        self.net = self.model
        text = f"step {self.step + 1}: torch.compile failed ({why}); training goes on without it"
        warnings.warn(text, stacklevel=2)
        return numbers

    def _net_for(self, pictures: int) -> Any:
        """The network for a batch of so many pictures.

        An epoch's last batch is smaller: not worth another compilation, which takes minutes.
        """
        full = min(self.config.batch_size, len(self.dataset))
        return self.net if pictures == full or self.accelerator.num_processes > 1 else self.model

    def _advance(self) -> None:
        """Weights, average and count move on by one step."""
        self._in_a_step = True
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step + 1, self.total_steps, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step, self.skipped_in_a_row = self.step + 1, 0
        update_ema(self.ema_model, self.model, ema_decay_at(self.step, self.config.ema_decay))
        self._in_a_step = False

    def _look(self, rows: list[Tensor]) -> list[Report]:
        """Read what some steps reported: the one place where training waits for a GPU."""
        reports = read(torch.stack(rows))
        if self._asked_to_stop() or any(report.stop for report in reports):
            self.stopped_by = self._interrupts.asked or int(signal.SIGTERM)
        return reports

    def _asked_to_stop(self) -> bool:
        """Whether a signal came, on a single process: several stop by what their reports say."""
        return self.accelerator.num_processes == 1 and self._interrupts.asked is not None

    def _note(self, reports: list[Report], epoch: int, speed: Speed) -> list[StepRecord]:
        """Records of the latest steps, in the history and on the disk."""
        rate = speed.count(sum(report.pictures for report in reports))
        first = self.step - len(reports) + 1
        records = [
            StepRecord(
                step, epoch, report.loss, learning_rate(step, self.total_steps, self.config), rate,
                report.quarters,
            )
            for step, report in enumerate(reports, first)
        ]  # fmt: skip
        self.history += records
        for record in records:
            self._logbook.write(record)
        return records

    def _skip(self, report: Report) -> None:
        """Forget a batch; after max_bad_steps of them in a row, give up."""
        self.optimizer.zero_grad()
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        what = (
            f"step {self.step + 1}: the loss is {report.loss}, "
            f"the length of the gradient {report.length}"
        )
        if self.skipped_in_a_row >= self.config.max_bad_steps:
            row, self.skipped_in_a_row = self.skipped_in_a_row, 0  # the next call starts anew
            raise FloatingPointError(
                f"{what}, {row} batches in a row; weights are as before. "
                f"Try a lower lr than {self.config.lr} or precision='fp32'"
            )
        warnings.warn(f"{what}; batch left out, weights are as before", stacklevel=4)

    def _save_if_due(self) -> None:
        """Save and draw samples at the end of an epoch, of the run, or when asked to stop.

        The first step is saved at once, which shows that saving works, and then one every
        save_minutes.
        """
        if self.out_dir is None or not self.is_main:
            return
        epoch, inside = divmod(self.batches_seen, self.steps_per_epoch)
        last = self.step == self.total_steps

        def due(every: int) -> bool:
            return last or bool(every and inside == 0 and epoch % every == 0)

        late = self.config.save_minutes > 0 and time.monotonic() >= self._save_at
        if self.stopped_by is not None or late or due(self.config.save_every):
            self.save()
        if self.config.keep_weights and inside == 0 and checkpoint.is_rung(epoch):
            checkpoint.save_average(self, self.out_dir / f"weights_epoch_{epoch:04d}.safetensors")
        if self.config.sample_every and due(self.config.sample_every):
            grid = self.save_samples(self.out_dir / f"samples_epoch_{epoch:04d}.png")
            self._logbook.pictures(grid, self.step)
        if last:
            grids.save_animation(self.out_dir)

    def samples(self, n: int = 20, *, steps: int = 50) -> Tensor:
        """n pictures from the averaged weights, always from the same noise and classes.

        Returns:
            (n, C, S, S) in [-1, 1], on the CPU.
        """
        y = None
        if self.ema_model.num_classes is not None:
            y = torch.arange(n, device=self.device) % self.ema_model.num_classes
        with self.autocast():
            x = self.diffusion.sample(
                self.ema_model, n, y=y, seed=self.config.seed, **self.diffusion.preview(steps)
            )
        return x.float().cpu()

    def save_samples(self, path: Path) -> Tensor:
        """Write `samples()` as a PNG, ten pictures a row; returns it, (3, H, W) in 0..1."""
        grid = grids.make_grid(self.samples())
        grids.save_grid(grid, path)
        self.grid = grid
        return grid

    def save(self, path: str | Path | None = None) -> Path:
        """Write a checkpoint to go on from, and the averaged weights to sample from.

        Args:
            path: checkpoint file; by default `checkpoint.pt` in out_dir, where the one before it
                is kept under its step's name. The weights lie beside it as `weights.safetensors`.
        Returns:
            The checkpoint's path.
        Raises:
            ValueError: neither path nor out_dir was given.
            OSError: the disk is full or cannot be written; the checkpoint before is untouched.
            FileExistsError: out_dir holds another run.
        """
        where = self._folder() / files.CHECKPOINT if path is None else Path(path)
        if path is None:
            self._take_folder()
        if self.is_main:
            checkpoint.save(self, where)
            self._logbook.flush()
        if path is None:
            self._note_saved()
        return where

    def resume(self, path: str | Path | None = None) -> Path | None:
        """Go on from a checkpoint: weights, average, optimiser, step and history.

        Args:
            path: a checkpoint, or a run's folder, of which the newest whole one is taken; None
                takes that of out_dir, and "auto" does too, but starts from the beginning where
                there is none.
        Returns:
            The file it went on from; None after a start from the beginning.
        Raises:
            FileNotFoundError: there is none.
            ValueError: it is broken, or belongs to another network or another configuration.
        """
        given = self._folder() if path in (None, "auto") else Path(path)  # type: ignore[arg-type]
        if not given.is_dir():
            where, state = given, files.unpack(given)
        elif found := files.newest(given):
            where, state = found
        elif path == "auto":
            return None
        else:
            raise FileNotFoundError(f"no checkpoint in {given}; train first, or say 'auto'")
        checkpoint.load(self, state, where.name)
        self._note_saved()
        if self.out_dir is not None and where.resolve().parent == self.out_dir.resolve():
            self._folder_is_ours = True
        if self.is_main and (line := self._learning_rate_from_now_on(state["config"])):
            print(line, file=sys.stderr)
        self.history = [StepRecord(**record) for record in state["history"]]
        return where

    def _note_saved(self) -> None:
        """The state is on the disk, as it is now; the clock starts again."""
        self._saved = self.step, self.skipped
        self._save_at = time.monotonic() + 60 * self.config.save_minutes

    def _learning_rate_from_now_on(self, saved: dict[str, Any]) -> str:
        """One line where a resumed run has another end or learning-rate schedule, else empty."""
        known = {key: saved[key] for key in saved.keys() & self.config.to_dict().keys()}
        old = TrainConfig(**known)
        ends = (old.epochs * self.steps_per_epoch, old), (self.total_steps, self.config)
        return describe_change(self.step, *ends)

    def _take_folder(self) -> None:
        """Refuse an out_dir that holds another run, or remove that one if that was asked for."""
        if self.out_dir is None or self._folder_is_ours:
            return
        if self._overwrite and self.is_main:
            files.remove_run(self.out_dir)
        elif not self._overwrite and self.out_dir.is_dir():  # of each process, before any writes
            files.refuse_another_run(self.out_dir)
        self._folder_is_ours = True

    def _folder(self) -> Path:
        if self.out_dir is None:
            raise ValueError("this pipeline has no out_dir: give a path to save to or resume from")
        return self.out_dir
