"""Weights that do not fit: one clear line for each kind, and a network that stays as it was."""

import ast
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ddpm_helpers
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import load_pretrained, save_weights

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


def checkpoint(path):
    torch.save({"step": 1}, path)


KINDS = {
    "missing": (rewrite(lambda w: w.pop(STEM)), f"{STEM}: expected .8, 12, 3, 3., found nothing"),
    "extra": (rewrite(lambda w: w.update(more=torch.zeros(2))), "more: expected no such weight"),
    "transposed": (change_stem(lambda w: w.transpose(0, 1)), f"{STEM}: .*found .12, 8, 3, 3."),
    "NaN": (change_stem(lambda w: torch.full_like(w, torch.nan)), f"{STEM} holds NaN"),
    "truncated": (cut, "not a complete weights file"),
    "altered": (alter, "not a complete weights file"),
    "foreign": (lambda path: save_file({"a": torch.zeros(3)}, path), "not a complete weights file"),
    "checkpoint": (checkpoint, "give the folder of its run"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_mismatch_is_one_line(kind, tmp_path):
    damage, words = KINDS[kind]
    damage(tmp_path / "w.safetensors")
    assert re.search(words, refusal(tmp_path / "w.safetensors"))


def refusal(path):
    """The one line that refuses the weights."""
    with pytest.raises(ValueError, match="w.safetensors") as caught:
        load_pretrained(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_without_the_newest_fields_and_without_a_checksum_load(tmp_path):
    path = stored(tmp_path / "old.safetensors", network(size=32))
    about = described(path)
    del about["sha256"], about["network"], about["model"]["stem_stride"]
    describe(path, about)
    model = load_pretrained(path)[0]
    assert model.config["stem_stride"] == 2
    expected = network(size=32).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_a_wrapped_network_is_refused(tmp_path):
    for wrapped in (torch.nn.DataParallel(network()), torch.compile(network(), backend="eager")):
        with pytest.raises(ValueError, match=type(wrapped).__name__):
            stored(tmp_path / "w.safetensors", wrapped)
    assert not list(tmp_path.iterdir())


def test_weights_are_readable_by_everybody_who_can_read_the_folder(tmp_path):
    (tmp_path / "other").touch()
    path = stored(tmp_path / "w.safetensors")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_one_altered_bit_of_the_numbers_or_the_description_is_seen(tmp_path):
    path = stored(tmp_path / "w.safetensors")
    raw = path.read_bytes()
    for place in (len(raw) - 1, len(raw) // 2, raw.index(b"timesteps") + len(b'timesteps\\": 1')):
        damaged = bytearray(raw)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="w.safetensors has been modified: its sha256"):
            load_pretrained(path)


DESCRIPTIONS = {
    "unknown key": ("model", {"depth": 3}, "unexpected keyword argument 'depth'"),
    "no table": ("model", [], "not a complete"),
    "nothing trained": ("trained", None, "not a complete"),
    "no names": ("trained", {"classes": 5}, "not a complete"),
    "a word": ("model", {"image_size": "16"}, "cannot be built"),
    "negative": ("model", {"width": -8}, "cannot be built"),
    "stride": ("model", {"stem_stride": 3}, "stem_stride must be 2 or 4, got 3"),
    "attention": ("model", {"attention_size": None}, "cannot be built"),
    "schedule": ("diffusion", {"schedule": "nope"}, "unknown schedule 'nope'"),
    "few steps": ("diffusion", {"few_steps": [3, 5]}, "must decrease"),
    "few words": ("diffusion", {"few_steps": "ten"}, "steps must .*ten"),
    "endless": ("diffusion", {"timesteps": 10**15}, "cannot be built"),
    "huge": ("model", {"width": 2**16}, "does not fit its network: .*, found "),
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_a_description_that_cannot_be_built_is_one_line(kind, tmp_path):
    path = stored(tmp_path / "w.safetensors")
    part, value, words = DESCRIPTIONS[kind]
    about = described(path)
    del about["sha256"]
    describe(path, about | {part: about[part] | value if isinstance(value, dict) else value})
    assert re.search(words, refusal(path))


def test_a_description_that_is_no_table_is_one_line(tmp_path):
    path = stored(tmp_path / "w.safetensors")
    for words in ("3", "{", "[" * 100_000):
        describe(path, words)
        assert "not a complete weights file" in refusal(path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", [torch.save, lambda o, p: Path(p).write_bytes(pickle.dumps(o))])
def test_a_pickle_under_the_name_of_weights_is_not_opened(save, tmp_path):
    path = tmp_path / "w.safetensors"
    save(Evil(tmp_path / "written"), path)
    assert "not a complete weights file" in refusal(path)
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
