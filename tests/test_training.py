"""The pipeline: it learns, averages, saves, resumes exactly, and refuses what does not fit."""

import math
from types import SimpleNamespace

import pytest
import torch
from toy_training import CONFIG, TwoColours, pipeline, same

from ddpm_helpers.config import OPTIMIZERS, TrainConfig
from ddpm_helpers.device import compiled
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.training import (
    TrainingPipeline,
    ema_decay_at,
    learning_rate,
    update_ema,
)
from ddpm_helpers.training.draws import augment, draw_t_and_eps, step_generator


def test_fit_learns_and_keeps_a_history():
    p = pipeline(epochs=40)
    history = p.fit()
    assert [r.step for r in history] == list(range(1, 121)) and history is p.history
    assert [r.epoch for r in history[2:4]] == [0, 1]
    first, last = (sum(r.loss for r in part) / 20 for part in (history[:20], history[-20:]))
    assert last < 0.5 * first
    x = p.samples(2, steps=20)
    assert x[0].mean() < -0.3 and x[1].mean() > 0.3  # dark, bright


def test_the_same_seed_trains_the_same_and_another_does_not():
    runs = [pipeline(), pipeline(), pipeline(seed=1)]
    losses = [[r.loss for r in p.fit()] for p in runs]
    assert losses[0] == losses[1] != losses[2]
    assert same(runs[0].model, runs[1].model)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_resume_is_exact_also_in_mid_epoch(tmp_path, stop, optimizer):
    whole = pipeline(optimizer=optimizer)
    whole.fit()
    first = pipeline(tmp_path, optimizer=optimizer)
    for record in first.steps():
        if record.step == stop:
            break
    first.save()
    second = pipeline(tmp_path, optimizer=optimizer)
    second.resume()
    second.fit()
    assert [r.loss for r in second.history] == [r.loss for r in whole.history]
    assert [r.lr for r in second.history] == [r.lr for r in whole.history]
    assert same(second.model, whole.model) and same(second.ema_model, whole.ema_model)
    a, b = (p.optimizer.state_dict()["state"] for p in (second, whole))
    assert all(a[k][name].equal(value) for k in b for name, value in b[k].items())


def test_the_loop_over_steps_can_be_left_and_continued():
    whole, parts = pipeline(), pipeline()
    whole.fit()
    for record in parts.steps():
        if record.step == 4:
            break
    parts.fit()
    assert same(parts.model, whole.model)


def test_the_record_comes_after_the_optimiser_step_and_the_ema_update():
    p = pipeline()
    before = [w.clone() for w in p.model.parameters()]
    ema_before = [w.clone() for w in p.ema_model.parameters()]
    next(p.steps())
    assert any(not torch.equal(a, b) for a, b in zip(before, p.model.parameters(), strict=True))
    moved = zip(ema_before, p.ema_model.parameters(), p.model.parameters(), strict=True)
    decay = 2 / 11
    for old, ema, new in moved:
        assert torch.allclose(ema, decay * old + (1 - decay) * new, atol=1e-6)


def test_learning_rate_closed_form():
    config = TrainConfig(lr=1.0, warmup_steps=10)
    rates = [learning_rate(k, 110, config) for k in range(1, 111)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[59] == pytest.approx(0.5) and rates[-1] == pytest.approx(0)
    assert rates[34] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(200, 110, config) == rates[-1]  # in a loop of one's own
    constant = TrainConfig(lr=1.0, warmup_steps=0, lr_schedule="constant")
    assert [learning_rate(k, 9, constant) for k in (1, 9)] == [1.0, 1.0]


def test_wsd_is_constant_and_then_linear_to_0_over_the_last_fifth():
    config = TrainConfig(lr=1.0, warmup_steps=10, lr_schedule="wsd")
    rates = [learning_rate(k, 100, config) for k in range(1, 101)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[9:80] == [1.0] * 71
    assert rates[80:] == pytest.approx([1 - k / 20 for k in range(1, 21)])  # 0.95 ... 0
    assert learning_rate(200, 100, config) == 0
    longer = [learning_rate(k, 200, config) for k in range(1, 81)]
    assert longer == rates[:80]  # what was trained before the decay serves any later end


def test_a_constant_run_is_resumed_with_wsd_and_its_end_can_be_moved(tmp_path, capsys):
    first = pipeline(tmp_path, lr_schedule="constant", epochs=20)
    for record in first.steps():
        if record.step == 12:
            break
    first.save()
    second = pipeline(tmp_path, lr_schedule="wsd", epochs=5)  # 15 steps
    second.resume()
    said = capsys.readouterr().err
    assert said == (
        "learning rate: was 0.003 at step 12, is 0.002 at step 13, "
        "constant to step 12, then linear to 0 at step 15\n"
    )
    second.fit()
    rates = [r.lr / 3e-3 for r in second.history]
    assert rates[2:12] == [1.0] * 10 and rates[12:] == pytest.approx([2 / 3, 1 / 3, 0])
    longer = pipeline(tmp_path, lr_schedule="wsd", epochs=10)  # after the end
    longer.resume()
    words = "was 0 at step 15, is 0.003 at step 16, constant to step 24, then linear to 0 at"
    assert words in capsys.readouterr().err
    assert longer.fit()[-1].lr == 0 and longer.history[15].lr == 3e-3


@pytest.mark.parametrize("changes, words", [
    ({"epochs": 3}, ""),
    ({"epochs": 6}, "is 0.0015 at step 10 and falls along a cosine to 0 at step 18"),
    ({"epochs": 6, "lr_schedule": "constant"}, "is 0.003 at step 10 and stays constant to step 18"),
])  # fmt: skip
def test_extending_a_finished_run_says_what_the_learning_rate_will_do(
    changes, words, tmp_path, capsys
):
    pipeline(tmp_path).fit()
    capsys.readouterr()
    pipeline(tmp_path, **changes).resume()
    said = capsys.readouterr().err
    assert said.startswith("learning rate: was 0 at step 9, ") if words else said == ""
    assert words in said and said.count("\n") == bool(words)


def test_ema_decay_warms_up_and_buffers_are_copied():
    assert ema_decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert ema_decay_at(10**6, 0.999) == 0.999
    a, b = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    with torch.no_grad():
        b.weight.fill_(3.0)
        b.running_mean.fill_(5.0)
    update_ema(a, b, 0.75)
    assert a.weight.item() == pytest.approx(1.5) and a.running_mean.item() == 5


def test_labels_are_hidden_at_the_requested_rate_and_pictures_flipped():
    p = pipeline(label_dropout=0.25)
    ramp = torch.linspace(-1, 1, 16).expand(4000, 3, 16, 16)
    x, y = augment(ramp, torch.ones(4000).long(), p.config, torch.Generator().manual_seed(0))
    assert (y == -1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert (x[:, 0, 0, 0] > 0).float().mean() == pytest.approx(0.5, abs=0.03)


def test_drawn_steps_cover_1_to_T():
    generator, bar = torch.Generator().manual_seed(0), torch.ones(7)
    t, eps = draw_t_and_eps(torch.zeros(600, 3, 16, 16), bar, generator)
    assert sorted(set(t.tolist())) == [1, 2, 3, 4, 5, 6]
    assert eps.std() == pytest.approx(1, abs=0.01)


def test_bad_gradients_never_reach_the_weights():
    p = pipeline(lr=1e-2)
    next(p.steps())
    before = [w.clone() for w in p.model.parameters()]
    p.diffusion.loss = lambda model, x_0, t, eps, y, **options: (
        model(x_0, t, y).sum((1, 2, 3)) * math.inf
    )
    with pytest.warns(match="step 2.*gradient nan; batch left out"):
        with pytest.raises(FloatingPointError, match="step 6.*5 batches in a row.*a lower lr than"):
            list(p.steps())
    assert all(torch.equal(a, b) for a, b in zip(before, p.model.parameters(), strict=True))
    assert p.step == 6 and [record.finite for record in p.history] == [True] + 5 * [False]


def test_files_that_a_run_leaves(tmp_path):
    p = pipeline(tmp_path / "a run", sample_every=2, epochs=2)
    p.fit()
    names = sorted(f.name for f in (tmp_path / "a run").iterdir())
    assert names == [
        "checkpoint-00000003.pt", "checkpoint.pt", "config.toml", "history.jsonl",
        "samples_epoch_0002.png", "weights.safetensors",
    ]  # fmt: skip


def test_a_network_data_or_settings_that_do_not_fit_are_refused():
    model = DiffusionNet(16, width=8, num_classes=2)
    good = DiffusionUtils(50, prediction="v")
    cases = [
        (DiffusionNet(32, width=8), good, CONFIG, "image_size is 16.*32"),
        (model, DiffusionUtils(40, prediction="v"), CONFIG, "timesteps is 50.*40"),
        (model, DiffusionUtils(50, prediction="eps"), CONFIG, "'v'.*'eps'"),
        (DiffusionNet(16, width=8, num_classes=1), good, CONFIG, "knows 1.*has 2"),
    ]
    for net, diffusion, config, words in cases:
        with pytest.raises(ValueError, match=words):
            TrainingPipeline(net, diffusion, TwoColours(), config)


def test_checkpoints_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    p = pipeline(tmp_path)
    next(p.steps())
    p.save()
    for changes, words in [({"width": 16}, "width = 8, not 16"), ({"seed": 5}, "seed = 0, not 5")]:
        other = pipeline(**changes)
        before = [w.clone() for w in other.model.parameters()]
        with pytest.raises(ValueError, match=words):
            other.resume(tmp_path / "checkpoint.pt")
        assert all(map(torch.equal, before, other.model.parameters()))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        p.resume(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match="out_dir"):
        pipeline().save()


def test_out_dir_that_cannot_be_written_is_noticed_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write to out_dir .*file"):
        pipeline(tmp_path / "file")


def test_the_loss_is_weighted_on_request():
    """A fresh network outputs 0: the first loss is the mean of the weighed targets, by hand."""
    p = pipeline(min_snr_gamma=5.0, flip=False)
    record = next(p.steps())
    x_0, _ = next(p.dataset.batches(5, seed=0))
    generator = step_generator(0, 0, p.device)
    torch.rand(2, 5, generator=generator)  # flips and hidden labels are drawn first
    t, eps = draw_t_and_eps(x_0, p.diffusion.alpha_bar, generator)
    bar = p.diffusion.alpha_bar[t][:, None, None, None]
    v = (bar.sqrt() * eps - (1 - bar).sqrt() * x_0).square().mean((1, 2, 3))
    snr = (bar / (1 - bar)).flatten()
    assert record.loss == pytest.approx((v * snr.clamp(max=5) / (snr + 1)).mean().item(), rel=1e-4)


def test_compiled_training_is_the_same_in_one_graph_without_the_smaller_last_batch(
    tmp_path, monkeypatch
):
    torch.compiler.reset()
    aot, graphs = torch._dynamo.lookup_backend("aot_eager"), []  # C++ would take a minute

    def backend(graph, inputs):
        graphs.append(graph)
        return aot(graph, inputs)

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: backend)
    changes = {"epochs": 1}  # batches of 5, 5 and 2
    plain, fused = pipeline(**changes), pipeline(tmp_path, compile=True, **changes)
    plain.fit(), fused.fit()
    assert isinstance(fused.net, torch._dynamo.OptimizedModule) and len(graphs) == 1
    for a, b in zip(plain.history, fused.history, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
    again = pipeline(tmp_path, **changes)  # the weights have the same names
    again.resume()
    assert same(again.model, fused.model)
    large = pipeline(compile=True, batch_size=20)  # all batches have 12
    assert large._net_for(12) is large.net and large._net_for(2) is large.model


def test_without_a_compiler_the_network_runs_and_says_so(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    net, x = torch.nn.Linear(2, 3), torch.ones(1, 2)
    with pytest.warns(match=r"torch.compile failed .*No working C\+\+ compiler"):
        assert torch.equal(compiled(net)(x), net(x))


def test_steps_are_drawn_on_the_cpu_so_that_nothing_waits_for_a_gpu():
    """t stays on the CPU, where the tables are; the same t for the same generator seed."""
    p = pipeline()
    generator, bar = step_generator(0, 7, torch.device("cpu")), torch.ones(51)
    t, _ = draw_t_and_eps(torch.zeros(5, 3, 16, 16), bar, generator)
    assert t.device.type == "cpu"
    there, seen = torch.zeros(5, 3, 16, 16, device="meta"), []

    def net(x, at, y):
        seen.append(at.device.type)
        return x

    p.diffusion.loss(net, there, t, there, torch.zeros(5, device="meta"))
    assert seen == ["meta"]  # the network gets them where it is


def test_fsdp_is_refused_with_what_to_do_instead(monkeypatch):
    import accelerate

    fake = SimpleNamespace(distributed_type=accelerate.DistributedType.FSDP)
    monkeypatch.setattr(accelerate, "Accelerator", lambda **options: fake)
    with pytest.raises(ValueError, match="FSDP.*--multi_gpu instead of --use_fsdp"):
        pipeline()


def test_the_configuration_overrides_what_accelerate_was_configured_for(monkeypatch):
    from accelerate.state import AcceleratorState

    plain = pipeline()
    plain.fit()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    AcceleratorState._reset_state(True)
    try:
        p = pipeline()
        p.fit()
    finally:
        AcceleratorState._reset_state(True)
    assert [r.loss for r in p.history] == [r.loss for r in plain.history]
    assert same(p.model, plain.model)


def test_sample_grids_use_the_averaged_weights_and_always_the_same_noise():
    p = pipeline()
    next(p.steps())
    with torch.no_grad():
        for weight in p.model.parameters():
            weight.fill_(math.nan)
    first, second = p.samples(2, steps=3), p.samples(2, steps=3)
    assert first.isfinite().all() and first.equal(second)


def test_training_uses_channels_last_a_fused_optimiser_and_bf16(monkeypatch):
    """Channels last, one fused optimiser step, one average over all weights, bf16 where asked."""
    p, seen = pipeline(precision="bf16"), []
    conv = p.model.encoder.stages[0].block1.conv1
    conv.register_forward_hook(lambda module, x, out: seen.append(out.dtype))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert p.optimizer.param_groups[0]["fused"]
    lerp, calls = torch._foreach_lerp_, []
    monkeypatch.setattr(torch, "_foreach_lerp_", lambda *a: (calls.append(a), lerp(*a)))
    next(p.steps())
    assert len(calls) == 1 and seen == [torch.bfloat16]


def test_the_bar_shows_loss_speed_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr("ddpm_helpers.training.progress._somebody_watches", lambda: True)
    pipeline(epochs=4).fit()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "12/12" in last and "loss=0." in last and "smooth=0." in last and "images/s=" in last
    assert "<00:00" in last  # the time left
