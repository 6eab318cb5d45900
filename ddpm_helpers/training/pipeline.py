"""The training loop.

- `train_step` makes one update: add noise, compute the loss and its gradient, change the weights
  and their average.
- `steps` repeats it, and writes checkpoints and sample grids when they are due.
- Ctrl-C and SIGTERM take effect once the update is complete and saved. An error saves the last
  complete update first. `_protected` has the details.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
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
from ddpm_helpers.training.metrics import StepRecord, add_by_quarter, check_finite, mean_losses
from ddpm_helpers.training.optim import build_optimizer, learning_rate, load_optimizer
from ddpm_helpers.training.progress import Progress, say
from ddpm_helpers.training.run_folder import WEIGHTS, RunFolder
from ddpm_helpers.training.sample_grids import draw_samples, make_grid
from ddpm_helpers.training.stopping import HeldSignals, explain_oom
from ddpm_helpers.training.training_data import TrainingData, batches_from, identify, parts_of


class TrainingPipeline:
    """Trains a network to remove noise.

    The order of the images depends only on (seed, epoch), every other draw only on (seed, step).
    So a run that is stopped and resumed ends with the same weights as one that was never stopped.
    Under `torchrun`, the processes split each batch and the first process writes the files. The
    result is that of one process, apart from rounding.

    Args:
        model: the network, new or with trained weights; moved to the fastest device. If its classes
            differ from the dataset's, classes with the same name keep their row of the label
            embedding, as in `fine_tune_model`.
        diffusion: a `DiffusionUtils`, which knows T, the schedule and the target.
        dataset: an `ImageDataset` of the network's image size, or any other `TrainingData`.
        config: the settings, such as epochs, batch_size and lr.
        out_dir: the run's folder, see `RunFolder`. If it already holds a run, call `resume` before
            you train, or training is refused. None: nothing is written, and no grids are drawn.
        overwrite: remove the run that out_dir holds when training starts.
    Attributes:
        model, ema_model: the network, and a copy with averaged weights, for sampling.
        optimizer: AdamW or Muon.
        history: a `StepRecord` for each update of `steps`.
        step: number of updates made so far, skipped batches included.
        total_steps, steps_per_epoch: number of updates in the whole run, and in an epoch.
        folder: the `RunFolder` of out_dir, or None.
        grid: the latest sample grid, (3, H, W) in 0..1; None before the first.
        is_main: whether this process is the one that writes files.
    Raises:
        ValueError: network, diffusion, data and config do not fit together.
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
        self.net = self.accelerator.prepare(compiled(network) if config.compile else network)
        fast = config.precision == "auto" and bf16_is_fast(self.device)
        self.bf16 = config.precision == "bf16" or fast
        self.history: list[StepRecord] = []
        self.step = 0
        self.steps_per_epoch = math.ceil(len(dataset) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.grid: Tensor | None = None
        self.folder: RunFolder | None = None
        if out_dir is not None:
            self.folder = RunFolder(out_dir, config, overwrite=overwrite)
            if self.is_main:
                prepare_folder(self.folder.path)
        self._signals = HeldSignals(quiet=not self.is_main)
        self._half_updated = False  # True while the weights, their average and the step change
        self._images, self._seconds = 0, 0.0

    # ------------------------------------------------------------------------------ the loop

    def fit(
        self, *, watch: Callable[[TrainingPipeline, StepRecord], object] | None = None
    ) -> list[StepRecord]:
        """Train to the end with a progress bar.

        Args:
            watch: called as `watch(pipeline, record)` after every update.
        Returns:
            The history.
        Raises:
            KeyboardInterrupt: on Ctrl-C, after saving. Call `fit` again to continue.
            BlockingIOError: another process is training in out_dir.
            FileExistsError: out_dir holds a run that you neither resume nor overwrite, or another
                training has saved there since this one last did.
            FloatingPointError: loss or gradient was not finite in five batches in a row.
            torch.OutOfMemoryError: the message says which setting to change.
            RuntimeError: an earlier update was interrupted half way; call `resume` first.
            ValueError: the dataset yields something other than `TrainingData` describes.
        """
        progress = Progress(self.step, self.total_steps, quiet=not self.is_main)
        with progress, self._protected():  # protects `watch` too
            for record in self.steps():
                progress.show(record)
                if watch is not None:
                    watch(self, record)
        return self.history

    def steps(self) -> Iterator[StepRecord]:
        """Train, and yield the record of each update once it is made.

        Call `steps()` again to continue after you left the loop. Leaving it does not save, and
        neither does an error or Ctrl-C in its body: call `save` there. If a signal arrives during
        an update, that update is saved and its record added to `history`, but not yielded.

        Raises: as `fit`.
        """
        self._refuse_half_an_update()
        with self.folder.in_use() if self.folder and self.is_main else nullcontext():
            prepared = -1  # the step that the next batch belongs to
            while self.step < self.total_steps:
                with self._protected():
                    if self.step != prepared:  # at the start, or the loop's body called `resume`
                        batches = batches_from(self.dataset, self.config, self.step, self.device)
                    record = self._next_update(batches)
                    prepared = self.step
                    self._write_what_is_due()
                    check_finite(self.history)
                    if self._signals.arrived(self.accelerator):
                        self._save_last_update()
                        self._say_stopped()
                        return  # at the end of the outermost block, the signal takes effect
                yield record

    @contextmanager
    def _protected(self) -> Iterator[None]:
        """Within this block, delay signals until the update is saved; save before an error leaves.

        - Ctrl-C, SIGTERM, SIGHUP (a closed terminal): `steps` finishes the update, saves it and
          ends, in every process of the run. At the end of the outermost block the signal has its
          usual effect: Ctrl-C raises KeyboardInterrupt, the others end the process.
        - A second Ctrl-C, more than a second later, raises KeyboardInterrupt at once. It is treated
          like any other error.
        - An error: the outermost block saves the last complete update, if it is not saved yet, and
          raises the error again. If the error came while the optimiser or the average was changing
          weights, nothing is saved, and `steps` and `save` raise until you call `resume`.

        Only the main process saves, and only if there is an out_dir.
        """
        with self._signals.hold() as outermost:
            try:
                yield
            except BaseException:
                if outermost and not self._half_updated:
                    try:
                        self._save_last_update()
                    except Exception as error:  # raise the first error, not this one
                        warnings.warn(f"step {self.step} could not be saved: {error}", stacklevel=3)
                raise

    def _save_last_update(self) -> None:
        """Save, unless the step is 0 or saved already, or the folder holds another run."""
        if self.folder and self.folder.is_ours and self.is_main:
            if self.step not in (0, self.folder.saved_step):
                self.save()

    def _say_stopped(self) -> None:
        if self.is_main:
            saved = "; saved, --resume or resume() continues" if self.folder else ""
            say(f"stopped after step {self.step} of {self.total_steps}{saved}")

    def _refuse_half_an_update(self) -> None:
        if self._half_updated:
            raise RuntimeError(
                f"update {self.step + 1} was interrupted half way: call resume() to continue from "
                "a checkpoint, or make a new pipeline"
            )

    @torch.enable_grad()
    def train_step(self, x_0: Tensor, y: Tensor) -> StepRecord:
        """Make one update: Ho et al. 2020, algorithm 1, on one batch.

        Args:
            x_0: clean images, (B, C, S, S) in [-1, 1], the same in every process.
            y: labels, (B,) int64.
        Returns:
            The update's record. If the loss or the gradient is not finite, no weight changes.
        """
        config, diffusion, processes = self.config, self.diffusion, self.accelerator.num_processes
        smaller = len(x_0) < min(config.batch_size, len(self.dataset))  # the last of an epoch
        net = self.model if smaller and processes == 1 else self.net  # compile for one size only
        generator = step_generator(config.seed, self.step, self.device)
        x_0, y = augment(x_0, y, config, generator)  # some images flipped, some labels hidden
        t, eps = draw_t_and_eps(x_0, diffusion.alpha_bar, generator, config.t_sampling)
        self.model.train()
        self.optimizer.zero_grad()
        table = torch.zeros(2, 4, device=self.device)  # sums and counts, by quarter of 1..T
        parts = parts_of(len(x_0), config.accumulate, processes, self.accelerator.process_index)
        for k, (rows, weight) in enumerate(parts, start=1):  # one part, unless split
            last = k == config.accumulate  # only then processes exchange gradients
            labels = None if self.model.num_classes is None else y[rows]
            with nullcontext() if last else self.accelerator.no_sync(net):
                with self.autocast():
                    losses = diffusion.loss(
                        net, x_0[rows], t[rows], eps[rows], labels,
                        min_snr_gamma=config.min_snr_gamma,
                    )  # fmt: skip
                loss = losses.sum() * (weight / len(x_0))  # the part's share of the batch's mean
                (loss * processes).backward()  # DDP averages gradients; multiply to get the sum
            add_by_quarter(table, losses, t[rows], diffusion.T, weight)
        grad_norm = clip_grad_norm_(self.model.parameters(), config.grad_clip)  # before clipping
        mean, quarters = mean_losses(self.accelerator.reduce(table, "sum"))
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

    def autocast(self) -> AbstractContextManager:
        """A context in which the network computes in bf16, if this training does."""
        if not self.bf16:
            return nullcontext()
        # Without the cache: older torch would use bf16 copies of the weights that were made in
        # no_grad, for sample grids, and these have no gradient.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    # ---------------------------------------------------------------------- saving and resuming

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs; the tensors are not copied."""
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
        """Continue from what `state_dict` returned.

        Args:
            state: of a training with the same network, diffusion and dataset. Settings that do not
                define the training, such as lr and epochs, may differ.
            name: name of the state's file, for the error message.
        Raises:
            ValueError: the state belongs to another training. Nothing is changed.
        """
        checkpoint.check_compatible(name, state, self.state_dict())
        self.model.load_state_dict(state["model"])
        self.ema_model.load_state_dict(state["ema_model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.step = state["step"]
        self.history = [StepRecord.from_dict(saved) for saved in state["history"]]
        self._half_updated = False

    def save(self) -> Path:
        """Write into out_dir a checkpoint to continue from, and the weights to sample from.

        The previous checkpoint is kept beside it.

        Returns:
            The checkpoint's path.
        Raises:
            ValueError: no out_dir was given.
            OSError: the disk is full or not writable; the previous checkpoint is untouched.
            BlockingIOError, FileExistsError, RuntimeError: as `fit`.
        """
        self._refuse_half_an_update()
        folder = self._run_folder()
        if self.is_main:
            with folder.in_use():
                # The checkpoint comes last. If the process is killed before it is written, the
                # resumed run repeats the updates, and writes the other files again.
                folder.write_settings(self.dataset)
                folder.write_history(self.history)
                self._save_average(folder.path / WEIGHTS)
                folder.write_checkpoint(self.state_dict())
        return folder.path / checkpoint.CHECKPOINT

    def resume(self, path: str | Path | None = None) -> Path | None:
        """Load a checkpoint: weights, averaged weights, optimiser, step and history.

        One line on stderr names the settings that differ from the checkpoint's.

        Args:
            path: a checkpoint, or a run's folder, whose newest undamaged checkpoint is loaded.
                None: out_dir. "auto": out_dir, but nothing is loaded if it has no checkpoint.
        Returns:
            The file that was loaded, or None.
        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is damaged, or belongs to another training.
        """
        place = user_path(self._run_folder().path if path in (None, "auto") else path)  # type: ignore[arg-type]
        try:
            where, state = checkpoint.find(place)
        except FileNotFoundError:
            if path == "auto":
                return None
            raise
        self.load_state_dict(state, where.name)
        changed = checkpoint.changed_settings(state["config"], self.config.to_dict())
        if changed and self.is_main:
            say(f"settings that changed since {where.name}: {changed}")
        if self.folder and where.parent.resolve() == self.folder.path.resolve():
            self.folder.note_saved(self.step if where.name == checkpoint.CHECKPOINT else None)
        return where

    def samples(self, n: int = 20, *, steps: int = 50) -> Tensor:
        """Draw n images with the averaged weights, always from the same noise.

        Args:
            steps: number of DDIM steps; distilled weights take the few they are made for.
        Returns:
            (n, C, S, S) in [-1, 1], on the CPU.
        """
        with self.autocast():
            return draw_samples(self.ema_model, self.diffusion, n, steps, self.config.seed)

    def _save_average(self, path: Path) -> None:
        """Write the averaged weights, with everything that sampling needs."""
        # The name of the data, never its path: weights are given to other people.
        trained = {"data": self.dataset.name, "steps": self.step}
        trained["classes"] = list(self.dataset.classes)
        save_weights(path, self.ema_model, self.diffusion, trained)

    def _write_what_is_due(self) -> None:
        """Write the weights, the checkpoint and the sample grid that `RunFolder.due` names."""
        if self.folder is None or not self.is_main:
            return
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

    def _run_folder(self) -> RunFolder:
        if self.folder is None:
            raise ValueError("this pipeline has no out_dir: give a path to save to or resume from")
        return self.folder
