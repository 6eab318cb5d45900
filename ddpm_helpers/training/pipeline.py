"""The training loop, in three layers: `fit` uses `steps`, and `steps` uses `train_step`."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.device import bf16_is_fast, compiled, make_accelerator
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.files import user_path
from ddpm_helpers.model import Network
from ddpm_helpers.pretrained import save_weights
from ddpm_helpers.training import checkpoint
from ddpm_helpers.training.build import check_fit
from ddpm_helpers.training.draws import augment, draw_t_and_eps, step_generator
from ddpm_helpers.training.ema import ema_decay_at, update_ema
from ddpm_helpers.training.metrics import StepRecord, check_finite
from ddpm_helpers.training.optim import build_optimizer, learning_rate, load_optimizer
from ddpm_helpers.training.progress import say, show_progress
from ddpm_helpers.training.run_folder import WEIGHTS, RunFolder, in_1_2_5_series
from ddpm_helpers.training.sample_grids import make_grid
from ddpm_helpers.training.stopping import held_signals
from ddpm_helpers.training.training_data import TrainingData, batches_from, identify, parts_of

MINUTES = 10.0  # save this long after the previous checkpoint, even within an epoch


class TrainingPipeline:
    """Trains a network to remove noise.

    The order of the images depends only on (seed, epoch), all other random numbers only on
    (seed, step) and the kind of device. So on a CPU, a run that is stopped and resumed ends with
    the weights of an uninterrupted run; on a GPU, they differ by rounding. Under `torchrun`, the
    processes split each batch, and the first process writes the files.

    Args:
        model: the network, new or from `fine_tune_model`; moved to the fastest device.
        diffusion: a `DiffusionUtils`, which knows T, the schedule and the target.
        dataset: an `ImageDataset` of the network's image size, or any other `TrainingData`.
        config: the settings, such as epochs, batch_size and lr.
        out_dir: the run's folder, see `RunFolder`. If it already holds a run, call `resume` before
            you train. None: nothing is written, and no grids are drawn.
        overwrite: when training starts, delete the run that is in out_dir.
    Attributes:
        model, ema_model: the network, and a copy with averaged weights, for sampling.
        optimizer: AdamW or Muon.
        history: a `StepRecord` for each update.
        step: number of updates made so far, skipped batches included.
        total_steps, steps_per_epoch: number of updates in the whole run, and in an epoch.
        grid: the latest sample grid, (3, H, W) in 0..1; None before the first.
        is_main: whether this process is the first one, which writes files.
        folder: the `RunFolder` of out_dir; None without out_dir and in all other processes.
    Raises:
        ValueError: model, diffusion, dataset and config do not match.
        OSError: out_dir is not writable.
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
        check_fit(model, diffusion, dataset, config)
        self.config, self.diffusion, self.dataset = config, diffusion, dataset
        self.accelerator = make_accelerator()
        self.device, self.is_main = self.accelerator.device, self.accelerator.is_main_process
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.ema_model = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = build_optimizer(model, config)
        # `net` has the weights of `model`, compiled if config.compile; DDP if several processes.
        self.net = self.accelerator.prepare(compiled(model) if config.compile else model)
        fast = config.precision == "auto" and bf16_is_fast(self.device)
        self.bf16 = config.precision == "bf16" or fast
        self.history: list[StepRecord] = []
        self.step = 0
        self.steps_per_epoch = math.ceil(len(dataset) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.grid: Tensor | None = None
        self.out_dir = None if out_dir is None else user_path(out_dir)
        self.folder: RunFolder | None = None
        if self.out_dir is not None and self.is_main:
            self.folder = RunFolder(self.out_dir, overwrite=overwrite)
        self._half_updated = False  # True while an update or a resume changes the state

    # ------------------------------------------------------------------------------ the loop

    def fit(
        self, *, watch: Callable[[TrainingPipeline, StepRecord], object] | None = None
    ) -> list[StepRecord]:
        """Train to the end with a progress bar.

        On Ctrl-C, SIGTERM or SIGHUP (a closed terminal), all processes of the run finish the
        update, save it and stop. A second Ctrl-C, more than a second later, stops at once. After
        an error, the last update is saved, and then the error is raised. An error in the middle of
        a change of the weights saves nothing: `resume` from the newest checkpoint.

        Args:
            watch: called as `watch(pipeline, record)` after every update.
        Returns:
            The history.
        Raises:
            KeyboardInterrupt: on Ctrl-C, after saving. Call `fit` again to continue.
            BlockingIOError: another process is training in out_dir.
            FileExistsError: out_dir holds a run that you neither resume nor overwrite, or another
                training has saved there since this one last did.
            FloatingPointError: the loss or the gradient was not finite in five batches in a row.
            OSError: a file cannot be written. The checkpoint on disk is kept.
            RuntimeError: an update or a resume was interrupted half way; call `resume` first.
        """
        quiet = not self.is_main
        with held_signals(self.accelerator) as signal_arrived:  # until the run is saved
            try:
                for record in show_progress(self.steps(), self.step, self.total_steps, quiet=quiet):
                    if watch is not None:
                        watch(self, record)
                    if signal_arrived():
                        break
            finally:
                self._save_last_update()
        return self.history

    def steps(self) -> Iterator[StepRecord]:
        """Train, and yield a record after each update, for a loop of your own.

        Checkpoints and sample grids are written when they are due. If you leave the loop, or an
        error or Ctrl-C ends it, nothing is saved: call `save`. To continue, call `steps` again.

        Raises: the same errors as `fit`.
        """
        self._refuse_half_an_update()
        with self.folder.in_use() if self.folder else nullcontext():
            prepared = -1  # the step whose batch `batches` yields next
            while self.step < self.total_steps:
                if self.step != prepared:  # at the start, or the loop's body called `resume`
                    batches = batches_from(self.dataset, self.config, self.step, self.device)
                started = time.perf_counter()
                x_0, y = next(batches)
                record = self.train_step(x_0, y)
                speed = len(x_0) / (time.perf_counter() - started)
                record = replace(record, images_per_second=speed)
                prepared = self.step
                self.history.append(record)
                self._write_what_is_due()
                check_finite(self.history)
                yield record

    @torch.enable_grad()
    def train_step(self, x_0: Tensor, y: Tensor) -> StepRecord:
        """Make one update with a batch: add noise, compute the loss, change the weights.

        If the loss or the gradient is not finite, no weight changes. The batch still counts.

        Args:
            x_0: clean images, (B, C, S, S) in [-1, 1], the same in every process.
            y: labels, (B,) int64.
        Returns:
            The update's record.
        Source: Ho et al. 2020, algorithm 1.
        """
        config, diffusion, processes = self.config, self.diffusion, self.accelerator.num_processes
        generator = step_generator(config.seed, self.step, self.device)
        x_0, y = augment(x_0, y, config, generator)  # some images flipped, some labels hidden
        t, eps = draw_t_and_eps(x_0, diffusion.alpha_bar, generator, config.t_sampling)
        self.model.train()
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        parts = parts_of(len(x_0), config.accumulate, processes, self.accelerator.process_index)
        for k, (rows, weight) in enumerate(parts, start=1):  # weight: 0 for an empty part, else 1
            last = k == config.accumulate  # DDP exchanges gradients only in the last part
            labels = None if self.model.num_classes is None else y[rows]
            with nullcontext() if last else self.accelerator.no_sync(self.net):
                with self.autocast():
                    losses = diffusion.loss(
                        self.net, x_0[rows], t[rows], eps[rows], labels,
                        min_snr_gamma=config.min_snr_gamma,
                    )  # fmt: skip
                loss = losses.sum() * (weight / len(x_0))  # the part's share of the batch's mean
                (loss * processes).backward()  # DDP averages gradients; multiply to get the sum
            total += loss.detach()
        mean = self.accelerator.reduce(total, "sum").item()
        grad_norm = clip_grad_norm_(self.model.parameters(), config.grad_clip)  # before clipping
        step, epoch = self.step + 1, self.step // self.steps_per_epoch
        lr = learning_rate(step, self.total_steps, config)
        record = StepRecord(step, epoch, mean, lr, grad_norm=grad_norm.item())
        self._half_updated = True
        if record.finite:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            update_ema(self.ema_model, self.model, ema_decay_at(step, config.ema_decay))
        self.step = step
        self._half_updated = False
        return record

    def autocast(self) -> torch.autocast:
        """Return the autocast context of this run: bfloat16 if `self.bf16`, otherwise disabled."""
        # No cache: sampling under no_grad caches bf16 weights without gradients, and older versions
        # of torch would reuse them in the next update.
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    # ---------------------------------------------------------------------- saving and resuming

    def _write_what_is_due(self) -> None:
        """Write what is due after an update.

        A checkpoint is due after the first update (to test early that saving works), every
        `save_every` epochs, ten minutes after the previous checkpoint, and after the last update.
        A sample grid is due every `sample_every` epochs and after the last update, none if
        `sample_every` is 0. With `keep_weights`, the weights of epochs 1, 2, 5, 10, … are kept too.
        """
        if self.folder is None:
            return
        config, (epochs, rest) = self.config, divmod(self.step, self.steps_per_epoch)

        def every(n: int) -> bool:  # every n epochs, and after the last update
            return self.step == self.total_steps or (rest == 0 and n > 0 and epochs % n == 0)

        if config.keep_weights and rest == 0 and in_1_2_5_series(epochs):
            self._save_weights(self.folder.path / f"weights_epoch_{epochs:04d}.safetensors")
        # Before the first checkpoint, saved_at is -inf.
        if every(config.save_every) or time.monotonic() - self.folder.saved_at >= 60 * MINUTES:
            self.save()
        if config.sample_every > 0 and every(config.sample_every):
            self.grid = make_grid(self.samples())
            self.folder.write_grid(self.grid, epochs)

    def _save_last_update(self) -> None:
        """Save the last update, unless it is incomplete, saved, or the folder holds another run."""
        if self.folder and self.folder.is_ours and not self._half_updated:
            if self.step not in (0, self.folder.saved_step):
                self.save()

    def save(self) -> None:
        """Write checkpoint, averaged weights, settings and history, if this is the first process.

        Raises:
            ValueError: no out_dir was given.
            OSError: a file cannot be written. The checkpoint on disk is untouched.
            BlockingIOError, FileExistsError, RuntimeError: as `fit`.
        """
        self._refuse_half_an_update()
        if self.out_dir is None:
            raise ValueError("no out_dir to save to")
        if self.folder is not None:
            with self.folder.in_use():
                # The checkpoint comes last: if the process is killed before it is written, the
                # resumed run repeats the updates and replaces the other files.
                self.folder.write_settings(self.config, self.dataset)
                self.folder.write_history(self.history)
                self._save_weights(self.folder.path / WEIGHTS)
                self.folder.write_checkpoint(self.state_dict())

    def _save_weights(self, path: Path) -> None:
        """Write the averaged weights, with everything that sampling needs."""
        classes = [str(name) for name in self.dataset.classes]
        # The data's name, not its path, because weights are given to other people.
        trained = {"data": self.dataset.name, "steps": self.step, "classes": classes}
        save_weights(path, self.ema_model, self.diffusion, trained)

    def _refuse_half_an_update(self) -> None:
        if self._half_updated:
            raise RuntimeError(
                "an update or a resume was interrupted half way: call resume() to continue from a "
                "checkpoint, or make a new pipeline"
            )

    def resume(self, path: str | Path | None = None) -> Path | None:
        """Load a checkpoint: weights, averaged weights, optimiser, step and history.

        Settings that differ from those of the checkpoint are printed on stderr, in one line.

        Args:
            path: a checkpoint, or the folder of a run, of which the newest undamaged checkpoint is
                loaded. None means out_dir. "auto" does too, but does nothing without a checkpoint.
        Returns:
            The file that was loaded, or None.
        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is damaged or belongs to another training, or there is no out_dir.
        """
        place = self.out_dir if path is None or path == "auto" else user_path(path)
        if place is None:
            raise ValueError("no out_dir to resume from: give a path")
        try:
            where, state = checkpoint.find(place)
        except FileNotFoundError:
            if path == "auto":
                return None
            raise
        self.load_state_dict(state)
        changed = checkpoint.changed_settings(state["config"], self.config.to_dict())
        if changed and self.is_main:
            say(f"settings that changed since {where.name}: {changed}")
        if self.folder and where.parent.samefile(self.folder.path):
            self.folder.note_saved(self.step)
        return where

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs; the tensors are not copied."""
        return {
            "form": checkpoint.FORM,
            "model": self.model.state_dict(),
            "ema_model": self.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": [asdict(record) for record in self.history],
            "config": self.config.to_dict(),
            "data": identify(self.dataset),
            "diffusion": self.diffusion.config,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Args:
            state: that of a training with the same model, diffusion and dataset. Settings that do
                not define the training, such as lr and epochs, may differ.
        Raises:
            ValueError: the state belongs to another training. Nothing is changed.
        """
        checkpoint.check_compatible(state, self.state_dict())
        self._half_updated = True  # until everything is loaded
        self.model.load_state_dict(state["model"])
        self.ema_model.load_state_dict(state["ema_model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.step = state["step"]
        self.history = [StepRecord(**saved) for saved in state["history"]]
        self._half_updated = False

    def samples(self, n: int = 20, *, steps: int = 50) -> Tensor:
        """Draw n images with the averaged weights: classes in turn, the same noise in every call.

        Args:
            steps: number of DDIM steps; distilled weights use the steps they were distilled for.
        Returns:
            (n, C, S, S) in [-1, 1], on the CPU.
        """
        classes, diffusion = self.ema_model.num_classes, self.diffusion
        y = None if classes is None else torch.arange(n) % classes
        options: dict[str, Any] = {"sampler": "ddim", "steps": min(steps, diffusion.T)}
        options |= diffusion.few_step_options
        with self.autocast():
            x = diffusion.sample(self.ema_model, n, y=y, seed=self.config.seed, **options)
        return x.float().cpu()
