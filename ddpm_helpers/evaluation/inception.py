"""FID, KID and Inception score, computed by torch-fidelity where it and its weights can be had.

pip install torch-fidelity
ddpm evaluate --inception
"""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Bytes(Dataset):
    """Pictures as torch-fidelity reads them: uint8 (3, S, S), from floats in [-1, 1] or uint8."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        x = self.x[i]
        if x.dtype == torch.uint8:
            return x
        return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def inception_scores(x: Tensor, reference: Tensor, batch_size: int = 64) -> dict[str, float]:
    """How near samples are to reference pictures, on the features of the Inception network.

    Args:
        x: samples, (n, 3, S, S) in [-1, 1] or uint8; n at least 10.
        reference: real pictures, (m, 3, S, S), likewise.
        batch_size: pictures at a time.
    Returns:
        `fid`, `kid`, `inception_score`. All depend on n: compare sets of one size only.
    Raises:
        ValueError: torch-fidelity is not installed, or a set has fewer than 10 pictures.
        OSError: the weights of the Inception network could not be fetched.
    Source: Heusel et al. 2017 (FID), Bińkowski et al. 2018 (KID), Salimans et al. 2016 (IS).
    """
    least = min(len(x), len(reference))
    if least < 10:
        raise ValueError(f"Inception's scores need at least 10 pictures in each set, got {least}")
    try:
        from torch_fidelity import calculate_metrics
    except ImportError:
        raise ValueError("FID needs torch-fidelity: pip install torch-fidelity") from None
    options: dict[str, Any] = {"isc": True, "fid": True, "kid": True, "cache": False}
    try:
        found = calculate_metrics(
            input1=Bytes(x), input2=Bytes(reference), batch_size=batch_size,
            cuda=torch.cuda.is_available(), kid_subset_size=min(1000, least), verbose=False,
            **options,
        )  # fmt: skip
    except URLError as error:
        raise OSError(f"Inception's weights could not be fetched ({error.reason})") from None
    names = {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "inception_score": "inception_score_mean",
    }
    return {short: float(found[long]) for short, long in names.items()}
