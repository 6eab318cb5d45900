"""Checkpoints that are complete or absent, records on disk, and errors in one line."""

import gc
import json
import shutil
import sys
import warnings
import weakref
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_training import CONFIG, TwoColours, pipeline, same, spoil

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained.weights import description
from ddpm_helpers.training import TrainingPipeline, checkpoint, run_folder


@pytest.fixture
def run(tmp_path):
    """A finished run of 9 steps that kept its last three checkpoints."""
    p = pipeline(tmp_path, keep_checkpoints=3)
    p.fit()
    return p


def test_checkpoints_carry_their_step_and_the_last_k_stay(run, tmp_path):
    names = [path.name for path in checkpoint.checkpoints(tmp_path)]
    assert names == ["checkpoint.pt", "checkpoint-00000006.pt", "checkpoint-00000003.pt"]
    for name, step in zip(names, (9, 6, 3), strict=True):
        assert torch.load(tmp_path / name, weights_only=True)["step"] == step
    run.save()
    assert len(checkpoint.checkpoints(tmp_path)) == 3


def test_any_changed_or_missing_byte_is_noticed(run, tmp_path):
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for where in (0, 100, len(whole) // 2, len(whole) - 150, len(whole) - 1):
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
        with pytest.raises(checkpoint.BrokenFile, match=r"checkpoint\.pt is (altered|cut short)"):
            run.resume(path)
        path.write_bytes(whole[:where])
        with pytest.raises(checkpoint.BrokenFile, match=r"checkpoint\.pt is (altered|cut short)"):
            run.resume(path)


def test_auto_falls_back_to_the_newest_undamaged_checkpoint_and_says_so(run, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK")
    p = pipeline(tmp_path)
    with pytest.warns(match=r"checkpoint\.pt is cut short.*to checkpoint-00000006\.pt, step 6"):
        assert p.resume("auto").name == "checkpoint-00000006.pt"
    p.fit()
    assert same(p.model, run.model)
    for path in checkpoint.checkpoints(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(checkpoint.BrokenFile, match="no whole checkpoint"):
        p.resume("auto")


def test_auto_starts_afresh_in_an_empty_folder_and_resume_alone_refuses(tmp_path):
    p = pipeline(tmp_path)
    assert p.resume("auto") is None and p.step == 0
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        p.resume()


def test_auto_starts_afresh_where_another_process_has_yet_to_make_the_folder(tmp_path):
    p = pipeline(tmp_path / "new")
    (tmp_path / "new").rmdir()
    assert p.resume("auto") is None


def test_a_run_of_another_device_or_weight_decay_continues_with_its_own_options(run, tmp_path):
    state = pipeline(tmp_path).state_dict()
    state["optimizer"]["param_groups"][0] |= {"fused": False, "weight_decay": 0.5}
    p = pipeline(weight_decay=0.1)
    p.load_state_dict(state)
    assert p.optimizer.param_groups[0]["fused"] and next(p.steps()).step == 1
    assert p.optimizer.param_groups[0]["weight_decay"] == 0.1


def test_a_checkpoint_of_plain_torch_save_can_still_be_resumed(run, tmp_path):
    state = checkpoint.unpack(tmp_path / "checkpoint-00000006.pt")
    torch.save(state, tmp_path / "plain.pt")
    p = pipeline()
    p.resume(tmp_path / "plain.pt")
    p.fit()
    assert same(p.model, run.model)


def test_stale_temporaries_go_and_foreign_files_stay(run, tmp_path):
    foreign = {"mine.tmp", "checkpoint.pt.bak", "checkpoint-best.pt", "notes.txt"}
    ours = {"checkpoint.pt.tmp", "weights.safetensors.tmp", "history.jsonl.tmp", "config.toml.tmp"}
    for name in foreign | ours | {"samples_epoch_0001.png.tmp", "learning.gif.tmp"}:
        (tmp_path / name).write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = pipeline(tmp_path)
        p.resume("auto")
    assert p.step == 9 and all((tmp_path / name).read_bytes() == b"half" for name in foreign)
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["mine.tmp"]


def test_a_full_disk_is_noticed_before_the_first_step(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1_500_000))
    with pytest.raises(OSError, match=r"1\.5 MB free.* need \d+\.\d MB more.*keep_checkpoints"):
        pipeline(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file sizes needs POSIX")
def test_a_disk_that_fills_up_leaves_the_old_checkpoint_and_names_bytes(run, tmp_path):
    import resource
    import signal

    before = {path.name: path.read_bytes() for path in checkpoint.checkpoints(tmp_path)}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"not written.*it needs \d.*MB are free; the old file"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert before == {path.name: path.read_bytes() for path in checkpoint.checkpoints(tmp_path)}
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full, from Linux")
def test_a_history_that_finds_no_room_names_its_file_and_bytes(tmp_path):
    p = pipeline(tmp_path, save_every=0)
    steps = p.steps()
    next(steps)
    (tmp_path / "history.jsonl").unlink()
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    words = r"history\.jsonl was not written \(No space left.*needs 0\.0 MB"
    with pytest.warns(match="while saving step 9"), pytest.raises(OSError, match=words):
        for _ in steps:
            pass
    assert checkpoint.newest(tmp_path)[1]["step"] == 9  # the history is in there too


def test_other_data_are_refused_and_the_same_data_accepted_under_any_name(run, tmp_path):
    run.dataset.source = "somewhere/else"
    run.resume()
    run.dataset.images = run.dataset.images.flip(0)
    with pytest.raises(
        ValueError, match="on 12 pictures of two colours, not on 12 pictures of else"
    ):
        run.resume()
    run.dataset.source = "two colours"
    with pytest.raises(ValueError, match="not on other 12 pictures of two colours"):
        run.resume()
    with pytest.raises(ValueError, match="was trained with limit = None, not 5"):
        pipeline(tmp_path, limit=5).resume()


def test_a_checkpoint_of_the_previous_format_can_be_resumed(run, tmp_path):
    """It held the data in words, no diffusion, and no field that came later."""
    state = checkpoint.unpack(tmp_path / "checkpoint-00000006.pt")
    state["data"] = "12 pictures of two colours"
    del state["diffusion"], state["config"]["save_minutes"]
    torch.save(state, tmp_path / "old.pt")
    p = pipeline()
    p.resume(tmp_path / "old.pt")
    p.fit()
    assert same(p.model, run.model)
    p.dataset.source = "other"
    with pytest.raises(ValueError, match="on 12 pictures of two colours, not on 12 pictures of ot"):
        p.resume(tmp_path / "old.pt")


def test_an_older_run_without_a_count_of_bad_batches_continues_with_the_right_draws(run, tmp_path):
    """Six batches, one of them bad; losses were read in groups, and no record had a norm."""
    state = checkpoint.unpack(tmp_path / "checkpoint-00000006.pt")
    state |= {"step": 5, "skipped": 1, "skipped_in_a_row": 1}
    state["history"] = [{k: v for k, v in r.items() if k != "grad_norm"} for r in state["history"]]
    del state["history"][5]
    state["config"]["read_every"] = 10
    torch.save(state, tmp_path / "old.pt")
    p = pipeline()
    p.resume(tmp_path / "old.pt")
    assert p.step == 6 and len(p.history) == 5 and all(r.finite for r in p.history)
    p.fit()
    assert same(p.model, run.model) and same(p.ema_model, run.ema_model)
    p.save(tmp_path / "new.pt")
    again = pipeline()
    again.resume(tmp_path / "new.pt")
    assert again.step == 9 and [r.loss for r in again.history] == [r.loss for r in p.history]


def test_a_run_resumes_from_another_runs_folder(run, tmp_path):
    p = pipeline()
    assert p.resume(tmp_path).name == "checkpoint.pt" and p.step == 9
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*notebooks"):
        p.resume(Path(__file__).parent / "notebooks")


@pytest.mark.parametrize("make, words", [
    (lambda path: torch.save({"weights": torch.ones(1)}, path), "Pipeline: it lacks conf"),
    (lambda path: torch.save([1], path), "of a TrainingPipeline: not a dict"),
    (lambda path: torch.save(Path("x"), path), "is not a checkpoint"),
])  # fmt: skip
def test_other_files_of_torch_are_told_apart_from_checkpoints(make, words, tmp_path):
    make(tmp_path / "w.pt")
    with pytest.raises(checkpoint.BrokenFile, match=words) as refusal:
        pipeline().resume(tmp_path / "w.pt")
    assert "\n" not in str(refusal.value)


def test_weights_given_as_a_checkpoint_are_recognised(run, tmp_path):
    with pytest.raises(ValueError, match="weights.safetensors holds weights, not a checkpoint"):
        pipeline().resume(tmp_path / "weights.safetensors")


def test_weights_and_checkpoints_store_the_name_of_the_data_and_no_path(run, tmp_path):
    run.dataset.source = str(tmp_path)
    run.save()
    assert description(tmp_path)["trained"]["data"] == tmp_path.name
    state = checkpoint.unpack(tmp_path / "checkpoint.pt")
    assert state["data"]["name"] == tmp_path.name and str(tmp_path.parent) not in str(state["data"])


def test_a_different_architecture_is_named_by_its_first_key_and_nothing_changes(run, tmp_path):
    diffusion = DiffusionUtils(50, prediction="v")
    bare = {"num_classes": None}, "label.weight: expected no such weight, found (3, 32)"
    more = {"num_classes": 5}, "label.weight: expected (6, 32), found (3, 32)"
    for changes, words in (bare, more):
        model = DiffusionNet(16, width=8, **changes)
        p = TrainingPipeline(model, diffusion, TwoColours(), CONFIG)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(ValueError) as refusal:
            p.resume(tmp_path / "checkpoint.pt")
        assert words in str(refusal.value) and p.step == 0 and not p.history
        assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_a_bad_batch_is_skipped_and_named_and_resume_stays_exact(tmp_path):
    whole, parts = pipeline(), [pipeline(tmp_path), pipeline(tmp_path)]
    for p in (whole, *parts):
        spoil(p, {2, 5})  # the last batches of two epochs
    with pytest.warns(match="step [36]: the loss is nan.*left out, weights are as before") as said:
        whole.fit()
    assert len(said) == 2
    assert [r.step for r in whole.history if not r.finite] == [3, 6]
    assert all(v.isfinite().all() for v in whole.ema_model.state_dict().values())
    with pytest.warns(match="step 3.*batch left out"):
        for record in parts[0].steps():
            if record.step == 4:
                break
        parts[0].save()
    parts[1].resume()
    with pytest.warns(match="step 6.*batch left out"):
        parts[1].fit()
    assert same(parts[1].model, whole.model) and same(parts[1].ema_model, whole.ema_model)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert [k for k, loss in enumerate(losses) if loss is None] == [2, 5]  # JSON has no NaN


def test_after_a_bad_batch_steps_and_noise_are_drawn_anew():
    p, drawn = pipeline(batch_size=6), []
    spoil(p, {0})
    loss = p.diffusion.loss

    def watched(model, x_0, t, eps, y, **options):
        drawn.append((t, eps))
        return loss(model, x_0, t, eps, y, **options)

    p.diffusion.loss = watched
    steps = p.steps()
    with pytest.warns(match="step 1.*batch left out"):
        assert [next(steps).step, next(steps).step] == [1, 2]
    assert len(drawn) == 2 and not any(a.equal(b) for a, b in zip(*drawn, strict=True))


def test_bad_batches_in_a_row_stop_the_run_and_the_last_checkpoint_is_good(tmp_path):
    p = pipeline(tmp_path, max_bad_steps=2)
    spoil(p, {1, 4, 5})
    with pytest.warns(match="batch left out"):
        with pytest.raises(FloatingPointError, match="step 6: .*2 batches in a row.*lower lr"):
            p.fit()
    spoil(p, {6})
    with pytest.warns(match="step 7: .*batch left out"):  # after the error, from 0
        next(p.steps())
    state = checkpoint.newest(tmp_path)[1]
    assert state["step"] == 6 and all(v.isfinite().all() for v in state["ema_model"].values())


def test_bad_batches_are_counted_across_calls_of_steps():
    p = pipeline(max_bad_steps=2)
    spoil(p, {0, 1})
    with pytest.warns(match="step 1: .*batch left out"):
        next(p.steps())
    with pytest.raises(FloatingPointError, match="step 2: .*2 batches in a row"):
        next(p.steps())


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. " * 9), RuntimeError("can't allocate memory: 9"),
    RuntimeError("MPS backend out of memory"), RuntimeError("CPU: not enough memory: you tried"),
])  # fmt: skip
def test_out_of_memory_is_one_line_and_a_rerun_continues_exactly(error):
    whole, p = pipeline(), pipeline()
    whole.fit()
    loss, big, held = p.diffusion.loss, [error], []

    def full(*args, **options):
        result = loss(*args, **options)
        if p.step == 4 and big:
            held.append(weakref.ref(result))
            raise big.pop()
        return result

    p.diffusion.loss = full
    with pytest.raises(torch.OutOfMemoryError) as short:
        p.fit()
    line = str(short.value)
    assert line.startswith("step 5: ") and "halve batch_size (5)" in line and "\n" not in line
    assert p.step == len(p.history) == 4
    gc.collect()
    assert held[0]() is None  # all of it is gone, although the error is still here
    p.fit()
    assert same(p.model, whole.model)


def test_out_of_memory_in_the_optimisers_state_is_one_line_too():
    p = pipeline()

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    p.optimizer.step = full
    with pytest.raises(torch.OutOfMemoryError, match=r"^step 1: the memory of cpu .*parts$"):
        p.fit()
    assert p.step == 0


def test_out_of_memory_outside_of_the_step_is_not_blamed_on_the_batch(tmp_path, monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    p = pipeline(tmp_path, sample_every=1)
    p.diffusion.sample = full
    with pytest.raises(torch.OutOfMemoryError, match="^sample grid after step 3: .*sample_every=0"):
        p.fit()
    monkeypatch.setattr(checkpoint, "pack", full)
    with pytest.warns(match="while saving step 1"), pytest.raises(
        torch.OutOfMemoryError, match="^CUDA out of memory"
    ):
        pipeline(tmp_path, overwrite=True).fit()


def test_other_errors_of_a_step_are_raised_unchanged():
    p = pipeline()
    p.diffusion.loss = lambda *args, **options: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        p.fit()


def test_history_is_one_json_line_per_step_and_resume_drops_repeated_steps(tmp_path):
    p = pipeline(tmp_path)
    p.fit()
    path = tmp_path / "history.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, 10))
    assert [r["loss"] for r in records] == [r.loss for r in p.history]
    (tmp_path / "checkpoint.pt").rename(tmp_path / "elsewhere.pt")
    second = pipeline(tmp_path)
    second.resume()
    next(second.steps())
    assert [json.loads(x)["step"] for x in path.read_text().splitlines()] == list(range(1, 7))
    second.save()
    assert [json.loads(x)["step"] for x in path.read_text().splitlines()] == list(range(1, 8))


def test_tensorboard_gets_scalars_and_grids_where_it_is_installed(tmp_path, monkeypatch):
    """With a stand-in for the writer: TensorBoard is no dependency."""
    noted = []

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            noted.append((name, step))

        def add_image(self, name, picture, step):
            noted.append((name, step, tuple(picture.shape)))

        def flush(self):
            pass

    fake = type(sys)("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorboard")
    pipeline(tmp_path, sample_every=3).fit()
    assert {("loss", 1), ("lr", 9), ("images_per_second", 4)} <= set(noted)
    assert ("samples", 9, (3, 35, 171)) in noted
    assert any(name == "loss of t in quarter 1" for name, *_ in noted)


def test_the_animation_shows_every_grid_once(tmp_path):
    pipeline(tmp_path, sample_every=1).fit()
    grids = sorted(tmp_path.glob("samples_epoch_*.png"))
    with Image.open(tmp_path / "learning.gif") as film, Image.open(grids[0]) as grid:
        assert film.size == grid.size and film.n_frames == len(grids) == 3


def test_the_rungs_of_the_ladder_are_kept_on_request(tmp_path):
    p = pipeline(tmp_path, epochs=6, keep_weights=True, save_every=0)
    p.fit()
    kept = sorted(path.name for path in tmp_path.glob("weights_epoch_*"))
    assert kept == [f"weights_epoch_000{k}.safetensors" for k in (1, 2, 5)]
    assert description(tmp_path / kept[1])["trained"]["steps"] == 2 * p.steps_per_epoch
    rungs = [epoch for epoch in range(1, 2001) if run_folder.is_rung(epoch)]
    assert rungs == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
