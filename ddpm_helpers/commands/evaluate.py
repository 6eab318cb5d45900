"""`ddpm evaluate`: measure weights: loss per step, and samples against test pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ddpm_helpers.commands.sample import steps
from ddpm_helpers.device import best_device
from ddpm_helpers.evaluation.inception import WEIGHTS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm evaluate` to a parser, and the function that runs it."""
    add = parser.add_argument
    add("--weights", default="cartoons", help="a shipped name, a file, or a training's folder")
    add("--data", help="what they were trained on (by default as the weights say)")
    add("--root", help="where the source's files are")
    add("--n", type=int, metavar="N", help="pictures in each compared set (1000, or all there are)")
    add("--anyway", action="store_true", help="compare even where train and test hold the classes "
        "in different proportions")  # fmt: skip
    add("--sampler", help="ddpm, ddim, heun or dpm++ (dpm++; for distilled weights ddpm)")
    add("--steps", type=steps, help="number of sampling steps, or the t from which each starts, as "
        "in 500,350 (50, at most T; for distilled weights the few they were made for)")  # fmt: skip
    add("--guidance", type=float, default=1.0, help="above 1 follows the class more closely (1)")
    add("--seed", type=int, default=0, help="seed of the samples (0)")
    add("--inception", type=Path, metavar="FILE", help="FID, KID and Inception score too: needs "
        f"torch-fidelity, and {WEIGHTS} from its releases page; nothing is downloaded")  # fmt: skip
    add("--out", type=Path, help="JSON file for the numbers")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure weights: loss per step, and samples against the test pictures."""
    from ddpm_helpers.data import ImageDataset
    from ddpm_helpers.evaluation import evaluate
    from ddpm_helpers.pretrained import load_pretrained
    from ddpm_helpers.pretrained.weights import data_of_weights, few_step_options

    if args.out is not None and not args.out.parent.is_dir():  # not only after minutes of drawing
        raise ValueError(f"no folder {str(args.out.parent)!r} for --out")
    if args.out is not None and args.out.is_dir():
        raise ValueError(f"--out must be a file, {str(args.out)!r} is a folder")
    model, diffusion = load_pretrained(args.weights)
    data = data_of_weights(args.weights, args.data, args.root)
    source, side = data.pop("source", "cartoons"), model.image_shape[-1]
    train, test = (ImageDataset(source, side, split=s, **data) for s in ("train", "test"))
    options: dict[str, Any] = {"guidance": args.guidance, "seed": args.seed}
    options |= few_step_options(args.weights)
    for name in ("sampler", "steps"):
        if (value := getattr(args, name)) is not None:
            options[name] = value
    model.to(best_device())

    def write(numbers: dict[str, Any]) -> None:
        if args.out is not None:
            args.out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")

    evaluate(
        diffusion, model, train, test, n=args.n, anyway=args.anyway,
        inception=args.inception, keep=write, **options,
    )  # fmt: skip
    if args.out is not None:
        print(f"numbers in {args.out}")
