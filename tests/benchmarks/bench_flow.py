"""Flow matching against v with the cosine schedule, after the same number of operations.

The network, the batches and the number of steps are the same for all, so the FLOP are; what differs
is the schedule, the target and how t is drawn. Each seed starts its own weights, order and noise.

    python tests/benchmarks/bench_flow.py --steps 400 --seeds 3
    python tests/benchmarks/bench_flow.py --steps 2000 --seeds 3 --data path/to/photographs
"""

from __future__ import annotations

import argparse
import statistics

import torch
from bench_tools import forward_flops

from ddpm_helpers import ImageDataset, TrainConfig, TrainingPipeline
from ddpm_helpers.evaluation import compare, draw_samples, noise_floor, take
from ddpm_helpers.evaluation.classifier import Classifier, classifier_for
from ddpm_helpers.training import build_diffusion, build_model

RECIPES = {
    "v, cosine, uniform t": {"prediction": "v", "schedule": "cosine"},
    "flow, uniform t": {"prediction": "flow", "schedule": "flow"},
    "flow, logit-normal t": {
        "prediction": "flow", "schedule": "flow", "t_sampling": "logit_normal",
    },
}  # fmt: skip
WAYS = (("dpm++", 15), ("ddim", 15), ("ddim", 4))


def trained(config: TrainConfig, ds: ImageDataset, steps: int) -> TrainingPipeline:
    """Train for `steps` updates, with a learning rate that falls to 0."""
    parts = build_model(config, len(ds.classes)), build_diffusion(config)
    pipeline = TrainingPipeline(*parts, ds, config)
    pipeline.total_steps = steps
    for _ in pipeline.steps():
        pass
    return pipeline


def distances(
    pipeline: TrainingPipeline, real: torch.Tensor, y: torch.Tensor, classifier: Classifier
) -> list[float]:
    """Fréchet distances of samples to as many real pictures, one for each of WAYS."""
    found = []
    for sampler, steps in WAYS:
        with pipeline.autocast():
            drawn = draw_samples(
                pipeline.diffusion, pipeline.ema_model, len(y), y=y, sampler=sampler, steps=steps
            )
            x = torch.cat(list(drawn))
        found.append(compare(real, x, y, classifier).frechet)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="cartoons", help="a source for ImageDataset")
    parser.add_argument("--n", type=int, default=500, help="pictures drawn and compared")
    args = parser.parse_args()
    base = TrainConfig.preset("laptop", width=24, ema_decay=0.99, warmup_steps=50, epochs=1000)
    ds, held_out = (ImageDataset(args.data, base.image_size, split=s) for s in ("train", "test"))
    real, y = take(held_out, args.n)
    classifier = classifier_for(ds)
    floor = noise_floor(ds, held_out, y, reference=real, classifier=classifier)
    flop = 3 * forward_flops(base) * base.batch_size * args.steps  # backward is twice forward
    print(f"{args.data}, {args.steps} steps of {base.batch_size}, {flop:.2g} FLOP each, "
          f"n = {args.n}, "
          f"real images {floor.mean.frechet:.2f} ± {floor.std.frechet:.2f}")  # fmt: skip
    print(f"{'':24}", *(f"{sampler} {steps}".rjust(16) for sampler, steps in WAYS))
    for name, changes in RECIPES.items():
        rows = []
        for seed in range(args.seeds):
            config = TrainConfig(**base.to_dict() | changes | {"seed": seed})
            rows.append(distances(trained(config, ds, args.steps), real, y, classifier))
            print(f"{name:24}", *(f"{d:16.2f}" for d in rows[-1]), f"  seed {seed}", flush=True)
        columns = list(zip(*rows, strict=True))
        spread = [statistics.stdev(c) if len(c) > 1 else 0.0 for c in columns]
        means = zip(map(statistics.mean, columns), spread, strict=True)
        print(f"{name:24}", *(f"{m:.2f} ± {s:.2f}".rjust(16) for m, s in means), "  mean, spread")


if __name__ == "__main__":
    main()
