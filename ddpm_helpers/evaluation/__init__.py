"""Measure a trained network: losses, distances between sets of images, memorisation."""

from ddpm_helpers.evaluation.classifier import Classifier, load_classifier
from ddpm_helpers.evaluation.clinic import clinic, clinic_table
from ddpm_helpers.evaluation.comparison import (
    Comparison,
    Floor,
    compare,
    features_and_classes,
    noise_floor,
)
from ddpm_helpers.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from ddpm_helpers.evaluation.memorising import find_copies, nearest_neighbours
from ddpm_helpers.evaluation.report import evaluate, loss_per_step
from ddpm_helpers.evaluation.sets import draw_samples, take

__all__ = [
    "Classifier",
    "Comparison",
    "Floor",
    "clinic",
    "clinic_table",
    "compare",
    "draw_samples",
    "evaluate",
    "features_and_classes",
    "find_copies",
    "frechet_distance",
    "kernel_distance",
    "load_classifier",
    "loss_per_step",
    "nearest_neighbours",
    "noise_floor",
    "precision_recall",
    "take",
]
