"""The parts that Encoder and Decoder are built from."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 8  # channels in each group of GroupNorm


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Embed timesteps in sines and cosines of decreasing frequency.

        embedding[k] = sin(t * w_k), embedding[dim/2 + k] = cos(t * w_k),
        w_k = 10,000 ** (-k / (dim/2))

    Args:
        t: timesteps, (B,), any number type.
        dim: length of each vector, even.
    Returns:
        (B, dim) float32 in [-1, 1].
    Source: Vaswani et al. 2017, section 3.5, with sines and cosines in two halves.
    """
    if dim % 2:
        raise ValueError(f"dim must be even, half sines and half cosines; got {dim}")
    k = torch.arange(dim // 2, device=t.device, dtype=torch.float32)
    w = torch.exp(-math.log(10_000.0) * k / (dim // 2))  # (dim/2,)
    angles = t.float()[:, None] * w[None, :]  # (B, dim/2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)  # (B, dim)


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding followed by a two-layer perceptron: (B,) -> (B, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        waves = timestep_embedding(t, self.dim)  # (B, dim) float32
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 8 channels per group; it normalises each image on its own.

    BatchNorm would mix images of different noise levels, and it behaves differently in eval mode.
    Source: Wu & He 2018.
    """
    return nn.GroupNorm(channels // GROUP, channels)


def zero_init(layer: nn.Module) -> nn.Module:
    """Set all weights to 0, so that a residual branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResBlock(nn.Module):
    """ResNet's basic block in its pre-activation form, conditioned on the time embedding.

        h = conv1(silu(norm1(x)))
        h = norm2(h) * (1 + scale(t)) + shift(t)
        out = conv2(silu(h)) + shortcut(x)

    Args:
        c_in, c_out: channels before and after, multiples of 8.
        t_dim: length of the time embedding.
        stride: 2 halves height and width in conv1, as in ResNet-18.
    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks"; scale and shift:
        Dhariwal & Nichol 2021, section 3 (AdaGN).
    """

    def __init__(self, c_in: int, c_out: int, t_dim: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = group_norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1)
        self.time = nn.Linear(t_dim, 2 * c_out)
        self.norm2 = group_norm(c_out)
        self.conv2 = zero_init(nn.Conv2d(c_out, c_out, 3, padding=1))
        same = c_in == c_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(c_in, c_out, 1, stride)

    def forward(self, x: Tensor, t_emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, c_out, H/stride, W/stride)
        scale, shift = self.time(F.silu(t_emb))[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.conv2(F.silu(h)) + self.shortcut(x)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the positions of a feature map, (B, C, H, W) -> same.

        out = x + W_out softmax(q k^T / sqrt(d)) v,   (q, k, v) = W_qkv norm(x),   d = C / heads

    Its cost grows with (H * W) ** 2, so it is used at low resolution only. At these sizes,
    `F.scaled_dot_product_attention` is no faster on a CPU, so the formula is written out.

    Args:
        channels: C, a multiple of 8.
        head_dim: each head has at least this many channels, or all C if C is smaller; the number
            of heads is the largest divisor of C that allows it.
    Source: Vaswani et al. 2017; in a diffusion network: Ho et al. 2020, appendix B.
    """

    def __init__(self, channels: int, head_dim: int = 32) -> None:
        super().__init__()
        most = max(1, channels // head_dim)
        self.heads = next(heads for heads in range(most, 0, -1) if channels % heads == 0)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, H*W, C/heads)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        h = weights @ v  # (B, heads, H*W, C/heads)
        h = h.transpose(-1, -2).reshape(B, C, H, W)
        return x + self.out(h)


class Upsample(nn.ConvTranspose2d):
    """Transposed convolution without checkerboard artefacts.

    Kernel 4 at stride 2 gives every output pixel the same number of taps (kernel 3 alternates
    between one and two per axis). The initial weights interpolate bilinearly between random
    mixtures of the channels, so that neighbouring pixels start out alike.

    Args:
        c_in, c_out: channels before and after.
        factor: multiplies height and width, an even number.
    Source: Odena et al. 2016, "Deconvolution and Checkerboard Artifacts".
    """

    def __init__(self, c_in: int, c_out: int, factor: int = 2) -> None:
        super().__init__(c_in, c_out, 2 * factor, stride=factor, padding=factor // 2)
        rise = (torch.arange(factor) + 0.5) / factor
        tent = torch.cat([rise, rise.flip(0)])  # 0.25, 0.75, 0.75, 0.25 for a factor of 2
        mix = torch.randn(c_in, c_out, 1, 1) / math.sqrt(c_in)
        with torch.no_grad():
            self.weight.copy_(mix * tent[:, None] * tent[None, :])
            self.bias.zero_()  # type: ignore[union-attr]
