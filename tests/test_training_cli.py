"""`ddpm train` with files of settings, what `ddpm info` measures, and the live view."""

import json
import os
import re
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from toy_training import CONFIG, pipeline

from ddpm_helpers import cli, config_file, device
from ddpm_helpers.commands import info
from ddpm_helpers.commands import train as train_command
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
    assert TrainConfig.load(tmp_path / "c.json").limit == 7
    text = (tmp_path / "c.toml").read_text()
    assert "lr = 3e-05  # peak learning rate" in text and "flip = false" in text


def test_retired_settings_in_the_file_of_an_older_run_are_ignored(tmp_path):
    (tmp_path / "c.toml").write_text("read_every = 10\nlr = 0.5\n")
    assert TrainConfig.load(tmp_path / "c.toml") == TrainConfig(lr=0.5)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.toml", "learning_rate = 1.0", ["a.toml", "learning_rate", "lr"]),
        ("a.toml", 'lr = "fast"', ["a.toml: lr must be of type float", "'fast'"]),
        ("a.toml", "epochs = true", ["epochs must be of type int", "True"]),
        ("a.toml", "epochs = ", ["a.toml cannot be read"]),
        ("a.json", "{", ["a.json cannot be read"]),
        ("a.toml", "epochs = 0", ["epochs must be", "at least 1, got 0"]),
        ("a.yml", "epochs: 1", [".toml or .json", "a.yml"]),
    ],
)
def test_files_that_are_not_a_configuration_are_refused(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as error:
        TrainConfig.load(tmp_path / name)
    assert all(word in str(error.value) for word in words)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TrainConfig.load(tmp_path / "nowhere.toml")


def test_a_run_writes_its_configuration_and_another_run_reads_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "a", tmp_path / "b"
    words = ["train", "--preset", "ci", "--data", "cartoons", *TINY.split()]
    assert cli.main([*words, "--out", str(first)]) == 0
    saved = first / "config.toml"
    words = ["train", "--config", str(saved), "--data", "cartoons", "--out", str(second)]
    assert cli.main([*words, "--resume", "auto"]) == 0
    saved.write_text("read_every = 10\n" + saved.read_text())  # as an older run left it
    a, b = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (first, second))
    assert a["config"] == b["config"]
    assert all(v.equal(b["model"][k]) for k, v in a["model"].items())
    assert cli.main([*words, "--resume"]) == 0
    assert "from step 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", str(saved), "--preset", "ci"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """`ddpm train` with a tiny network; returns its status, and what it said to both streams."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DDPM_PRESET", "ci")
    monkeypatch.delenv("DDPM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words, tiny=TINY):
        capsys.readouterr()
        status = cli.main(["train", *tiny.split(), *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def album(tmp_path):
    """Three classes, two of which the cartoons have too; wide pictures with red ends."""
    pixels = np.full((20, 40, 3), 90, np.uint8)
    pixels[:, :8], pixels[:, -8:] = (255, 0, 0), (255, 0, 0)
    for name in ("cat", "kite", "ship"):
        (tmp_path / "album" / name).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(pixels + np.uint8(k)).save(tmp_path / "album" / name / f"{k}.png")
    return tmp_path / "album"


def test_a_second_run_in_a_folder_is_refused_unless_it_is_to_be_replaced(train, tmp_path):
    assert train("--out", "a")[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    status, out, err = train("--out", "a", "--epochs", 2)
    assert status == 2 and err.count("\n") == 1 and "pictures" not in out
    assert "a holds a run already" in err and "--resume" in err and "--overwrite" in err
    assert {p: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert "step 2 of 2: nothing to train; raise --epochs" in train("--out", "a", "--resume")[1]
    assert train("--out", "a", "--epochs", 2, "--resume")[0] == 0
    assert train("--out", "a", "--overwrite")[0] == 0
    assert torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["step"] == 2
    with pytest.raises(SystemExit):
        train("--out", "a", "--overwrite", "--resume")


def test_the_default_folder_names_preset_data_and_weights(train, album, tmp_path):
    assert train()[0] == 0 and (tmp_path / "runs" / "ci-cartoons" / "checkpoint.pt").exists()
    assert train("--data", f"{album}/")[0] == 0
    assert (tmp_path / "runs" / "ci-album" / "weights.safetensors").exists()
    assert train("--data", album, "--weights", "runs/ci-cartoons", tiny="--limit 16")[0] == 0
    folder = tmp_path / "runs" / "ci-album-from-ci-cartoons"
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["config"]["width"] == 8


def test_a_runs_configuration_names_its_data(train, album, tmp_path):
    assert train("--data", "album", "--fit", "pad", "--out", "a")[0] == 0
    text = (tmp_path / "a" / "config.toml").read_text()
    assert text.endswith(f'[data]\nsource = "{album}"\nfit = "pad"\n')  # from any folder
    assert TrainConfig.load(tmp_path / "a" / "config.toml").width == 8
    status, out, _ = train("--config", "a/config.toml", "--out", "b", tiny="")
    assert status == 0 and f"pictures of {album}" in out
    a, b = (torch.load(tmp_path / f / "checkpoint.pt", weights_only=True) for f in "ab")
    assert all(v.equal(b["model"][k]) for k, v in a["model"].items())
    assert config_file.data_of_run(tmp_path / "b" / "weights.safetensors") == {
        "source": str(album), "fit": "pad",
    }  # fmt: skip
    out = train("--config", "a/config.toml", "--data", "cartoons", "--out", "c", tiny="")[1]
    assert "pictures of cartoons" in out


def test_fit_pad_keeps_whole_pictures_and_is_part_of_the_data(train, album, tmp_path):
    for fit, has_ends in (("crop", False), ("pad", True)):
        assert train("--data", album, "--fit", fit, "--out", fit)[0] == 0
        images = [np.load(p) for p in (tmp_path / "cache").glob("*.npy")]
        reds = [((i[:, 0] > 200) & (i[:, 1] < 100)).any() for i in images]
        assert any(reds) == has_ends
    status, _, err = train("--data", album, "--fit", "crop", "--out", "pad", "--resume")
    assert status == 2 and "not on other 16 pictures of album" in err
    assert train("--data", album, "--fit", "stretch", "--out", "x")[0] == 2


def test_a_moved_folder_is_resumed_under_its_new_name(train, album, tmp_path):
    assert train("--data", "album", "--out", "a")[0] == 0
    album.rename(tmp_path / "pictures")
    words = ["--data", "pictures", "--out", "a", "--epochs", 2, "--resume"]
    status, out, _ = train(*words)
    assert status == 0 and "from step 2" in out


def test_fine_tuning_starts_from_weights_and_keeps_label_embeddings_by_name(train, album, tmp_path):
    words = ["--data", "album", "--weights", "cartoons", "--out", "a"]
    status, out, err = train(*words, "--lr", "0", tiny="--epochs 1")
    assert (status, "lr must be above 0" in err) == (2, True)
    status, out, _ = train(*words, "--lr", "1e-12", tiny="--epochs 1 --precision fp32")
    assert status == 0 and out.count("\n") == 4  # of the data, the weights, the run, its end
    assert "weights cartoons: labels kept: 2 (cat, ship), new: 1 (kite), left out: 8 (" in out
    old, _ = load_pretrained("cartoons")
    new, diffusion = load_pretrained(tmp_path / "a")
    assert new.classes == ("cat", "kite", "ship") and diffusion.prediction == "v"
    expected = old.label.weight[[0, 4, 0, 9]]  # no label, cat, no label again, ship
    torch.testing.assert_close(new.label.weight, expected, atol=1e-6, rtol=0)
    assert train(*words, "--resume", tiny="--epochs 1")[0] == 0


@pytest.mark.parametrize("option, words", [
    ("--width 32", "cartoons was trained with width = 24, not 32: leave --width out"),
    ("--timesteps 100", "timesteps = 500, not 100"),
    ("--prediction eps", "prediction = 'v', not 'eps'"),
    ("--rescale-zero-snr", "rescale_zero_snr = False, not True: leave --rescale-zero-snr out"),
])  # fmt: skip
def test_options_that_contradict_the_weights_are_one_line(option, words, train):
    status, out, err = train("--weights", "cartoons", tiny=option)
    assert status == 2 and words in err and err.count("\n") == 1 and out == ""


def test_weights_and_checkpoints_taken_for_each_other_are_recognised(train, tmp_path):
    assert train("--out", "a")[0] == 0
    status, _, err = train("--weights", "a/checkpoint.pt", "--out", "b", tiny="")
    assert status == 2 and "looks like a checkpoint, which --resume takes" in err
    status, _, err = train("--out", "b", "--resume", "a/weights.safetensors")
    assert status == 2 and "holds weights, not a checkpoint: --weights" in err
    assert train("--out", "b", "--resume", "a")[0] == 0


def test_a_log_gets_a_line_every_half_minute_and_a_terminal_a_bar(train, monkeypatch):
    clock = iter(range(0, 100_000, 20))
    monkeypatch.setattr("ddpm_helpers.training.progress.time.monotonic", lambda: next(clock))
    words = ["--epochs", "4", "--sample-every", "0", "--save-minutes", "0", "--overwrite"]
    err = train(*words)[2]
    lines = err.splitlines()
    assert 2 <= len(lines) <= 8 and "\r" not in err
    assert re.fullmatch(
        r"step \d of 8: loss \d\.\d{4}, \d+ images/s, 0:0\d:\d\d left", lines[0]
    )


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
    assert cli.main([*words, "--prediction", "eps", "--overwrite"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.usefixtures("signals_as_in_a_terminal")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_how_to_continue(number, status, tmp_path, monkeypatch, capsys):
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


@pytest.mark.parametrize("where", ["step 1", "sample grid after step 3"])
def test_out_of_memory_on_the_command_line_is_one_line(where, monkeypatch, capsys):
    def full(*args):
        raise torch.OutOfMemoryError(f"{where}: the memory of cuda is full: advice")

    monkeypatch.setattr(train_command, "settings", full)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err.endswith("is full: advice\n")


def test_flops_are_those_of_its_convolutions_and_matrix_products():
    """Twice the width: about four times the work, as channels in and out both double."""
    small, large = (info.forward_flops(TrainConfig(width=w)) for w in (16, 32))
    assert 3.5 < large / small < 4.2


def test_info_names_flops_and_the_time_of_an_epoch(monkeypatch):
    monkeypatch.setattr(info, "measure_speed", lambda c: 250.0)
    text = info.describe_speed(CONFIG)
    assert "GFLOP forward per picture" in text and "about 200 s per epoch of 50,000" in text


def test_speed_is_measured_on_a_few_steps_of_the_real_loop():
    assert info.measure_speed(CONFIG) > 0


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
    assert shown[0] == "new" and len(shown) == 3  # steps 4, 8 and 9
    left, right = shown[-1].axes
    assert len(left.lines[0].get_xdata()) == 9
    assert right.images[0].get_array().shape == (35, 171, 3)
    with pytest.raises(ValueError, match="every must be .* at least 1, got 0"):
        live.LiveView(0)
