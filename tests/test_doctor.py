"""The doctor: every planted bug is found by its own check, and healthy code raises no alarm."""

import math

import pytest
import torch
from doctor_loops import ddim
from doctor_ward import (
    BAR,
    BUGS,
    LABELS,
    REAL,
    SHAPE,
    Perfect,
    T,
    findings,
    mixed,
    network,
)
from torch import nn

from ddpm_helpers import DiffusionNet, DiffusionUtils
from ddpm_helpers import doctor as d
from ddpm_helpers.doctor.tables import Bars
from ddpm_helpers.doctor.tasks import Answer

BOTH = "the doctor calls sample_fn(model, x_T (16, 3, 16, 16)) and expects x_T's shape"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.number} {bug.name}")
def test_a_planted_bug_is_found_by_its_own_check_and_by_no_other(bug):
    alarms = {name: f for name, f in findings(bug).items() if f.alarm}
    assert set(alarms) == {bug.check}, {name: str(f) for name, f in alarms.items()}
    assert bug.phrase in alarms[bug.check].sentence
    assert alarms[bug.check].repair


def test_each_of_the_fifteen_failures_is_planted_twice_or_more():
    for number in {*range(1, 16)} - {14}:  # a wrong distance is for the evaluation's clinic
        assert sum(bug.number == number for bug in BUGS) >= 2, number


def test_a_healthy_model_raises_no_alarm():
    assert {name: str(f) for name, f in findings().items() if f.alarm} == {}


def bad(*_):
    raise KeyError("x_start")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: d.check_sampler(bad, BAR), "the sampler raised KeyError: 'x_start'; " + BOTH),
        (lambda: d.check_sampler(lambda m, x: None, BAR), "returned NoneType; " + BOTH),
        (lambda: d.check_sampler(lambda m, x: x[:, :1], BAR), "returned (16, 1, 16, 16); " + BOTH),
        (lambda: d.check_sampler(lambda m, x: x, BAR), "never called its network; " + BOTH),
        (lambda: d.check_sampler(lambda x: x, BAR), "positional argument"),
        (lambda: d.check_sampler(lambda m, x: m(x[..., :8], 3), BAR),
         "passed its network (16, 3, 16, 8), expected (B, 3, 16, 16)"),
        (lambda: d.check_sampler(lambda m, x: m(x, torch.arange(16)), BAR),
         "passed its network t of shape (16,) for a batch of 16; expected one t"),
        (lambda: d.check_sampler(lambda m, x: torch.cat([m(image[None], 3) for image in x]), BAR),
         "its network (1, 3, 16, 16), expected all 16 images, once or doubled: draw the whole"),
        (lambda: d.check_sampler(lambda m, x: m(x, 0.25), BAR), "a fraction of T"),
        (lambda: d.check_sampler(ddim(BAR), "cosine"), "must be a table of numbers, got str"),
        (lambda: d.check_sampler(ddim(BAR), BAR[None]), "(T,) or (T + 1,), got (1, 200)"),
        (lambda: d.check_sampler(ddim(BAR), BAR, prediction="noise"), "choose from eps, x_0, v"),
        (lambda: d.check_sampler(ddim(BAR), BAR, n=1),
         "n must be at least 2 and n * C * H * W at least 2000, got 1 and 768"),
        (lambda: d.check_time(lambda x: x, SHAPE, (0, 9)),
         "the doctor calls model(x_t (4, 3, 16, 16), t (4,) int64) and expects x_t's shape"),
        (lambda: d.check_time(lambda x, t: x.sum(), SHAPE, (0, 9)), "the model returned ()"),
        (lambda: d.check_data([1, 2]), "expects images, a tensor (B, C, H, W); got list"),
        (lambda: d.check_samples(REAL[:4], REAL), "got (4, 3, 16, 16) and (64, 3, 16, 16)"),
        (lambda: d.check_noising(bad, BAR), "add_noise raised KeyError"),
        (lambda: d.check_noising(lambda *a: 3, BAR), "add_noise returned int"),
        (lambda: d.check_loss_weights(BAR[:5], BAR), "got (5,)"),
        (lambda: d.check_history([1.0] * 9), "50 losses or more, got 9"),
        (lambda: d.check_overfit(bad.__get__(1)), "step raised KeyError"),
        (lambda: d.check_label_dropout(lambda y: y[:3], num_classes=2, null=-1), "returned (3,)"),
        (lambda: d.check_checkerboard(lambda x: x[0], REAL), "decode returned (3, 16, 16)"),
        (lambda: d.check_average(bad, network(), network()), "loss raised KeyError"),
    ],
)  # fmt: skip
def test_wrong_arguments_get_one_line_that_says_what_was_expected(call, said):
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_finding_is_one_line_and_knows_its_choices():
    finding = d.check_schedule(torch.linspace(1e-4, 0.02, 100))
    assert finding.verdict == "broken" and finding.alarm
    assert "\n" not in str(finding) and str(finding).startswith("broken schedule")
    assert str(finding).endswith(finding.repair)
    with pytest.raises(AttributeError):
        finding.verdict = "ok"
    with pytest.raises(ValueError, match="choose from ok, look, broken"):
        d.Finding("data", "fine", {}, "all well")
    with pytest.raises(ValueError, match="unknown check 'soul'"):
        d.Finding("soul", "ok", {}, "all well")
    with pytest.raises(ValueError, match="needs a repair"):
        d.Finding("data", "look", {}, "odd")


def test_the_most_likely_cause_is_broken_before_odd_and_early_before_late():
    def of(name, verdict):
        return d.Finding(name, verdict, {}, "said", "do")

    assert d.most_likely([of("loss", "ok")]) is None and d.worst([]) == "ok"
    several = [of("time", "broken"), of("samples", "broken"), of("data", "look")]
    assert d.most_likely(several).name == "time"
    assert d.worst(several) == "broken"
    assert d.most_likely(several[2:]).name == "data" and d.worst(several[2:]) == "look"


def test_the_oracle_answers_with_the_noise_that_is_in_x_t():
    """A closed form on the other side: x_t made with a known eps gives this eps, x_0 and v."""
    utils = DiffusionUtils(50, "cosine", prediction="v")
    x_0 = torch.rand(4, 3, 8, 8) - 0.5
    t = torch.full((4,), 20)
    x_t, eps = utils.add_noise(x_0, t)
    for kind, answer in (("eps", eps), ("x_0", x_0), ("v", utils.target(x_0, eps, t))):
        oracle = d.Oracle(x_0, Bars(utils.alpha_bar), kind)
        assert torch.allclose(oracle(x_t, t), answer, atol=1e-5)


def test_a_fresh_network_is_called_untrained_and_not_ignoring_its_inputs():
    fresh = DiffusionNet(16, width=8, num_classes=2)
    assert "untrained" in d.check_time(fresh, SHAPE, (1, 50)).sentence
    found = d.check_labels(fresh, REAL[:4], 30, num_classes=2, null=-1)
    assert "untrained" in found.sentence and found.verdict == "look"


def test_the_one_pixel_guess_is_the_best_linear_one():
    """Least squares on noised pixels of a known spread finds the same error."""
    generator = torch.Generator().manual_seed(0)
    x_0 = 0.4 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    eps = torch.randn(200_000, generator=generator, dtype=torch.float64)
    bar = 0.3
    x_t = math.sqrt(bar) * x_0 + math.sqrt(1 - bar) * eps
    for kind, goal in (
        ("eps", eps), ("x_0", x_0), ("v", math.sqrt(bar) * eps - math.sqrt(1 - bar) * x_0)
    ):  # fmt: skip
        slope = (x_t @ goal) / (x_t @ x_t)
        error = (goal - slope * x_t).square().mean()
        guess = Answer(x_0, eps, math.sqrt(bar), math.sqrt(1 - bar), slope * x_t)
        assert guess.ratio(kind) == pytest.approx(1, rel=0.02), error


def test_guidance_that_counts_w_from_0_is_healthy_too():
    x_t, t, y = REAL[:4], 140, LABELS[:4]
    found = d.check_guidance(mixed("Ho & Salimans"), Perfect(), x_t, t, y, null=-1)
    assert found.verdict == "ok" and "Ho & Salimans" in found.sentence


def test_checks_leave_the_network_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    call = lambda module: lambda x, t: module(x)  # noqa: E731
    d.check_modes(net, SHAPE, 5, model=call)
    d.check_precision(net, REAL[:2], 5, dtype=torch.bfloat16, model=call)
    assert not net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_running_the_checks_yields_every_check_that_applies():
    def loop(model, x):
        return ddim(BAR, steps=20)(lambda x_t, t: model(x_t, torch.full((len(x_t),), t)), x)

    patient = d.Patient(BAR, "eps", loop, Perfect(), shape=SHAPE, num_classes=2, null=-1)
    found = {f.name: f for f in d.run_checks(patient, REAL, LABELS, draw=16)}
    assert list(found) == [
        "data", "schedule", "sampler", "repeats", "output", "loss", "time", "neighbours",
        "checkerboard", "labels", "null label", "samples",
    ]  # fmt: skip
    assert {name: str(f) for name, f in found.items() if f.alarm} == {}
    assert [f.name for f in d.run_checks(d.Patient(BAR))] == ["schedule"]


def test_a_patient_that_cannot_be_called_is_a_finding():
    patient = d.Patient(BAR, sample=bad, model=lambda x: x, shape=SHAPE)
    found = {f.name: f for f in d.run_checks(patient)}
    assert found["sampler"].verdict == found["time"].verdict == "broken"
    assert "the doctor calls model(x_t" in found["time"].sentence
    assert all("\n" not in str(f) for f in found.values())


def test_a_network_that_outputs_nan_is_one_alarm_and_not_ten():
    net = network()
    with torch.no_grad():
        next(net.parameters()).fill_(math.nan)
    patient = d.Patient(BAR, model=net, module=net, shape=SHAPE)
    found = list(d.run_checks(patient, REAL))
    assert [f.name for f in found if f.alarm] == ["precision"] and found[-1].name == "precision"


def test_two_calls_find_dropout_before_anything_else_is_blamed():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(3, 3, 1))
    net.register_forward_pre_hook(lambda module, args: args[:1])
    patient = d.Patient(BAR, model=net, module=net, shape=SHAPE)
    found = {f.name: f for f in d.run_checks(patient, REAL)}
    assert "dropout" in found["repeats"].sentence and found["repeats"].verdict == "look"
    assert found["precision"].verdict == "ok" and found["neighbours"].verdict == "ok"
    assert net.training and net[1].training  # as before the checks
    assert d.check_modes(net, SHAPE, 5).verdict == "ok"
    assert d.check_repeats(net.eval(), SHAPE, 5).verdict == "ok"
    always = lambda x, t: net(nn.functional.dropout(x))  # noqa: E731
    assert d.check_repeats(always, SHAPE, 5).verdict == "broken"


def test_an_untrained_network_raises_one_alarm_and_says_what_was_skipped():
    """BatchNorm, whose averages are those of its first day, is no fault of an untrained network."""
    norm = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))
    call = lambda module: lambda x, t: module(x * (1 + t[:, None, None, None] / T))  # noqa: E731
    patient = d.Patient(BAR, model=call(norm.eval()), module=norm, shape=SHAPE, call=call)
    found = {f.name: f for f in d.run_checks(patient, REAL)}
    assert found["loss"].verdict == "look"
    assert {n for n, f in found.items() if f.verdict == "skipped"} == {"modes", "checkerboard"}
    without = {f.name: f for f in d.run_checks(patient)}
    skipped = {n for n, f in without.items() if f.verdict == "skipped"}
    assert skipped == {"data", "loss", "modes", "checkerboard"}
    assert d.worst(without.values()) == "ok"


def test_a_network_that_is_no_better_than_the_guess_at_an_end_of_t_is_hardly_trained():
    def half(x_t, t, y=None):
        bar = BAR[t.long()].float()[:, None, None, None]
        spread = float(REAL.var())
        guess = (1 - bar).sqrt() / (bar * spread + 1 - bar) * x_t
        return torch.where(bar > 0.2, Perfect()(x_t, t), guess)

    found = d.check_loss(half, REAL, BAR)
    assert found.verdict == "look" and found.sentence.startswith("hardly trained")


@pytest.mark.parametrize("seed", range(5))
def test_a_history_without_a_trend_is_never_broken(seed):
    generator = torch.Generator().manual_seed(seed)
    flat = 0.05 * torch.exp(0.6 * torch.randn(300, generator=generator))
    assert d.check_history(flat.tolist()).verdict in ("ok", "look")
    rising = flat * torch.linspace(1, 2, 300)  # the begin of fine-tuning
    assert d.check_history(rising.tolist()).verdict == "look"


def test_labels_off_by_one_are_named():
    """A network of three classes that was trained with labels one too low."""
    colours = torch.tensor([[0.7, 0, 0], [0, 0.7, 0], [0, 0, 0.7]])[:, :, None, None]
    y = torch.arange(48) % 3
    x_0 = colours[y] + 0.2 * torch.randn(48, *SHAPE, generator=torch.Generator().manual_seed(0))

    def net(shift):
        def model(x_t, t, y=None):
            bar = BAR[t.long()].float()[:, None, None, None]
            truth = torch.arange(len(x_t)) % 3  # which "no label" guesses from the image
            y = torch.full_like(truth, -1) if y is None else y
            mean = colours[torch.where(y < 0, truth, (y + shift) % 3)]
            gain = bar.sqrt() * 0.04 / (0.04 * bar + 1 - bar)
            guess = mean + gain * (x_t - bar.sqrt() * mean)
            return (x_t - bar.sqrt() * guess) / (1 - bar).sqrt()

        return model

    right = d.check_null(net(0), x_0, y, BAR, null=-1)
    assert right.verdict == "ok", str(right)
    assert "y + 1" in d.check_null(net(-1), x_0, y, BAR, null=-1).sentence
    turned = d.Patient(BAR, model=net(1), shape=SHAPE, num_classes=3, null=-1)
    found = {f.name: f for f in d.run_checks(turned, x_0, y)}
    assert found["null label"].verdict == "broken"  # although the loss with y is bad
    bgr = d.check_samples(x_0[y == 0].flip(1), x_0[y == 0])
    assert "BGR" in bgr.sentence
    off = d.check_null(net(1), x_0, y, BAR, null=-1)
    assert "y - 1" in off.sentence and "off by one" in off.sentence


def test_an_average_with_constant_parameters_was_never_updated():
    raw, average = network(0), DiffusionNet(16, width=8)
    found = d.check_average(lambda net: 0.1, raw, average, steps=1000, decay=0.999)
    assert "never updated" in found.sentence and found.verdict == "broken"


def test_latents_beyond_1_are_no_fault():
    latents = 1.5 * torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert d.check_data(latents.clamp(-4, 4)).verdict == "ok"
