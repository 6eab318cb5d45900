"""FID, KID and Inception score, computed by torch-fidelity if it and its weights are available.

pip install torch-fidelity
ddpm evaluate --inception weights-inception-2015-12-05-6726825d.pth

The weights are a pickle, which can run code when it is opened. So this module downloads nothing,
and opens a file only if its sha256 begins with the digits in its published name.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ddpm_helpers.data.dataset import to_bytes
from ddpm_helpers.device import best_device

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # its sha256 begins with 6726825d


def as_dataset(x: Tensor) -> Dataset:
    """Convert images to the dataset of uint8 (3, S, S) that torch-fidelity reads.

    Greyscale images get three equal channels, because Inception needs three.
    """
    x = (x if x.dtype == torch.uint8 else to_bytes(x)).expand(-1, 3, -1, -1)
    return Subset(x, range(len(x)))  # type: ignore[arg-type]  # a tensor has what Subset needs


def check_inception(weights: str | Path) -> None:
    """Check that torch-fidelity is installed and that `weights` is the published file.

    Raises:
        ValueError: torch-fidelity is not installed, or the file is not the published one.
        FileNotFoundError: the file does not exist.
    """
    if find_spec("torch_fidelity") is None:
        raise ValueError("FID needs torch-fidelity: pip install torch-fidelity")
    found = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    if not found.startswith(Path(WEIGHTS).stem[-8:]):
        raise ValueError(f"{weights} is not {WEIGHTS}: its sha256 is {found}")


def inception_scores(x: Tensor, reference: Tensor, weights: str | Path) -> dict[str, float]:
    """Compare samples with real images by features of the Inception network.

    Args:
        x: samples, (n, C, S, S) in [-1, 1] or uint8, C = 1 or 3; n at least 10.
        reference: real images, (m, C, S, S), as x.
        weights: file with Inception's weights, from the releases page of torch-fidelity.
    Returns:
        A dict of `fid`, `kid` and `inception_score`. Compare them only with those of equally many
        images.
    Raises:
        ValueError, FileNotFoundError: for the same reasons as in `check_inception`.
    Source: Heusel et al. 2017 (FID), Bińkowski et al. 2018 (KID), Salimans et al. 2016 (IS).
    """
    check_inception(weights)
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=as_dataset(x), input2=as_dataset(reference), isc=True, fid=True, kid=True,
        cache=False, batch_size=64, cuda=best_device().type == "cuda", verbose=False,
        kid_subset_size=min(1000, len(x), len(reference)),
        feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    return {
        "fid": float(found["frechet_inception_distance"]),
        "kid": float(found["kernel_inception_distance_mean"]),
        "inception_score": float(found["inception_score_mean"]),
    }
