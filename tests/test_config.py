"""The settings: the classic configuration, presets, and the three environment variables."""

import dataclasses
import math
import os
import tempfile

import pytest

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


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_changed_and_are_frozen(name):
    config = TrainConfig.preset(name, seed=7)
    assert config.seed == 7 and TrainConfig.preset(name).seed == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert TrainConfig(**config.to_dict()) == config


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: TrainConfig.preset("fast"), ["fast", "classic", "ci", "laptop", "gpu"]),
        (lambda: TrainConfig(batch_size=0), ["batch_size", "0"]),
        (lambda: TrainConfig(lr=-1.0), ["lr", "-1.0"]),
        (lambda: TrainConfig(channels=2), ["channels", "1 (grey)", "3 (colour)", "2"]),
        (lambda: TrainConfig(min_snr_gamma=0.0), ["min_snr_gamma", "0.0"]),
        (lambda: TrainConfig(label_dropout=1.5), ["label_dropout", "1.5"]),
        (lambda: TrainConfig(precision="fp16"), ["fp16", "auto", "bf16"]),
        (lambda: TrainConfig(lr_schedule="step"), ["step", "cosine", "constant"]),
        (lambda: TrainConfig(optimizer="sgd"), ["sgd", "adamw", "muon"]),
    ],
)
def test_refusals_name_the_value_and_the_choices(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words)


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


@pytest.mark.parametrize("change", [
    {"grad_clip": 0.0}, {"grad_clip": math.nan}, {"seed": -1}, {"min_snr_gamma": math.inf},
])  # fmt: skip
def test_values_that_would_fail_or_teach_nothing_later_are_refused_at_once(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        TrainConfig(**change)


def test_infinite_values_are_read_back(tmp_path):
    config = TrainConfig(grad_clip=math.inf, save_minutes=math.inf)
    config.save(tmp_path / "config.toml")
    assert TrainConfig.load(tmp_path / "config.toml") == config
