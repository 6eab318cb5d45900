"""Weights that do not fit: one clear line for each kind, and a network that stays as it was."""

import ast
import json
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
from ddpm_helpers.pretrained.weights import description, load_pretrained

STEM = "encoder.stem.1.weight"


def network(seed=0, size=16, classes=3):
    torch.manual_seed(seed)
    return DiffusionNet(size, width=8, num_classes=classes)


def stored(path, model=None, diffusion=None):
    model = network() if model is None else model
    return save_weights(path, model, diffusion or DiffusionUtils(10))


def describe(path, about):
    """Give a file another description, which may not be JSON at all."""
    words = about if isinstance(about, str) else json.dumps(about)
    save_file(load_file(path), path, metadata={"ddpm_helpers": words})


def described(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["ddpm_helpers"])


def rewrite(change):
    """A file by other hands: without a checksum."""

    def damage(path):
        about = described(stored(path))
        del about["sha256"]
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        describe(path, about)

    return damage


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
    "missing": (rewrite(lambda w: w.pop(STEM)), f"{STEM}: expected .8, 12, 3, 3., found nothing"),
    "extra": (rewrite(lambda w: w.update(more=torch.zeros(2))), "more: expected no such weight"),
    "transposed": (change_stem(lambda w: w.transpose(0, 1)), f"{STEM}: .*found .12, 8, 3, 3."),
    "other dtype": (change_stem(lambda w: w.to(torch.int32)), f"{STEM} is torch.int32"),
    "NaN": (change_stem(lambda w: torch.full_like(w, torch.nan)), f"{STEM} holds NaN"),
    "truncated": (cut, "not a complete safetensors file"),
    "altered": (alter, "not a complete safetensors file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_mismatch_is_one_line(kind, tmp_path):
    damage, words = KINDS[kind]
    path = tmp_path / "w.safetensors"
    damage(path)
    with pytest.raises(ValueError, match=words) as caught:
        load_pretrained(path)
    assert "w.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_weights_are_taken_though_their_file_is_older_than_some_fields(tmp_path, monkeypatch):
    old = network(size=32)
    monkeypatch.delitem(old.config, "stem_stride")
    path = save_weights(tmp_path / "old.safetensors", old, DiffusionUtils(10))
    assert "stem_stride" not in description(path)["model"]
    model = load_pretrained(path)[0]
    assert model.config["stem_stride"] == 2
    expected = old.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("wrap", [
    torch.nn.DataParallel,
    lambda net: torch.compile(net, backend="eager"),
    lambda net: torch.nn.DataParallel(torch.compile(net, backend="eager")),
])  # fmt: skip
def test_a_wrapped_network_is_saved_as_the_network_inside(wrap, tmp_path):
    path = stored(tmp_path / "w.safetensors", wrap(network()))
    expected = network().state_dict()
    assert all(map(torch.equal, load_pretrained(path)[0].state_dict().values(), expected.values()))


def test_weights_are_readable_by_everybody_who_can_read_the_folder(tmp_path):
    (tmp_path / "other").touch()
    path = stored(tmp_path / "w.safetensors")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_checkpoint_is_told_apart_from_weights(tmp_path):
    torch.save({"step": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="checkpoint.pt .*like a checkpoint, which --resume"):
        load_pretrained(tmp_path / "checkpoint.pt")


def test_one_altered_bit_of_the_numbers_or_the_description_is_seen(tmp_path):
    path = stored(tmp_path / "w.safetensors")
    raw = path.read_bytes()
    for place in (len(raw) - 1, len(raw) // 2, raw.index(b"timesteps") + len(b'timesteps\\": 1')):
        damaged = bytearray(raw)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="w.safetensors has been modified: its sha256"):
            load_pretrained(path)


def test_a_file_without_a_checksum_still_loads(tmp_path):
    path = tmp_path / "w.safetensors"
    rewrite(lambda w: None)(path)
    assert "sha256" not in described(path)
    assert torch.equal(load_pretrained(path)[0].state_dict()[STEM], network().state_dict()[STEM])


DESCRIPTIONS = {
    "unknown key": (("model", {"depth": 3}), "unexpected keyword argument 'depth'"),
    "no table": (("model", []), "lacks the table 'model'"),
    "nothing trained": (("trained", None), "lacks the table 'trained'"),
    "classes": (("trained", {"classes": 5}), "classes must be a list of names, got 5"),
    "a word": (("model", {"image_size": "16"}), "image_size must be a whole number .* got '16'"),
    "negative": (("model", {"width": -8}), "width must be .* at least 1, got -8"),
    "stride": (("model", {"stem_stride": 3}), "stem_stride must be 2 or 4, got 3"),
    "attention": (("model", {"attention_size": None}), "cannot be built"),
    "schedule": (("diffusion", {"schedule": "nope"}), "unknown schedule 'nope'"),
    "few steps": (("diffusion", {"few_steps": [3, 5]}), "must decrease"),
    "few words": (("diffusion", {"few_steps": "ten"}), "few_steps"),
    "endless": (("diffusion", {"timesteps": 10**15}), "cannot be built"),
    "huge": (("model", {"width": 2**16}), "does not fit its network: .*, found "),
    "number": ("3", "lacks the table 'model'"),
    "not JSON": ("{", "is not JSON"),
    "nested": ("[" * 100_000, "is not JSON"),
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_a_description_that_cannot_be_built_is_one_line(kind, tmp_path):
    path = stored(tmp_path / "w.safetensors")
    change, words = DESCRIPTIONS[kind]
    about = described(path)
    del about["sha256"]
    if isinstance(change, tuple):
        part, value = change
        change = about | {part: about[part] | value if isinstance(value, dict) else value}
    describe(path, change)
    with pytest.raises(ValueError, match=words) as caught:
        load_pretrained(path)
    assert "w.safetensors" in str(caught.value) and "\n" not in str(caught.value)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", [torch.save, lambda o, p: Path(p).write_bytes(pickle.dumps(o))])
def test_a_pickle_under_the_name_of_weights_is_not_opened(save, tmp_path):
    path = tmp_path / "w.safetensors"
    save(Evil(tmp_path / "written"), path)
    with pytest.raises(ValueError, match="not a complete safetensors file"):
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
