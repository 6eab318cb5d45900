"""Picture -> feature maps: a ResNet-18 that knows the time."""

from __future__ import annotations

from torch import Tensor, nn

from ddpm_helpers.model.blocks import GROUP, ResBlock, SelfAttention

MULTIPLIERS = (1, 2, 4, 8)  # ResNet-18's widths: 64, 128, 256, 512
STRIDE = 16  # 2 in the stem, then 2 between each of the four stages


def check_image_size(image_size: int) -> None:
    """Refuse a picture that the four stages cannot halve evenly."""
    if image_size < STRIDE or image_size % STRIDE:
        near = max(STRIDE, round(image_size / STRIDE) * STRIDE)
        raise ValueError(
            f"image_size must be a multiple of {STRIDE} (the network halves it four times), "
            f"got {image_size}; the nearest is {near}"
        )


class Stage(nn.Module):
    """Two basic blocks, each followed by self-attention where the map is small enough."""

    def __init__(self, c_in: int, c_out: int, t_dim: int, stride: int, attention: bool) -> None:
        super().__init__()
        self.block1 = ResBlock(c_in, c_out, t_dim, stride)
        self.block2 = ResBlock(c_out, c_out, t_dim)
        self.attention = SelfAttention(c_out) if attention else nn.Identity()

    def forward(self, x: Tensor, t_emb: Tensor) -> Tensor:
        return self.attention(self.block2(self.block1(x, t_emb), t_emb))


class Encoder(nn.Module):
    """ResNet-18 with the time fed to every block and self-attention at low resolution.

    The stem rearranges 2x2 pixels into channels before its convolution (pixel-unshuffle): the
    resolution halves, as in ResNet's strided stem, and yet no value of the picture is lost, so
    the noise of every single pixel can still be told.

    Args:
        image_size: side of the pictures, a multiple of 16.
        channels: of the pictures, 3 for RGB.
        width: channels of the first stage, a multiple of 8; the others have 2, 4 and 8
            times as many.
        t_dim: length of the time embedding.
        attention_size: maps of this side and smaller get self-attention.
    Raises:
        ValueError: image_size is not a multiple of 16, or width not of 8.
    Source: He et al. 2016, table 1; pixel-unshuffle: Shi et al. 2016.
    """

    def __init__(
        self,
        image_size: int = 64,
        *,
        channels: int = 3,
        width: int = 64,
        t_dim: int = 256,
        attention_size: int = 8,
    ) -> None:
        super().__init__()
        check_image_size(image_size)
        if width < GROUP or width % GROUP:
            raise ValueError(f"width must be a multiple of {GROUP}, got {width}")
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1)
        )
        self.stages = nn.ModuleList()
        c_in, size = width, image_size // 2
        for i, multiplier in enumerate(MULTIPLIERS):
            stride = 1 if i == 0 else 2
            size //= stride
            c_out = multiplier * width
            self.stages.append(Stage(c_in, c_out, t_dim, stride, size <= attention_size))
            c_in = c_out

    def forward(self, x: Tensor, t_emb: Tensor) -> list[Tensor]:
        """Feature maps from fine to coarse, for the decoder to take up stage by stage.

        Args:
            x: pictures, (B, C, S, S).
            t_emb: time embedding, (B, t_dim).
        Returns:
            Five maps: the stem's (B, width, S/2, S/2), then the stages' of width
            1, 2, 4, 8 x width at S/2, S/4, S/8, S/16.
        """
        h = self.stem(x)  # (B, width, S/2, S/2)
        features = [h]
        for stage in self.stages:
            h = stage(h, t_emb)
            features.append(h)
        return features
