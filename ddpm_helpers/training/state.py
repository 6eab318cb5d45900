"""The state of a training, and how it is saved and restored."""

from __future__ import annotations

import copy
import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.config_file import data_table
from ddpm_helpers.device import bf16_is_fast, compiled, make_accelerator
from ddpm_helpers.files import write_atomic
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.model.wrapped import unwrapped
from ddpm_helpers.pretrained import save_weights, set_classes
from ddpm_helpers.training import checkpoint, run_folder, sample_grids
from ddpm_helpers.training.build import check_fit
from ddpm_helpers.training.metrics import BadBatches, StepRecord, Throughput
from ddpm_helpers.training.optim import build_optimizer, describe_change, load_optimizer
from ddpm_helpers.training.stopping import StopSignals, explain_oom
from ddpm_helpers.training.training_data import TrainingData, data_name, fingerprint

READ_EVERY = 10  # steps between two readings of a GPU's losses, each of which waits for the GPU


class TrainingState:
    """Network, averaged weights, optimiser, data, history and folder of a training.

    Args, Attributes: see `TrainingPipeline`, which adds the loop.
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
        self.is_main = self.accelerator.is_main_process
        if network.num_classes and tuple(network.classes) not in ((), tuple(dataset.classes)):
            line = set_classes(network, dataset.classes)  # label k then means class k of the data
            if self.is_main:
                print(f"classes of the data and the network differ: {line}")
        self.model = network.to(self.device).to(memory_format=torch.channels_last)
        if not any(weight.requires_grad for weight in self.model.parameters()):
            self.model.requires_grad_(True)  # as `load_pretrained` leaves it, not frozen on purpose
        self.ema_model = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = build_optimizer(self.model, config)
        net = compiled(self.model) if config.compile else self.model
        if getattr(model, "_orig_mod", None) is network:
            net = model  # compiled by the caller, with options of their own
        self.net = self.accelerator.prepare(net)  # several processes will average their gradients
        self.history: list[StepRecord] = []
        self.step = 0
        self.steps_per_epoch = math.ceil(len(dataset) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.grid: Tensor | None = None
        wanted = config.precision
        self.bf16 = wanted == "bf16" or (wanted == "auto" and bf16_is_fast(self.device))
        self.out_dir = None if out_dir is None else Path(out_dir)
        if self.out_dir is not None and self.is_main:
            needed = run_folder.bytes_needed(self.model, config, self.total_steps)
            run_folder.prepare_folder(self.out_dir, needed)
        self._overwrite, self._folder_is_ours = overwrite, False
        self._saved_step, self._save_at = 0, 0.0  # the clock of the next save
        self._torn = False  # whether the weights have taken a step that the averaged ones have not
        self._bad, self._speed = BadBatches(config.max_bad_steps), Throughput()
        self.stopped_by: int | None = None
        self._signals = StopSignals()
        self._read_every = 1 if self.device.type == "cpu" else READ_EVERY
        self._history_writer = run_folder.HistoryWriter(self.out_dir if self.is_main else None)

    def autocast(self) -> AbstractContextManager:
        """A context in which the network computes in bf16, if this training does."""
        if not self.bf16:
            return nullcontext()
        # Older torch would cache weights that are cast in no_grad, and then train none of them.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a training needs to continue: what a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "ema_model": self.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": [record.to_dict() for record in self.history],
            "config": self.config.to_dict(),
            "data": fingerprint(self.dataset),
            "diffusion": self.diffusion.config,
        }

    def load_state_dict(self, state: dict[str, Any], name: str = "the state") -> None:
        """Continue from what `state_dict` returned; if it does not fit, nothing changes.

        Args:
            name: of the state's file, for the message.
        Raises:
            ValueError: it belongs to another network, configuration, diffusion or dataset.
        """
        checkpoint.check_compatible(name, state, self.state_dict())
        self.model.load_state_dict(state["model"])
        self.ema_model.load_state_dict(state["ema_model"])
        load_optimizer(self.optimizer, state["optimizer"])
        # A checkpoint of the first form counted the batches that were left out apart.
        self.step = state["step"] + state.get("skipped", 0)
        self.history = [StepRecord.from_dict(saved) for saved in state["history"]]

    def save(self, path: str | Path | None = None) -> Path:
        """Write a checkpoint to continue from, and the averaged weights to sample from.

        Args:
            path: checkpoint file; by default `checkpoint.pt` in out_dir, where the previous one is
                kept under its step's name. The weights go to `weights.safetensors` beside it.
        Returns:
            The checkpoint's path.
        Raises:
            ValueError: neither path nor out_dir was given.
            OSError: the disk is full or not writable; the previous checkpoint is untouched.
            FileExistsError: out_dir holds another run.
        """
        where = self._folder() / checkpoint.CHECKPOINT if path is None else Path(path)
        if path is None:
            self._take_folder()
        if self.is_main:
            where.parent.mkdir(parents=True, exist_ok=True)
            keep = self.config.keep_checkpoints if path is None else None
            # Weights first: a run that is killed in between repeats its steps, and then these.
            self._save_average(where.with_name("weights.safetensors"))
            checkpoint.write(where, self.state_dict(), keep)
            self._history_writer.flush()
        if path is None:
            self._note_saved()
        return where

    def resume(self, path: str | Path | None = None) -> Path | None:
        """Continue from a checkpoint: weights, averaged weights, optimiser, step and history.

        Args:
            path: a checkpoint, or a run's folder, of which the newest undamaged one is taken; None
                takes that of out_dir, and "auto" does too, but starts from the beginning if there
                is none.
        Returns:
            The file that it continues from; None when it starts from the beginning.
        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is damaged, or belongs to another network, configuration or dataset.
        """
        given = self._folder() if path in (None, "auto") else Path(path)  # type: ignore[arg-type]
        found = checkpoint.newest(given) if given.is_dir() else None
        if found is None and path == "auto":
            return None  # of several processes, one may have yet to make the folder
        if found is None and given.is_dir():
            raise FileNotFoundError(f"no checkpoint in {given}; train first, or say 'auto'")
        where, state = found or (given, checkpoint.unpack(given))
        self.load_state_dict(state, where.name)
        self._note_saved()
        if self.out_dir is not None and where.resolve().parent == self.out_dir.resolve():
            self._folder_is_ours = True
        saved, own = state["config"], self.config
        old = TrainConfig(**{name: saved[name] for name in saved.keys() & own.to_dict()})
        before = old.epochs * self.steps_per_epoch, old
        line = describe_change(self.step, before, (self.total_steps, own))
        if line and self.is_main:
            print(line, file=sys.stderr)
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

    def save_samples(self, path: Path) -> Tensor:
        """Write `samples()` as a PNG, ten images per row; return the grid, (3, H, W) in 0..1."""
        advice = "sample_every=0 trains without sample grids"
        with explain_oom(f"sample grid after step {self.step}", self.device, advice):
            self.grid = sample_grids.make_grid(self.samples())
        sample_grids.save_grid(self.grid, path)
        return self.grid

    def _save_average(self, path: Path) -> None:
        """Write the averaged weights, with everything that sampling needs."""
        trained = {
            "data": data_name(self.dataset),  # never a path: weights travel
            "steps": self.step,
            "classes": list(self.dataset.classes),
        }
        save_weights(path, self.ema_model, self.diffusion, trained)

    @contextmanager
    def _save_on_error(self) -> Iterator[None]:
        """Whatever exception ends the training in here, save the last complete step first."""
        try:
            yield
        except BaseException:
            if not self._torn:
                try:
                    self._save_last_step()
                except Exception as error:  # the first exception matters more: raise that one
                    warnings.warn(f"while saving step {self.step}: {error}", stacklevel=2)
            raise

    @contextmanager
    def _in_one_piece(self) -> Iterator[None]:
        """Changes in here belong together: if only some were made, nothing is saved any more."""
        self._torn = True
        yield
        self._torn = False

    def _save_if_due(self) -> None:
        """Save and draw samples at the end of an epoch, or of the run.

        The first step is saved at once, which proves that saving works, and later ones every
        save_minutes.
        """
        if self.out_dir is None or not self.is_main:
            return
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        last = self.step == self.total_steps

        def due(every: int) -> bool:
            return last or bool(every and inside == 0 and epoch % every == 0)

        late = self.config.save_minutes > 0 and time.monotonic() >= self._save_at
        if self.config.keep_weights and inside == 0 and run_folder.is_rung(epoch):
            self._save_average(self.out_dir / f"weights_epoch_{epoch:04d}.safetensors")
        if late or due(self.config.save_every):
            self.save()
        if self.config.sample_every and due(self.config.sample_every):
            grid = self.save_samples(self.out_dir / f"samples_epoch_{epoch:04d}.png")
            self._history_writer.images(grid, self.step)
        if last:
            sample_grids.save_animation(self.out_dir)

    def _save_last_step(self) -> None:
        """Save if the last step is not on the disk yet."""
        if self.out_dir is not None and self.is_main and self._saved_step != self.step:
            self.save()

    def _start(self) -> None:
        """Take over the folder, and write settings and history as they are now."""
        self.stopped_by = None
        self._take_folder()
        self._history_writer.start(self.history)
        if self.out_dir is not None and self.is_main:
            text = self.config.to_toml() + data_table(getattr(self.dataset, "settings", {}))
            write_atomic(self.out_dir / "config.toml", text.encode())

    def _take_folder(self) -> None:
        """Refuse an out_dir that holds another run, or remove that run if asked to."""
        if self.out_dir is None or self._folder_is_ours:
            return
        if self._overwrite and self.is_main:
            run_folder.remove_run(self.out_dir)
        elif not self._overwrite and self.out_dir.is_dir():  # of each process, before any writes
            run_folder.refuse_another_run(self.out_dir)
        self._folder_is_ours = True

    def _folder(self) -> Path:
        if self.out_dir is None:
            raise ValueError("this pipeline has no out_dir: give a path to save to or resume from")
        return self.out_dir

    def _note_saved(self) -> None:
        """Note that the state is on the disk, and restart the clock of the next save."""
        self._saved_step = self.step
        self._save_at = time.monotonic() + 60 * self.config.save_minutes
