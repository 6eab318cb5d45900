"""A transformer in place of the U-Net, at equal FLOP; and what patches of each size can learn.

Five networks cost about 44 MFLOP per 32×32 image (counted): a U-Net of width 16, and transformers
whose width grows with the patch: 2 (32), 4 (64), 8 (128), 16 (256), 32 channels for each head. All
make the same updates with the same batches. Each target is trained from seed 0, v from all seeds,
and x_0 with patches of 16 too.
An error of x_0 is weighted as v's: by 1 / (1 - alpha_bar), at most 10.

    python tests/benchmarks/bench_transformer.py --out runs/transformer \
      --numbers ddpm_helpers/evaluation/transformer_cartoons.json --picture images/transformer.png
    python tests/benchmarks/bench_transformer.py --out runs/long --updates 3000 \
      --only "U-Net, v, 0" "U-Net, x_0, 0" "patch 4, v, 0" "patch 16, x_0, 0" \
      --numbers ddpm_helpers/evaluation/transformer_cartoons_long.json \
      --picture images/transformer_long.png
    python tests/benchmarks/bench_transformer.py --out runs/weights --updates 3000 \
      --only "patch 4, x_0, 0"  # the weights evaluation/transformer_cartoons.safetensors

What --out has already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from bench_tools import forward_flops
from torch import Tensor

from ddpm_helpers import DiffusionUtils, ImageDataset, TrainConfig, TrainingPipeline
from ddpm_helpers.display.canvas import figure_png
from ddpm_helpers.display.plots import show_images
from ddpm_helpers.evaluation import compare, draw_samples, noise_floor, take
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.pretrained import save_weights
from ddpm_helpers.training import build_model

NETWORKS: dict[str, dict[str, Any]] = {
    "U-Net": {"width": 16, "lr": 2e-3},
    "patch 2": {"patch": 2, "width": 32, "depth": 3, "heads": 1, "lr": 2e-3},
    "patch 4": {"patch": 4, "width": 64, "depth": 6, "heads": 2, "lr": 2e-3},
    "patch 8": {"patch": 8, "width": 128, "depth": 6, "heads": 4, "lr": 1e-3},
    "patch 16": {"patch": 16, "width": 256, "depth": 6, "heads": 8, "lr": 1e-3},
}
ORDER = (  # network, target and seed, what matters most first
    *((name, "v", k) for k in range(3) for name in ("patch 4", "U-Net", "patch 8", "patch 2")),
    *(("patch 8", target, 0) for target in ("x_0", "eps")),
    *(("patch 16", target, 0) for target in ("x_0", "eps", "v")),
    *(("patch 16", "x_0", k) for k in (1, 2)),
    *((name, target, 0) for name in ("patch 4", "patch 2") for target in ("x_0", "eps")),
)
ON_REQUEST = (("U-Net", "x_0", 0),)  # with --only
TS = (10, 25, 50, 100, 150, 200, 250, 300, 350, 400, 450, 475, 490)
SHOWN = (
    *((name, "v") for name in ("U-Net", "patch 2", "patch 4", "patch 8")),
    *((name, "x_0") for name in ("patch 4", "patch 8", "patch 16", "U-Net")),
)
WAY: dict[str, Any] = {"sampler": "dpm++", "steps": 15}
MEASURED = 256  # images whose errors are measured for each t
MOST = 10.0  # weight of an error of x_0


class WeightedLikeV(DiffusionUtils):
    """Counts an error of x_0 as the error of v that it causes, up to a bound."""

    def loss(self, model: Any, x_0: Tensor, t: Tensor, *args: Any, **options: Any) -> Tensor:
        """As `DiffusionUtils.loss`, times min(1 / (1 - alpha_bar), MOST)."""
        weight = (1 / (1 - self.alpha_bar[t])).clamp(max=MOST)
        return super().loss(model, x_0, t, *args, **options) * weight.to(x_0)


def config_of(name: str, target: str, seed: int, batch: int) -> TrainConfig:
    """The configuration of one training."""
    kind = "unet" if name == "U-Net" else "transformer"
    return TrainConfig.preset(
        "laptop", network=kind, prediction=target, seed=seed, batch_size=batch, ema_decay=0.99,
        warmup_steps=50, epochs=1000, sample_every=0, **NETWORKS[name],
    )  # fmt: skip


def train(config: TrainConfig, ds: ImageDataset, updates: int) -> tuple[TrainingPipeline, float]:
    """Train for `updates` updates; also return the images per second of processor time."""
    kind = WeightedLikeV if config.prediction == "x_0" else DiffusionUtils
    diffusion = kind(config.timesteps, config.schedule, prediction=config.prediction)
    pipeline = TrainingPipeline(build_model(config, len(ds.classes)), diffusion, ds, config)
    pipeline.total_steps = updates
    began = time.process_time()
    for _ in pipeline.steps():
        pass
    return pipeline, updates * config.batch_size / (time.process_time() - began)


@torch.no_grad()
def errors(diffusion: DiffusionUtils, model: Any, x_0: Tensor, y: Tensor) -> dict[str, Any]:
    """Mean squared errors of the output and of the predicted x_0, for each t of TS."""
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"output_errors": [], "x_0_errors": []}
    for number in TS:
        t = torch.full((len(x_0),), number)
        x_t, _ = diffusion.add_noise(x_0, t, eps)
        parts = zip(*(a.split(64) for a in (x_t, t, y)), strict=True)
        output = torch.cat([model(*part) for part in parts])
        wrong = output - diffusion.target(x_0, eps, t)
        found["output_errors"].append(wrong.square().mean().item())
        wrong = diffusion.predict_x_0(output, x_t, t) - x_0
        found["x_0_errors"].append(wrong.square().mean().item())
    return found


@torch.no_grad()
def held_out_loss(diffusion: DiffusionUtils, model: Any, x_0: Tensor, y: Tensor) -> float:
    """Mean loss of test images without weights, at the same t and noise for every network."""
    generator = torch.Generator().manual_seed(1)
    t = torch.randint(1, diffusion.T + 1, (len(x_0),), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    parts = zip(*(a.split(64) for a in (x_0, t, eps, y)), strict=True)
    return torch.cat([DiffusionUtils.loss(diffusion, model, *part) for part in parts]).mean().item()


def run(
    name: str, target: str, seed: int, args: argparse.Namespace, sets: dict[str, Any], place: Path
) -> None:
    """Train one network, measure it, and write numbers, weights and twenty samples to `place`."""
    config = config_of(name, target, seed, args.batch)
    pipeline, speed = train(config, sets["train"], args.updates)
    diffusion, model = pipeline.diffusion, pipeline.ema_model
    drawn = draw_samples(diffusion, model, args.n, y=sets["y"], **WAY)
    x = torch.cat(list(drawn))
    row = compare(sets["real"], x, sets["y"], sets["classifier"])
    numbers = {
        "network": name, "target": target, "seed": seed,
        "held_out_loss": held_out_loss(diffusion, model, *sets["held_out"]),
        "distance": row.frechet, "accuracy": row.accuracy, "images_per_second": speed,
        **errors(diffusion, model, *(part[:MEASURED] for part in sets["held_out"])),
    }  # fmt: skip
    about = {"classes": list(sets["train"].classes), "steps": args.updates}
    save_weights(place.with_suffix(".safetensors"), model, diffusion, about, dtype=torch.float16)
    torch.save(x[:20], place.with_suffix(".pt"))
    place.with_suffix(".json").write_text(json.dumps(numbers))


def report(rows: list[dict[str, Any]], floor: list[float]) -> None:
    """Print a line for each network and target: means over the seeds, and their spread."""
    print(f"real images {floor[0]:.2f} ± {floor[1]:.2f}")
    print(f"{'':16} {'seeds':>5} {'loss':>16} {'distance':>16} {'accuracy':>8} {'images/s':>8}")
    for kind in dict.fromkeys((row["network"], row["target"]) for row in rows):
        same = [row for row in rows if (row["network"], row["target"]) == kind]

        def column(name: str, digits: int, same: list[dict[str, Any]] = same) -> str:
            values = [row[name] for row in same]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"

        accuracy, speed = (
            statistics.mean(row[key] for row in same) for key in ("accuracy", "images_per_second")
        )
        print(f"{', '.join(kind):16} {len(same):5} {column('held_out_loss', 4):>16} "
              f"{column('distance', 2):>16} {accuracy:8.0%} {speed:8.0f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--updates", type=int, default=600)
    add("--batch", type=int, default=32)
    add("--data", default="cartoons", help="a source for ImageDataset")
    add("--only", nargs="+", metavar="RUN", help="such as 'patch 8, eps, 0'; by default all")
    add("--n", type=int, default=200, help="images drawn and compared")
    add("--out", type=Path, required=True, help="folder for weights, numbers and samples")
    add("--numbers", type=Path, help="JSON file")
    add("--picture", type=Path, help="PNG of ten samples of some networks")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    ds, test = (ImageDataset(args.data, 32, split=split) for split in ("train", "test"))
    real, y = take(test, args.n)
    sets = {"train": ds, "real": real, "y": y, "held_out": take(test, 512)}
    sets["classifier"] = classifier_for(ds)
    floor = noise_floor(ds, test, y, reference=real, classifier=sets["classifier"])
    networks = {
        name: settings | {"mflop": forward_flops(config_of(name, "v", 0, 1)) / 1e6}
        for name, settings in NETWORKS.items()
    }
    about = {
        "updates": args.updates, "batch": args.batch, "n": args.n, "held_out": 512, "sampler": WAY,
        "t": TS, "x_0_weight_at_most": MOST, "floor": [floor.mean.frechet, floor.std.frechet],
        "floor_accuracy": floor.mean.accuracy, "networks": networks,
    }  # fmt: skip
    places = {
        one: args.out / "-".join(map(str, one)).replace(" ", "") for one in (*ORDER, *ON_REQUEST)
    }
    for one, place in places.items():
        chosen = ", ".join(map(str, one)) in args.only if args.only else one in ORDER
        if chosen and not place.with_suffix(".json").exists():
            print(*one, flush=True)
            run(*one, args, sets, place)
            write(args, about, places)
    write(args, about, places)


def write(
    args: argparse.Namespace, about: dict[str, Any], places: dict[tuple[str, str, int], Path]
) -> None:
    """Print, and write to --numbers and --picture, what is in --out so far."""
    files = [place.with_suffix(".json") for place in places.values()]
    rows = [json.loads(file.read_text()) for file in files if file.exists()]
    report(rows, about["floor"])
    if args.numbers:
        args.numbers.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    samples = {one: places[*one, 0].with_suffix(".pt") for one in SHOWN}
    samples = {one: file for one, file in samples.items() if file.exists()}
    if args.picture and samples:
        x = torch.cat([torch.load(file)[:7] for file in samples.values()])
        labels = [", ".join(one) for one in samples]
        args.picture.write_bytes(figure_png(show_images(x, ncols=7, row_labels=labels)))


if __name__ == "__main__":
    main()
