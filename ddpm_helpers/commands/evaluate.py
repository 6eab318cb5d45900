"""`ddpm evaluate`: measure the loss per timestep, and compare samples with test images."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers.commands.sample import steps
from ddpm_helpers.device import best_device
from ddpm_helpers.evaluation.inception import WEIGHTS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm evaluate` to a parser, and the function that runs it."""
    add = parser.add_argument
    add("--weights", default="cartoons", help="a shipped name, a file, or a run's folder")
    add("--data", help="the data of the weights (by default as stored in them)")
    add("--root", help="folder of the source's files")
    add("--n", type=int, metavar="N", help="images in each compared set (1000, with --clinic 300; "
        "all if there are fewer)")  # fmt: skip
    add("--anyway", action="store_true", help="compare even if train and test have different "
        "class proportions")  # fmt: skip
    add("--clinic", action="store_true", help="instead, measure the effect of common mistakes on a "
        "distance on this data; for a run's folder, also raw weights")  # fmt: skip
    add("--sampler", help="ddpm, ddim, heun or dpm++ (dpm++; for distilled weights ddpm)")
    add("--steps", type=steps, help="number of sampling steps, or the t at which each starts, such "
        "as 500,350 (50, at most T; for distilled weights their own steps)")  # fmt: skip
    add("--guidance", type=float, default=1.0, help="above 1 follows the class more closely (1)")
    add("--seed", type=int, default=0, help="seed of the samples (0)")
    add("--inception", type=Path, metavar="FILE", help="add FID, KID and Inception score: needs "
        f"torch-fidelity, and {WEIGHTS} from its releases page; nothing is downloaded")  # fmt: skip
    add("--out", type=Path, help="JSON file for the numbers")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure weights, or with --clinic the effect of common mistakes on a distance."""
    from ddpm_helpers.data import ImageDataset
    from ddpm_helpers.evaluation import evaluate
    from ddpm_helpers.pretrained import load_pretrained
    from ddpm_helpers.pretrained.weights import NAMED_SOURCES, data_of_weights, description

    if args.out is not None and not args.out.parent.is_dir():  # before drawing takes minutes
        raise ValueError(f"no folder {str(args.out.parent)!r} for --out")
    if args.out is not None and args.out.is_dir():
        raise ValueError(f"--out must be a file, {str(args.out)!r} is a folder")
    model, diffusion = load_pretrained(args.weights)
    data = data_of_weights(args.weights, args.data, args.root)
    named = description(args.weights)["trained"].get("data", "cartoons")
    if "source" not in data and named not in NAMED_SOURCES:
        raise ValueError(f"{args.weights} was trained on {named!r}: name its folder with --data")
    data = {"source": named} | data
    side = model.image_shape[-1]
    train, test = (ImageDataset(image_size=side, split=s, **data) for s in ("train", "test"))
    options: dict[str, Any] = {"sampler": "dpm++", "steps": min(50, diffusion.T)}
    options |= {"guidance": args.guidance, "seed": args.seed} | diffusion.few_step_options
    for name in ("sampler", "steps"):
        if (value := getattr(args, name)) is not None:
            options[name] = value
    model.to(best_device())

    def write(numbers: dict[str, Any]) -> None:
        if args.out is not None:
            args.out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")

    if args.clinic:
        write(_clinic(args, train, test, model, diffusion, options))
    else:
        evaluate(
            diffusion, model, train, test, n=args.n, anyway=args.anyway,
            inception=args.inception, keep=write, **options,
        )  # fmt: skip
    if args.out is not None:
        print(f"numbers in {args.out}")


def _clinic(
    args: argparse.Namespace, train, test, model, diffusion, options: dict[str, Any]
) -> dict[str, Any]:
    """Print the table of `clinic`; for a run's folder, with samples of both its networks."""
    from dataclasses import asdict

    from ddpm_helpers.evaluation import clinic, clinic_table
    from ddpm_helpers.evaluation.report import say_counts
    from ddpm_helpers.evaluation.sets import FEW, class_numbers_of, draw_samples, take

    if len(test) < FEW:
        print(f"the test split holds {len(test)} images: distances need at least {FEW}")
        return {}
    n = args.n or min(300, len(train), len(test))
    labels = take(test, n)[1]
    say_counts({"each set": labels}, test.classes, print)
    checkpoint, nets = Path(args.weights) / "checkpoint.pt", {}
    if checkpoint.is_file():
        raw = copy.deepcopy(model)
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        raw.load_state_dict(state["model"])
        nets = {
            "samples, averaged weights (EMA)": model,
            "samples, raw weights": raw.to(best_device()),
        }
    y = class_numbers_of(model, test, labels) if model.num_classes else None
    samples = {
        name: torch.cat([x for x, _ in draw_samples(diffusion, net, n, y=y, **options)])
        for name, net in nets.items()
    }
    findings = clinic(train, test, n=n, samples=samples)
    print(clinic_table(findings))
    return {"findings": [asdict(one) for one in findings]}
