"""Make every picture of README.md: `python -m tools.readme_images images/`.

Without a Chromium, the picture of plane.html is left out. The ladder needs the weights of a whole
run, so `tools.ladder` makes its figure.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddpm_helpers.data.cartoons import CLASSES, draw
from ddpm_helpers.device import best_device
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.display.canvas import enlarge, figure_png, tile, to_uint8
from ddpm_helpers.display.plots import denoising_path, noising_strip, plot_schedules, show_images
from ddpm_helpers.pretrained import load_pretrained
from tools.website.plane import write_plane

SAMPLES, PHOTOGRAPHS = 6, 8  # pictures of each class
FRAMES, HOLD = 24, 16  # frames of the animation; how many frames long its end stays
CHOSEN = (1, 3, 6, 8)  # classes in the animation
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
PLANE = "#tour=4"  # the state of plane.html in its picture


def main(argv: Sequence[str] | None = None) -> None:
    """Write all pictures to a folder."""
    parser = argparse.ArgumentParser(prog="python -m tools.readme_images")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_without_weights() | draw_with_weights("cartoons")
    pictures |= draw_photographs("cifar10-64")
    if browser := next(filter(None, map(shutil.which, CHROMIUMS)), None):
        pictures |= draw_plane(browser)
    else:
        print("without plane.png: no Chromium on the path")
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
        print(f"{folder / name}  {len(content) / 1e3:.0f} kB")


def draw_without_weights() -> dict[str, bytes]:
    """File name -> PNG of everything that needs no trained network."""
    images, labels = draw("test", 500)
    first = [np.flatnonzero(labels == k)[:10] for k in range(len(CLASSES))]
    both = {name: DiffusionUtils(500, name) for name in ("linear", "cosine")}
    ship = torch.from_numpy(images[first[CLASSES.index("ship")][0]]).float() / 127.5 - 1
    figures = {
        "cartoons.png": show_images(
            images[np.concatenate(first)], ncols=10, row_labels=CLASSES, scale=2,
            title="The built-in cartoons: ten pictures of each class",
        ),
        "alpha_bar.png": plot_schedules(
            both, title=r"What is left of the signal: $\bar\alpha_t$ with T = 500"
        ),
        "noising.png": noising_strip(
            ship, both, scale=4, title="Noising a ship, T = 500: the same noise at every step"
        ),
    }  # fmt: skip
    return {name: figure_png(figure) for name, figure in figures.items()}


def draw_with_weights(name: str, *, steps: int = 25) -> dict[str, bytes]:
    """File name -> PNG or GIF of samples by class, and of the denoising that leads to them.

    Args:
        name: weights, as for `load_pretrained`.
        steps: of ddim; with more of them, this small network leaves more grain.
    """
    from tqdm.auto import tqdm

    model, diffusion = load_pretrained(name)
    model.to(best_device())
    names = getattr(model, "classes", ()) or CLASSES
    labels = torch.arange(len(names)).repeat_interleave(SAMPLES)
    y = labels if model.num_classes else None
    walk = diffusion.sample_steps(model, len(labels), y=y, seed=0, sampler="ddim", steps=steps)
    path = list(tqdm(walk, total=1 + steps, desc="sampling"))
    grid = show_images(
        path[-1].x_t, ncols=SAMPLES, row_labels=names, scale=2,
        title="Drawn by the network: six pictures of each class",
    )  # fmt: skip
    row = CHOSEN[2] * SAMPLES
    way = denoising_path(path, picture=row, title="From noise to a picture: x_t, and what it hides")
    shown = sorted({round(i) for i in np.linspace(0, len(path) - 1, FRAMES)})  # evenly spread
    film = [to_uint8(path[i].x_t[::SAMPLES][list(CHOSEN)]) for i in shown]
    return {
        "samples.png": figure_png(grid),
        "denoising_path.png": figure_png(way),
        "denoising.gif": gif([tile(enlarge(x, 3), len(CHOSEN), gap=4) for x in film]),
    }


def draw_photographs(name: str, *, guidance: float = 2.0) -> dict[str, bytes]:
    """File name -> PNG of guided samples by class, 15 steps of dpm++.

    Args:
        name: class-conditional weights, as for `load_pretrained`.
        guidance: as for `sample`.
    """
    model, diffusion = load_pretrained(name)
    model.to(best_device())
    names = model.classes or CLASSES
    y = torch.arange(len(names)).repeat_interleave(PHOTOGRAPHS)
    options = {"sampler": "dpm++", "steps": min(15, diffusion.T), "guidance": guidance, "seed": 0}
    grid = show_images(
        diffusion.sample(model, len(y), y=y, **options), ncols=PHOTOGRAPHS, scale=1,
        row_labels=names, title=f"Drawn by {name}: {PHOTOGRAPHS} pictures of each class",
    )  # fmt: skip
    return {"photographs.png": figure_png(grid)}


def draw_plane(browser: str) -> dict[str, bytes]:
    """File name -> PNG of plane.html as Chromium, the program `browser`, shows it."""
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "plane.html"), Path(folder, "plane.png")
        write_plane(page)
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,800"]
        options += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=4000"]
        command = [browser, *options, f"--screenshot={shot}", f"{page.as_uri()}{PLANE}"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)
        return {"plane.png": shot.read_bytes()}


def gif(frames: Sequence[np.ndarray]) -> bytes:
    """An animation that starts again after a pause at its end.

    Args:
        frames: uint8 (H, W, 3), all of one size.
    Returns:
        GIF bytes, 12 frames a second.
    """
    pages = [Image.fromarray(frame).quantize(96, dither=Image.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    times = [80] * (len(pages) - 1) + [80 * HOLD]
    pages[0].save(
        file, format="GIF", save_all=True, append_images=pages[1:], duration=times, loop=0
    )
    return file.getvalue()


if __name__ == "__main__":
    main()
