"""The training loop: draw t and eps, predict, step, average, save."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_helpers.config import TrainConfig, best_device
from ddpm_helpers.model import NO_LABEL, DiffusionNet
from ddpm_helpers.training import checkpoint
from ddpm_helpers.training.ema import ema_decay_at, update_ema


@dataclass(frozen=True)
class StepRecord:
    """What one optimiser step reports.

    Attributes:
        step: number of the step, from 1.
        epoch: the epoch that it belongs to, from 0.
        loss: mean squared error of its batch.
        lr: learning rate that it used.
        images_per_second: pictures trained on per second so far; what the caller, saving and
            sampling take is left out.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images_per_second: float


def build_model(config: TrainConfig, num_classes: int) -> DiffusionNet:
    """The network a configuration asks for; its weights depend on config.seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return DiffusionNet(
            config.image_size,
            width=config.width,
            num_classes=num_classes if config.class_conditional else None,
        )


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up to config.lr, then half a cosine down to 0 at the last step.

    Args:
        step: number of the step, from 1 to total.
        total: steps of the whole run.
    Source: Loshchilov & Hutter 2017, eq. 5, one cycle.
    """
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


class TrainingPipeline:
    """Trains a network to undo noise.

    Each step takes a batch x_0, draws t from 1..T and eps ~ N(0, I), and lowers the mean squared
    error between the network's output and its target (eps, x_0 or v). The order of the pictures
    depends on (seed, epoch), every other draw on (seed, step), on nothing else.

    Args:
        model: the network; moved to the fastest device, channels last.
        diffusion: a `DiffusionUtils`, which knows T, the schedule and the target.
        dataset: an `ImageDataset` of the network's image size.
        config: the settings; `epochs, batch_size, lr, …` are read from here.
        out_dir: folder for checkpoints and sample grids; None writes nothing.
    Attributes:
        ema_model: the averaged weights, in eval mode: sample from these.
        history: a `StepRecord` for each step taken.
        step: optimiser steps taken so far.
        total_steps: steps of the whole run.
    Raises:
        ValueError: network, diffusion, data and config do not fit together.
    Source: Ho et al. 2020, algorithm 1.
    """

    def __init__(
        self,
        model: DiffusionNet,
        diffusion: Any,
        dataset: Any,
        config: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
        out_dir: str | Path | None = None,
    ) -> None:
        check_fit(model, diffusion, dataset, config)
        self.config, self.diffusion, self.dataset = config, diffusion, dataset
        self.device = best_device()
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.ema_model = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.out_dir = None if out_dir is None else checkpoint.prepare_folder(out_dir)
        self.history: list[StepRecord] = []
        self.step = 0
        self.steps_per_epoch = math.ceil(len(dataset) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        wanted = config.precision
        self.bf16 = wanted == "bf16" or (wanted == "auto" and bf16_is_fast(self.device))

    def fit(self) -> list[StepRecord]:
        """Train to the end with a progress bar; returns the history."""
        from tqdm.auto import tqdm

        with tqdm(total=self.total_steps, initial=self.step, unit="step") as bar:
            smooth = None
            for record in self.steps():
                smooth = record.loss if smooth is None else 0.98 * smooth + 0.02 * record.loss
                bar.update()
                if record.step % 10 == 0 or record.step == self.total_steps:
                    speed = f"{record.images_per_second:.0f}"
                    bar.set_postfix({"loss": f"{smooth:.4f}", "images/s": speed})
        return self.history

    def steps(self) -> Iterator[StepRecord]:
        """Train step by step; the caller owns the loop and may leave it at any time.

        Yields:
            A `StepRecord` after each optimiser step. Calling `steps()` again goes on from there.
        """
        seconds, seen = 0.0, 0
        while self.step < self.total_steps:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            batches = self.dataset.batches(
                self.config.batch_size, seed=self.config.seed, epoch=epoch, device=self.device
            )
            started = time.perf_counter()
            for x_0, y in islice(batches, done, None):
                loss, lr = self._train_step(x_0, y)
                seen, seconds = seen + len(x_0), seconds + time.perf_counter() - started
                self.history.append(StepRecord(self.step, epoch, loss, lr, seen / seconds))
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch(epoch + 1)
                yield self.history[-1]
                started = time.perf_counter()

    def _train_step(self, x_0: Tensor, y: Tensor) -> tuple[float, float]:
        """One optimiser step on one batch: returns its loss and learning rate."""
        generator = step_generator(self.config.seed, self.step, self.device)
        x_0, labels = self._augment(x_0, y, generator)
        t, eps = self.draw_noise(x_0, generator)
        self.model.train()
        with self._autocast():
            loss = self.diffusion.loss(self.model, x_0, t, eps, labels).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        if not torch.isfinite(norm):
            self.optimizer.zero_grad()
            raise FloatingPointError(
                f"step {self.step + 1}: the gradient is {norm.item()}; weights are as before. "
                f"Try a lower lr than {self.config.lr} or precision='fp32'"
            )
        lr = learning_rate(self.step + 1, self.total_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        update_ema(self.ema_model, self.model, ema_decay_at(self.step, self.config.ema_decay))
        return loss.item(), lr

    def draw_noise(self, x_0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """t uniform in 1..T, (B,), and eps ~ N(0, I) of x_0's shape."""
        t = torch.randint(
            1, self.diffusion.T + 1, (len(x_0),), generator=generator, device=self.device
        )
        eps = torch.randn(x_0.shape, generator=generator, device=self.device)
        return t, eps

    def _augment(
        self, x_0: Tensor, y: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Mirror half of the pictures, hide some of the labels."""
        flip, hide = torch.rand(2, len(x_0), generator=generator, device=self.device)
        if self.config.flip:
            x_0 = torch.where((flip < 0.5)[:, None, None, None], x_0.flip(-1), x_0)
        x_0 = x_0.contiguous(memory_format=torch.channels_last)
        if self.model.num_classes is None:
            return x_0, None
        return x_0, torch.where(hide < self.config.label_dropout, NO_LABEL, y)

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def _end_epoch(self, epoch: int) -> None:
        """Save and draw samples, where there is a folder and the epoch is one to do so."""
        if self.out_dir is None:
            return
        last = self.step == self.total_steps
        every = self.config.save_every
        if last or (every and epoch % every == 0):
            self.save()
        every = self.config.sample_every
        if every and (last or epoch % every == 0):
            self.save_samples(self.out_dir / f"samples_epoch_{epoch:04d}.png")

    def samples(self, n: int = 20, *, steps: int = 50) -> Tensor:
        """n pictures from the averaged weights, always from the same noise and classes.

        Returns:
            (n, C, S, S) in [-1, 1], on the CPU.
        """
        y = None
        if self.ema_model.num_classes is not None:
            y = torch.arange(n, device=self.device) % self.ema_model.num_classes
        steps = min(steps, self.diffusion.T)
        with self._autocast():
            x = self.diffusion.sample(
                self.ema_model, n, sampler="ddim", steps=steps, y=y, seed=self.config.seed
            )
        return x.float().cpu()

    def save_samples(self, path: Path) -> None:
        """Write `samples()` as a PNG, ten pictures a row."""
        from torchvision.utils import save_image

        save_image(self.samples(), path, nrow=10, normalize=True, value_range=(-1, 1), padding=1)

    def save(self, path: str | Path | None = None) -> Path:
        """Write a checkpoint to go on from, and the averaged weights to sample from.

        Args:
            path: checkpoint file; by default `checkpoint.pt` in out_dir. The weights lie beside
                it as `weights.safetensors`.
        Returns:
            The checkpoint's path.
        Raises:
            ValueError: neither path nor out_dir was given.
        """
        return checkpoint.save(self, self._path(path))

    def resume(self, path: str | Path | None = None) -> None:
        """Go on from a checkpoint: weights, average, optimiser, step and history.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it belongs to another network or another configuration.
        """
        state = checkpoint.load(self, self._path(path))
        self.step = state["step"]
        self.history = [StepRecord(**record) for record in state["history"]]

    def _path(self, path: str | Path | None) -> Path:
        if path is not None:
            return Path(path)
        if self.out_dir is None:
            raise ValueError("this pipeline has no out_dir: give a path to save to or resume from")
        return self.out_dir / "checkpoint.pt"


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """A generator for one step: the same for the same (seed, step), whatever ran before."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))


def check_fit(model: DiffusionNet, diffusion: Any, dataset: Any, config: TrainConfig) -> None:
    """Refuse parts that do not belong together, before anything is trained."""
    size = config.image_size
    if model.image_shape[1] != size:
        raise ValueError(f"config.image_size is {size}, the network's is {model.image_shape[1]}")
    if tuple(dataset.images.shape[1:]) != model.image_shape:
        raise ValueError(
            f"the network takes pictures of {model.image_shape}, "
            f"the dataset holds {tuple(dataset.images.shape[1:])}"
        )
    if diffusion.T != config.timesteps:
        raise ValueError(f"config.timesteps is {config.timesteps}, the diffusion's T {diffusion.T}")
    if diffusion.prediction != config.prediction:
        raise ValueError(
            f"config.prediction is {config.prediction!r}, the diffusion's {diffusion.prediction!r}"
        )
    if model.num_classes is not None and model.num_classes < len(dataset.classes):
        raise ValueError(
            f"the network knows {model.num_classes} classes, the dataset has {len(dataset.classes)}"
        )
