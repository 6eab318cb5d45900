"""Weights that do not fit: one clear line for each kind, and a network that stays as it was."""

import ast
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ddpm_helpers
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import save_weights
from ddpm_helpers.pretrained.weights import load_pretrained, load_weights

STEM = "encoder.stem.1.weight"


def network(seed=0, size=16, classes=3):
    torch.manual_seed(seed)
    return DiffusionNet(size, width=8, num_classes=classes)


def stored(path, model=None, diffusion=None):
    return save_weights(path, model or network(), diffusion or DiffusionUtils(10))


def rewrite(change):
    def damage(path):
        stored(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata=metadata)

    return damage


def put_module_before(tensors):
    for key in list(tensors):
        tensors["module." + key] = tensors.pop(key)


def change_stem(change):
    return rewrite(lambda w: w.update({STEM: change(w[STEM]).contiguous()}))


def cut(path):
    stored(path)
    path.write_bytes(path.read_bytes()[:-100])


def alter(path):
    """Change one character of the header, which says where the tensors lie."""
    raw = bytearray(stored(path).read_bytes())
    raw[raw.index(b"data_offsets")] = ord("x")
    path.write_bytes(raw)


KINDS = {
    "missing": (rewrite(lambda w: w.pop(STEM)), f"{STEM}: expected .8, 12, 3, 3., got nothing"),
    "extra": (rewrite(lambda w: w.update(more=torch.zeros(2))), "more: expected no such weight"),
    "renamed": (rewrite(put_module_before), "wrapped network: module."),
    "transposed": (change_stem(lambda w: w.transpose(0, 1)), f"{STEM}: .*got .12, 8, 3, 3."),
    "other dtype": (change_stem(lambda w: w.to(torch.int32)), f"{STEM} is torch.int32"),
    "NaN": (change_stem(lambda w: torch.full_like(w, torch.nan)), f"{STEM} holds NaN"),
    "other T": (lambda p: stored(p, None, DiffusionUtils(20)), "timesteps = 20, not 10"),
    "other schedule": (
        lambda p: stored(p, None, DiffusionUtils(10, "sigmoid")),
        "schedule = 'sigmoid', not 'cosine'",
    ),
    "other classes": (lambda p: stored(p, network(classes=5)), "num_classes = 5, not 3"),
    "other size": (lambda p: stored(p, network(size=32)), "image_size = 32, not 16"),
    "truncated": (cut, "no whole safetensors file"),
    "altered": (alter, "no whole safetensors file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_mismatch_is_one_line_and_the_network_stays_as_it_was(kind, tmp_path):
    damage, words = KINDS[kind]
    path = tmp_path / "w.safetensors"
    damage(path)
    model = network(seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words) as caught:
        load_weights(path, model, DiffusionUtils(10))
    assert "w.safetensors" in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_fits_is_taken(tmp_path):
    model = network(seed=1)
    load_weights(stored(tmp_path / "w.safetensors"), model, DiffusionUtils(10))
    expected = network().state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", [torch.save, lambda o, p: Path(p).write_bytes(pickle.dumps(o))])
def test_a_pickle_under_the_name_of_weights_is_not_opened(save, tmp_path):
    path = tmp_path / "w.safetensors"
    save(Evil(tmp_path / "written"), path)
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_pretrained(path)
    assert not (tmp_path / "written").exists()


def test_no_line_of_the_package_opens_a_pickle_that_can_run_code():
    for path in Path(ddpm_helpers.__file__).parent.rglob("*.py"):
        for call in (
            n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if n.__class__ is ast.Call
        ):
            name = ast.unparse(call.func)
            options = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert name not in ("pickle.load", "pickle.loads", "exec", "eval", "os.system"), path
            if name == "torch.load":
                assert options.get("weights_only") == "True", path
            if name == "np.load":
                assert options.get("allow_pickle", "False") == "False", path
