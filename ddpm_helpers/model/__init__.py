"""The network: ResNet-18 encoder, mirrored decoder, and the two joined."""

from ddpm_helpers.checks import NO_LABEL
from ddpm_helpers.model.blocks import (
    ResBlock,
    SelfAttention,
    TimeEmbedding,
    Upsample,
    timestep_embedding,
)
from ddpm_helpers.model.decoder import Decoder
from ddpm_helpers.model.encoder import Encoder
from ddpm_helpers.model.net import DiffusionNet, count_parameters

__all__ = [
    "NO_LABEL",
    "Decoder",
    "DiffusionNet",
    "Encoder",
    "ResBlock",
    "SelfAttention",
    "TimeEmbedding",
    "Upsample",
    "count_parameters",
    "timestep_embedding",
]
