"""Training that starts from weights: what is kept, what is new, and what it says."""

import pytest
import torch
from toy_training import CONFIG, TwoColours

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils, beta_schedule
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import (
    config_for_weights,
    fine_tune_model,
    load_pretrained,
    save_weights,
)
from ddpm_helpers.training import TrainingPipeline

DIFFUSION = DiffusionUtils(50, prediction="v")


def stored(tmp_path, classes=("cat", "dog", "frog"), diffusion=DIFFUSION):
    torch.manual_seed(0)
    model = DiffusionNet(16, width=8, num_classes=len(classes) or None)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # no layer at 0, where nothing could be lost
    path = tmp_path / "w.safetensors"
    return save_weights(path, model, diffusion, {"classes": list(classes)})


def draw(model, y):
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(x, torch.tensor([1, 9, 20, 50]), y)


def test_accents_in_either_form_are_one_name_and_an_album_keeps_its_row_under_any(tmp_path):
    said = []
    path = stored(tmp_path, ("caf\u00e9", "dog"))
    model, _ = fine_tune_model(path, ["dog", "cafe\u0301"], say=said.append)
    assert said == [f"weights {path}: labels kept: 2 (dog, caf\u00e9)"]
    rows = load_pretrained(path)[0].label.weight
    assert torch.equal(model.label.weight, rows[[0, 2, 1]])
    path = stored(tmp_path, ("old-name",))
    model, _ = fine_tune_model(path, ["new-name"], say=said.append)
    assert torch.equal(model.label.weight, load_pretrained(path)[0].label.weight)
    assert "new" not in said[1].split(": labels")[1].replace("new-name", "")


def of(label, n=4):
    return torch.full((n,), label)


def test_label_embeddings_are_kept_by_name_and_new_ones_start_as_no_label(tmp_path):
    path, said = stored(tmp_path), []
    old = load_pretrained(path)[0]
    new, diffusion = fine_tune_model(path, ["horse", "frog", "cat"], say=said.append)
    assert new.num_classes == 3 and new.classes == ("horse", "frog", "cat")
    assert new.training and all(p.requires_grad for p in new.parameters())
    assert diffusion.config == DIFFUSION.config
    for mine, its in [(1, 2), (2, 0), (-1, -1), (0, -1)]:  # frog, cat, no label, horse
        assert torch.equal(draw(new, of(mine)), draw(old, of(its)))
    assert not torch.equal(draw(new, of(1)), draw(new, of(2)))
    assert said == [
        f"weights {path}: labels kept: 2 (frog, cat), new: 1 (horse), left out: 1 (dog)"
    ]


def test_weights_without_classes_can_gain_some_and_the_reverse(tmp_path, capsys):
    path = stored(tmp_path, classes=())
    old, new = load_pretrained(path)[0], fine_tune_model(path, ["a", "b"])[0]
    assert "labels new: 2 (a, b)" in capsys.readouterr().out
    for label in (-1, 0, 1):
        torch.testing.assert_close(draw(new, of(label)), draw(old, None))
    path = stored(tmp_path)
    old, new = load_pretrained(path)[0], fine_tune_model(path)[0]
    assert "labels left out: 3 (cat, dog, frog)" in capsys.readouterr().out
    assert new.num_classes is None and new.classes == ()
    torch.testing.assert_close(draw(new, None), draw(old, None))


def test_the_weights_decide_the_network_and_the_diffusion(tmp_path):
    config = config_for_weights(stored(tmp_path), TrainConfig.preset("laptop", lr=3e-4))
    assert (config.image_size, config.width, config.timesteps) == (16, 8, 50)
    assert (config.prediction, config.stem_stride, config.lr) == ("v", 2, 3e-4)
    table = DiffusionUtils(50, beta_schedule("linear", 50), prediction="v")
    with pytest.raises(ValueError, match="table of betas"):
        config_for_weights(stored(tmp_path, diffusion=table), TrainConfig())


@pytest.mark.filterwarnings("error")
def test_training_starts_from_the_averaged_weights(tmp_path):
    model, diffusion = fine_tune_model(stored(tmp_path, TwoColours.classes), TwoColours.classes)
    before = [w.clone() for w in model.parameters()]
    p = TrainingPipeline(model, diffusion, TwoColours(), CONFIG, tmp_path / "run")
    assert all(map(torch.equal, p.ema_model.parameters(), before))
    assert not any(w.requires_grad for w in p.ema_model.parameters())
    p.fit()
    assert not any(map(torch.equal, p.model.parameters(), before))
    assert load_pretrained(tmp_path / "run")[0].classes == TwoColours.classes


def test_parameters_that_the_caller_froze_stay_frozen(tmp_path):
    model, diffusion = fine_tune_model(stored(tmp_path), TwoColours.classes)
    model.encoder.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    TrainingPipeline(model, diffusion, TwoColours(), CONFIG).fit()
    moved = {k.split(".")[0] for k, v in model.state_dict().items() if not v.equal(before[k])}
    assert moved == {"time", "label", "decoder", "gate"}
