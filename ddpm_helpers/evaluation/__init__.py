"""How good is a trained network: losses, distances between sets of pictures, memorisation."""

from ddpm_helpers.evaluation.classifier import Classifier, load_classifier
from ddpm_helpers.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    nearest_neighbours,
    precision_recall,
)
from ddpm_helpers.evaluation.report import (
    Comparison,
    compare,
    draw_samples,
    evaluate,
    features_and_classes,
    loss_per_step,
    table,
    take_like,
)

__all__ = [
    "Classifier",
    "Comparison",
    "compare",
    "draw_samples",
    "evaluate",
    "features_and_classes",
    "frechet_distance",
    "kernel_distance",
    "load_classifier",
    "loss_per_step",
    "nearest_neighbours",
    "precision_recall",
    "table",
    "take_like",
]
