"""A small classifier; its features are used to compare sets of images.

It replaces the Inception network of FID and needs no download. A distance between its features is
not an FID; do not compare it with one. `tools/train_classifier.py` trained both classifiers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm_helpers.data import ImageDataset

HERE = Path(__file__).parent
SHIPPED = {
    "cartoons": HERE / "cartoon_classifier.safetensors",
    "photographs": HERE / "photo_classifier.safetensors",
}
FEATURES, SIDE = 64, 32  # features per image; image side in pixels


class Classifier(nn.Module):
    """Five convolutions and two linear layers: images to features to class scores.

    Args:
        classes: class names; an image gets a score for each class.
    Attributes:
        accuracy: accuracy on the test images, in 0..1; None if unknown.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        layers: list[nn.Module] = []
        sizes = [(3, 32, 2), (32, 64, 1), (64, 64, 2), (64, 96, 1), (96, 96, 2)]
        for c_in, c_out, stride in sizes:
            layers += [nn.Conv2d(c_in, c_out, 3, stride, 1), nn.GroupNorm(8, c_out), nn.SiLU()]
        self.body = nn.Sequential(*layers)  # (B, 3, 32, 32) -> (B, 96, 4, 4)
        self.describe = nn.Linear(2 * 96, FEATURES)
        self.head = nn.Linear(FEATURES, len(self.classes))
        self.accuracy: float | None = None

    def features(self, x: Tensor) -> Tensor:
        """Compute the features that distances use.

        Args:
            x: (B, C, S, S) in [-1, 1]; resized to 32×32 first. Greyscale images, C = 1, are
                repeated to three equal channels: the classifier was trained on colour images only.
        Returns:
            (B, 64).
        """
        x = x.expand(-1, 3, -1, -1)  # (B, 3, S, S)
        if x.shape[-2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        h = self.body(x)  # (B, 96, 4, 4)
        pooled = torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)  # (B, 192)
        return F.silu(self.describe(pooled))  # (B, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, S, S) in [-1, 1] to logits (B, classes)."""
        return self.head(self.features(x))


def load_classifier(name_or_path: str | Path = "cartoons") -> Classifier:
    """Load a trained classifier, in eval mode on the CPU.

    Args:
        name_or_path: cartoons, photographs, or a file from `tools/train_classifier.py`.
    """
    path = SHIPPED.get(str(name_or_path), name_or_path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["classifier"])
    classifier = Classifier(about["classes"])
    classifier.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    classifier.accuracy = about["accuracy"]
    return classifier.eval().requires_grad_(False)


def classifier_for(ds: ImageDataset) -> Classifier:
    """Load the cartoon classifier for cartoons and the photograph classifier for all other data.

    The features can compare images of any class; the scores are only useful if the dataset has the
    same `classes`.
    """
    return load_classifier("cartoons" if ds.source == "cartoons" else "photographs")
