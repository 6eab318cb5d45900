"""Muon: steps that turn every direction of a weight matrix by the same amount."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_helpers.model import DiffusionNet

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steepest at 0, for few iterations
RMS = 0.4  # root mean square of the steps of matrices, in learning rates; AdamW's is 0.2 to 1


def orthogonalize(G: Tensor, iterations: int = 5) -> Tensor:
    """Set all singular values of a matrix to about 1 and keep its singular vectors.

        X = G / |G|;  then repeatedly  X <- (a + b A + c A^2) X  with  A = X X^T

    All that multiplies X is a polynomial in the first A. So the polynomials are multiplied, rows
    by rows, and X only once at the end: the same result at a third of the cost for kernels, which
    are much wider than high.

    Args:
        G: (rows, columns).
        iterations: after 5, singular values that were above 0.003 of |G| lie in 0.68..1.21.
    Returns:
        (rows, columns); 0 for a G of 0.
    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    if G.shape[0] > G.shape[1]:
        return orthogonalize(G.T, iterations).T
    a, b, c = COEFFICIENTS
    X = G / (G.norm() + 1e-7)
    A = X @ X.T  # (rows, rows)
    identity = torch.eye(len(A), dtype=A.dtype, device=A.device)
    product = identity
    for k in range(iterations):
        polynomial = a * identity + b * A + c * A @ A
        product = polynomial @ product
        if k < iterations - 1:
            A = polynomial @ A @ polynomial
    return product @ X


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for the matrices inside a network, AdamW for all else.

        m <- momentum * m + (1 - momentum) * grad
        W <- W - lr * (weight_decay * W + RMS * sqrt(larger side) * orthogonalize(m'))

    m' is m moved once more towards the gradient (Nesterov). A kernel counts as a matrix
    with a row for each output channel, a transposed one's for each input channel. Biases, norms,
    the stem, the last layer, the gate and the class embedding are AdamW's, with the same learning
    rate.

    Where AdamW scales single weights, this scales directions: rare ones, which a gradient hardly
    shows, are learned as fast as the common ones. `torch.optim.Muon` takes no kernels.

    Args:
        model: whose parameters to train.
        lr: learning rate; an orthogonalised step has a root mean square of RMS * lr.
        momentum: of the matrices.
        weight_decay: for all parameters, decoupled.
        fused: AdamW's fused implementation.
    Source: Jordan et al. 2024; root mean square like AdamW's: Liu et al. 2025, section 2.2.
    """

    def __init__(
        self,
        model: DiffusionNet,
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        fused: bool = False,
    ) -> None:
        matrices, others = split_parameters(model)
        self.adamw = torch.optim.AdamW(others, lr, weight_decay=weight_decay, fused=fused)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, defaults)
        self.param_groups += self.adamw.param_groups
        self._share()

    def _share(self) -> None:
        """Give AdamW its groups and the state, which lie in this optimiser for all parameters."""
        self.adamw.state, self.adamw.param_groups = self.state, self.param_groups[1:]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all weights by one step; a closure is not used."""
        group = self.param_groups[0]
        lr, momentum = group["lr"], group["momentum"]
        for weight in group["params"]:
            if (grad := weight.grad) is None:
                continue
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(grad, 1 - momentum)
            direction = grad.lerp(state["momentum"], momentum).flatten(1)  # (rows, columns)
            scale = RMS * max(direction.shape) ** 0.5
            weight.mul_(1 - lr * group["weight_decay"])
            weight.sub_(orthogonalize(direction).view_as(weight), alpha=lr * scale)
        self.adamw.step()


def split_parameters(model: DiffusionNet) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices and kernels between the first and the last layer, and all other parameters."""
    ends = [model.label, model.gate, model.encoder.stem, model.decoder.to_pixels]
    outer = {id(p) for part in ends if part is not None for p in part.parameters()}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for p in model.parameters():
        (matrices if p.ndim > 1 and id(p) not in outer else others).append(p)
    return matrices, others
