"""Consistency distillation: its target by hand, the loss of a perfect student, a real student."""

from dataclasses import replace

import pytest
import torch
from exact_networks import answer, mixture, randn
from torch import nn
from torchvision.utils import save_image
from toy_training import TwoColours

from ddpm_helpers import DiffusionUtils, TrainConfig, TrainingPipeline, cli
from ddpm_helpers.diffusion import ConsistencyDistillation
from ddpm_helpers.pretrained import distill_model, load_pretrained, save_weights
from ddpm_helpers.training import build_model

SHAPE = (1, 2, 2)


def says(d, x_0):
    """A network that says one image, whatever it is shown."""

    return lambda x_t, t, y=None: answer(d, torch.full_like(x_t, x_0), x_t, t)


def test_the_loss_is_the_usual_one_with_the_answer_one_step_further_down_as_x_0():
    """Written out with plain formulas; the student is a simple function of x and t."""
    d = DiffusionUtils(10, "cosine", prediction="v")
    short = ConsistencyDistillation(d, says(d, 0.5), steps=5)  # 10, 8, 6, 4, 2, 0
    a, b = d.alpha_bar.sqrt(), (1 - d.alpha_bar).sqrt()
    x_0, eps, t = randn(3, *SHAPE).clamp(-1, 1), randn(3, *SHAPE, seed=1), torch.tensor([10, 5, 2])

    def student(x, t):
        return 0.1 * x * t.to(x).reshape(-1, 1, 1, 1)

    def f(x, t):
        return a[t] * x - b[t] * 0.1 * x * t

    for i, (t_i, s_i) in enumerate([(10, 8), (5, 4), (2, 0)]):
        x_t = a[t_i] * x_0[i] + b[t_i] * eps[i]
        eps_i = (x_t - a[t_i] * 0.5) / b[t_i]
        x_s = a[s_i] * 0.5 + b[s_i] * eps_i
        goal = f(x_s, s_i).clamp(-1, 1)
        v = (a[t_i] * x_t - goal) / b[t_i]  # the output that says goal: x_0 = a x_t - b v
        expected = (0.1 * x_t * t_i - v).square().mean()
        got = short.loss(student, x_0, t, eps)[i]
        assert got.item() == pytest.approx(expected.item(), rel=1e-9)


def test_only_the_first_answer_carries_a_gradient_and_a_consistent_student_none():
    d = DiffusionUtils(10, "cosine", prediction="v")
    short = ConsistencyDistillation(d, says(d, 0.5), steps=5)
    x_0, eps, t = randn(4, *SHAPE), randn(4, *SHAPE, seed=1), torch.tensor([9, 7, 4, 3])
    perfect = says(d, 0.5)
    torch.testing.assert_close(short.loss(perfect, x_0, t, eps), torch.zeros(4).double())
    w = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    calls = []

    def student(x, t):
        calls.append((int(t[0]), torch.is_grad_enabled()))
        return perfect(x, t) + w

    short.loss(student, x_0, t, eps).sum().backward()
    assert calls == [(8, False), (9, True)] and w.grad is not None


def test_without_a_teacher_the_same_noise_leads_down():
    d = DiffusionUtils(10, "flow", prediction="flow")
    short = ConsistencyDistillation(d, None, steps=10)
    x_0, eps, t = randn(2, *SHAPE), randn(2, *SHAPE, seed=1), torch.tensor([10, 4])
    seen = []

    def student(x, t):
        seen.append(x)
        return x * 0

    short.loss(student, x_0, t, eps)
    torch.testing.assert_close(seen[0], d.add_noise(x_0, t - 1, eps)[0])
    for diffusion, steps, words in ((d, 11, "steps .* 11"), (DiffusionUtils(10), 5, "not eps")):
        with pytest.raises(ValueError, match=words):
            ConsistencyDistillation(diffusion, None, steps)


class Student(nn.Module):
    """Reads one pixel and its step."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def forward(self, x_t, t):
        seen = torch.stack([x_t.flatten(), t.float() / 20], 1)
        return self.layers(seen).reshape(x_t.shape)


def test_one_call_of_a_student_ends_in_a_cloud_where_one_of_its_teacher_ends_between():
    """Pixels lie near -0.6 or 0.6; the teacher, a formula, first says their mean, 0."""
    d = DiffusionUtils(20, "flow", prediction="flow")
    teacher = mixture(d, [-0.6, 0.6], 0.1, [0.5, 0.5])
    torch.manual_seed(0)
    short, student = ConsistencyDistillation(d, teacher, steps=20), Student()
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    for _ in range(400):
        which = torch.randint(2, (256, 1, 1, 1)) * 1.2 - 0.6
        loss = short.training_loss(student, which + 0.1 * torch.randn(256, 1, 1, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    one = {"sampler": "ddpm", "steps": 1, "seed": 0, "shape": (1, 1, 1)}
    arrived = [
        ((d.sample(net, 500, **one).abs() - 0.6).abs() < 0.3).float().mean().item()
        for net in (teacher, student)
    ]
    assert arrived[0] == 0 and arrived[1] > 0.5


# ---- with the pipeline -------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Weights of a small network, trained for a moment on two colours."""
    config = TrainConfig(
        image_size=16, width=8, timesteps=50, prediction="v", epochs=10, batch_size=8, lr=3e-3,
        warmup_steps=5, ema_decay=0.9, flip=False, label_dropout=0.0, sample_every=0,
    )  # fmt: skip
    data = TwoColours()
    diffusion = DiffusionUtils(50, prediction="v")
    pipeline = TrainingPipeline(build_model(config, 2), diffusion, data, config)
    for _ in pipeline.steps():
        pass
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_weights(path, pipeline.ema_model, diffusion, {"classes": list(data.classes)})
    return path, config, data


def test_the_pipeline_trains_a_student_and_saves_weights_that_sample(teacher, tmp_path):
    path, config, data = teacher
    student, short = distill_model(path, data.classes, steps=5, say=lambda line: None)
    before = short.teacher.gate.weight.clone()
    with pytest.raises(ValueError, match="config.teacher_steps is None, the diffusion's is 5"):
        TrainingPipeline(student, short, data, config)
    config = replace(config, teacher_steps=5)
    pipeline = TrainingPipeline(student, short, data, config, tmp_path / "run")
    pipeline.fit()
    assert not torch.equal(pipeline.model.gate.weight.cpu(), before.cpu())
    assert torch.equal(short.teacher.gate.weight, before)  # the teacher stays as it is
    assert pipeline.samples(4).shape == (4, 3, 16, 16)
    model, diffusion = load_pretrained(tmp_path / "run")
    assert type(diffusion) is DiffusionUtils and diffusion.config == short.config
    assert model.classes == data.classes
    assert diffusion.few_step_options == {"sampler": "ddpm", "steps": [50, 35]}
    assert load_pretrained(path)[1].few_step_options == {}


def test_the_command_line_distils_and_says_what_is_missing(teacher, tmp_path, capsys):
    path, _, _ = teacher
    words = ["train", "--preset", "ci", "--data", "cartoons", "--limit", "16", "--image-size", "32"]
    small = tmp_path / "small.safetensors"
    config = TrainConfig.preset("ci", width=8)
    save_weights(small, build_model(config, 10), DiffusionUtils(500, prediction="v"))
    run = tmp_path / "fast"
    assert cli.main([*words, "--distill", str(small), "--out", str(run)]) == 0
    assert "teacher_steps = 10" in (run / "config.toml").read_text()
    sheets = {}
    for options in ([], ["--sampler", "ddpm", "--steps", "2"]):
        png = tmp_path / f"{len(sheets)}.png"
        command = ["sample", "--weights", str(run), "--n", "2", "--out", str(png)]
        assert cli.main([*command, *options]) == 0
        sheets[tuple(options)] = png.read_bytes()
    by_default, two = sheets.values()
    model, diffusion = load_pretrained(run)
    x = diffusion.sample(model, 2, y=[0, 1], sampler="ddpm", steps=[500, 350], seed=0)
    save_image(x, tmp_path / "x.png", normalize=True, value_range=(-1, 1))
    assert by_default == (tmp_path / "x.png").read_bytes() != two
    again = [*words, "--out", str(tmp_path / "b"), "--config", str(run / "config.toml")]
    again = [w for w in again if w not in ("--preset", "ci")]
    assert cli.main(again) == 2
    assert "teacher_steps = 10 needs a teacher: --distill WEIGHTS" in capsys.readouterr().err
    resumed = [*words, "--distill", str(small), "--teacher-steps", "8", "--out", str(run)]
    assert cli.main([*resumed, "--resume"]) == 2
    assert "trained with teacher_steps = 10, not 8" in capsys.readouterr().err
