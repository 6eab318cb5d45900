"""The settings: the classic configuration, presets, and the three environment variables."""

import dataclasses
import math
import os
import re
import tempfile

import numpy as np
import pytest
import torch

from ddpm_helpers.config import PRESETS, TrainConfig, cache_dir, settings


def test_defaults_are_the_classic_configuration():
    c = TrainConfig()
    assert (c.image_size, c.epochs, c.lr, c.timesteps, c.batch_size) == (64, 20, 1e-4, 500, 10)
    assert (c.schedule, c.lr_schedule, c.prediction) == ("cosine", "cosine", "eps")


def test_fields_begin_as_promised_and_each_has_its_reason():
    fields = dataclasses.fields(TrainConfig)
    first = ["image_size", "timesteps", "schedule", "prediction"]
    first += ["epochs", "batch_size", "lr", "seed"]
    assert [f.name for f in fields][:8] == first
    assert all(len(f.metadata["help"]) > 15 for f in fields)


def test_presets_can_be_changed_and_are_frozen():
    config = TrainConfig.preset("ci", seed=7)
    assert config.seed == 7 and TrainConfig.preset("ci").seed == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert TrainConfig(**config.to_dict()) == config


REFUSED = [
    {"batch_size": 0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": "fast"}, {"lr": np.ones(2)},
    {"channels": 2}, {"min_snr_gamma": 0.0}, {"min_snr_gamma": math.inf}, {"label_dropout": 1.5},
    {"precision": "fp16"}, {"lr_schedule": "step"}, {"optimizer": "sgd"}, {"grad_clip": 0.0},
    {"grad_clip": math.nan}, {"seed": -1}, {"seed": 2**64}, {"epochs": True}, {"epochs": 1.5},
    {"warmup_steps": -1}, {"flip": 1}, {"image_size": None}, {"teacher_steps": 501},
]  # fmt: skip


def test_a_refusal_names_the_setting_and_the_value():
    for change in REFUSED:
        ((name, value),) = change.items()
        with pytest.raises(ValueError, match=f"{name}.*{re.escape(str(value).split()[0])}"):
            TrainConfig(**change)


def test_numbers_of_numpy_and_tensors_become_plain_values():
    config = TrainConfig(
        lr=np.logspace(-4, -3, 3)[1], epochs=np.int64(3), flip=np.bool_(False), grad_clip=2,
        seed=torch.tensor(2**40), schedule=np.str_("linear"), ema_decay=np.float32(0.5), limit=None,
    )  # fmt: skip
    wanted = TrainConfig(
        lr=float(10**-3.5), epochs=3, flip=False, grad_clip=2.0, seed=2**40, schedule="linear",
        ema_decay=0.5,
    )  # fmt: skip
    assert config.lr == pytest.approx(wanted.lr)
    plain = config.to_dict() | {"lr": wanted.lr}
    assert plain == wanted.to_dict()
    kinds = {name: (type(v), type(getattr(wanted, name))) for name, v in plain.items()}
    assert all(a is b for a, b in kinds.values())


def test_a_configuration_written_to_a_file_is_read_back_equal(tmp_path, monkeypatch):
    for name in PRESETS:
        wanted = TrainConfig.preset(name, lr=3e-05, flip=False, grad_clip=math.inf)
        wanted.save(tmp_path / "c.toml")
        assert TrainConfig.load(tmp_path / "c.toml") == wanted
    text = (tmp_path / "c.toml").read_text()
    assert "lr = 3e-05  # peak learning rate" in text and "flip = false" in text
    (tmp_path / "c.toml").write_text(text, encoding="utf-8-sig")  # by an editor on Windows
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert TrainConfig.load("~/c.toml") == wanted


def test_files_that_are_not_a_configuration_are_refused(tmp_path):
    for text, words in {
        "learning_rate = 1.0": "learning_rate.*lr", 'lr = "fast"': "lr.*'fast'",
        "epochs = 0": "epochs.*0", "epochs: 1": "cannot be read",
    }.items():  # fmt: skip
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(ValueError, match=f"a.toml.*{words}"):
            TrainConfig.load(tmp_path / "a.toml")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TrainConfig.load(tmp_path / "nowhere.toml")


def test_settings_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPM_PRESET", "ci")
    monkeypatch.setenv("DDPM_DATA", "some/folder")
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    s = settings()
    assert (s.preset, s.data, s.cache_dir) == ("ci", "some/folder", tmp_path)
    assert s.train == TrainConfig.preset("ci")
    assert "ci" in str(s) and "32×32" in str(s) and "\n" not in str(s)
    monkeypatch.setenv("DDPM_DATA", "mnist")
    assert settings().train == TrainConfig.preset("ci", channels=1, flip=False)
    monkeypatch.setenv("DDPM_DATA", "fashion_mnist")
    assert settings().train == TrainConfig.preset("ci", channels=1)


def test_a_relative_folder_is_found_from_where_a_kernel_starts(monkeypatch, tmp_path):
    for folder in ("my/album", "notebooks/solutions", "cartoons"):
        (tmp_path / folder).mkdir(parents=True)
    found = {}
    for data in ("my/album", "./cartoons", "cartoons", "my/typo", str(tmp_path / "my")):
        monkeypatch.setenv("DDPM_DATA", data)
        for folder in (".", "notebooks", "notebooks/solutions"):
            monkeypatch.chdir(tmp_path / folder)
            found.setdefault(data, set()).add(settings().data)
    assert found["my/album"] == {str(tmp_path / "my" / "album")}
    assert found["./cartoons"] == {str(tmp_path / "cartoons")}
    assert all(found[data] == {data} for data in ("cartoons", "my/typo", str(tmp_path / "my")))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DDPM_DATA", "~/my/album")
    assert settings().data == str(tmp_path / "my" / "album")


def test_settings_without_environment(monkeypatch):
    for name in ("DDPM_PRESET", "DDPM_DATA", "DDPM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert settings().preset in ("laptop", "gpu")
    assert cache_dir().name == "ddpm_helpers"


def test_a_user_without_a_home_has_a_cache_in_the_temporary_folder(monkeypatch, tmp_path):
    for name in ("DDPM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as Python does without one
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert tmp_path in cache_dir().parents


def test_unknown_preset_from_outside(monkeypatch):
    monkeypatch.setenv("DDPM_PRESET", "turbo")
    with pytest.raises(ValueError, match="DDPM_PRESET 'turbo'.*laptop"):
        settings()
    with pytest.raises(ValueError, match="preset 'turbo'.*classic.*laptop"):
        TrainConfig.preset("turbo")
