"""`ddpm train` with files of settings, what `ddpm info` measures, and the live view."""

import json
import os
import signal
import sys

import pytest
import torch
from toy_training import CONFIG, pipeline

from ddpm_helpers import cli, cli_train, config
from ddpm_helpers.config import PRESETS, TrainConfig
from ddpm_helpers.pretrained import load_pretrained
from ddpm_helpers.training import TrainingPipeline

TINY = "--image-size 16 --width 8 --timesteps 10 --limit 16 --batch-size 8 --warmup-steps 1"


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_written_to_a_file_is_read_back_equal(name, tmp_path):
    wanted = TrainConfig.preset(name, lr=3e-05, flip=False)
    wanted.save(tmp_path / "c.toml")
    assert TrainConfig.load(tmp_path / "c.toml") == wanted
    (tmp_path / "c.json").write_text(json.dumps(wanted.to_dict() | {"limit": 7}))
    assert TrainConfig.load(tmp_path / "c.json", seed=3).limit == 7
    text = (tmp_path / "c.toml").read_text()
    assert "lr = 3e-05  # peak learning rate" in text and "flip = false" in text


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.toml", "learning_rate = 1.0", ["a.toml", "learning_rate", "lr"]),
        ("a.toml", 'lr = "fast"', ["a.toml: lr must be of type float", "'fast'"]),
        ("a.toml", "epochs = true", ["epochs must be of type int", "True"]),
        ("a.toml", "epochs = ", ["a.toml cannot be read"]),
        ("a.json", "{", ["a.json cannot be read"]),
        ("a.toml", "epochs = 0", ["epochs must be at least 1"]),
        ("a.yml", "epochs: 1", [".toml or .json", "a.yml"]),
    ],
)
def test_files_that_are_no_configuration_are_refused(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as error:
        TrainConfig.load(tmp_path / name)
    assert all(word in str(error.value) for word in words)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TrainConfig.load(tmp_path / "nowhere.toml")


def test_a_run_leaves_its_configuration_and_another_run_takes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "a", tmp_path / "b"
    words = ["train", "--preset", "ci", "--data", "cartoons", *TINY.split()]
    assert cli.main([*words, "--out", str(first)]) == 0
    saved = first / "config.toml"
    words = ["train", "--config", str(saved), "--data", "cartoons", "--out", str(second)]
    assert cli.main([*words, "--resume", "auto"]) == 0
    a, b = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (first, second))
    assert a["config"] == b["config"]
    assert all(v.equal(b["model"][k]) for k, v in a["model"].items())
    assert cli.main([*words, "--resume"]) == 0
    assert "from step 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", str(saved), "--preset", "ci"])
    assert "not allowed with" in capsys.readouterr().err


def test_zero_terminal_snr_and_min_snr_are_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    words = ["train", "--preset", "ci", "--data", "cartoons", *TINY.split()]
    words += ["--out", str(tmp_path / "run"), "--rescale-zero-snr"]
    assert cli.main([*words, "--min-snr-gamma", "5"]) == 0
    _, diffusion = load_pretrained(tmp_path / "run")
    assert diffusion.alpha_bar[-1] == 0 and diffusion.prediction == "v"
    assert cli.main([*words, "--resume"]) == 0
    capsys.readouterr()
    assert cli.main([*words, "--resume", "--no-rescale-zero-snr"]) == 2
    assert "was trained with rescale_zero_snr = True, not False" in capsys.readouterr().err
    assert cli.main([*words, "--prediction", "eps"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_how_to_go_on(number, status, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    steps = TrainingPipeline.steps

    def interrupted(self):
        for record in steps(self):
            os.kill(os.getpid(), number)
            yield record

    monkeypatch.setattr(TrainingPipeline, "steps", interrupted)
    words = ["train", "--preset", "ci", "--data", "cartoons", "--out", str(tmp_path / "run")]
    assert cli.main([*words, *TINY.split(), "--epochs", "9"]) == status
    err = capsys.readouterr().err
    assert "stopped after step 2 of 18; saved" in err and "--resume" in err
    monkeypatch.setattr(TrainingPipeline, "steps", steps)
    assert cli.main([*words, *TINY.split(), "--epochs", "9", "--resume"]) == 0


def test_out_of_memory_on_the_command_line_is_one_line(monkeypatch, capsys):
    def full(*args):
        raise torch.OutOfMemoryError("step 1: the memory of cuda is full: halve batch_size (8)")

    monkeypatch.setattr(cli.cli_train, "settings", full)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err.endswith("halve batch_size (8)\n")


def test_flops_are_those_of_its_convolutions_and_matrix_products():
    """Twice the width: about four times the work, as channels in and out both double."""
    small, large = (cli_train.forward_flops(TrainConfig(width=w)) for w in (16, 32))
    assert 3.5 < large / small < 4.2


def test_info_names_flops_and_the_time_of_an_epoch(monkeypatch):
    monkeypatch.setattr(cli_train, "measure_speed", lambda c: 250.0)
    text = cli_train.describe_speed(CONFIG, 50_000)
    assert "GFLOP forward per picture" in text and "about 200 s per epoch of 50,000" in text


def test_speed_is_measured_on_a_few_steps_of_the_real_loop():
    assert cli_train.measure_speed(CONFIG) > 0


def test_a_gpu_that_cannot_be_used_is_said_once_and_the_cpu_taken(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("CUDA driver version is insufficient\nand much more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch, "ones", broken)
    config._works.cache_clear()
    try:
        with pytest.warns(match=r"cannot use it \(CUDA driver version is insufficient\)") as said:
            devices = [config.best_device() for _ in range(3)]
    finally:
        config._works.cache_clear()
    assert {device.type for device in devices} == {"cpu"} and len(said) == 1


def test_the_live_view_is_one_figure_that_changes_in_place(tmp_path, monkeypatch):
    live = pytest.importorskip("ddpm_helpers.display.live")
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(figure)

    def display(figure, display_id):
        shown.append("new")
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    p = pipeline(tmp_path, sample_every=1)
    p.fit(watch=live.LiveView(every=4))
    assert shown[0] == "new" and len(shown) == 3  # steps 4, 8 and 9
    left, right = shown[-1].axes
    assert len(left.lines[0].get_xdata()) == 9
    assert right.images[0].get_array().shape == (35, 171, 3)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        live.LiveView(0)
