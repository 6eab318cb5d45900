"""What torch-fidelity is given, and what is refused before."""

import hashlib
import sys
import types

import pytest
import torch

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.evaluation import evaluate, inception
from ddpm_helpers.evaluation.inception import inception_scores


def library(calculate_metrics):
    """A stand-in for torch-fidelity."""
    return types.SimpleNamespace(calculate_metrics=calculate_metrics, __spec__=True)


@pytest.fixture
def inception_weights(tmp_path, monkeypatch):
    """A file that is whole by the name that it should have: the real one is 95 MB."""
    path = tmp_path / "inception.pth"
    path.write_bytes(b"numbers")
    begins = hashlib.sha256(b"numbers").hexdigest()[:8]
    monkeypatch.setattr(inception, "WEIGHTS", f"weights-{begins}.pth")
    return path


def test_inception_scores_hand_bytes_to_torch_fidelity(monkeypatch, inception_weights):
    """Its weights need the network, so the library is played by a recorder."""
    seen = {}

    def calculate_metrics(**options):
        seen.update(options)
        names = ("frechet_inception_distance", "kernel_inception_distance_mean")
        return dict.fromkeys(names, 1.5) | {"inception_score_mean": 3.0}

    monkeypatch.setitem(sys.modules, "torch_fidelity", library(calculate_metrics))
    x = torch.linspace(-1, 1, 3 * 12 * 4 * 4).reshape(12, 3, 4, 4)
    scores = inception_scores(x, (x * 127 + 128).to(torch.uint8), inception_weights)
    assert seen["feature_extractor_weights_path"] == str(inception_weights)
    assert scores == {"fid": 1.5, "kid": 1.5, "inception_score": 3.0}
    for name in ("input1", "input2"):
        picture = seen[name][0]
        assert picture.dtype == torch.uint8 and picture.shape == (3, 4, 4)
        assert len(seen[name]) == 12
    assert seen["input1"][0].min() == 0 and seen["input1"][11].max() == 255
    assert seen["kid_subset_size"] == 12  # no more than there are


def test_other_inception_weights_are_never_opened(monkeypatch, tmp_path, inception_weights):
    def opened(**options):
        raise AssertionError("opened")

    monkeypatch.setitem(sys.modules, "torch_fidelity", library(opened))
    sets = [ImageDataset("cartoons", 32, split=split, limit=300) for split in ("train", "test")]
    x, d = torch.zeros(12, 3, 4, 4), DiffusionUtils(5, prediction="x_0")
    inception_weights.write_bytes(b"numberz")
    with pytest.raises(ValueError, match="inception.pth is not weights-.*: its sha256"):
        inception_scores(x, x, inception_weights)
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        inception_scores(x, x, tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="inception.pth is not"):  # before it draws
        evaluate(d, None, *sets, n=12, inception=inception_weights)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="pip install torch-fidelity"):
        inception_scores(x, x, inception_weights)
    monkeypatch.undo()
    assert inception.WEIGHTS == "weights-inception-2015-12-05-6726825d.pth"
