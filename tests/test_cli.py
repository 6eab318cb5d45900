"""The command line: what it passes on, what it writes, how it refuses."""

import io
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers import cli
from ddpm_helpers.commands import info, sample, train
from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import load_pretrained, save_weights


@pytest.fixture
def refused(capsys):
    """Run a command that must fail, and return its one line on stderr."""

    def run(*argv: str) -> str:
        assert cli.main(argv) == 2
        err = capsys.readouterr().err
        assert err.startswith("ddpm: error: ") and err.count("\n") == 1
        return err

    return run


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = DiffusionNet(16, width=8, num_classes=3)
    about = {"classes": ["cat", "dog", "ship"]}
    return str(save_weights(tmp_path / "w.safetensors", model, DiffusionUtils(10), about))


def test_every_field_of_train_config_is_an_option_whose_help_is_its_reason(capsys):
    words = []
    for field in fields(TrainConfig):
        option = "--" + field.name.replace("_", "-")
        value = {"bool": None, "str": "x", "float": "0.5"}.get(str(field.type), "7")
        words += ["--no-flip"] if field.name == "flip" else [option] + [value] * (value is not None)
    args = vars(cli.build_parser().parse_args(["train", *words]))
    assert args["flip"] is False and args["class_conditional"] is True
    assert args["limit"] == 7 and args["lr"] == 0.5 and args["schedule"] == "x"
    assert {field.name for field in fields(TrainConfig)} <= set(args)
    without = vars(cli.build_parser().parse_args(["train", "--preset", "ci"]))
    assert not {field.name for field in fields(TrainConfig)} & set(without)  # the preset decides
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and all(f.metadata["help"] in shown for f in fields(TrainConfig))


def test_single_files_hold_the_images_of_the_grid_whatever_the_batch(weights, tmp_path, capsys):
    words = ["sample", "--weights", weights, "--n", "5", "--steps", "3"]
    grid = ["--y", "2", "0", "--columns", "5", "--out", str(tmp_path / "grid.png")]
    assert cli.main([*words, *grid]) == 0
    folder = tmp_path / "files"
    words += ["--y", "ship", "cat"]  # the same classes by name
    assert cli.main([*words, "--batch-size", "2", "--out-dir", str(folder)]) == 0
    assert f"5 images in {folder}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [f"{i:05}.png" for i in range(5)]
    grid = np.asarray(Image.open(tmp_path / "grid.png"), dtype=int)
    side = grid.shape[0] - 4  # a frame of 2 pixels around each
    for i in range(5):
        single = np.asarray(Image.open(folder / f"{i:05}.png"), dtype=int)
        place = grid[2 : 2 + side, 2 + i * (side + 2) : 2 + i * (side + 2) + side]
        assert single.shape == place.shape and np.abs(single - place).max() <= 1
    assert cli.main([*words, "--out-dir", str(folder)]) == 2
    assert "holds images already: name another folder" in capsys.readouterr().err


def test_steps_are_a_number_or_the_t_from_which_each_starts(weights, tmp_path, capsys):
    T = load_pretrained(weights)[1].T

    def draw(steps):
        path = tmp_path / f"{steps}.png"
        words = ["sample", "--weights", weights, "--n", "2", "--out", str(path), "--steps", steps]
        assert cli.main(words) == 0
        return path.read_bytes()

    assert draw("2") == draw(f"{T},{T // 2}") != draw(f"{T},{T // 2 + 1}")
    for wrong in ("5,x", "5,"):
        with pytest.raises(SystemExit):
            draw(wrong)
        assert f"--steps: invalid steps value: '{wrong}'" in capsys.readouterr().err
    refused = ["sample", "--weights", weights, "--out", str(tmp_path / "a.png"), "--steps", "1,2"]
    assert cli.main(refused) == 2
    assert "[1, 2]" in capsys.readouterr().err


def test_refusals_name_the_value_and_the_choices(refused, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    png, run = ["--out", str(tmp_path / "x.png")], ["--out", str(tmp_path / "r")]
    sample = ["sample", "--weights", weights, *png]
    small = ["train", "--preset", "ci", "--data", "cartoons", "--limit", "8"]
    for words, choices in [
        ([*sample, "--y", "horse"], ("'horse'", "cat, dog, ship")),
        ([*sample, "--sampler", "magic"], ("magic", "ddpm")),
        ([*sample, "--n", "0"], ("at least 1",)),
        (["sample", "--weights", "nowhere", *png], ("nowhere",)),
        (["sample", "--weights", weights, "--out", str(tmp_path / "x.jpg")], ("x.jpg",)),
        (["train", "--preset", "huge", *run], ("'huge'", "laptop")),
        (["train", "--data", ""], ("data is empty",)),
        ([*small, "--schedule", "zigzag", *run], ("zigzag", "cosine")),
        ([*small, "--out", str(tmp_path / "file")], ("file",)),
        (["data", "paintings"], ("paintings", "cartoons")),
    ]:
        message = refused(*words)
        assert all(choice in message for choice in choices), message
    assert not (tmp_path / "x.png").exists()


def test_data_prepares_a_source_and_describes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "images" / "red.png")
    assert cli.main(["data", str(tmp_path / "images"), "--image-size", "16"]) == 0
    assert "1 image of 16×16" in capsys.readouterr().out
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_info_prints_what_a_bug_report_needs(capsys, monkeypatch):
    monkeypatch.setenv("DDPM_PRESET", "ci")
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", torch.__version__, "device", "preset ci", "parameters", "cache"):
        assert word in out


def test_interrupting_ends_without_a_traceback(capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "settings", interrupt)
    assert cli.main(["train"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_code_page_without_a_character_shows_a_question_mark(monkeypatch):
    latin1 = os.fsdecode(b"\xe9t\xe9")  # a folder's name that is not UTF-8
    monkeypatch.setattr(info, "run", lambda args: print(f"32×32 · ≤ é {latin1}"))
    for code_page in ("cp1251", "ascii"):
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=code_page))
        assert cli.main(["info"]) == 0
        shown = sys.stdout.buffer.getvalue().decode(code_page)
        assert shown.startswith("32") and "?" in shown


def test_without_streams_a_command_runs(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["sample", "--weights", "nowhere"]) == 2


def test_a_closed_pipe_ends_a_command_without_a_word():
    """`| head -1`"""
    code = """
from ddpm_helpers import cli
from ddpm_helpers.commands import info
info.run = lambda args: print("32", flush=True)
raise SystemExit(cli.main(["info"]))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1) as process:
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 141 and said == ""


def test_a_tilde_is_the_home_folder_in_every_option(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    seen = []
    monkeypatch.setattr(sample, "run", seen.append)
    assert cli.main(["sample", "--weights=~/runs/a", "--out", "~/a.png", "--sampler", "ddim"]) == 0
    assert Path(seen[0].weights) == tmp_path / "runs" / "a"
    assert seen[0].out == tmp_path / "a.png" and seen[0].sampler == "ddim"
