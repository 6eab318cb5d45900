"""The base class of the networks: image shape, embeddings of timesteps and labels, checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ddpm_helpers import checks
from ddpm_helpers.model.blocks import TimeEmbedding


class Network(nn.Module):
    """Base of the networks that predict eps, x_0, v or flow: `DiffusionNet` and `DiT`.

    A subclass has `forward(x_t, t, y=None)`, which begins with `embed`.

    Args:
        config: the subclass's arguments, including image_size, channels and num_classes.
        t_dim: length of the time embedding.
    Attributes:
        image_shape: (C, S, S).
        config: the arguments, enough to build the same network again.
        classes: names of the classes, class 0 first; empty if unknown.
    """

    kind: str  # its name in `TrainConfig.network` and in weights files

    def __init__(self, config: dict[str, Any], t_dim: int) -> None:
        super().__init__()
        num_classes = config["num_classes"]
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, or None; got {num_classes}")
        self.config = config
        self.image_shape = (config["channels"], config["image_size"], config["image_size"])
        self.num_classes: int | None = num_classes
        self.classes: tuple[str, ...] = ()
        self.time = TimeEmbedding(t_dim)
        self.label = nn.Embedding(num_classes + 1, t_dim) if num_classes else None

    def ends(self) -> list[nn.Module]:
        """Return the first and the last layers, which an optimiser may treat differently."""
        raise NotImplementedError

    def embed(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Check the arguments of `forward`, and embed timesteps and labels in one vector.

        Args:
            x_t, t, y: as for `forward`.
        Returns:
            (B, t_dim).
        Raises:
            ValueError: x_t or t has the wrong shape, or labels are out of range.
        """
        if tuple(x_t.shape[1:]) != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise ValueError(f"x_t must be (B, {shape}), got {tuple(x_t.shape)}")
        if t.shape != x_t.shape[:1]:
            raise ValueError(
                f"t must be ({len(x_t)},), one timestep per image; got {tuple(t.shape)}"
            )
        # In training, labels were checked with the dataset. Reading them here would split a
        # compiled graph, or wait for the GPU.
        read = not (torch.compiler.is_compiling() or (self.training and t.is_cuda))
        if read and y is not None and len(t):  # len() last: it would fix a traced batch size
            checks.labels(y, len(t), self, t.device)
        t_emb = self.time(t)  # (B, t_dim)
        if self.label is not None:
            rows = torch.zeros_like(t) if y is None else y + 1  # row 0 is "no label"
            t_emb = t_emb + self.label(rows)
        return t_emb
