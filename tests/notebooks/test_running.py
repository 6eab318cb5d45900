"""Every notebook runs, on the cartoons and on images that people bring (`DDPM_DATA=FOLDER`).

All in one process: what starting a kernel for each of them costs is left to nbval, in
`make test-slow`.
"""

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
    """n images in a folder for each class; images `first` to `first + n` of the class."""
    images, labels = cartoons.draw("train", 20 * (first + n) + 400)
    for k in range(classes):
        folder = place / NAMES[k]
        folder.mkdir(parents=True)
        found = images[labels == k % 10]
        for i in range(n):
            pixels = found[(first + i + k // 10 * 20) % len(found)].transpose(1, 2, 0)
            Image.fromarray(pixels).convert(mode).save(folder / f"{first + i:04}.png")


def flat(place: Path) -> None:
    """150 images, no classes, no splits."""
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


def cells_of(path: Path) -> list[str]:
    """The source of each cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells]


def what_reads(data: str) -> dict[Path, int]:
    """How many cells to run of the notebooks that mention `data`.

    All, where it is read; up to the last mention in those that measure the shipped weights, which
    use the images of these.
    """
    found = {}
    for path in NOTEBOOKS:
        sources = cells_of(path)
        mentions = [i for i, source in enumerate(sources) if data in source]
        if any(f"ImageDataset({data}" in source for source in sources):
            found[path] = len(sources)
        elif mentions:
            found[path] = mentions[-1] + 1
    return found


def run_all(notebooks: dict[Path, int], data: str, place: Path) -> None:
    """Run the first n cells of each notebook in one fresh process, with DDPM_DATA=data."""
    environment = os.environ | {
        "DDPM_DATA": data, "DDPM_PRESET": "ci", "DDPM_CACHE": str(place / "cache"),
    }  # fmt: skip
    words = [sys.executable, str(HERE / "run_in_process.py")]
    for path, cells in notebooks.items():
        words += [str(path), str(cells)]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    assert [r["notebook"] for r in results] == [path.stem for path in notebooks]
    assert {r["notebook"]: r["error"] for r in results if r["error"]} == {}


def test_notebooks_run_on_the_cartoons(tmp_path):
    run_all({path: len(cells_of(path)) for path in NOTEBOOKS}, "cartoons", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOLDERS)
def test_notebooks_run_on(kind, tmp_path):
    folder = tmp_path / kind
    folder.mkdir()
    FOLDERS[kind](folder)
    run_all(what_reads("S.data"), str(folder), tmp_path)


def test_the_shortest_notebook_that_reads_it_runs_on_a_flat_album(tmp_path):
    """01: reading, labels, splits and caching; the others, which train, are slow."""
    flat(tmp_path / "album")
    path = NOTEBOOKS[1]
    run_all({path: what_reads("S.data")[path]}, str(tmp_path / "album"), tmp_path)
