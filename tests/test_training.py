"""The loop: it learns, averages, skips bad batches, and resumes to the bit."""

import itertools
import math
import re
from contextlib import nullcontext

import pytest
import torch
from toy_training import CONFIG, TwoColours, change_loss, pipeline, same_run, spoil, stop_after

from ddpm_helpers.config import OPTIMIZERS, TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils, beta_schedule
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.training import TrainingData, TrainingPipeline, ema_decay_at, update_ema
from ddpm_helpers.training.draws import augment
from ddpm_helpers.training.training_data import parts_of


def test_fit_learns_and_keeps_a_history():
    p = pipeline(epochs=40)
    history = p.fit()
    assert [r.step for r in history] == list(range(1, 121)) and history is p.history
    assert [r.epoch for r in history[2:4]] == [0, 1]
    first, last = (sum(r.loss for r in part) / 20 for part in (history[:20], history[-20:]))
    assert last < 0.5 * first
    x = p.samples(2, steps=20)
    assert x[0].mean() < -0.3 and x[1].mean() > 0.3  # dark, bright


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"accumulate": 2}])
@pytest.mark.parametrize("stop", [1, 4])
def test_resume_is_exact_to_the_bit_also_within_an_epoch(tmp_path, stop, changes):
    whole, second = pipeline(**changes), pipeline(tmp_path, **changes)
    whole.fit()
    stop_after(pipeline(tmp_path, **changes), stop).save()
    assert second.resume().name == "checkpoint.pt" and second.step == stop
    second.fit()
    assert same_run(second, whole) and not same_run(second, pipeline(seed=1, **changes))


def test_the_record_comes_after_the_update_of_weights_and_average():
    p = pipeline()
    before = [w.clone() for w in p.ema_model.parameters()]
    next(p.steps())
    pairs = zip(before, p.ema_model.parameters(), p.model.parameters(), strict=True)
    decay = 2 / 11
    moved = [(old, ema, new) for old, ema, new in pairs if not old.equal(new)]
    assert moved and p.step == 1
    for old, ema, new in moved:
        assert torch.allclose(ema, decay * old + (1 - decay) * new, atol=1e-6)


def test_ema_decay_warms_up_and_buffers_are_copied():
    assert ema_decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert ema_decay_at(10**6, 0.999) == 0.999
    a, b = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    with torch.no_grad():
        b.weight.fill_(3.0)
        b.running_mean.fill_(5.0)
    update_ema(a, b, 0.75)
    assert a.weight.item() == pytest.approx(1.5) and a.running_mean.item() == 5


def test_labels_are_hidden_at_the_requested_rate_and_images_flipped():
    p = pipeline(label_dropout=0.25)
    ramp = torch.linspace(-1, 1, 16).expand(4000, 3, 16, 16)
    x, y = augment(ramp, torch.ones(4000).long(), p.config, torch.Generator().manual_seed(0))
    assert (y == -1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert (x[:, 0, 0, 0] > 0).float().mean() == pytest.approx(0.5, abs=0.03)


# ------------------------------------------------------------------------ batches in parts


@pytest.mark.parametrize("parts", [2, 7])
def test_accumulation_trains_the_same_also_with_more_parts_than_images(parts, whole):
    p = pipeline(accumulate=parts)
    p.fit()
    assert [r.loss for r in p.history] == pytest.approx([r.loss for r in whole.history], abs=1e-5)


def test_the_parts_of_a_batch_are_the_batch_in_order():
    for batch, accumulate, processes in itertools.product((1, 5, 10), (1, 2, 3, 8), (1, 2)):
        found = [list(parts_of(batch, accumulate, processes, k)) for k in range(processes)]
        assert all(len(parts) == accumulate for parts in found)  # DDP waits for every process
        rows = [r for parts in zip(*found, strict=True) for r, weight in parts if weight]
        assert torch.cat([torch.arange(batch)[r] for r in rows]).tolist() == [*range(batch)]
        sizes = [r.stop - r.start for r in rows]
        assert max(sizes) - min(sizes) <= 1


# ---------------------------------------------------------------------------- bad batches


def state_of(p):
    """Copies of weights, average and optimiser state, by name."""
    models = {f"{k} {n}": v for k in ("model", "ema_model")
              for n, v in getattr(p, k).state_dict().items()}  # fmt: skip
    of_optimizer = {f"{k} {n}": v for k, state in enumerate(p.optimizer.state.values())
                    for n, v in state.items()}  # fmt: skip
    return {name: value.clone() for name, value in (models | of_optimizer).items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bad_batch_changes_nothing_uses_up_its_step_and_is_named(optimizer):
    p = pipeline(weight_decay=0.1, optimizer=optimizer)
    spoil(p, {0, 3, 4})
    before, skipped = state_of(p), []
    with pytest.warns(match="batch skipped") as said:
        for record in p.steps():
            now = state_of(p)
            changed = any(not now[name].equal(value) for name, value in before.items())
            assert changed == record.finite
            skipped += [] if record.finite else [record.step]
            before = now
    assert skipped == [1, 4, 5] and p.step == 9
    steps = [str(w.message).split(":")[0] for w in said if "skipped" in str(w.message)]
    assert steps == ["step 1", "step 4", "step 5"]


def test_a_finite_loss_with_a_gradient_that_is_not_finite_is_bad_too():
    """The square root has an infinite slope at 0."""
    p, before = pipeline(), pipeline()
    change_loss(p, lambda loss: (loss() * 0).sqrt())
    record = p.train_step(*next(p.dataset.batches(5, seed=0)))
    assert record.loss == 0 and not math.isfinite(record.grad_norm) and not record.finite
    assert same_run(p, before)


def test_bad_batches_in_a_row_stop_the_run_and_resume_stays_exact(tmp_path):
    whole, parts = pipeline(epochs=4), [pipeline(tmp_path, epochs=4) for _ in "ab"]
    for p in (whole, *parts):
        spoil(p, {1, 3, 4, 5, 6, 7})
    for p in (whole, parts[0]):
        with pytest.warns(match="batch skipped"):
            with pytest.raises(FloatingPointError, match="step 8: .*5 .*lower lr than 0.00"):
                p.fit()
    assert parts[1].resume() and parts[1].step == 8  # the error has saved
    for p in (whole, parts[1]):
        p.fit()
    assert same_run(parts[1], whole)
    assert all(v.isfinite().all() for v in whole.ema_model.state_dict().values())


# ------------------------------------------------------- networks, data and what others set


class Least:
    """As little as a dataset may offer."""

    classes, image_shape, name = ("a", "b"), (3, 16, 16), "least"

    def __len__(self):
        return 12

    def batches(self, batch_size, *, seed, epoch=0, device=None):
        yield from TwoColours().batches(batch_size, seed=seed, epoch=epoch, device=device)


def parts(**changes):
    have = {"model": DiffusionNet(16, width=8, num_classes=2), "config": CONFIG}
    have |= {"diffusion": DiffusionUtils(50, prediction="v"), "dataset": TwoColours()}
    return have | changes


def test_a_dataset_that_meets_the_protocol_can_be_trained_on(tmp_path):
    assert isinstance(Least(), TrainingData)
    p = TrainingPipeline(**parts(dataset=Least()), out_dir=tmp_path)
    p.fit()
    again = TrainingPipeline(**parts(dataset=Least()))
    again.resume(tmp_path)
    assert same_run(again, p)


GREY = TrainConfig(**CONFIG.to_dict() | {"channels": 1})


def test_parts_of_a_training_that_do_not_fit_are_refused():
    named, frozen = (parts()["model"] for _ in "ab")
    named.classes = ("dark", "other")
    frozen.requires_grad_(False)
    refused = {
        "list": {"dataset": [1]},
        "Conv2d": {"model": torch.nn.Conv2d(3, 3, 1)},
        "str": {"diffusion": "cosine"},
        "network has (3, 32, 32)": {"model": DiffusionNet(32, width=8)},
        "network has (3, 16, 16)": {"config": GREY},
        "dataset has (3, 16, 16)": {"model": DiffusionNet(16, channels=1, width=8), "config": GREY},
        "1 classes": {"model": DiffusionNet(16, width=8, num_classes=1)},
        "names": {"model": named},
        "frozen": {"model": frozen},
        "timesteps is 50": {"diffusion": DiffusionUtils(40, prediction="v")},
        "prediction is 'v'": {"diffusion": DiffusionUtils(50, prediction="eps")},
        "schedule is 'cosine'": {"diffusion": DiffusionUtils(50, "linear", prediction="v")},
    }  # fmt: skip
    for words, changes in refused.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            TrainingPipeline(**parts(**changes))


def test_an_epoch_with_too_few_batches_is_refused():
    p = pipeline()
    two = list(p.dataset.batches(5, seed=0))[:2]
    p.dataset.batches = lambda *args, **options: iter(two)
    with pytest.raises(ValueError, match="2 batches.* 3$"):
        p.fit()


def test_a_training_works_where_somebody_switched_gradients_off(whole):
    with torch.no_grad():
        p = pipeline()
        p.fit()
    assert same_run(p, whole)


def test_a_table_of_betas_can_be_trained_with_and_is_not_resumed_with_another(tmp_path):
    betas = beta_schedule("linear", 50)
    table = DiffusionUtils(50, betas, prediction="v")
    next(TrainingPipeline(**parts(diffusion=table), out_dir=tmp_path).steps())
    with pytest.raises(ValueError, match="betas"):
        TrainingPipeline(**parts()).resume(tmp_path)


def test_the_configuration_overrides_what_accelerate_was_configured_for(monkeypatch, whole):
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    AcceleratorState._reset_state(True)
    try:
        p = pipeline()
        p.fit()
    finally:
        AcceleratorState._reset_state(True)
    assert same_run(p, whole)


def test_training_uses_channels_last_a_fused_optimiser_and_bf16():
    p, seen = pipeline(precision="bf16"), []
    conv = p.model.encoder.stages[0].block1.conv1
    conv.register_forward_hook(lambda module, x, out: seen.append(out.dtype))
    next(p.steps())
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert p.optimizer.param_groups[0]["fused"] and seen == [torch.bfloat16]


def test_sample_grids_use_the_averaged_weights_and_always_the_same_noise():
    p = pipeline()
    next(p.steps())
    with torch.no_grad():
        for weight in p.model.parameters():
            weight.fill_(math.nan)
    first, second = p.samples(2, steps=3), p.samples(2, steps=3)
    assert first.isfinite().all() and first.equal(second)


@pytest.mark.parametrize("works", [True, False])
def test_batches_run_compiled_or_as_they_are_if_the_compiler_fails(works, monkeypatch, whole):
    seen = {"compiled": 0, "called": 0}

    def backend(graph, inputs):
        seen["compiled"] += 1
        if not works:
            raise RuntimeError("C++ compile error\n\nOutput:\na.h:2: fatal error: no Python.h\nend")

        def call(*args):
            seen["called"] += 1
            return graph(*args)

        return call

    torch.compiler.reset()
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: backend)
    p = pipeline(compile=True)  # batches of 5, 5 and 2
    with nullcontext() if works else pytest.warns(match="no Python.h"):
        p.fit()
    torch.compiler.reset()
    assert seen == {"compiled": 2, "called": 9 if works else 0} and same_run(p, whole)
    assert p.state_dict()["model"].keys() == whole.state_dict()["model"].keys()
