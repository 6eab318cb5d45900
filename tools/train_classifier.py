"""Train a classifier for evaluation, and store it together with its accuracy.

python -m tools.train_classifier OUT.safetensors --data cartoons --epochs 4
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.device import bf16_is_fast
from ddpm_helpers.evaluation.classifier import SIDE, Classifier, load_classifier


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure on the test images, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_classifier")
    parser.add_argument("path", type=Path, help="file to write, ending in .safetensors")
    parser.add_argument("--data", default="cartoons", help="a source for ImageDataset (cartoons)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over its images (4)")
    args = parser.parse_args(argv)
    train, test = (ImageDataset(args.data, SIDE, split=split) for split in ("train", "test"))
    save_classifier(args.path, train_classifier(train, epochs=args.epochs))
    classifier = load_classifier(args.path)  # measure what is stored: float16
    classifier.accuracy = accuracy(classifier, test)
    save_classifier(args.path, classifier)
    print(f"{args.path}: accuracy {classifier.accuracy:.2%} on the test images")


def save_classifier(path: str | Path, classifier: Classifier) -> None:
    """Write a classifier in float16, with its accuracy in the file's metadata."""
    about = {"classes": list(classifier.classes), "accuracy": classifier.accuracy}
    tensors = {k: v.half().contiguous() for k, v in classifier.state_dict().items()}
    save_file(tensors, path, metadata={"classifier": json.dumps(about)})


def train_classifier(
    ds: ImageDataset, *, epochs: int = 4, batch_size: int = 128, lr: float = 2e-3, seed: int = 0
) -> Classifier:
    """Train a new classifier on a dataset.

    Args:
        ds: images and labels.
        epochs: passes over them, each image flipped horizontally half of the time.
        batch_size, lr: of AdamW; the learning rate falls to 0 along a cosine.
        seed: of weights, order and flips.
    Returns:
        The classifier in eval mode.
    """
    torch.manual_seed(seed)
    classifier = Classifier(ds.classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr)
    bf16 = bf16_is_fast(torch.device("cpu"))
    total = epochs * (len(ds) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total))
    for epoch in range(epochs):
        for x, y in ds.batches(batch_size, seed=seed, epoch=epoch, drop_last=True):
            mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
            x = torch.where(mirrored, x.flip(-1), x).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                scores = classifier(x)  # (B, classes)
            loss = F.cross_entropy(scores.float(), y, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(classifier: Classifier, ds: ImageDataset, batch_size: int = 250) -> float:
    """The share of a dataset's images whose class gets the highest score."""
    right = 0
    for x, y in ds.batches(batch_size, seed=0, shuffle=False):
        right += int((classifier(x).argmax(1) == y).sum())
    return right / len(ds)


if __name__ == "__main__":
    main()
