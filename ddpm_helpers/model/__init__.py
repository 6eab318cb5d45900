"""The networks: a U-Net of ResNet-18 and a mirrored decoder, and a transformer."""

from ddpm_helpers.checks import NO_LABEL
from ddpm_helpers.model.base import Network
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
from ddpm_helpers.model.transformer import DiT

NETWORKS: dict[str, type[DiffusionNet] | type[DiT]] = {net.kind: net for net in (DiffusionNet, DiT)}

__all__ = [
    "NETWORKS",
    "NO_LABEL",
    "Decoder",
    "DiT",
    "DiffusionNet",
    "Encoder",
    "Network",
    "ResBlock",
    "SelfAttention",
    "TimeEmbedding",
    "Upsample",
    "count_parameters",
    "timestep_embedding",
]
