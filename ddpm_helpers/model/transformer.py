"""DiT: a transformer over the patches of an image, in place of the U-Net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_helpers import checks
from ddpm_helpers.model.base import Network
from ddpm_helpers.model.blocks import timestep_embedding, zero_init

DEEPEST = 100  # largest depth; a weights file that asks for more is refused unbuilt


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise each token, then scale and shift its channels: LN(h) * (1 + scale) + shift."""
    return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift


class DiTBlock(nn.Module):
    """One block of the transformer: attention between tokens, then a perceptron on each of them.

        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation(silu(c))
        h = h + gate_1 * attention(LN(h) * (1 + scale_1) + shift_1)
        h = h + gate_2 * mlp(LN(h) * (1 + scale_2) + shift_2)

    The weights of `modulation` start at 0, so a new block is the identity (adaLN-Zero).

    Args:
        width: channels of each token, a multiple of heads.
        heads: number of attention heads.
    Source: Peebles & Xie 2023, section 3.2 and figure 3.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = zero_init(nn.Linear(width, 6 * width))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        for layer in (self.qkv, self.out, self.mlp[0], self.mlp[2]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Transform tokens.

        Args:
            h: (B, N, width).
            c: embedding of timestep and label, (B, width).
        Returns:
            (B, N, width).
        """
        parts = self.modulation(F.silu(c))[:, None, :].chunk(6, dim=-1)  # each (B, 1, width)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        h = h + gate_1 * self.attention(modulate(h, shift_1, scale_1))
        return h + gate_2 * self.mlp(modulate(h, shift_2, scale_2))

    def attention(self, h: Tensor) -> Tensor:
        """Multi-head self-attention, (B, N, width) -> same."""
        B, N, width = h.shape
        qkv = self.qkv(h).reshape(B, N, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, width/heads)
        h = F.scaled_dot_product_attention(q, k, v)
        return self.out(h.transpose(1, 2).reshape(B, N, width))


class DiT(Network):
    """The transformer that predicts eps, x_0, v or flow from noisy images and their timesteps.

    An image becomes N = (S / patch)^2 tokens, one for each square of patch × patch pixels. Every
    block sees all of them. A newly initialised network outputs exactly 0.

    Args:
        image_size: side S of the images, a multiple of patch.
        channels: C of the images.
        patch: side of a patch in pixels; half of it costs about four times as much.
        width: channels of each token, a multiple of 4 and of heads.
        depth: number of blocks, 1..100.
        heads: number of attention heads in each block.
        num_classes: None for a network that takes no labels.
    Attributes:
        positions: encodings of the patches' positions, (N, width), added to the tokens.
        image_shape, config, classes: as for `DiffusionNet`.
    Raises:
        ValueError: image_size not a multiple of patch, width not a multiple of 4 and of heads,
            depth out of range, num_classes below 1.
    Source: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers".
    """

    kind = "transformer"

    def __init__(
        self,
        image_size: int = 64,
        *,
        channels: int = 3,
        patch: int = 4,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        num_classes: int | None = None,
    ) -> None:
        if image_size < patch or image_size % patch:
            near = max(patch, round(image_size / patch) * patch)
            raise ValueError(
                f"image_size must be a multiple of patch = {patch}, got {image_size}; "
                f"the nearest is {near}"
            )
        if width % 4 or width % heads:
            raise ValueError(f"width must be a multiple of 4 and of heads = {heads}, got {width}")
        checks.count("depth", depth, 1, DEEPEST)
        config = {"image_size": image_size, "channels": channels, "patch": patch, "width": width}
        super().__init__(
            config | {"depth": depth, "heads": heads, "num_classes": num_classes}, width
        )
        self.patch, numbers = patch, channels * patch**2
        self.to_tokens = nn.Linear(numbers, width)
        self.positions: Tensor
        self.register_buffer("positions", positions(image_size // patch, width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.modulation = zero_init(nn.Linear(width, 2 * width))
        self.to_pixels = zero_init(nn.Linear(width, numbers))

    def ends(self) -> list[nn.Module]:
        """Return the layers between pixels and tokens."""
        return [self.to_tokens, self.to_pixels]

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict eps, x_0, v or flow; arguments, result and errors as for `DiffusionNet`."""
        c = self.embed(x_t, t, y)  # (B, width)
        patches = F.pixel_unshuffle(x_t, self.patch)  # (B, C*patch^2, S/patch, S/patch)
        h = self.to_tokens(patches.flatten(2).mT) + self.positions  # (B, N, width)
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(F.silu(c))[:, None, :].chunk(2, dim=-1)
        h = self.to_pixels(modulate(h, shift, scale))  # (B, N, C*patch^2)
        return F.pixel_shuffle(h.mT.reshape(patches.shape), self.patch).to(x_t.dtype)


def positions(side: int, width: int) -> Tensor:
    """Encode each patch's row, then its column, in sines and cosines: (side^2, width)."""
    waves = timestep_embedding(torch.arange(side), width // 2)  # (side, width/2)
    rows = waves[:, None, :].expand(side, side, -1)
    return torch.cat([rows, rows.transpose(0, 1)], dim=-1).flatten(0, 1)
