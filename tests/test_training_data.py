"""What can be trained on, and what else is refused in one line."""

from itertools import cycle, islice

import pytest
import torch
from torch.utils.data import DataLoader, Subset
from toy_training import CONFIG, TwoColours, pipeline, same

from ddpm_helpers.diffusion import DiffusionUtils, beta_schedule
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.training import TrainingData, TrainingPipeline, checkpoint
from ddpm_helpers.training.training_data import fingerprint, same_data


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
    again.resume(tmp_path / "checkpoint.pt")
    assert same(p.model, again.model)
    renamed = Least()
    renamed.name = "more"  # without pictures to compare, the name decides
    with pytest.raises(ValueError, match="on 12 pictures of least, not on 12 pictures of more"):
        TrainingPipeline(**parts(dataset=renamed)).resume(tmp_path / "checkpoint.pt")


class Empty(TwoColours):
    def __len__(self):
        return 0


class Nameless(TwoColours):
    source = ""


OTHERS = {
    "subset": ({"dataset": Subset(TwoColours(), [0])}, "type Subset, lacks `batches`, `classes`"),
    "loader": ({"dataset": DataLoader([1, 2])}, "type DataLoader, lacks .*TrainingData"),
    "list": ({"dataset": [torch.zeros(3, 16, 16)]}, "type list, lacks"),
    "empty": ({"dataset": Empty()}, "'two colours' holds no pictures"),
    "nameless": ({"dataset": Nameless()}, "type Nameless, lacks `name`"),
    "module": ({"model": torch.nn.Conv2d(3, 3, 1)}, "must be a DiffusionNet, got Conv2d"),
    "swapped": ({"model": TwoColours()}, "must be a DiffusionNet, got TwoColours"),
    "diffusion": ({"diffusion": "cosine"}, "must be a DiffusionUtils, got str"),
    "schedule": (
        {"diffusion": DiffusionUtils(50, "linear", prediction="v")},
        "config.schedule is 'cosine', the diffusion's is 'linear'",
    ),
    "zero snr": (
        {"diffusion": DiffusionUtils(50, prediction="v", rescale_zero_snr=True)},
        "config.rescale_zero_snr is False, the diffusion's is True",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_datasets_that_cannot_be_trained_on_are_refused_in_one_line(kind):
    changes, words = OTHERS[kind]
    with pytest.raises(ValueError, match=words) as refusal:
        TrainingPipeline(**parts(**changes))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("change, words", [
    (lambda x, y: (x.double(), y), r"float32 \(B, 3, 16, 16\) .*got float64, \(5, 3, 16, 16\)"),
    (lambda x, y: (x[:, :1], y), r"got float32, \(5, 1, 16, 16\)"),
    (lambda x, y: (x, y.float()), r"y, int64 \(5,\), one label per image; got float32, \(5,\)"),
    (lambda x, y: (x, y[:2]), r"got int64, \(2,\)"),
])  # fmt: skip
def test_wrong_batches_are_refused_in_one_line(change, words):
    p = pipeline()
    batches = p.dataset.batches
    p.dataset.batches = lambda *args, **options: (
        change(*batch) for batch in batches(*args, **options)
    )
    with pytest.raises(ValueError, match=words):
        p.fit()


@pytest.mark.parametrize("n", [0, 2, 4])
def test_an_epoch_with_too_few_or_many_batches_is_refused(n, tmp_path):
    data = TwoColours()
    whole = data.batches
    data.batches = lambda *args, **options: islice(cycle(whole(*args, **options)), n)
    p = TrainingPipeline(**parts(dataset=data), out_dir=tmp_path)
    with pytest.raises(ValueError, match=rf"batches\(\) gave {n} batches, 3 are needed"):
        p.fit()
    assert p.step == n and (n == 0 or checkpoint.newest(tmp_path)[1]["step"] == n)


def test_wrapped_networks_are_trained_as_the_network_inside(tmp_path):
    plain = pipeline()
    plain.fit()
    p = pipeline()
    wrapped = TrainingPipeline(
        torch.nn.DataParallel(p.model), p.diffusion, p.dataset, p.config, tmp_path
    )
    wrapped.fit()
    assert same(wrapped.model, plain.model)
    assert not any(key.startswith("module.") for key in wrapped.model.state_dict())


def test_a_run_with_another_table_of_betas_is_not_resumed(tmp_path):
    betas = beta_schedule("linear", 50)
    p = TrainingPipeline(**parts(diffusion=DiffusionUtils(50, betas, prediction="v")))
    p.save(tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c\.pt was trained with another table of betas"):
        TrainingPipeline(**parts()).resume(tmp_path / "c.pt")


def test_the_fingerprint_tolerates_another_decoder_and_nothing_else():
    mine, other = TwoColours(), TwoColours()
    other.images = other.images.clone()
    other.images[:, :, 0, 0] += 1
    assert same_data(fingerprint(mine), fingerprint(other))
    other.images[3] += 2
    assert not same_data(fingerprint(mine), fingerprint(other))
    relabelled = TwoColours()
    relabelled.labels = relabelled.labels.flip(0)
    assert not same_data(fingerprint(mine), fingerprint(relabelled))
