"""Turn a finished training into shipped weights: half precision, and an entry in the manifest.

python -m tools.publish cartoons --run runs/cartoons
python -m tools.publish cartoons        # only measure the shipped weights again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.device import best_device
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.evaluation.report import evaluate
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import available_weights, load_pretrained, save_weights, shipped
from ddpm_helpers.pretrained.weights import description


def main(argv: Sequence[str] | None = None) -> None:
    """Publish one run, or measure what is shipped already."""
    parser = argparse.ArgumentParser(prog="python -m tools.publish")
    add = parser.add_argument
    add("name", help="what load_pretrained calls the weights")
    add("--run", type=Path, help="folder of a training; without it, what is shipped is measured")
    add("--data", help="source of the images to compare with (as the manifest says)")
    add("--called", help="what the data's source is called elsewhere (the last part of its path)")
    add("--note", help="what else there is to know about the data, in words")
    add("--machine", default=describe_machine(), help="what it was trained on")
    add("--n", type=int, default=1000, help="images in each compared set (1000)")
    add("--guidance", type=float, default=1.0, help="guidance of the samples (1)")
    args = parser.parse_args(argv)
    if args.run is not None:
        publish(args.run, args.name, machine=args.machine, called=args.called, note=args.note)
    entry = measure(args.name, args.data, n=args.n, guidance=args.guidance)
    print(json.dumps({args.name: entry}, indent=2))


def publish(
    run: Path, name: str, *, machine: str, called: str | None = None, note: str | None = None
) -> None:
    """Write `name`.safetensors in float16 among the shipped weights, and its entry in the manifest.

    Args:
        run: folder with `weights.safetensors` and `checkpoint.pt`.
        name: of the weights.
        machine: what they were trained on, in words.
        called: what the data's source is called elsewhere; by default the last part of its path.
        note: what else there is to know about the data, in words.
    """
    model, diffusion = load_pretrained(run)
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    config, history = state["config"], state["history"]
    trained = description(run)["trained"]
    trained["data"] = called or Path(trained["data"]).name  # without the machine's path
    images_seen = state["step"] * config["batch_size"]
    speed = statistics.harmonic_mean(record["images_per_second"] for record in history)
    path = save_weights(
        shipped.HERE / f"{name}.safetensors", model, diffusion, trained, dtype=torch.float16
    )
    entry = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "data": trained["data"],
        **({"note": note} if note else {}),
        "config": config,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": state["step"],
        "images_seen": images_seen,
        "minutes": round(images_seen / speed / 60, 1),
        "machine": machine,
        "metrics": {},
    }
    _write_manifest(name, entry)


def measure(
    name: str, data: str | None = None, *, n: int = 1000, guidance: float = 1.0
) -> dict[str, Any]:
    """Measure shipped weights as users get them, rounded to float16, and update the manifest.

    Distilled weights are sampled in the steps that they were distilled for, others in 15 of dpm++.

    Args:
        name: of the weights.
        data: source of the images to compare with; by default what the manifest calls the data.
        n: images in each compared set.
        guidance: of the samples.
    Returns:
        The entry with its metrics.
    """
    model, diffusion = load_pretrained(name)
    entry = available_weights()[name]
    source, (channels, side, _) = data or entry["data"], model.image_shape
    train, test = (
        ImageDataset(source, side, split=split, channels=channels) for split in ("train", "test")
    )
    few = diffusion.few_step_options  # of distilled weights, which have another loss than denoising
    options = {"sampler": "dpm++", "steps": min(15, diffusion.T), "guidance": guidance} | few
    found = evaluate(diffusion, model.to(best_device()), train, test, n=n, **options)
    loss = {} if few else {"held_out_loss": held_out_loss(model, diffusion, test)}
    metrics: dict[str, Any] = loss | {"n": n, **options}
    for key in ("frechet", "precision", "recall", "accuracy"):
        metrics[key], metrics[f"{key}_of_real"] = found["samples"][key], found["floor"]["mean"][key]
    metrics["frechet_of_real_std"] = found["floor"]["std"]["frechet"]
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in metrics.items()}
    entry = entry | {"metrics": rounded}
    _write_manifest(name, entry)
    return entry


@torch.no_grad()
def held_out_loss(
    model: DiffusionNet, diffusion: DiffusionUtils, test: ImageDataset, n: int = 2000
) -> float:
    """Mean training loss over the first n test images, with fixed timesteps and noise.

    Args:
        model, diffusion: as `load_pretrained` returns them.
        test: held-out images.
        n: how many of them, or all if there are fewer.
    """
    generator, losses = torch.Generator().manual_seed(0), []
    device = next(model.parameters()).device
    for x_0, y in islice(test.batches(100, seed=0, shuffle=False), n // 100):
        x_0, y = x_0.to(device), y.to(device)
        t = torch.randint(1, diffusion.T + 1, (len(x_0),), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator).to(device)
        labels = None if model.num_classes is None else y
        losses.append(diffusion.loss(model, x_0, t, eps, labels))
    return torch.cat(losses).mean().item()


def describe_machine() -> str:
    """Processor cores and graphics card, for the manifest."""
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cores}, {card}, torch {torch.__version__.split('+')[0]}"


def _write_manifest(name: str, entry: dict[str, Any]) -> None:
    manifest = available_weights() | {name: entry}
    shipped.MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
