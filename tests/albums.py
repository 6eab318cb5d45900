"""Folders of small images, and how the tests open them."""

from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_helpers.data import ImageDataset

SIZE = 8


def put(folder: Path, n: int = 4, colour=(200, 30, 30), first: int = 0) -> Path:
    """Save n plain images as first.png, first + 1.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + n):
        Image.new("RGB", (SIZE, SIZE), colour).save(folder / f"{k}.png")
    return folder


def load(source, tmp_path: Path, size: int = SIZE, **options) -> ImageDataset:
    """Open a source with a cache in tmp_path."""
    return ImageDataset(source, size, cache_dir=tmp_path / "cache", **options)


def caches(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*.npy"))


def noise(channels: int = 3, size: int = SIZE) -> np.ndarray:
    """Every pixel another, (size, size, channels): a turn, a swap or a shift would show."""
    rng = np.random.default_rng(channels)
    return rng.integers(0, 256, (size, size, channels), np.uint8)


def blues(ds) -> list[int]:
    """The blue of every image, which the tests use as its number."""
    return ds.images[:, 2, 0, 0].tolist()
