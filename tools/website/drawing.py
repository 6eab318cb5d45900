"""draw.html: its scripts, the networks as ONNX, and onnxruntime-web."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from ddpm_helpers.export import export_onnx
from ddpm_helpers.pretrained import load_pretrained

RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of onnxruntime-web's dist/
# The networks of the page. It offers many steps, so weights distilled for few are not among them.
TITLES = {"cartoons": "Cartoons, 32×32", "cifar10-64": "Photographs, 64×64"}


def write_drawing(sources: Path, runtime: Path, site: Path) -> None:
    """Put draw.html and everything that it loads into a site.

    Args:
        sources: docs/web.
        runtime: `dist` of the npm package onnxruntime-web.
        site: the folder of the book.
    """
    shutil.copy(sources / "draw.html", site)
    place = site / "draw"
    shutil.copytree(sources / "draw", place)
    (place / "ort").mkdir()
    for name in RUNTIME:
        shutil.copyfile(runtime / name, place / "ort" / name)
    (place / "models").mkdir()
    wasm = _file(place, f"ort/{RUNTIME[1]}")
    models = [write_model(name, place) for name in TITLES]
    known = {"runtime": [wasm], "models": models}
    (place / "models" / "models.json").write_text(json.dumps(known), encoding="utf-8")


def write_model(name: str, place: Path) -> dict[str, Any]:
    """Export shipped weights to models/NAME.onnx.

    Returns:
        What the page must know about them: the file with its size and checksum, the images' shape,
        the classes, and the whole table of alpha_bar, so that the page needs no schedules.
    """
    file = place / "models" / f"{name}.onnx"
    file.unlink(missing_ok=True)
    export_onnx(name, file)
    model, diffusion = load_pretrained(name)
    channels, side, _ = model.image_shape
    return {
        "name": name,
        "title": TITLES.get(name, f"{name}, {side}×{side}"),
        **_file(place, f"models/{file.name}"),
        "channels": channels,
        "side": side,
        "classes": list(model.classes),
        "T": diffusion.T,
        "prediction": diffusion.prediction,
        "bar": diffusion.alpha_bar.tolist(),  # (T + 1,)
    }


def _file(place: Path, name: str) -> dict[str, Any]:
    content = (place / name).read_bytes()
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
