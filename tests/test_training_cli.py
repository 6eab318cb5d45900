"""`ddpm train`: settings, folders, fine-tuning, and how it ends."""

import os
import re
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from toy_training import TINY, pipeline

from ddpm_helpers import cli, config_file, device
from ddpm_helpers.commands.train import for_fine_tuning
from ddpm_helpers.config import TrainConfig
from ddpm_helpers.pretrained import load_pretrained
from ddpm_helpers.training import TrainingPipeline


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """`ddpm train` with a tiny network; returns its status, and what it said to both streams."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DDPM_PRESET", "ci")
    monkeypatch.delenv("DDPM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words, tiny=f"{TINY} --sample-every 0"):
        capsys.readouterr()
        status = cli.main(["train", *tiny.split(), *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def album(tmp_path):
    """Three classes, two of which the cartoons have too; wide images with red ends."""
    pixels = np.full((20, 40, 3), 90, np.uint8)
    pixels[:, :8], pixels[:, -8:] = (255, 0, 0), (255, 0, 0)
    for name in ("cat", "kite", "ship"):
        (tmp_path / "album" / name).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(pixels + np.uint8(k)).save(tmp_path / "album" / name / f"{k}.png")
    return tmp_path / "album"


def state(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def test_a_second_run_in_a_folder_is_refused_unless_it_is_to_be_replaced(train, tmp_path):
    assert train("--out", "a")[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    status, out, err = train("--out", "a", "--epochs", 2)
    assert status == 2 and err.count("\n") == 1 and out == ""
    assert "checkpoint" in err and "--resume" in err and "--overwrite" in err
    assert {p: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert "step 2 of 2: nothing to train; raise --epochs" in train("--out", "a", "--resume")[1]
    assert train("--out", "a", "--epochs", 2, "--resume")[0] == 0
    assert train("--out", "a", "--overwrite")[0] == 0 and state(tmp_path / "a")["step"] == 2
    with pytest.raises(SystemExit):
        train("--out", "a", "--overwrite", "--resume")


def test_the_default_folder_names_preset_data_and_weights(train, album, tmp_path):
    assert train()[0] == 0 and (tmp_path / "runs" / "ci-cartoons" / "checkpoint.pt").exists()
    assert train("--data", f"{album}/")[0] == 0
    assert (tmp_path / "runs" / "ci-album" / "weights.safetensors").exists()
    words = "--limit 16 --epochs 1 --sample-every 0"
    assert train("--data", album, "--weights", "runs/ci-cartoons", tiny=words)[0] == 0
    assert state(tmp_path / "runs" / "ci-album-from-ci-cartoons")["config"]["width"] == 8


def test_the_configuration_of_a_run_names_its_data_and_starts_or_continues_it(
    train, album, tmp_path
):
    assert train("--data", "album", "--fit", "pad", "--out", "a")[0] == 0
    text = (tmp_path / "a" / "config.toml").read_text()
    assert 'source = "' in text and text.endswith('album"\nfit = "pad"\n')
    status, out, _ = train("--config", "a/config.toml", "--out", "b", tiny="")
    assert status == 0 and "album, cpu, 1 process, writing to b" in out
    a, b = state(tmp_path / "a"), state(tmp_path / "b")
    assert a["config"] == b["config"]
    assert all(v.equal(b["model"][k]) for k, v in a["model"].items())
    assert config_file.data_of_run(tmp_path / "b" / "weights.safetensors")["fit"] == "pad"
    out = train("--config", "a/config.toml", "--data", "cartoons", "--out", "c", tiny="")[1]
    assert "images of cartoons" in out
    status, out, _ = train("--config", "a/config.toml", "--resume", "--epochs", 2, tiny="")
    assert status == 0 and "writing to a, from step 2" in out and state(tmp_path / "a")["step"] == 4
    with pytest.raises(SystemExit):
        train("--config", "a/config.toml", "--preset", "ci")


def test_a_moved_folder_is_resumed_under_its_new_name_and_runs_in_the_home_folder(
    train, album, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert train("--data=~/album", "--out=~/a")[0] == 0
    album.rename(tmp_path / "renamed")
    status, out, _ = train("--data", "renamed", "--out", "a", "--epochs", 2, "--resume")
    assert status == 0 and "from step 2" in out and not (tmp_path / "~").exists()
    assert train("--data", "renamed", "--weights=~/a", "--out", "b", tiny="--epochs 1")[0] == 0


def test_fine_tuning_starts_from_weights_and_keeps_label_embeddings_by_name(train, album, tmp_path):
    words = ["--data", "album", "--weights", "cartoons", "--out", "a"]
    status, out, err = train(*words, "--lr", "0", tiny="--epochs 1")
    assert (status, "lr must be above 0" in err) == (2, True)
    tiny = "--epochs 1 --precision fp32 --sample-every 0"
    status, out, _ = train(*words, "--lr", "1e-12", tiny=tiny)
    assert status == 0 and out.count("\n") == 4  # of the data, the weights, the run, its end
    assert "weights cartoons: labels kept: 2 (cat, ship), new: 1 (kite), left out: 8 (" in out
    old, _ = load_pretrained("cartoons")
    new, diffusion = load_pretrained(tmp_path / "a")
    assert new.classes == ("cat", "kite", "ship") and diffusion.prediction == "v"
    expected = old.label.weight[[0, 4, 0, 9]]  # no label, cat, no label again, ship
    torch.testing.assert_close(new.label.weight, expected, atol=1e-6, rtol=0)
    assert train(*words, "--resume", tiny=tiny)[0] == 0


def test_fine_tuning_makes_180_updates_by_default_and_five_grids():
    config = TrainConfig.preset("laptop")  # one epoch of batches of 32
    tuned = for_fine_tuning(config, 90, {"lr": 1.0})
    assert (tuned.epochs, tuned.sample_every, tuned.save_every, tuned.warmup_steps) == (
        60, 12, 12, 18,
    )  # fmt: skip
    assert for_fine_tuning(config, 50_000, {}).epochs == 1
    chosen = dict.fromkeys(("epochs", "warmup_steps", "sample_every", "save_every"))
    assert for_fine_tuning(config, 90, chosen) == config


def test_fine_tuning_from_the_command_line_makes_enough_updates(train):
    """With the tiniest weights, whose 180 updates take a second."""
    assert train("--out", "a")[0] == 0
    status, out, _ = train("--weights", "a", "--data", "cartoons", "--out", "b",
                           tiny="--limit 12 --sample-every 0")  # fmt: skip
    assert status == 0 and "180 steps, mean loss" in out


def test_options_that_contradict_the_weights_are_one_line(train):
    for option, words in {"--width 32": "width = 24", "--prediction eps": "'v', not 'eps'"}.items():
        status, out, err = train("--weights", "cartoons", tiny=option)
        assert status == 2 and words in err and err.count("\n") == 1 and out == ""


def test_a_log_gets_a_line_every_half_minute_and_a_terminal_a_bar(train, monkeypatch, capsys):
    clock = iter(range(0, 100_000, 20))
    monkeypatch.setattr("ddpm_helpers.training.progress.time.monotonic", lambda: next(clock))
    lines = train("--epochs", "4")[2].splitlines()
    assert 2 <= len(lines) <= 8 and "\r" not in lines[0]
    assert re.fullmatch(r"step \d of 8: loss \d\.\d{4}, \d+ images/s, 0:0\d:\d\d left", lines[0])
    monkeypatch.setattr("ddpm_helpers.training.progress._can_redraw", lambda: True)
    pipeline(epochs=4).fit()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "12/12" in last and "loss=0." in last and "images/s=" in last
    assert "<00:00" in last  # the time left


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.usefixtures("signals_as_in_a_terminal")
def test_a_stopped_training_can_be_resumed(train, monkeypatch, tmp_path):
    steps = TrainingPipeline.steps

    def interrupted(self):
        for record in steps(self):
            if record.step == 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield record

    monkeypatch.setattr(TrainingPipeline, "steps", interrupted)
    code, out, err = train("--out", "run", "--epochs", "9")
    assert code == 130 and "SIGINT" in err and state(tmp_path / "run")["step"] == 1
    assert "at step 1 of" in out and "--resume" in out
    monkeypatch.setattr(TrainingPipeline, "steps", steps)
    assert train("--out", "run", "--epochs", "9", "--resume")[0] == 0


def test_out_of_memory_on_the_command_line_is_one_line(monkeypatch, capsys):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("ddpm_helpers.commands.train.settings", full)
    assert cli.main(["train"]) == 2
    err = capsys.readouterr().err
    assert "--batch-size" in err and err.count("\n") == 1


def test_an_unusable_gpu_is_reported_once_and_the_cpu_is_used(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("CUDA driver version is insufficient\nand much more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch, "ones", broken)
    device._works.cache_clear()
    try:
        with pytest.warns(match=r"cannot use it \(CUDA driver version is insufficient\)") as said:
            devices = [device.best_device() for _ in range(3)]
    finally:
        device._works.cache_clear()
    assert {found.type for found in devices} == {"cpu"} and len(said) == 1


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
    assert shown[0] == "new" and len(shown) == 3  # updates 4, 8 and 9
    left, right = shown[-1].axes
    assert len(left.lines[0].get_xdata()) == 9
    assert right.images[0].get_array().shape == (35, 171, 3)
