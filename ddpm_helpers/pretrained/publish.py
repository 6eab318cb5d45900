"""Turn a finished training into shipped weights: half precision, and a line in the manifest.

python -m ddpm_helpers.pretrained.publish runs/cartoons cartoons
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import weights
from ddpm_helpers.pretrained.weights import available_weights, load_pretrained, save_weights


def main(argv: Sequence[str] | None = None) -> int:
    """Publish one run.

    Args:
        argv: words of the command line; those of the process if None.
    Returns:
        Exit status: 0, or 2 after one line on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m ddpm_helpers.pretrained.publish")
    parser.add_argument("run", type=Path, help="folder of a training")
    parser.add_argument("name", help="what load_pretrained will call it")
    parser.add_argument("--data", help="source of the held-out pictures (that of the training)")
    parser.add_argument("--machine", default=describe_machine(), help="what it was trained on")
    args = parser.parse_args(argv)
    try:
        entry = publish(args.run, args.name, data=args.data, machine=args.machine)
    except (OSError, ValueError) as error:
        print(f"publish: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({args.name: entry}, indent=2))
    return 0


def publish(run: Path, name: str, *, machine: str, data: str | None = None) -> dict[str, Any]:
    """Write `name`.safetensors in float16 beside this module, and its entry in the manifest.

    Args:
        run: folder with `weights.safetensors` and `checkpoint.pt`.
        name: of the weights.
        machine: what they were trained on, in words.
        data: source of the held-out pictures; by default that of the training.
    Returns:
        The entry.
    Raises:
        FileNotFoundError: the folder lacks one of the two files.
    """
    model, diffusion = load_pretrained(run)
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    config, history = state["config"], state["history"]
    trained = weights.description(run)["trained"]
    source = data or trained["data"]
    trained["data"] = Path(source).name  # of a folder, the name without the machine's path
    images_seen = state["step"] * config["batch_size"]
    path = save_weights(
        weights.HERE / f"{name}.safetensors", model, diffusion, trained, dtype=torch.float16
    )
    model, diffusion = load_pretrained(path)  # what learners get, rounding included
    entry = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "data": trained["data"],
        "config": config,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": state["step"],
        "images_seen": images_seen,
        "minutes": round(images_seen / history[-1]["images_per_second"] / 60, 1),
        "machine": machine,
        "metrics": {"held_out_loss": round(held_out_loss(model, diffusion, source), 4)},
    }
    _write_manifest(available_weights() | {name: entry})
    return entry


@torch.no_grad()
def held_out_loss(
    model: DiffusionNet, diffusion: DiffusionUtils, data: str, n: int = 2000
) -> float:
    """Mean training loss over n test pictures, with fixed steps and noise.

    Args:
        model, diffusion: as `load_pretrained` returns them.
        data: a source for `ImageDataset`.
        n: pictures.
    """
    ds = ImageDataset(data, model.image_shape[-1], split="test", limit=n)
    generator, losses = torch.Generator().manual_seed(0), []
    for x_0, y in ds.batches(100, seed=0, shuffle=False):
        t = torch.randint(1, diffusion.T + 1, (len(x_0),), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator)
        labels = None if model.num_classes is None else y
        losses.append(diffusion.loss(model, x_0, t, eps, labels))
    return torch.cat(losses).mean().item()


def describe_machine() -> str:
    """Processor cores and graphics card, for the manifest."""
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cores}, {card}, torch {torch.__version__.split('+')[0]}"


def _write_manifest(manifest: dict[str, Any]) -> None:
    beside = weights.MANIFEST.with_suffix(".tmp")
    beside.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, weights.MANIFEST)


if __name__ == "__main__":
    sys.exit(main())
