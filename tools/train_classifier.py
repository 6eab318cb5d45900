"""Train a classifier for evaluation, and store it together with its accuracy.

python -m tools.train_classifier OUT.safetensors --data cartoons --epochs 4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.evaluation.classifier import (
    SIDE,
    accuracy,
    load_classifier,
    save_classifier,
    train_classifier,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure on the test pictures, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_classifier")
    parser.add_argument("path", type=Path, help="file to write, ending in .safetensors")
    parser.add_argument("--data", default="cartoons", help="a source for ImageDataset (cartoons)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over its pictures (4)")
    args = parser.parse_args(argv)
    train, test = (ImageDataset(args.data, SIDE, split=split) for split in ("train", "test"))
    save_classifier(args.path, train_classifier(train, epochs=args.epochs))
    classifier = load_classifier(args.path)  # measure what is stored: float16
    classifier.accuracy = accuracy(classifier, test)
    save_classifier(args.path, classifier)
    print(f"{args.path}: accuracy {classifier.accuracy:.2%} on the test pictures")


if __name__ == "__main__":
    main()
