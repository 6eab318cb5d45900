"""What each choice of the recipe is worth: pictures drawn after the same processor time.

Every variant trains from the same seed for the same CPU seconds (of all cores together), its
learning rate falling to 0 at the end of them, and then draws the same noises. "without EMA" is the
recipe's own training, drawn from its last weights.

    python tests/benchmarks/bench_ablations.py --seconds 120
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ddpm_helpers import DiffusionNet, ImageDataset, TrainConfig, TrainingPipeline
from ddpm_helpers.device import bf16_is_fast
from ddpm_helpers.evaluation import compare, draw_samples, noise_floor, take
from ddpm_helpers.evaluation.classifier import classifier_for
from ddpm_helpers.training import build_diffusion


@dataclass(frozen=True)
class Variant:
    """One training: fields of the configuration, and what is changed in the network."""

    name: str
    fields: dict
    attention_size: int = 8
    change: Callable[[DiffusionNet], object] = lambda net: None


def no_features(net: DiffusionNet) -> None:
    """The decoder sees the coarsest map alone."""

    def blank(module: nn.Module, inputs: tuple, features: list[Tensor]) -> list[Tensor]:
        return [*(torch.zeros_like(f) for f in features[:-1]), features[-1]]

    net.encoder.register_forward_hook(blank)


VARIANTS = (
    Variant("the recipe", {}),
    Variant("without the encoder's feature maps", {}, change=no_features),
    Variant("without attention", {}, attention_size=0),
    Variant("with min-SNR weights, gamma 5", {"min_snr_gamma": 5.0}),
    Variant("eps instead of v", {"prediction": "eps"}),
    Variant("x_0 instead of v", {"prediction": "x_0"}),
    Variant("linear instead of cosine", {"schedule": "linear"}),
    Variant("Muon instead of AdamW", {"optimizer": "muon"}),
    Variant("batch 10, lr 1e-4 (classic)", {"batch_size": 10, "lr": 1e-4}),
)


def make(variant: Variant, base: TrainConfig, ds: ImageDataset) -> TrainingPipeline:
    """A variant before its first step."""
    config = replace(base, **variant.fields)
    torch.manual_seed(config.seed)
    net = DiffusionNet(
        config.image_size, width=config.width, num_classes=len(ds.classes),
        attention_size=variant.attention_size,
    )  # fmt: skip
    variant.change(net)
    diffusion = build_diffusion(config)
    return TrainingPipeline(net, diffusion, ds, replace(config, epochs=1000))


def step_seconds(
    variants: Sequence[Variant], base: TrainConfig, ds: ImageDataset, rounds: int = 6
) -> dict[str, float]:
    """Processor time of a step of each variant: medians of rounds in which all take their turn."""
    running = {v.name: make(v, base, ds).steps() for v in variants}
    found: dict[str, list[float]] = {name: [] for name in running}
    for k in range(rounds):
        for name, steps in running.items():
            began = time.process_time()
            for _ in range(8):
                next(steps)
            if k:  # the first round warms up
                found[name].append((time.process_time() - began) / 8)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120, help="CPU seconds for each variant")
    parser.add_argument("--data", default="cartoons", help="a source for ImageDataset")
    parser.add_argument("--n", type=int, default=500, help="pictures drawn and compared")
    parser.add_argument("--only", nargs="*", help="words that a variant's name must contain")
    args = parser.parse_args()
    base = TrainConfig.preset("laptop", width=24, ema_decay=0.995)
    ds, held_out = (ImageDataset(args.data, base.image_size, split=s) for s in ("train", "test"))
    real, y = take(held_out, args.n)
    classifier = classifier_for(ds)
    floor = noise_floor(ds, held_out, y, reference=real, classifier=classifier)
    print(f"{args.data}, {args.seconds:.0f} CPU s each, {args.n} pictures by 25 steps of dpm++")
    print(f"real images: distance {floor.mean.frechet:.2f} ± {floor.std.frechet:.2f}, "
          f"accuracy {floor.mean.accuracy:.1%}")  # fmt: skip
    print(f"{'':36} {'pictures seen':>13} {'Frechet':>8} {'accuracy':>9}")

    def report(name: str, pipeline: TrainingPipeline, net: nn.Module) -> None:
        options = {"y": y, "sampler": "dpm++", "steps": 25}
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_fast(torch.device("cpu"))):
            parts = list(draw_samples(pipeline.diffusion, net, args.n, **options))
        row = compare(real, torch.cat(parts), y, classifier)
        seen = pipeline.step * pipeline.config.batch_size
        print(f"{name:36} {seen:13,} {row.frechet:8.2f} {row.accuracy:9.1%}", flush=True)

    chosen = [v for v in VARIANTS if not args.only or any(w in v.name for w in args.only)]
    each = step_seconds(chosen, base, ds)
    for variant in chosen:
        pipeline = make(variant, base, ds)
        pipeline.total_steps = max(1, int(args.seconds / each[variant.name]))
        for _ in pipeline.steps():
            pass
        report(variant.name, pipeline, pipeline.ema_model)
        if variant.name == "the recipe":
            report("without EMA", pipeline, pipeline.model.eval())


if __name__ == "__main__":
    main()
