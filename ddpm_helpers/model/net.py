"""DiffusionNet: the encoder and the decoder, joined into one network."""

from __future__ import annotations

from torch import Tensor, nn

from ddpm_helpers.model.base import Network
from ddpm_helpers.model.blocks import zero_init
from ddpm_helpers.model.decoder import Decoder
from ddpm_helpers.model.encoder import Encoder


class DiffusionNet(Network):
    """The U-Net that predicts eps, x_0, v or flow from noisy images and their timesteps.

        output = decoder(encoder(x_t)) + gate(t) * x_t

    The gate is one number per channel and timestep. It passes the full-resolution noise directly
    to the output, so the stages need not carry each pixel of it through the bottleneck.
    A newly initialised network outputs exactly 0.

    Args:
        image_size: side S of the images, a multiple of 8 * stem_stride.
        channels: C of the images.
        width: channels of the first stage, a multiple of 8 (64 as in ResNet-18).
        num_classes: at least 1, or None for a network that takes no labels.
        attention_size: maps of this side and smaller get self-attention.
        stem_stride: the stem divides the side by this, 2 or 4; 4 costs about a quarter.
    Attributes:
        image_shape: (C, S, S).
        config: the arguments, enough to build the same network again.
        classes: names of the classes, class 0 first; empty if unknown.
    """

    kind = "unet"

    def __init__(
        self,
        image_size: int = 64,
        *,
        channels: int = 3,
        width: int = 64,
        num_classes: int | None = None,
        attention_size: int = 8,
        stem_stride: int = 2,
    ) -> None:
        of_both = {
            "image_size": image_size,
            "channels": channels,
            "width": width,
            "attention_size": attention_size,
            "stem_stride": stem_stride,
        }
        t_dim = 4 * width
        super().__init__({**of_both, "num_classes": num_classes}, t_dim)
        self.encoder = Encoder(**of_both, t_dim=t_dim)
        self.decoder = Decoder(**of_both, t_dim=t_dim)
        self.gate = zero_init(nn.Linear(t_dim, channels))

    def ends(self) -> list[nn.Module]:
        """Return the stem, the gate and the last transposed convolution."""
        return [self.gate, self.encoder.stem, self.decoder.to_pixels]

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict eps, x_0, v or flow, whichever the network is trained for.

        Args:
            x_t: noisy images, (B, C, S, S), in the dtype of the weights.
            t: their timesteps, (B,) int64.
            y: class labels, (B,) int64 in 0..num_classes-1, or -1 for "no label"; None means no
                label for any image.
        Returns:
            (B, C, S, S), in x_t's dtype.
        Raises:
            ValueError: x_t or t has the wrong shape, or labels are out of range.
        """
        t_emb = self.embed(x_t, t, y)  # (B, t_dim)
        out = self.decoder(self.encoder(x_t, t_emb), t_emb)  # (B, C, S, S)
        gate = self.gate(t_emb)[:, :, None, None]  # (B, C, 1, 1)
        return (out + gate * x_t).to(x_t.dtype)


def count_parameters(module: nn.Module) -> int:
    """Count the trainable parameters of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
