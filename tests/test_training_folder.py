"""A run's folder: who owns it, what is in it, when it is written, and what survives an error."""

import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_training import TwoColours, fail_at, pipeline, same_run, spoil, stop_after, strike_at

from ddpm_helpers.pretrained.weights import description
from ddpm_helpers.training import checkpoint, run_folder, update_ema
from ddpm_helpers.training.training_data import check_same_data, identify


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of 9 updates, 3 in each epoch."""
    folder = tmp_path_factory.mktemp("run") / "a run"
    pipeline(folder, sample_every=2).fit()
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(finished, tmp_path / "run")


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock" and p.is_file()}


def steps_saved(folder):
    """The steps of the checkpoints, the newest first."""
    files = (folder / name for name in (checkpoint.CHECKPOINT, checkpoint.PREVIOUS))
    return [torch.load(file, weights_only=True)["step"] for file in files if file.exists()]


# -------------------------------------------------------------------------- what is in it


def test_files_that_a_run_leaves(finished):
    assert sorted(p.name for p in finished.iterdir()) == [
        ".lock", "checkpoint-previous.pt", "checkpoint.pt", "config.toml", "history.jsonl",
        "samples_epoch_0002.png", "samples_epoch_0003.png", "weights.safetensors",
    ]  # fmt: skip
    assert steps_saved(finished) == [9, 6]
    assert description(finished)["trained"]["steps"] == 9
    with Image.open(finished / "samples_epoch_0002.png") as grid:
        assert grid.size == (171, 35)


def test_the_weights_of_chosen_epochs_are_kept_on_request(tmp_path):
    p = pipeline(tmp_path, epochs=6, keep_weights=True, save_every=0)
    p.fit()
    kept = sorted(path.name for path in tmp_path.glob("weights_epoch_*"))
    assert kept == [f"weights_epoch_000{k}.safetensors" for k in (1, 2, 5)]
    assert description(tmp_path / kept[1])["trained"]["steps"] == 2 * p.steps_per_epoch
    rungs = [epoch for epoch in range(1, 1001) if run_folder.in_1_2_5_series(epoch)]
    assert rungs == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


def test_history_holds_every_update_once_also_after_a_kill(run):
    """A kill between two files leaves a history that is ahead of the checkpoint."""
    (run / "checkpoint.pt").unlink()
    p = pipeline(run)
    with pytest.warns(match="checkpoint-previous.pt"):
        p.resume()
    spoil(p, {7})
    with pytest.warns(match="step 8.*skipped"):
        p.fit()
    records = run_folder.read_history(run / "history.jsonl")
    assert [r["step"] for r in records] == [*range(1, 10)]
    assert [r["loss"] for r in records if r["step"] != 8] == [r.loss for r in p.history if r.finite]
    assert records[7]["loss"] is None  # JSON has no NaN


# --------------------------------------------------------------------------- when it is due


def test_the_first_update_is_saved_at_once_and_later_ones_every_ten_minutes(tmp_path, monkeypatch):
    clock, saved = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for record in pipeline(tmp_path, epochs=4, save_every=0).steps():
        clock[0] += 200.0
        saved += [record.step] * (steps_saved(tmp_path)[0] == record.step)
    assert saved == [1, 4, 7, 10, 12]


# ------------------------------------------------------------------------------ who owns it


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_written(run):
    before, second = content(run), pipeline(run, epochs=1)
    for start in (second.fit, lambda: next(second.steps()), second.save):
        with pytest.raises(FileExistsError, match="overwrite"):
            start()
    loaded = pipeline(run)
    loaded.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True))
    with pytest.raises(FileExistsError):  # and the error does not save
        loaded.fit()
    assert content(run) == before and second.step == 0
    (run / "elsewhere").mkdir()
    for name in (checkpoint.CHECKPOINT, checkpoint.PREVIOUS):
        (run / name).rename(run / "elsewhere" / name)
    second.resume(run / "elsewhere")
    with pytest.raises(FileExistsError, match="weights.safetensors|samples"):  # of another run
        second.fit()


def test_a_run_that_another_training_continued_is_not_overwritten(tmp_path, whole):
    """A notebook stops, a terminal continues, and the notebook's cell runs once more."""
    first = stop_after(pipeline(tmp_path, overwrite=True), 4)
    second = pipeline(tmp_path)
    second.resume()
    second.fit()
    for go_on in (first.fit, first.save):
        with pytest.raises(FileExistsError):
            go_on()
    assert steps_saved(tmp_path) == [9, 6]
    first.resume()
    first.save()
    assert same_run(first, whole)


def test_overwrite_removes_the_run_and_nothing_else_when_training_starts(run):
    foreign = {"mine.tmp", "checkpoint.pt.bak", "checkpoint-best.pt", "notes.txt"}
    for name in foreign:
        (run / name).write_bytes(b"half")
    p = pipeline(run, epochs=1, overwrite=True)
    assert steps_saved(run) == [9, 6]
    p.fit()
    assert steps_saved(run) == [3, 1] and not (run / "samples_epoch_0003.png").exists()
    assert all((run / name).read_bytes() == b"half" for name in foreign)
    resumed = pipeline(run, epochs=2, overwrite=True)
    resumed.resume()
    assert len(resumed.fit()) == 6  # a run that was resumed is not overwritten


def test_overwrite_does_not_remove_what_another_training_saved_after_a_resume(run):
    first, second = pipeline(run, overwrite=True, epochs=4), pipeline(run, epochs=4)
    first.resume()
    second.resume()
    second.fit()
    before = content(run)
    with pytest.raises(FileExistsError):
        first.fit()
    assert content(run) == before


HOLD = """
import sys, time
sys.path[:0] = {path}
from toy_training import pipeline
steps = pipeline({folder!r}).steps()
next(steps)
print("trains", flush=True)
time.sleep(600)
"""


def test_one_process_trains_in_a_folder_and_a_kill_unlocks_it(tmp_path, root):
    code = HOLD.format(path=[str(root), str(root / "tests")], folder=str(tmp_path))
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"trains\n"
        p = pipeline(tmp_path)
        p.resume()
        before = content(tmp_path)
        for start in (p.fit, p.save):
            with pytest.raises(BlockingIOError):
                start()
        assert content(tmp_path) == before
    finally:
        other.kill()
        other.communicate()
    assert len(p.fit()) == 9
    next(p.steps(), None)  # within a process, a loop that was left does not keep the folder
    assert pipeline(tmp_path, overwrite=True).fit()


def test_a_drive_without_locks_is_warned_about(tmp_path, monkeypatch):
    import filelock

    def refuse(self, **options):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(match="no flock here"):
        assert len(pipeline(tmp_path, epochs=1).fit()) == 3


# ------------------------------------------------------------------------------- resuming


def test_any_changed_or_missing_byte_of_a_checkpoint_is_noticed(run):
    path = run / "checkpoint.pt"
    whole, n = path.read_bytes(), path.stat().st_size
    for where in (0, 100, n // 2, n - 3000, n - 1):
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 64]) + whole[where + 1 :])
        with suppress(checkpoint.BrokenFile):
            assert checkpoint.read(path)["step"] == 9  # a byte that says nothing
        path.write_bytes(whole[:where])
        with pytest.raises(checkpoint.BrokenFile):
            checkpoint.read(path)
    path.write_bytes(whole[: n // 2] + bytes([whole[n // 2] ^ 1]) + whole[n // 2 + 1 :])
    with pytest.raises(checkpoint.BrokenFile, match="checksum"):
        checkpoint.read(path)
    method = whole.index(b"PK\1\2") + 10  # of compression, in the list of contents
    for name in (b"\x08", b"\x0c"):  # then zlib and bz2 raise errors of their own
        path.write_bytes(whole[:method] + name + whole[method + 1 :])
        with pytest.raises(checkpoint.BrokenFile):
            checkpoint.read(path)


def test_resume_falls_back_to_the_newest_undamaged_checkpoint_and_says_so(run, whole):
    (run / "checkpoint.pt").write_bytes(b"PK")
    p = pipeline(run)
    with pytest.warns(match=r"checkpoint\.pt .*checkpoint-previous\.pt"):
        assert p.resume("auto").name == "checkpoint-previous.pt"
    p.fit()
    assert same_run(p, whole) and torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 9
    for name in (checkpoint.CHECKPOINT, checkpoint.PREVIOUS):
        (run / name).write_bytes(b"")
    with pytest.raises(checkpoint.BrokenFile), pytest.warns(match="checkpoint.pt"):
        p.resume("auto")


def test_auto_starts_from_the_beginning_where_there_is_no_checkpoint(tmp_path):
    p = pipeline(tmp_path / "new")
    assert p.resume("auto") is None and p.step == 0


def test_a_resume_within_the_loop_continues_with_the_batches_of_its_step(tmp_path, whole):
    p, back = pipeline(tmp_path), [4, 8]
    for record in p.steps():
        if record.step in back:
            back.remove(record.step)
            p.resume()  # from step 3, then 6
    assert same_run(p, whole)


def test_a_resume_names_the_settings_that_changed(run, capsys):
    pipeline(run, sample_every=2).resume()
    assert capsys.readouterr().err == ""
    pipeline(run, sample_every=2, lr=0.5, epochs=9, min_snr_gamma=5.0).resume()
    assert capsys.readouterr().err == (
        "settings that changed since checkpoint.pt: epochs 9 (was 3), lr 0.5 (was 0.003), "
        "min_snr_gamma 5.0 (was None)\n"
    )


def test_options_of_the_optimiser_may_change_at_a_resume(run):
    state = pipeline().state_dict()
    state["optimizer"]["param_groups"][0] |= {"fused": False, "weight_decay": 0.5}
    p = pipeline(weight_decay=0.1)
    p.load_state_dict(state)
    assert p.optimizer.param_groups[0]["fused"] and next(p.steps()).step == 1
    assert p.optimizer.param_groups[0]["weight_decay"] == 0.1


def test_checkpoints_that_do_not_fit_are_refused_and_change_nothing(run):
    torch.save({"weights": torch.ones(1)}, run / "foreign.pt")
    torch.save(Path("x"), run / "pickle.pt")
    (run / "elsewhere").mkdir()
    for place, changes, words in [
        ("checkpoint.pt", {"width": 16}, "width = 8, not 16"),
        ("checkpoint.pt", {"seed": 5}, "seed = 0, not 5"),
        ("checkpoint.pt", {"limit": 5}, "limit = None, not 5"),
        ("checkpoint.pt", {"optimizer": "muon"}, "'adamw', not 'muon'"),
        ("checkpoint.pt", {"class_conditional": False}, "label.weight"),
        ("nowhere.pt", {}, "nowhere.pt"),
        ("elsewhere", {}, "elsewhere"),
        ("weights.safetensors", {}, "weights.safetensors"),
        ("foreign.pt", {}, "foreign.pt"),
        ("pickle.pt", {}, "pickle.pt"),
    ]:
        p = pipeline(**changes)
        before = [w.clone() for w in p.model.parameters()]
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            p.resume(run / place)
        assert p.step == 0 and all(map(torch.equal, before, p.model.parameters()))
    p = pipeline(run)
    p.dataset.name = "somewhere else"
    p.resume()  # the same images under another name
    p.dataset.images = p.dataset.images.flip(0)
    with pytest.raises(ValueError, match="12 images of somewhere else"):
        p.resume()
    for call in (pipeline().save, pipeline().resume):
        with pytest.raises(ValueError, match="no out_dir"):
            call()


def test_data_are_recognised_by_brightness_labels_and_number():
    mine, other, relabelled = TwoColours(), TwoColours(), TwoColours()
    other.images = other.images.clone()
    other.images[:, :, 0, 0] += 1  # by another decoder
    check_same_data(identify(mine), identify(other))
    other.images[3] += 2
    relabelled.labels = relabelled.labels.flip(0)
    for found in (identify(other), identify(relabelled), identify(mine) | {"images": 13}):
        with pytest.raises(ValueError, match="12 images of two colours"):
            check_same_data(identify(mine), found)


# ---------------------------------------------------------------- errors, signals, full disks


class Trouble(BaseException):
    """Of a kind that nobody foresees."""


def fail_in_data(p, step, error):
    batches = p.dataset.batches

    def failing(*args, **options):
        for batch in batches(*args, **options):
            if p.step == step:
                raise error
            yield batch

    p.dataset.batches = failing


def fail_in_watch(p, step, error):
    def watch(p, record):
        if record.step == step:
            raise error

    fit = p.fit
    p.fit = lambda: fit(watch=watch)


def fail_in_samples(p, step, error):
    def failing(*args, **options):
        raise error

    p.diffusion.sample = failing


@pytest.mark.parametrize("fail, changes, step", [
    (fail_at, {}, 5),
    (fail_in_data, {}, 5),
    (fail_in_watch, {}, 4),
    (fail_in_samples, {"sample_every": 1, "save_every": 0}, 3),
])  # fmt: skip
def test_any_exception_saves_the_last_complete_update_first(fail, changes, step, whole, tmp_path):
    p = pipeline(tmp_path, **changes)
    fail(p, step, Trouble("at a bad moment"))
    with pytest.raises(Trouble, match="at a bad moment"):
        p.fit()
    assert steps_saved(tmp_path)[0] == step
    second = pipeline(tmp_path)
    second.resume()
    second.fit()
    assert same_run(second, whole)


def test_half_an_update_is_neither_saved_nor_continued(whole, tmp_path, monkeypatch):
    def broken(*args):
        if p.step == 5:
            raise RuntimeError("between weights and average")
        update_ema(*args)

    p = pipeline(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("ddpm_helpers.training.pipeline.update_ema", broken)
        with pytest.raises(RuntimeError, match="between weights"):
            p.fit()
    assert steps_saved(tmp_path) == [3, 1]  # of the first epoch
    for act in (p.fit, p.save):
        with pytest.raises(RuntimeError, match=r"interrupted half way.*resume\(\)"):
            act()
    assert steps_saved(tmp_path) == [3, 1]
    p.resume()
    p.fit()
    assert same_run(p, whole)


def test_half_a_resume_is_neither_saved_nor_continued(run, tmp_path, monkeypatch):
    def broken(*args):
        raise KeyboardInterrupt

    p = pipeline(tmp_path / "new")
    with monkeypatch.context() as patched:
        patched.setattr("ddpm_helpers.training.pipeline.load_optimizer", broken)
        with pytest.raises(KeyboardInterrupt):
            p.resume(run)
    for act in (p.fit, p.save):
        with pytest.raises(RuntimeError, match=r"resume\(\)"):
            act()


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file sizes needs POSIX")
def test_a_disk_that_fills_up_leaves_the_old_checkpoint_and_names_bytes(run):
    import resource

    p = pipeline(run, sample_every=2)
    p.resume()
    before = content(run)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"\.pt|\.toml|\.jsonl|\.safetensors"):
            p.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert content(run) == before


def test_a_folder_that_cannot_be_written_is_noticed_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        pipeline(tmp_path / "file")


posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@posix
@pytest.mark.usefixtures("signals_as_in_a_terminal")
def test_in_a_loop_of_your_own_ctrl_c_stops_at_once_and_you_can_continue(whole):
    p = pipeline()
    strike_at(p, 4)
    with pytest.raises(KeyboardInterrupt):
        list(p.steps())
    assert p.step == 4 == len(p.history)
    p.diffusion.loss = pipeline().diffusion.loss
    p.fit()
    assert same_run(p, whole)


@posix
@pytest.mark.usefixtures("signals_as_in_a_terminal")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_fit_saves_before_a_signal_has_its_effect(tmp_path, how, capsys):
    number, effect = getattr(signal, how), signal.default_int_handler
    before = signal.signal(number, effect)
    try:
        p = pipeline(tmp_path)
        strike_at(p, 4, number)  # the update is made
        with pytest.raises(KeyboardInterrupt):
            p.fit()
        assert len(p.history) == 5 == steps_saved(tmp_path)[0]
        assert how in capsys.readouterr().err and signal.getsignal(number) is effect
    finally:
        signal.signal(number, before)


@posix
@pytest.mark.usefixtures("signals_as_in_a_terminal")
def test_a_second_ctrl_c_stops_at_once_and_saves(tmp_path, monkeypatch):
    """As in a compiler that works for minutes: the update does not end by itself."""
    monkeypatch.setattr("ddpm_helpers.training.stopping.PATIENCE", 0.0)
    p = pipeline(tmp_path)
    strike_at(p, 4)
    with pytest.raises(KeyboardInterrupt):
        p.fit()
    assert p.step == 4 == steps_saved(tmp_path)[0]


@posix
def test_a_signal_that_the_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        p = pipeline()
        strike_at(p, 4, signal.SIGHUP)
        assert len(p.fit()) == p.total_steps
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_closed_and_missing_streams_never_end_a_training(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        flush = isatty = lambda self: False

    monkeypatch.setattr("ddpm_helpers.training.progress.SECONDS", 0.0)
    for stream in (Closed(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert len(pipeline().fit()) == 9
