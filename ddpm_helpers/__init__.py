"""Denoising diffusion models, from the first pixel to a finished sample."""

from ddpm_helpers.config import TrainConfig, settings
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import Decoder, DiffusionNet, Encoder
from ddpm_helpers.pretrained import load_pretrained
from ddpm_helpers.training import TrainingPipeline

__version__ = "0.1.0"

__all__ = [
    "Decoder",
    "DiffusionNet",
    "DiffusionUtils",
    "Encoder",
    "ImageDataset",
    "TrainConfig",
    "TrainingPipeline",
    "load_pretrained",
    "settings",
]
