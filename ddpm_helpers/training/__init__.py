"""The training loop, its averaged weights and its checkpoints."""

from ddpm_helpers.training.build import build_diffusion, build_model
from ddpm_helpers.training.ema import ema_decay_at, update_ema
from ddpm_helpers.training.metrics import StepRecord
from ddpm_helpers.training.optim import learning_rate
from ddpm_helpers.training.pipeline import TrainingPipeline
from ddpm_helpers.training.training_data import TrainingData

__all__ = [
    "StepRecord",
    "TrainingData",
    "TrainingPipeline",
    "build_diffusion",
    "build_model",
    "ema_decay_at",
    "learning_rate",
    "update_ema",
]
