"""Muon, an optimiser that orthogonalises the update of each weight matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_helpers.model import Network

# Each row is an odd polynomial of degree 5, a X + b X^3 + c X^5. Applied in turn, the four bring
# singular values in 0.003..1 as near to 1 as such polynomials can: into 0.78..1.20. The first three
# include a division of X by 1.01, because rounding can lift X above 1, where they grow fast.
COEFFICIENTS = (
    (8.30067, -24.03754, 17.46613),
    (4.00339, -2.92284, 0.54187),
    (3.47086, -2.54940, 0.50020),
    (2.49012, -1.83428, 0.43683),
)
RMS = 0.4  # root mean square of a matrix's update, as a multiple of lr; AdamW's is 0.2 to 1


def orthogonalize(G: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Set all singular values of matrices to about `scale` and keep their singular vectors.

        X = G / |G|;  then for each of COEFFICIENTS  X <- (a + b A + c A^2) X  with  A = X X^T

    All factors of X are polynomials in the first A. So the small (rows, rows) matrices are
    multiplied first, and X only once at the end. The result is the same, at a third of the cost for
    kernels, which are much wider than high.

    Args:
        G: (..., rows, columns); each matrix is treated on its own.
        scale: a number, or a tensor of one.
    Returns:
        Shape and dtype of G; 0 for a G of 0. Singular values that were above 0.003 of |G| lie in
        0.78..1.20 times `scale`, smaller ones between 0 and that.
    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks";
        coefficients for each step: Amsel et al. 2025, "The Polar Express", theorem 3.1.
    """
    if G.shape[-2] > G.shape[-1]:
        return orthogonalize(G.mT.contiguous(), scale).mT
    norm = torch.linalg.matrix_norm(G, keepdim=True) + 1e-7
    A = G @ G.mT / norm**2  # (..., rows, rows)
    product = polynomial = _polynomial(A, COEFFICIENTS[0])
    for coefficients in COEFFICIENTS[1:]:
        A = polynomial @ A @ polynomial
        polynomial = _polynomial(A, coefficients)
        product = polynomial @ product
    return product * scale / norm @ G


def _polynomial(A: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """Compute a + b A + c A^2, (..., rows, rows)."""
    a, b, c = coefficients
    inner = c * A
    inner.diagonal(dim1=-2, dim2=-1).add_(b)
    outer = inner @ A
    outer.diagonal(dim1=-2, dim2=-1).add_(a)
    return outer


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for the matrices inside a network, AdamW for everything else.

        m <- momentum * m + (1 - momentum) * grad
        W <- W - lr * (weight_decay * W + RMS * sqrt(larger side) * orthogonalize(m'))

    m' is m moved once more towards the gradient (Nesterov). A kernel counts as a matrix with a row
    for each output channel; a transposed convolution's, for each input channel. Biases, norms, the
    first and the last layer, the U-Net's gate and the class embedding are left to AdamW, with the
    same learning rate.

    AdamW scales the update of each weight. Muon scales directions: all singular values of an update
    become equal, so rare directions are learned as fast as common ones. `torch.optim.Muon` accepts
    only 2-D matrices, no kernels.

    Args:
        model: the network whose parameters to train.
        lr: learning rate; an orthogonalised update has a root mean square of RMS * lr.
        momentum: of the matrices.
        weight_decay: for all parameters, decoupled.
        fused: AdamW's fused implementation.
    Source: Jordan et al. 2024; root mean square like AdamW's: Liu et al. 2025, section 2.2.
    """

    def __init__(
        self,
        model: Network,
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
        """Let AdamW use this optimiser's state and its own share of the parameter groups."""
        self.adamw.state, self.adamw.param_groups = self.state, self.param_groups[1:]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all weights; a closure is ignored. The gradients of matrices are overwritten."""
        same_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for weight in self.param_groups[0]["params"]:
            if weight.grad is not None:
                same_shape[tuple(weight.shape)].append(weight)
        for weights in same_shape.values():
            self._update_together(weights)
        self.adamw.step()

    def _update_together(self, weights: list[Tensor]) -> None:
        """Update k matrices of the same shape."""
        group = self.param_groups[0]
        lr, momentum = group["lr"], group["momentum"]
        rows = []
        for weight in weights:
            grad: Any = weight.grad
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            m = state["momentum"].lerp_(grad, 1 - momentum)
            rows.append(_rows(grad.lerp_(m, momentum)))
        ahead = torch.stack(rows)  # (k, rows, columns)
        scale = lr * RMS * max(ahead.shape[1:]) ** 0.5
        # A single matrix is not passed as a batch of one, whose products are slower.
        update = orthogonalize(ahead.squeeze(0), scale).reshape(ahead.shape)
        for weight, one in zip(weights, update, strict=True):
            weight.mul_(1 - lr * group["weight_decay"]).sub_(_like(one, weight))


def _rows(kernel: Tensor) -> Tensor:
    """Reshape a matrix or kernel to (rows, columns), with the columns in memory order."""
    return kernel.movedim(1, -1).flatten(1)  # a view if the kernel is channels last


def _like(rows: Tensor, kernel: Tensor) -> Tensor:
    """Undo `_rows`."""
    return rows.reshape(kernel.movedim(1, -1).shape).movedim(-1, 1)


def split_parameters(model: Network) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices and kernels inside the network, and all other parameters."""
    ends = [model.label, *model.ends()]
    outer = {id(p) for part in ends if part is not None for p in part.parameters()}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for p in model.parameters():
        (matrices if p.ndim > 1 and id(p) not in outer else others).append(p)
    return matrices, others
