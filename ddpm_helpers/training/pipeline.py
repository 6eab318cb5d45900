"""The training loop.

- `train_step` makes one update: the forward process, the loss, gradients, optimiser, average.
- `steps` repeats it and writes what is due after each update: its record; a checkpoint and the
  averaged weights after the first update, every few minutes and every epoch; a sample grid.
- `_protected` says what happens on Ctrl-C, on other signals and on errors.

`run_folder.py` knows the files and when each is due, `draws.py` makes the random draws, `optim.py`
the optimiser and its learning rate, `metrics.py` the numbers of an update.
"""

from __future__ import annotations

import copy
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.device import bf16_is_fast, compiled, make_accelerator
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.files import prepare_folder, user_path
from ddpm_helpers.model import Network
from ddpm_helpers.model.wrapped import unwrapped
from ddpm_helpers.pretrained import save_weights
from ddpm_helpers.training import checkpoint
from ddpm_helpers.training.build import check_fit, match_classes
from ddpm_helpers.training.draws import augment, draw_t_and_eps, step_generator
from ddpm_helpers.training.ema import ema_decay_at, update_ema
from ddpm_helpers.training.metrics import BadBatches, StepRecord, add_by_quarter, read_table
from ddpm_helpers.training.optim import (
    build_optimizer,
    describe_change,
    describe_warm_up,
    learning_rate,
    load_optimizer,
)
from ddpm_helpers.training.progress import Progress, say
from ddpm_helpers.training.run_folder import WEIGHTS, RunFolder
from ddpm_helpers.training.sample_grids import make_grid
from ddpm_helpers.training.stopping import StopFlag, explain_oom
from ddpm_helpers.training.training_data import TrainingData, batches_from, identify


class TrainingPipeline:
    """Trains a network to remove noise.

    The order of the images depends only on (seed, epoch), every other draw only on (seed, step):
    a run that is stopped and resumed ends with the same weights as one that was never stopped.
    Under `torchrun` the processes split each batch, and the first one writes the files; the result
    equals that of one process, apart from rounding.

    Args:
        model: the network, new or with trained weights; moved to the fastest device. If its classes
            differ from the dataset's, classes with the same name keep their row of the label
            embedding, as in `fine_tune_model`.
        diffusion: a `DiffusionUtils`, which knows T, the schedule and the target.
        dataset: an `ImageDataset` of the network's image size, or any other `TrainingData`.
        config: the settings, such as epochs, batch_size and lr.
        out_dir: the run's folder, see `RunFolder`; None: nothing is written. If it already holds
            a run, the first write refuses it, unless you call `resume` first.
        overwrite: remove the run that out_dir holds, on the first write.
    Attributes:
        model, ema_model: the network, and a copy with averaged weights, for sampling.
        optimizer: AdamW or Muon.
        history: a `StepRecord` for each update of `steps`.
        step: updates made so far; a skipped batch counts too.
        total_steps, steps_per_epoch: updates of the whole run, and of an epoch.
        folder: the `RunFolder` of out_dir, or None.
        grid: the latest sample grid, (3, H, W) in 0..1; None before the first.
        is_main: whether this process is the one that writes files.
        stopped_by: number of the signal that stopped the training, or None.
    Raises:
        ValueError: network, diffusion, data and config do not fit together.
        OSError: out_dir cannot be written.
    """

    def __init__(
        self,
        model: Network,
        diffusion: DiffusionUtils,
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
        self.device, self.is_main = self.accelerator.device, self.accelerator.is_main_process
        match_classes(network, dataset.classes, quiet=not self.is_main)
        self.model = network.to(self.device).to(memory_format=torch.channels_last)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            self.model.requires_grad_(True)  # `load_pretrained` freezes all; some may stay so
        self.ema_model = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = build_optimizer(self.model, config)
        compiled_by_caller = model is not network and not isinstance(model, nn.DataParallel)
        net = model if compiled_by_caller else compiled(network) if config.compile else network
        self.net = self.accelerator.prepare(net)
        wanted = config.precision
        self.bf16 = wanted == "bf16" or (wanted == "auto" and bf16_is_fast(self.device))
        self.history: list[StepRecord] = []
        self.step = 0
        self.steps_per_epoch = math.ceil(len(dataset) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.grid: Tensor | None = None
        self.stopped_by: int | None = None
        self.folder: RunFolder | None = None
        if out_dir is not None:
            self.folder = RunFolder(out_dir, config, overwrite=overwrite)
            if self.is_main:
                prepare_folder(self.folder.path)
        self._stop = StopFlag(quiet=not self.is_main)
        self._bad = BadBatches(config.max_bad_steps)
        self._half_updated = False  # True while the weights are ahead of their average and step
        self._images, self._seconds = 0, 0.0

    # ------------------------------------------------------------------------------ the loop

    def fit(
        self, *, watch: Callable[[TrainingPipeline, StepRecord], object] | None = None
    ) -> list[StepRecord]:
        """Train to the end with a progress bar.

        After a signal (see `_protected`), `fit` returns early, and `stopped_by` says which it was.

        Args:
            watch: called as `watch(pipeline, record)` after every update.
        Returns:
            The history.
        Raises:
            BlockingIOError: another process is training in out_dir.
            FileExistsError: out_dir holds a run that was neither resumed nor to be overwritten.
            FloatingPointError: loss or gradient was not finite in max_bad_steps batches in a row.
            torch.OutOfMemoryError: the message says which setting to change.
            RuntimeError: an error left a half-made update; `resume` first.
            ValueError: the dataset yields something other than `TrainingData` describes.
        """
        if self.is_main and (line := describe_warm_up(self.total_steps, self.config)):
            say(line)
        progress = Progress(self.step, self.total_steps, quiet=not self.is_main)
        with progress, self._protected():  # around `watch`, too
            for record in self.steps():
                progress.show(record)
                if watch is not None:
                    watch(self, record)
        if self.stopped_by is not None and self.is_main:
            name, saved = signal.Signals(self.stopped_by).name, "; saved" if self.folder else ""
            say(f"{name}: stopped after step {self.step} of {self.total_steps}{saved}")
        return self.history

    def steps(self) -> Iterator[StepRecord]:
        """Train, and yield the record of each update once it is made.

        Only the update itself is protected: an error or Ctrl-C in the body of your loop saves
        nothing, and neither does leaving it. Call `steps()` again to continue. A signal during the
        update has its usual effect (Ctrl-C: KeyboardInterrupt) once the update is saved; its
        record is in `history`, but is not yielded.

        Raises: as `fit`.
        """
        self._refuse_half_an_update()
        self.stopped_by = None
        folder = self.folder if self.is_main else None
        with folder.in_use(self.history, self.dataset) if folder else nullcontext():
            batches = batches_from(
                self.dataset, self.config, self.step, self.model.image_shape, self.device
            )
            while self.step < self.total_steps and self.stopped_by is None:
                with self._protected():
                    record = self._next_update(batches)
                    self._write_what_is_due(record)
                    self._bad.check(record)
                    self.stopped_by = self._stop.signal_for_all(self.accelerator)
                    if self.stopped_by is not None:
                        self._save_last_update()
                if self.stopped_by is not None and not self._stop.held:  # called without `fit`
                    signal.raise_signal(self.stopped_by)
                yield record

    @contextmanager
    def _protected(self) -> Iterator[None]:
        """In this block a stop waits for the update, and an error saves the last complete one.

        - Ctrl-C, SIGTERM, SIGHUP (a closed terminal): the update is finished and saved; then
          training stops. If several processes train, all of them stop.
        - A second Ctrl-C, more than a second later: KeyboardInterrupt, an error like any other.
        - An error: the last complete update is saved, if it is not yet, and the error raised again.
          Nothing is saved if the error came while the optimiser or the average was at work: then
          `steps` and `save` refuse to go on until `resume`.

        Signals are held by the outermost block. Only the main process saves, and only in out_dir.
        """
        with self._stop.hold():
            try:
                yield
            except BaseException:
                if not self._half_updated:
                    try:
                        self._save_last_update()
                    except Exception as error:  # the first exception matters more: raise that one
                        warnings.warn(f"while saving step {self.step}: {error}", stacklevel=3)
                raise

    def _save_last_update(self) -> None:
        """Write a checkpoint unless there is nothing new, or the folder was never this run's."""
        if self.folder and self.folder.is_ours and self.is_main:
            if self.step not in (0, self.folder.newest):
                self.save()

    def _refuse_half_an_update(self) -> None:
        if self._half_updated:
            raise RuntimeError(
                f"update {self.step + 1} was interrupted half way, so the weights do not fit their "
                "average: call resume() to go on from the last checkpoint"
            )

    @torch.enable_grad()
    def train_step(self, x_0: Tensor, y: Tensor) -> StepRecord:
        """Make one update: Ho et al. 2020, algorithm 1, on one batch.

        Args:
            x_0: clean images, (B, C, S, S) in [-1, 1], the same in every process.
            y: labels, (B,) int64.
        Returns:
            Its record. If loss or gradient is not finite, the batch is skipped: no weight changes.
        """
        config, diffusion = self.config, self.diffusion
        net, processes = self._net_for(len(x_0)), self.accelerator.num_processes
        generator = step_generator(config.seed, self.step, self.device)
        x_0, y = augment(x_0, y, config, generator)  # some images flipped, some labels hidden
        t, eps = draw_t_and_eps(x_0, diffusion.alpha_bar, generator, config.t_sampling)
        self.model.train()
        self.optimizer.zero_grad()
        table = torch.zeros(2, 4, device=self.device)  # sums and counts, by quarter of 1..T
        for rows, weight, exchange in self._parts(len(x_0)):  # one part, unless split
            labels = None if self.model.num_classes is None else y[rows]
            with exchange:
                with self.autocast():
                    losses = diffusion.loss(
                        net, x_0[rows], t[rows], eps[rows], labels,
                        min_snr_gamma=config.min_snr_gamma,
                    )  # fmt: skip
                loss = losses.sum() * (weight / len(x_0))  # the part's share of the batch's mean
                (loss * processes).backward()  # DDP averages gradients; multiply to get the sum
            add_by_quarter(table, losses, t[rows], diffusion.T, weight)
        grad_norm = clip_grad_norm_(self.model.parameters(), config.grad_clip)  # norm before it
        mean, quarters = read_table(self.accelerator.reduce(table, "sum"))
        step, epoch = self.step + 1, self.step // self.steps_per_epoch
        lr = learning_rate(step, self.total_steps, config)
        record = StepRecord(step, epoch, mean, lr, quarters=quarters, grad_norm=grad_norm.item())
        self._half_updated = True
        if record.finite:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            update_ema(self.ema_model, self.model, ema_decay_at(step, config.ema_decay))
        self.step = step
        self._half_updated = False
        return record

    def _next_update(self, batches: Iterator[tuple[Tensor, Tensor]]) -> StepRecord:
        """Train on the next batch, and add its record to the history."""
        config, started = self.config, time.perf_counter()
        x_0, y = next(batches)
        advice = (
            f"halve batch_size ({config.batch_size}), or double accumulate ({config.accumulate}), "
            "which trains the same in smaller parts"
        )
        with explain_oom(f"step {self.step + 1}", self.device, advice):
            record = self.train_step(x_0, y)
        self._images += len(x_0)
        self._seconds += time.perf_counter() - started
        record = replace(record, images_per_second=self._images / self._seconds)  # since the start
        self.history.append(record)
        return record

    def _parts(self, batch: int) -> Iterator[tuple[slice, float, AbstractContextManager]]:
        """Yield the parts of a batch that this process computes: rows, row weight, context.

        There are processes × accumulate parts, whose sizes differ by one row at most. Compute
        forward and backward inside the context: only in the last part's, processes exchange
        gradients.
        """
        processes, accumulate = self.accelerator.num_processes, self.config.accumulate
        parts = processes * accumulate
        for k in range(accumulate):
            part = k * processes + self.accelerator.process_index
            rows = slice(part * batch // parts, (part + 1) * batch // parts)
            exchange = nullcontext() if k == accumulate - 1 else self.accelerator.no_sync(self.net)
            if rows.stop > rows.start:
                yield rows, 1.0, exchange
            else:  # DDP waits for every process, so one without a row computes row 0 with weight 0
                yield slice(0, 1), 0.0, exchange

    def _net_for(self, batch: int) -> nn.Module:
        """The compiled or wrapped network; for a smaller last batch the plain one.

        That batch is not worth another compilation, which takes minutes. Several processes always
        need the wrapper, which exchanges gradients.
        """
        full = min(self.config.batch_size, len(self.dataset))
        return self.net if batch == full or self.accelerator.num_processes > 1 else self.model

    def autocast(self) -> AbstractContextManager:
        """A context in which the network computes in bf16, if this training does."""
        if not self.bf16:
            return nullcontext()
        # Without the cache: older torch would use bf16 copies of the weights that were made in
        # no_grad, for sample grids, and these have no gradient.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    # ---------------------------------------------------------------------- saving and resuming

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue training: what a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "ema_model": self.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": [record.to_dict() for record in self.history],
            "config": self.config.to_dict(),
            "data": identify(self.dataset),
            "diffusion": self.diffusion.config,
        }

    def load_state_dict(self, state: dict[str, Any], name: str = "the state") -> None:
        """Continue from what `state_dict` returned; if it does not fit, nothing changes.

        Args:
            state: of the same network, configuration, diffusion and dataset.
            name: of the state's file, for the message.
        Raises:
            ValueError: it belongs to another training; found before anything is loaded.
        """
        checkpoint.check_compatible(name, state, self.state_dict())
        self.model.load_state_dict(state["model"])
        self.ema_model.load_state_dict(state["ema_model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.step = state["step"]
        self.history = [StepRecord.from_dict(saved) for saved in state["history"]]
        self._half_updated = False

    def save(self, path: str | Path | None = None) -> Path:
        """Write a checkpoint to continue from, and the averaged weights to sample from.

        Args:
            path: checkpoint file, with `weights.safetensors` beside it; by default `checkpoint.pt`
                in out_dir, where the previous one is kept under its step's name.
        Returns:
            The checkpoint's path.
        Raises:
            ValueError: neither path nor out_dir was given.
            OSError: the disk is full or not writable; the previous checkpoint is untouched.
            BlockingIOError, FileExistsError: out_dir belongs to another process or run.
            RuntimeError: an error left a half-made update; `resume` first.
        """
        self._refuse_half_an_update()
        if path is not None:
            path = user_path(path)
            if self.is_main:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._save_average(path.with_name(WEIGHTS))
                checkpoint.write(path, self.state_dict())
            return path
        folder = self._run_folder()
        if self.is_main:
            with folder.locked():
                folder.take()
                # Weights first: if the run is killed in between, resuming repeats the updates and
                # writes the weights again. In the other order, they could stay old for ever.
                self._save_average(folder.path / WEIGHTS)
                folder.write_checkpoint(self.state_dict())
        return folder.path / checkpoint.CHECKPOINT

    def resume(self, path: str | Path | None = None) -> Path | None:
        """Continue from a checkpoint: weights, averaged weights, optimiser, step and history.

        Args:
            path: a checkpoint, or a run's folder, whose newest undamaged checkpoint is used. None:
                out_dir. "auto": out_dir, from the beginning if it has no checkpoint.
        Returns:
            The file that it continues from; None when it starts from the beginning.
        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is damaged, or belongs to another network, configuration or dataset.
        """
        place = user_path(self._run_folder().path if path in (None, "auto") else path)  # type: ignore[arg-type]
        try:
            where, state = checkpoint.find(place)
        except FileNotFoundError:
            if path == "auto":
                return None
            raise
        self.load_state_dict(state, where.name)
        if self.folder and where.parent.resolve() == self.folder.path.resolve():
            self.folder.is_ours = True
            self.folder.note_saved(self.step if where.name == checkpoint.CHECKPOINT else None)
        old = TrainConfig(**state["config"])
        line = describe_change(self.step, self.steps_per_epoch, old, self.config)
        if line and self.is_main:
            say(line)
        return where

    def samples(self, n: int = 20, *, steps: int = 50) -> Tensor:
        """Draw n images with the averaged weights, from the same noise and classes every time.

        Returns:
            (n, C, S, S) in [-1, 1], on the CPU.
        """
        y = None
        if self.ema_model.num_classes is not None:
            y = torch.arange(n, device=self.device) % self.ema_model.num_classes
        options: dict[str, Any] = {"sampler": "ddim", "steps": min(steps, self.diffusion.T)}
        options |= self.diffusion.few_step_options
        with self.autocast():
            x = self.diffusion.sample(self.ema_model, n, y=y, seed=self.config.seed, **options)
        return x.float().cpu()

    def _save_average(self, path: Path) -> None:
        """Write the averaged weights, with everything that sampling needs."""
        trained = {
            "data": self.dataset.name,  # never a path: weights travel
            "steps": self.step,
            "classes": list(self.dataset.classes),
        }
        save_weights(path, self.ema_model, self.diffusion, trained)

    def _write_what_is_due(self, record: StepRecord) -> None:
        """Write the record, and whatever else `RunFolder.due` names."""
        if self.folder is None or not self.is_main:
            return
        self.folder.write_record(record)
        due = self.folder.due(self.step, self.steps_per_epoch, self.total_steps)
        epochs_done = self.step // self.steps_per_epoch
        if "kept weights" in due:
            self._save_average(self.folder.path / f"weights_epoch_{epochs_done:04d}.safetensors")
        if "checkpoint" in due:
            self.save()
        if "grid" in due:
            advice = "sample_every=0 trains without sample grids"
            with explain_oom(f"sample grid after step {self.step}", self.device, advice):
                self.grid = make_grid(self.samples())
            self.folder.write_grid(self.grid, epochs_done)
        if "animation" in due:
            self.folder.write_animation()

    def _run_folder(self) -> RunFolder:
        if self.folder is None:
            raise ValueError("this pipeline has no out_dir: give a path to save to or resume from")
        return self.folder
