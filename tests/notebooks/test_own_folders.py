"""Every notebook runs on the pictures that people bring: `DDPM_DATA=FOLDER`, nothing else set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ddpm_helpers.data import cartoons

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted((HERE.parents[1] / "notebooks").glob("[0-9]*.ipynb"))
NAMES = [*cartoons.CLASSES, "crane", "sheep"]


def write(place: Path, classes: int, n: int, *, first: int = 0, mode: str = "RGB") -> None:
    """n pictures in a folder for each class; pictures `first` to `first + n` of the class."""
    images, labels = cartoons.draw("train", 20 * (first + n) + 400)
    for k in range(classes):
        folder = place / NAMES[k]
        folder.mkdir(parents=True)
        found = images[labels == k % 10]
        for i in range(n):
            pixels = found[(first + i + k // 10 * 20) % len(found)].transpose(1, 2, 0)
            Image.fromarray(pixels).convert(mode).save(folder / f"{first + i:04}.png")


def flat(place: Path) -> None:
    """150 pictures, no classes, no splits."""
    write(place / "sorted", 10, 15)
    for path in sorted((place / "sorted").rglob("*.png")):
        path.rename(place / f"{path.parent.name[0]}{path.stem}{path.parent.name[-2:]}.png")
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    (place / "sorted").rmdir()


def twelve_grey_classes(place: Path) -> None:
    write(place / "train", 12, 60, mode="L")
    write(place / "test", 12, 30, first=60, mode="L")


FOLDERS = {"flat": flat, "twelve grey classes, train and test": twelve_grey_classes}


def what_reads(data: str) -> dict[Path, int]:
    """How many cells to run of the notebooks that mention `data`.

    All, where it is read; up to the last mention in those that measure the shipped weights, on the
    pictures of these.
    """
    found = {}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        mentions = [i for i, source in enumerate(sources) if data in source]
        if any(f"ImageDataset({data}" in source for source in sources):
            found[path] = len(cells)
        elif mentions:
            found[path] = mentions[-1] + 1
    return found


@pytest.mark.parametrize("kind", FOLDERS)
def test_notebooks_run_on(kind, tmp_path):
    notebooks = what_reads("S.data")
    folder = tmp_path / kind
    folder.mkdir()
    FOLDERS[kind](folder)
    environment = os.environ | {
        "DDPM_DATA": str(folder), "DDPM_PRESET": "ci", "DDPM_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    words = [sys.executable, str(HERE / "run_in_process.py")]
    for path, cells in notebooks.items():
        words += [str(path), str(cells)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    assert [r["notebook"] for r in results] == [path.stem for path in notebooks]
    assert {r["notebook"]: r["error"] for r in results if r["error"]} == {}
