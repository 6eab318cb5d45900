"""FID, KID and Inception score, computed by torch-fidelity if it and its weights are available.

pip install torch-fidelity
ddpm evaluate --inception weights-inception-2015-12-05-6726825d.pth

The weights are a pickle, which can run code when it is opened. So this module downloads nothing,
and opens a file only if its sha256 begins with the digits in its published name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddpm_helpers.data.dataset import to_bytes
from ddpm_helpers.device import best_device

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # its sha256 begins with 6726825d
LEAST = 10  # images in each set: the Inception score splits them into ten parts
WHERE = f"get {WEIGHTS} from the releases page of torch-fidelity"


class Bytes(Dataset):
    """Images for torch-fidelity: uint8 (3, S, S), from floats in [-1, 1] or uint8.

    Greyscale images are repeated to three equal channels, because Inception needs three.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        x = self.x[i].expand(3, -1, -1)
        return x if x.dtype == torch.uint8 else to_bytes(x)


def check_inception(weights: str | Path, n: int) -> None:
    """Check the arguments of `inception_scores` before any image is drawn.

    Args:
        weights: file with Inception's weights.
        n: number of images in the smaller set.
    Raises:
        ValueError: torch-fidelity is not installed, the file is not the published one, or n is
            below 10.
        FileNotFoundError: the file does not exist.
    """
    if n < LEAST:
        raise ValueError(f"Inception's scores need at least {LEAST} images in each set, got {n}")
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        raise ValueError("FID needs torch-fidelity: pip install torch-fidelity") from None
    path, wanted = Path(weights), Path(WEIGHTS).stem[-8:]
    if not path.is_file():
        raise FileNotFoundError(f"no Inception weights at {path}; {WHERE}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(wanted):
        raise ValueError(f"{path} has been modified: its sha256 is {found}, not {wanted}…; {WHERE}")


def inception_scores(x: Tensor, reference: Tensor, weights: str | Path) -> dict[str, float]:
    """Compare samples with reference images by features of the Inception network.

    Args:
        x: samples, (n, C, S, S) in [-1, 1] or uint8, C = 1 or 3; n at least 10.
        reference: real images, (m, C, S, S), m at least 10, same range.
        weights: file with Inception's weights, as published by torch-fidelity.
    Returns:
        A dict of `fid`, `kid` and `inception_score`. They depend on n: compare only sets of equal
        size.
    Raises:
        ValueError, FileNotFoundError: as `check_inception`.
    Source: Heusel et al. 2017 (FID), Bińkowski et al. 2018 (KID), Salimans et al. 2016 (IS).
    """
    least = min(len(x), len(reference))
    check_inception(weights, least)
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=Bytes(x), input2=Bytes(reference), isc=True, fid=True, kid=True, cache=False,
        batch_size=64, cuda=best_device().type == "cuda", verbose=False,
        kid_subset_size=min(1000, least), feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    names = {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "inception_score": "inception_score_mean",
    }
    return {short: float(found[long]) for short, long in names.items()}
