"""From feature maps to an image: the encoder, mirrored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_helpers.model.blocks import Upsample, group_norm, zero_init
from ddpm_helpers.model.encoder import MULTIPLIERS, Stage, check_image_size


class Decoder(nn.Module):
    """Three stages: double the size, append the encoder's map of that size, apply two basic blocks.

    A last transposed convolution maps the stem's resolution to pixels. Its input includes
    the stem's map, which still holds every pixel of the noisy image.

    Args:
        image_size, channels, width, t_dim, attention_size, stem_stride: as for `Encoder`.
    Source: Ronneberger et al. 2015 (skip connections), Ho et al. 2020, appendix B.
    """

    def __init__(
        self,
        image_size: int = 64,
        *,
        channels: int = 3,
        width: int = 64,
        t_dim: int = 256,
        attention_size: int = 8,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        check_image_size(image_size, stem_stride)
        self.upsamples = nn.ModuleList()
        self.stages = nn.ModuleList()
        c_in, size = MULTIPLIERS[-1] * width, image_size // (8 * stem_stride)
        for multiplier in reversed(MULTIPLIERS[:-1]):
            c_out, size = multiplier * width, size * 2
            self.upsamples.append(Upsample(c_in, c_out))
            self.stages.append(Stage(2 * c_out, c_out, t_dim, 1, size <= attention_size))
            c_in = c_out
        self.norm = group_norm(2 * width)
        self.to_pixels = zero_init(Upsample(2 * width, channels, stem_stride))

    def forward(self, features: list[Tensor], t_emb: Tensor) -> Tensor:
        """Decode feature maps into an image.

        Args:
            features: the encoder's five maps, fine to coarse.
            t_emb: time embedding, (B, t_dim).
        Returns:
            (B, channels, S, S).
        """
        stem, *skips, h = features  # h: (B, 8*width, S/16, S/16)
        for upsample, stage, skip in zip(self.upsamples, self.stages, reversed(skips), strict=True):
            h = torch.cat([upsample(h), skip], dim=1)
            h = stage(h, t_emb)
        h = torch.cat([h, stem], dim=1)  # (B, 2*width, S/2, S/2)
        return self.to_pixels(F.silu(self.norm(h)))  # (B, channels, S, S)
