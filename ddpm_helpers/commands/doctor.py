"""`ddpm doctor`: run every check that applies to a run, a weights file or a set of images."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.config import settings
from ddpm_helpers.device import best_device
from ddpm_helpers.doctor.finding import (
    SKIPPED,
    VERDICTS,
    Finding,
    look,
    most_likely,
    skipped,
    worst,
)
from ddpm_helpers.doctor.images import check_data
from ddpm_helpers.doctor.patient import from_ours
from ddpm_helpers.doctor.run_checks import run_checks
from ddpm_helpers.doctor.training import check_average, check_history
from ddpm_helpers.training import checkpoint as checkpoints
from ddpm_helpers.training.run_folder import read_history

IMAGES, DRAWN, STEPS, FEW, FEW_LOSSES = 64, 32, 20, 200, 50
EXIT = f"""exit status: {", ".join(f"{i} {verdict}" for i, verdict in enumerate(VERDICTS))}. An
invalid option also exits with 2, but prints one line on stderr only. After the checks, the last
line on stdout begins with the verdict."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm doctor` to a parser, and the function that runs it."""
    parser.epilog = EXIT
    add = parser.add_argument
    add("--weights", help="a shipped name, a file, or a run's folder, whose history and "
        "checkpoint are checked too (cartoons; none if you give only --data)")  # fmt: skip
    add("--data", help="the data of the weights (by default as stored in them), or images to "
        "check")  # fmt: skip
    add("--root", help="folder of the source's files")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the checks and print one line for each; the last line is the verdict.

    Returns:
        Exit status: 0 if all is ok, 1 if you should look at something, 2 if something is broken.
    Raises:
        ValueError, OSError: the weights or images cannot be read.
    """
    findings: list[Finding] = []
    for finding in _findings(args):
        print(finding, flush=True)
        findings.append(finding)
    verdict, first = worst(findings), most_likely(findings)
    left_out = [finding.name for finding in findings if finding.verdict == SKIPPED]
    if first is None:
        without = f", without {', '.join(left_out)}" if left_out else ""
        print(f"ok: {len(findings) - len(left_out)} checks{without}, no alarm")
    else:
        print(f"{verdict}: begin with {first.name}: {first.sentence}. {first.repair}")
    return VERDICTS.index(verdict)


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    if args.weights is None and args.data is not None:
        yield from _images_alone(args.data, args.root)
        return
    from ddpm_helpers.pretrained import load_pretrained
    from ddpm_helpers.pretrained.weights import data_of_weights

    weights = "cartoons" if args.weights is None else args.weights
    model, diffusion = load_pretrained(weights)
    data = data_of_weights(weights, args.data, args.root)
    opened = _open(data, model.image_shape[-1], given=args.data is not None)
    device = best_device()
    model.to(device)
    print(f"weights {weights}, {diffusion}, images {model.image_shape}")
    x_0 = y = None
    if isinstance(opened, str):
        print(f"without images: {opened}")
    else:
        x_0, y = _batch(opened, model, device)
    patient = from_ours(model, diffusion, sampler="dpm++", steps=min(STEPS, diffusion.T))
    trained = True
    for finding in run_checks(patient, x_0, y, draw=DRAWN, overfit=20):
        trained = trained and not (finding.name == "loss" and finding.alarm)
        yield finding
    if Path(weights).is_dir():
        yield from _history(Path(weights), trained)
        yield from _average(Path(weights), model, diffusion, x_0, y)


def _images_alone(source: str, root: str | None) -> Iterator[Finding]:
    side = settings().train.image_size
    ds = _open({"source": source, "root": root}, side, given=True)
    x, _ = next(ds.batches(min(IMAGES, len(ds)), seed=0))
    print(f"{len(ds)} training images of {source}, read at {side}×{side}")
    yield check_data(x)
    if len(ds) < FEW:
        yield look(
            "data",
            f"{len(ds)} images are too few: a network memorises them",
            "Collect more, or compare samples with their nearest training images (notebook 09)",
            images=float(len(ds)),
        )


def _open(data: dict[str, Any], side: int, *, given: bool) -> Any:
    """Open the dataset without a download, or return a sentence that says why this failed."""
    from ddpm_helpers.data import ImageDataset

    source = data.get("source")
    if source is None:
        return "the weights do not say what they were trained on; give --data"
    try:
        wanted = "auto" if source == "cifar10" else source  # auto uses it if it is on disk
        split = "train" if given else "test"
        with redirect_stdout(StringIO()):  # auto prints its choice
            ds = ImageDataset(**data | {"source": wanted, "image_size": side, "split": split})
    except (ValueError, OSError) as error:
        if given:
            raise
        return f"{source} cannot be read ({' '.join(str(error).split())[:120]}); give --data"
    if source == "cifar10" and ds.source != "cifar10":
        return "cifar10 is not on disk; `ddpm data cifar10` fetches it, or give --data"
    return ds


def _batch(ds: Any, model: Any, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Take a batch of images, with labels if the dataset has the network's classes."""
    x_0, y = next(ds.batches(min(IMAGES, len(ds)), seed=0))
    same = len(ds.classes) == model.num_classes and model.classes in ((), tuple(ds.classes))
    return x_0.to(device), y.to(device) if same else None


def _history(folder: Path, trained: bool) -> Iterator[Finding]:
    """Check the losses of a run, unless its network is still untrained."""
    history = folder / "history.jsonl"
    if not history.is_file():
        return
    found = [record["loss"] for record in read_history(history)]
    losses = [loss for loss in found if loss is not None]  # null: a batch that was skipped
    if len(losses) < FEW_LOSSES:
        yield skipped("history", f"{len(losses)} losses are too few")
    elif not trained:
        yield skipped("history", "means nothing before the loss is good")
    else:
        yield check_history(losses)


def _average(
    folder: Path, model: Any, diffusion: Any, x_0: Tensor | None, y: Tensor | None
) -> Iterator[Finding]:
    """Compare the weights before averaging with the averaged weights."""
    checkpoint = folder / checkpoints.CHECKPOINT
    if not checkpoint.is_file():
        return
    if x_0 is None:
        yield skipped("average", "needs images")
        return
    state = checkpoints.read(checkpoint)
    raw = copy.deepcopy(model)
    raw.load_state_dict(state["model"])
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)).to(x_0)
    t = torch.linspace(1, diffusion.T, len(x_0)).long()

    def loss(network: Any) -> float:
        return float(diffusion.loss(network, x_0, t, eps, y).mean())

    yield check_average(loss, raw, model, steps=state.get("step"))
