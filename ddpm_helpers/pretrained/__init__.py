"""Trained weights: save, find, check, fine-tune and distil them."""

from ddpm_helpers.pretrained.distill import distill_model
from ddpm_helpers.pretrained.fine_tune import config_for_weights, fine_tune_model, set_classes
from ddpm_helpers.pretrained.shipped import available_weights, shipped_ladder
from ddpm_helpers.pretrained.weights import load_pretrained, save_weights

__all__ = [
    "available_weights",
    "config_for_weights",
    "distill_model",
    "fine_tune_model",
    "load_pretrained",
    "save_weights",
    "set_classes",
    "shipped_ladder",
]
