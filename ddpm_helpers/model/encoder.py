"""From an image to feature maps: a ResNet-18, conditioned on the timestep t."""

from __future__ import annotations

from torch import Tensor, nn

from ddpm_helpers.model.blocks import GROUP, ResBlock, SelfAttention

MULTIPLIERS = (1, 2, 4, 8)  # ResNet-18's widths: 64, 128, 256, 512
STEM_STRIDES = (2, 4)  # 4 is ResNet-18's: 2 in its convolution and 2 in its max-pooling


def check_image_size(image_size: int, stem_stride: int) -> None:
    """Check that the stem and the stages can divide the image size evenly."""
    if stem_stride not in STEM_STRIDES:
        raise ValueError(f"stem_stride must be 2 or 4, got {stem_stride}")
    stride = 8 * stem_stride  # 2 between each of the four stages
    if image_size < stride or image_size % stride:
        near = max(stride, round(image_size / stride) * stride)
        raise ValueError(
            f"image_size must be a multiple of {stride} (the network divides it by {stem_stride}, "
            f"then halves it three times), got {image_size}; the nearest is {near}"
        )


class Stage(nn.Module):
    """Two basic blocks, then self-attention if the feature map is small enough."""

    def __init__(self, c_in: int, c_out: int, t_dim: int, stride: int, attention: bool) -> None:
        super().__init__()
        self.block1 = ResBlock(c_in, c_out, t_dim, stride)
        self.block2 = ResBlock(c_out, c_out, t_dim)
        self.attention = SelfAttention(c_out) if attention else nn.Identity()

    def forward(self, x: Tensor, t_emb: Tensor) -> Tensor:
        return self.attention(self.block2(self.block1(x, t_emb), t_emb))


class Encoder(nn.Module):
    """ResNet-18 with the time embedding in every block and self-attention at low resolution.

    The stem rearranges 2x2 pixels into channels before its convolution (pixel-unshuffle): the
    resolution halves, as in ResNet's strided stem, but no value of the image is lost, so the
    noise of every pixel can still be predicted. With 4x4 pixels, the stages work at ResNet-18's
    own resolution, at a quarter of the cost.

    Args:
        image_size, channels, attention_size: as for `DiffusionNet`.
        width: channels of the first stage, a multiple of 8; the others have 2, 4 and 8
            times as many.
        t_dim: length of the time embedding.
        stem_stride: side of the squares of pixels that the stem rearranges, 2 or 4.
    Source: He et al. 2016, "Deep Residual Learning", table 1; pixel-unshuffle: Shi et al. 2016.
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
        if width < GROUP or width % GROUP:
            raise ValueError(f"width must be a multiple of {GROUP}, got {width}")
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(stem_stride),
            nn.Conv2d(stem_stride**2 * channels, width, 3, padding=1),
        )
        self.stages = nn.ModuleList()
        c_in, size = width, image_size // stem_stride
        for i, multiplier in enumerate(MULTIPLIERS):
            stride = 1 if i == 0 else 2
            size //= stride
            c_out = multiplier * width
            self.stages.append(Stage(c_in, c_out, t_dim, stride, size <= attention_size))
            c_in = c_out

    def forward(self, x: Tensor, t_emb: Tensor) -> list[Tensor]:
        """Compute feature maps from fine to coarse.

        Args:
            x: images, (B, C, S, S).
            t_emb: time embedding, (B, t_dim).
        Returns:
            Five maps: the stem's (B, width, S/2, S/2), then the stages' of width
            1, 2, 4, 8 x width at S/2, S/4, S/8, S/16 (half of these sides with stem_stride 4).
        """
        h = self.stem(x)  # (B, width, S/2, S/2)
        features = [h]
        for stage in self.stages:
            h = stage(h, t_emb)
            features.append(h)
        return features
