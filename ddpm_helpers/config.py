"""Every setting of the project, with its type, its default and the reason for it.

`TrainConfig` holds the settings of a training run. `settings()` reads the three environment
variables DDPM_PRESET, DDPM_DATA and DDPM_CACHE; the project reads no others.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers import checks
from ddpm_helpers.config_file import read_table
from ddpm_helpers.device import best_device
from ddpm_helpers.files import user_path

NETWORKS = ("unet", "transformer")
OPTIMIZERS = ("adamw", "muon")
T_SAMPLINGS = ("uniform", "stratified", "logit_normal", "log_normal")
CHOICES = {
    "precision": ("auto", "fp32", "bf16"),
    "lr_schedule": ("cosine", "wsd"),
    "network": NETWORKS,
    "optimizer": OPTIMIZERS,
    "t_sampling": T_SAMPLINGS,
}
CHANNELS = (1, 3)
SOURCES = ("cartoons", "cifar10", "mnist", "fashion_mnist", "auto")  # other names are folders
# Defaults that depend on the source: MNIST is greyscale, and a mirrored digit is not a digit.
OF_SOURCE: dict[str, dict[str, Any]] = {
    "mnist": {"channels": 1, "flip": False},
    "fashion_mnist": {"channels": 1},
}
# Defaults that depend on the network: a width of 32 would be too narrow for a token.
OF_NETWORK: dict[str, dict[str, Any]] = {"transformer": {"width": 128}}
COUNTS = {  # integers without a maximum: their minimum
    "image_size": 1, "timesteps": 1, "epochs": 1, "batch_size": 1, "width": 1, "accumulate": 1,
    "stem_stride": 1, "limit": 1, "patch": 1, "depth": 1, "heads": 1,
    "warmup_steps": 0, "sample_every": 0, "save_every": 0,
}  # fmt: skip
LARGEST_SEED = 2**63 - 1  # torch's generators accept no larger one


def _setting(default: Any, reason: str) -> Any:
    return field(default=default, metadata={"help": reason})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; the defaults are the classic configuration.

    Every field is an option of `ddpm train`; `metadata["help"]` is its reason. NumPy scalars and
    tensors without dimensions become plain Python values.

    Raises:
        ValueError: a value has the wrong type, is out of range or is an unknown choice.
    """

    image_size: int = _setting(64, "side in pixels, a multiple of 8 * stem_stride, or of patch")
    timesteps: int = _setting(500, "T: half of DDPM's 1000 steps, so sampling takes half as long")
    schedule: str = _setting("cosine", "noise schedule; shifted_cosine is for 64×64")
    prediction: str = _setting("eps", "what the network predicts: eps, x_0, v or flow")
    epochs: int = _setting(20, "passes over the training images")
    batch_size: int = _setting(10, "images per update; 10 fits every graphics card")
    lr: float = _setting(1e-4, "peak learning rate")
    seed: int = _setting(0, "random seed for initial weights, image order, noise and timesteps")
    rescale_zero_snr: bool = _setting(False, "leave no signal at t = T; not with eps")
    t_sampling: str = _setting(
        "uniform", "draws of t: uniform, stratified, logit_normal (flow) or log_normal (less grain)"
    )
    channels: int = _setting(3, "image and network channels: 3 for colour, 1 for greyscale")
    network: str = _setting("unet", "unet, or transformer: attention between image patches")
    width: int = _setting(64, "channels of the first stage (64 as in ResNet-18) or of each token")
    stem_stride: int = _setting(2, "downsampling of the stem, 2 or 4; 4 costs about a quarter")
    patch: int = _setting(4, "transformer patch side in pixels; halving it costs 4 times as much")
    depth: int = _setting(6, "number of transformer blocks")
    heads: int = _setting(4, "number of attention heads; must divide the transformer's width")
    class_conditional: bool = _setting(True, "tell the network the class of each image")
    label_dropout: float = _setting(0.1, "share of labels hidden in training, for guidance")
    limit: int | None = _setting(None, "train on the first n images only")
    flip: bool = _setting(True, "mirror half of the images left to right; not for text or digits")
    optimizer: str = _setting("adamw", "adamw, or muon, which learns more from each image")
    lr_schedule: str = _setting("cosine", "cosine, or wsd: constant, then to 0 in the last fifth")
    warmup_steps: int = _setting(
        200, "updates of linear warm-up, at most a third of the run: Adam's averages start empty"
    )
    weight_decay: float = _setting(0.0, "pulls weights to 0; diffusion networks rarely overfit")
    grad_clip: float = _setting(
        1.0, "maximum gradient norm, so that one bad batch cannot undo an hour"
    )
    min_snr_gamma: float | None = _setting(None, "weight the loss by min(SNR, gamma); 5 is usual")
    ema_decay: float = _setting(0.999, "averaged weights span about 1 / (1 - decay) updates")
    precision: str = _setting("auto", "fp32, bf16, or auto: bf16 if the hardware computes in bf16")
    teacher_steps: int | None = _setting(None, "with --distill: teacher steps from T to 0")
    compile: bool = _setting(False, "torch.compile: takes minutes, then is 1.3 times as fast")
    accumulate: int = _setting(1, "parts to split each batch into: less memory, same training")
    sample_every: int = _setting(1, "epochs between sample grids in out_dir; 0 makes none")
    keep_weights: bool = _setting(False, "also keep the weights of epochs 1, 2, 5, 10, 20, 50, …")
    save_every: int = _setting(
        1, "epochs between checkpoints; 0: only every ten minutes (as always) and at the end"
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            kind, _, optional = str(f.type).partition(" | ")
            if (value := getattr(self, f.name)) is not None or not optional:
                object.__setattr__(self, f.name, _plain(f.name, value, kind))
        for name, least in COUNTS.items():
            if (value := getattr(self, name)) is not None:
                checks.count(name, value, least)
        checks.count("seed", self.seed, 0, LARGEST_SEED)
        if self.channels not in CHANNELS:
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {self.channels}")
        for name in ("lr", "grad_clip"):  # a grad_clip of inf is no limit
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.min_snr_gamma is not None and not 0 < self.min_snr_gamma < math.inf:
            raise ValueError(f"min_snr_gamma must be above 0, or None; got {self.min_snr_gamma}")
        if self.teacher_steps is not None:
            checks.count("teacher_steps", self.teacher_steps, most=self.timesteps)
        for name in ("label_dropout", "ema_decay"):
            checks.number(name, getattr(self, name), 0, 1)
        for name, choices in CHOICES.items():
            checks.one_of(name, getattr(self, name), choices)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TrainConfig:
        """Return a named configuration with some fields changed.

        Args:
            name: classic (the defaults), ci (seconds), laptop (minutes on two cores) or gpu.
            changes: fields that replace the preset's values.
        Raises:
            ValueError: the preset is unknown, or a value is out of range.
            TypeError: a field does not exist.
        """
        return replace(PRESETS[checks.one_of("preset", name, PRESETS)], **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, in order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def load(cls, path: str | Path) -> TrainConfig:
        """Read a configuration from a file, such as the `config.toml` of a run.

        Its table `data`, which `data_settings` reads, is ignored.

        Args:
            path: a TOML file; missing fields take their defaults.
        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not TOML, a field is unknown, or a value has the wrong type.
        """
        path = user_path(path)
        values = {key: value for key, value in read_table(path).items() if key != "data"}
        known = {f.name: f for f in fields(cls)}
        for name in values:
            checks.one_of(f"field in {path.name}", name, known)
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write a TOML file that `load` reads back, each field with its reason."""
        user_path(path).write_text(self.to_toml(), encoding="utf-8")

    def to_toml(self) -> str:
        """Return the text that `save` writes."""
        lines = []
        for f in fields(self):
            value = getattr(self, f.name)
            start = "# " if value is None else ""  # TOML has no None; the default is None
            text = repr(value) if isinstance(value, float) else json.dumps(value)  # inf is TOML
            lines.append(f"{start}{f.name} = {text}  # {f.metadata['help']}\n")
        return "".join(lines)


def _plain(name: str, value: Any, kind: str) -> Any:
    """Convert a value to a plain int, float, bool or str; raise ValueError for another type."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # a NumPy scalar or such a tensor
    if kind == "float" and type(value) is int:
        return float(value)
    if type(value).__name__ != kind:
        raise ValueError(f"{name} must be of type {kind}, got {value!r}")
    return value


PRESETS = {
    "classic": TrainConfig(),
    "ci": TrainConfig(
        image_size=32, prediction="v", epochs=1, batch_size=16, lr=2e-3, width=16, limit=256,
        warmup_steps=4, ema_decay=0.9,
    ),
    "laptop": TrainConfig(
        image_size=32, prediction="v", epochs=1, batch_size=32, lr=2e-3, width=32,
    ),
    "gpu": TrainConfig(
        schedule="shifted_cosine", prediction="v", epochs=200, batch_size=512, lr=1e-3,
        ema_decay=0.9995, compile=True,
    ),
}  # fmt: skip


def cache_dir() -> Path:
    """Return the folder of caches and downloads: DDPM_CACHE, else the user's cache folder.

    If there is no home folder, as in some containers, it is in the temporary folder.
    """
    if place := os.environ.get("DDPM_CACHE"):
        return user_path(place)
    home = Path(os.path.expanduser("~"))
    if not home.is_absolute():
        home = Path(tempfile.gettempdir())
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "ddpm_helpers"


@dataclass(frozen=True)
class Settings:
    """The settings of a notebook; `print` shows them in one line.

    Attributes:
        preset: name of the training preset.
        data: a `source` for `ImageDataset`; a folder that exists is an absolute path.
        cache_dir: folder of caches and downloads.
        train: the preset's `TrainConfig`, with the defaults of the data (see `OF_SOURCE`).
        device: the device for tensors.
    """

    preset: str
    data: str
    cache_dir: Path
    train: TrainConfig
    device: torch.device

    def __str__(self) -> str:
        size = self.train.image_size
        return (
            f"preset {self.preset} · data {self.data} · {size}×{size} images · "
            f"T = {self.train.timesteps} · device {self.device.type}"
        )


def settings() -> Settings:
    """Read DDPM_PRESET, DDPM_DATA and DDPM_CACHE, with a default for each.

    DDPM_PRESET is ci, laptop, gpu or classic; by default gpu if a CUDA device works, else
    laptop. DDPM_DATA is a source for `ImageDataset`, by default cartoons, which needs
    no download.

    Raises:
        ValueError: the preset is unknown.
    """
    device = best_device()
    preset = os.environ.get("DDPM_PRESET") or ("gpu" if device.type == "cuda" else "laptop")
    checks.one_of("DDPM_PRESET", preset, PRESETS)
    data = _find_source(os.environ.get("DDPM_DATA") or "cartoons")
    train = TrainConfig.preset(preset, **OF_SOURCE.get(data, {}))
    return Settings(preset, data, cache_dir(), train, device)


def _find_source(data: str) -> str:
    """Make a folder in DDPM_DATA absolute; return a name or a missing folder unchanged.

    A relative path is looked up in the working folder and the two folders above it, because
    Jupyter starts a kernel in notebooks/ or notebooks/solutions/.
    """
    if data in SOURCES:
        return data
    here = Path.cwd()
    places = (base / os.path.expanduser(data) for base in (here, *here.parents[:2]))
    return next((str(user_path(place)) for place in places if place.is_dir()), data)
