"""`check_sampler` on correct loops: ours, other people's, diffusers', lucidrains'."""

import pytest
import torch
from doctor_loops import ancestral, ddim, ddpm, second_order
from doctor_ward import BAR
from torch import nn

from ddpm_helpers import DiffusionUtils
from ddpm_helpers import doctor as d
from ddpm_helpers.doctor.bench import Bench
from ddpm_helpers.doctor.moves import correlation

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")

OURS = [
    (T, schedule, kind, sampler)
    for T, schedule in ((50, "cosine"), (200, "shifted_cosine"), (1000, "linear"))
    for kind in ("eps", "x_0", "v")
    for sampler in (
        {"sampler": "ddpm", "steps": 50}, {"sampler": "ddim", "steps": 20},
        {"sampler": "ddim", "steps": 20, "eta": 0.5}, {"sampler": "heun", "steps": 20},
        {"sampler": "dpm++", "steps": 20},
    )
] + [(T, name, "eps", {"variance": v}) for T, name in ((100, "cosine"), (150, "sigmoid"))
     for v in ("beta", "posterior")]  # fmt: skip


def few(entries, each=8):
    """All entries, most of them slow."""
    return [
        pytest.param(*entry, marks=() if i % each == 0 else pytest.mark.slow)
        for i, entry in enumerate(entries)
    ]


@pytest.mark.parametrize(("T", "schedule", "kind", "options"), few(OURS))
def test_our_own_samplers_raise_no_alarm(T, schedule, kind, options):
    utils = DiffusionUtils(T, schedule, prediction=kind)
    finding = d.from_ours(None, utils, **options).check_sampler()
    assert finding.verdict == "ok", str(finding)
    assert finding.numbers["error"] < 1e-5


@pytest.mark.parametrize(("n", "shape"), [(64, (1, 8, 8)), (16, (3, 8, 8)), (2, (1, 32, 32))])
def test_small_images_do_not_change_the_verdict(n, shape):
    short = BAR[::2]
    size = {"shape": shape, "n": n}
    for seed in range(3):
        assert d.check_sampler(ancestral(short), short, seed=seed, **size).verdict == "ok"
        assert d.check_sampler(ddim(short), short, seed=seed, **size).verdict == "ok"
    found = d.check_sampler(ddim(short, "direction of t"), short, **size)
    assert "of the wrong step" in found.sentence


@pytest.mark.parametrize("seed", range(5))
def test_other_seeds_do_not_change_the_verdict(seed):
    short = BAR[::2]
    assert d.check_sampler(ancestral(short), short, seed=seed).verdict == "ok"
    found = d.check_sampler(ancestral(short, "variance as sigma"), short, seed=seed)
    assert "scaled by its variance" in found.sentence


@pytest.mark.parametrize("loop", [ddpm, ancestral, ddim, second_order])
@pytest.mark.parametrize("schedule", ["cosine", "shifted_cosine"])
def test_correct_loops_of_other_people_raise_no_alarm(loop, schedule):
    bar = DiffusionUtils(100, schedule).alpha_bar[1:]
    assert d.check_sampler(loop(bar), bar).verdict == "ok"


def test_the_loop_must_count_t_as_the_table_does():
    """The same loop, t = 0..T-1 told: right for a table of T entries, off by one for T + 1."""
    short = BAR[::2]
    with_one = torch.cat([torch.ones(1), short])
    assert d.check_sampler(ddim(short), short).verdict == "ok"
    assert "off by one" in d.check_sampler(ddim(short), with_one).sentence
    from_one = lambda net, x: ddim(short)(lambda x_t, t: net(x_t, t + 1), x)  # noqa: E731
    assert d.check_sampler(from_one, with_one).verdict == "ok"


def test_a_loop_with_guidance_may_double_its_batch():
    def guided(model, x_T):
        def both(x, t):
            first, second = model(torch.cat([x, x]), t).chunk(2)
            return second + 3 * (first - second)

        return ddim(BAR)(both, x_T)

    assert d.check_sampler(guided, BAR).verdict == "ok"


def test_a_loop_may_draw_its_own_start():
    loop = ddim(BAR)
    assert d.check_sampler(lambda m, x: loop(m, torch.randn_like(x)), BAR).verdict == "ok"


def test_a_loop_that_seeds_its_noise_itself_does_not_draw_the_images_of_the_check():
    bench = Bench(ddim(BAR), BAR)
    for seed in (0, 1, 42):
        for draw in (torch.rand, torch.randn):
            torch.manual_seed(seed)
            drawn = draw(bench.x_0.shape)
            assert abs(correlation(drawn, bench.x_0)) < 0.1 > abs(correlation(drawn, bench.x_T))


def test_a_finding_holds_the_calls_and_the_steps_of_the_loop():
    finding = d.check_sampler(ddim(BAR, steps=20), BAR)
    assert finding.numbers["calls"] == 20
    assert (finding.numbers["from_t"], finding.numbers["to_t"]) == (199, 9)


def test_noise_of_the_last_step_is_measured():
    short = BAR[::2]
    sentence = d.check_sampler(ddpm(short, "noise at the end"), short).sentence
    measured = float(sentence.split()[-1])
    assert measured == pytest.approx(float(1 - short[0]) ** 0.5, rel=0.02)


BETAS = {"linear": 1000, "squaredcos_cap_v2": 200, "scaled_linear": 1000}
THEIRS = [
    ("DDPMScheduler", 60, "squaredcos_cap_v2", {}, None),
    ("DDPMScheduler", 1000, "linear", {"timestep_spacing": "trailing"}, 50),
    ("DDPMScheduler", 1000, "linear", {"variance_type": "fixed_large"}, 50),
    ("DDIMScheduler", 1000, "linear", {}, 50),
    ("DDIMScheduler", 1000, "linear", {"clip_sample": False}, 50),
    ("DDIMScheduler", 200, "squaredcos_cap_v2", {"timestep_spacing": "trailing"}, 20),
    ("DDIMScheduler", 1000, "linear", {"rescale_betas_zero_snr": True,
                                       "timestep_spacing": "trailing"}, 50),
    ("DPMSolverMultistepScheduler", 1000, "linear", {}, 25),
    ("UniPCMultistepScheduler", 1000, "linear", {}, 25),
    ("EulerDiscreteScheduler", 1000, "linear", {}, 30),
    ("EulerAncestralDiscreteScheduler", 1000, "linear", {}, 30),
    ("HeunDiscreteScheduler", 1000, "linear", {}, 30),
]  # fmt: skip


KINDS = ("epsilon", "sample", "v_prediction")


@pytest.mark.parametrize(
    ("name", "T", "betas", "options", "steps", "kind"),
    few([(*entry, kind) for entry in THEIRS for kind in KINDS], each=7),
)
def test_schedulers_of_diffusers_raise_no_alarm(name, T, betas, options, steps, kind):
    diffusers = pytest.importorskip("diffusers")
    if kind == "epsilon" and options.get("rescale_betas_zero_snr"):
        kind = "v_prediction"  # with eps, it divides by 0
    if kind == "sample" and name.startswith("EulerAncestral"):
        kind = "epsilon"  # not implemented there
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=T, beta_schedule=betas, prediction_type=kind, **options
    )
    finding = d.from_diffusers(None, scheduler, steps=steps).check_sampler()
    assert finding.verdict == "ok", str(finding)


def test_oddities_of_a_scheduler_of_diffusers_are_reported():
    """alpha_bar before the first step below 1 (diffusers#6068), and leading steps (#2585)."""
    diffusers = pytest.importorskip("diffusers")
    grain = diffusers.DDIMScheduler(set_alpha_to_one=False)
    assert "alpha_bar before the first step" in said(grain, 50)
    leading = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    assert "the walk begins at t = 750" in said(leading, 4)
    wrong = diffusers.DDPMScheduler(prediction_type="v_prediction")
    patient = d.from_diffusers(None, wrong, steps=50)
    assert "treats the output as v, but it is eps" in str(
        d.check_sampler(patient.sample, patient.alpha_bar, prediction="eps")
    )


def said(scheduler, steps):
    finding = d.from_diffusers(None, scheduler, steps=steps).check_sampler()
    assert finding.verdict == "look"
    return finding.sentence


def unet_of_diffusers(groups):
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=16, block_out_channels=(32, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), norm_num_groups=groups,
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    return d.from_diffusers(unet.eval(), diffusers.DDPMScheduler(), steps=50)


def test_a_unet_of_diffusers_is_examined_in_one_line():
    patient = unet_of_diffusers(groups=8)
    found = {f.name: f for f in d.run_checks(patient)}
    assert list(found) == [
        "schedule", "sampler", "data", "loss", "repeats", "precision", "output", "time",
        "neighbours", "modes", "checkerboard",
    ]  # fmt: skip
    assert {name: str(f) for name, f in found.items() if f.alarm} == {}
    x_0 = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    untrained = {f.name: f for f in d.run_checks(patient, x_0, overfit=20)}
    assert untrained["overfit"].verdict == "ok"
    assert untrained["loss"].verdict == "look" and "before training" in untrained["loss"].sentence
    assert patient.draw(2).shape == (2, 3, 16, 16)


def test_a_norm_with_one_channel_per_group_cancels_an_added_time_embedding():
    """diffusers' default of 32 groups on 32 channels: a network that cannot hear t."""
    found = {f.name: f for f in d.run_checks(unet_of_diffusers(groups=32))}
    assert [name for name, f in found.items() if f.alarm] == ["time"]
    assert "fewer groups" in found["time"].repair


def test_a_scheduler_without_a_table_is_refused_in_one_line():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="the doctor knows schedulers with alphas_cumprod"):
        d.from_diffusers(None, scheduler)


class Unet(nn.Module):
    """What lucidrains' GaussianDiffusion asks of a network."""

    channels, self_condition, random_or_learned_sinusoidal_cond = 3, False, False

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t, x_self_cond=None):
        return self.layer(x) * (1 + t[:, None, None, None] / 100)


class GaussianDiffusion(nn.Module):
    """The interface of lucidrains' class of that name, on a loop of strangers."""

    def __init__(self, model, *, objective="pred_noise", loop=ancestral, is_ddim_sampling=False):
        super().__init__()
        self.model, self.objective, self.image_size = model, objective, (16, 16)
        self.is_ddim_sampling, self.num_timesteps = is_ddim_sampling, len(BAR[::2])
        self.register_buffer("alphas_cumprod", BAR[::2].float())
        self.loop = loop(self.alphas_cumprod.double())
        self.normalize = lambda x: 2 * x - 1

    def p_sample_loop(self, shape, return_all_timesteps=False):
        x = self.loop(lambda x, t: self.model(x, torch.as_tensor(t).expand(len(x)), None),
                      torch.randn(shape))  # fmt: skip
        return (x + 1) / 2

    ddim_sample = p_sample_loop


@pytest.mark.parametrize("ddim_sampling", [False, True])
def test_gaussian_diffusion_of_lucidrains_is_examined_in_one_line(ddim_sampling):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        diffusion = GaussianDiffusion(
            Unet(), loop=ddim if ddim_sampling else ancestral, is_ddim_sampling=ddim_sampling
        )
    patient = d.from_lucidrains(diffusion)
    assert patient.check_sampler().verdict == "ok"
    assert isinstance(diffusion.model, Unet)
    found = {f.name: f.verdict for f in d.run_checks(patient)}
    assert found["sampler"] == found["time"] == "ok"


def test_bugs_and_settings_of_lucidrains_are_seen():
    clipped = GaussianDiffusion(Unet(), loop=lambda bar: ddpm(bar, "mean clipped"))
    assert "is clipped to [-1, 1]" in d.from_lucidrains(clipped).check_sampler().sentence
    v = GaussianDiffusion(Unet(), objective="pred_v")
    assert "treats the output as eps, but it is v" in str(d.from_lucidrains(v).check_sampler())
    with pytest.raises(ValueError, match="knows pred_noise, pred_x0, pred_v"):
        d.from_lucidrains(GaussianDiffusion(Unet(), objective="flow"))
