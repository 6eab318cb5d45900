"""`ddpm evaluate`: measure the loss per timestep, and compare samples with test images."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddpm_helpers.commands.sample import add_sampling_options, sampling_options
from ddpm_helpers.device import best_device
from ddpm_helpers.evaluation.inception import WEIGHTS
from ddpm_helpers.files import prepare_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm evaluate` to a parser, and the function that runs it."""
    add = parser.add_argument
    add_sampling_options(parser, "dpm++", "50, at most T")
    add("--data", help="the data of the weights (by default as stored in them)")
    add("--root", help="folder of the source's files")
    add("--n", type=int, metavar="N", help="images in each compared set (1000, with --clinic 300; "
        "all if there are fewer)")  # fmt: skip
    add("--clinic", action="store_true", help="instead, measure the effect of common mistakes on a "
        "distance on this data")  # fmt: skip
    add("--inception", type=Path, metavar="FILE", help="add FID, KID and Inception score: needs "
        f"torch-fidelity, and {WEIGHTS} from its releases page; nothing is downloaded")  # fmt: skip
    add("--out", type=Path, help="JSON file for the numbers")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure weights, or with --clinic the effect of common mistakes on a distance."""
    from ddpm_helpers.data import ImageDataset
    from ddpm_helpers.evaluation import clinic, clinic_table, evaluate
    from ddpm_helpers.pretrained import load_pretrained
    from ddpm_helpers.pretrained.weights import data_of_weights

    if args.out is not None:
        prepare_folder(args.out.parent)  # before drawing takes minutes
    model, diffusion = load_pretrained(args.weights)
    data = data_of_weights(args.weights, args.data, args.root)
    if "source" not in data:
        raise ValueError(f"{args.weights} does not say where its images are: name them with --data")
    side = model.image_shape[-1]
    train, test = (ImageDataset(image_size=side, split=s, **data) for s in ("train", "test"))
    numbers: dict[str, Any]
    if args.clinic:
        findings = clinic(train, test, n=args.n)
        print(clinic_table(findings))
        numbers = {"findings": [asdict(finding) for finding in findings]}
    else:
        options = sampling_options(args, diffusion)
        model.to(best_device())
        numbers = evaluate(
            diffusion, model, train, test, n=args.n, inception=args.inception, **options
        )
    if args.out is not None:
        args.out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        print(f"numbers in {args.out}")
