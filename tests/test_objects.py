"""Dataset objects, torchvision's and your own, as a source: images, labels, names, caches."""

import numpy as np
import pytest
import torch
from albums import caches, load, put
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import datasets, transforms

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)  # as (C, H, W)
FLOATS = torch.from_numpy(COLOURS).float() / 255
LABELS = [0, 1, 2, 0, 1, 2]


class Own(Dataset):
    """Images and labels in lists, as people write them."""

    def __init__(self, images, labels=None, **attributes):
        self.images, self.labels = list(images), labels
        vars(self).update(attributes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i] if self.labels is None else (self.images[i], self.labels[i])


def pil(image):
    return Image.fromarray(image.transpose(1, 2, 0))


IMAGES = [pil(x) for x in COLOURS]


def opened(tmp_path, dataset, size=16, **options):
    return load(dataset, tmp_path, size, **options)


def held(ds):
    """{image: class name}: what a dataset holds, whatever its order."""
    return {x.tobytes(): ds.classes[y] for x, y in zip(ds.images, ds.labels, strict=True)}


FORMS = {
    "PIL": pil,
    "array (H, W, C)": lambda x: x.transpose(1, 2, 0).copy(),
    "tensor (C, H, W)": torch.from_numpy,
    "float in [0, 1]": lambda x: torch.from_numpy(x).float() / 255,
    "half": lambda x: (torch.from_numpy(x) / 255).half(),
    "double array": lambda x: x.transpose(1, 2, 0) / 255,
    "RGBA": lambda x: np.concatenate([x, np.full_like(x[:1], 255)]).transpose(1, 2, 0),
}
GREYS = {
    "tensor (1, H, W)": lambda x: torch.from_numpy(x[:1]),
    "tensor (H, W)": lambda x: torch.from_numpy(x[0]),
    "array (H, W, 1)": lambda x: x[0][..., None],
    "PIL": lambda x: Image.fromarray(x[0]),
}


def test_every_form_of_an_image_is_the_same_image(tmp_path):
    expected = {x.tobytes(): str(y) for x, y in zip(COLOURS, LABELS, strict=True)}
    for name, form in FORMS.items():
        ds = opened(tmp_path, Own(map(form, COLOURS), LABELS))
        assert held(ds) == expected, name
    assert isinstance(ds.images, np.memmap) and ds.source == "Own" and ds.split == "train"
    assert ds.settings == {}  # no settings file can hold an object
    for name, form in GREYS.items():
        ds = opened(tmp_path, Own(map(form, COLOURS), LABELS), channels=1)
        assert held(ds) == {x[:1].tobytes(): expected[x.tobytes()] for x in COLOURS}, name


def test_labels_are_whole_numbers_or_none(tmp_path):
    for label in (1, np.uint8(1), torch.tensor(1), torch.tensor([1]), np.array(1)):
        ds = opened(tmp_path, Own(IMAGES[:2], [0, label]))
        assert ds.labels.dtype == np.int64 and held(ds)[COLOURS[1].tobytes()] == "1"
    for unlabelled in (IMAGES, [(x,) for x in IMAGES], [(x, None) for x in IMAGES]):
        ds = opened(tmp_path, Own(unlabelled, classes=["unused"]))
        assert ds.classes == ("images",) and ds.labels.tolist() == [0] * 6


def test_lists_tensors_and_rows_of_the_hub_are_datasets_too(tmp_path):
    expected = {x.tobytes(): str(y) for x, y in zip(COLOURS, LABELS, strict=True)}
    pairs = list(zip(IMAGES, LABELS, strict=True))
    rows = [{"img": x, "fine_label": y, "coarse_label": 7} for x, y in pairs]
    whole = TensorDataset(torch.from_numpy(COLOURS), torch.tensor(LABELS))
    assert held(opened(tmp_path, pairs)) == held(opened(tmp_path, rows)) == expected
    assert held(opened(tmp_path, whole)) == expected
    assert opened(tmp_path, torch.from_numpy(COLOURS)).classes == ("images",)


def test_names_are_those_of_the_dataset_or_the_numbers(tmp_path):
    named = Own(IMAGES, LABELS, classes=["cat", "dog", "fox"])
    for dataset in (named, Subset(Subset(named, range(5)), range(3))):
        ds = opened(tmp_path, dataset)
        assert ds.classes == ("cat", "dog", "fox") and held(ds)[COLOURS[1].tobytes()] == "dog"
    named.target_transform = lambda y: y  # it may renumber classes
    assert opened(tmp_path, named).classes == ("0", "1", "2")
    years = Own(IMAGES, [1990, 1992] * 3, classes=2)
    ds = opened(tmp_path, years)
    assert ds.classes == ("1990", "1992") and held(ds)[COLOURS[1].tobytes()] == "1992"


def test_a_limit_keeps_the_share_of_each_class(tmp_path):
    ds = opened(tmp_path, Own(IMAGES, [0, 0, 0, 0, 1, 1]), limit=3)
    assert sorted(ds.labels) == [0, 0, 1]


class Stream(IterableDataset):
    def __iter__(self):
        yield COLOURS[0], 0


class Failing(Own):
    def __getitem__(self, i):
        raise RuntimeError("my own\nmistake")


BAD = {
    "loader": (DataLoader(Own(IMAGES)), "source: item 0 of DataLoader cannot be read: TypeError"),
    "stream": (Stream(), "source: item 0 of Stream cannot be read: NotImplementedError"),
    "number": (7, "source: item 0 of int cannot be read: TypeError"),
    "empty": (Own([]), "item 0 of Own cannot be read: IndexError"),
    "minus one to one": (Own(FLOATS * 2 - 1, LABELS), r"item 0 of Own .* in \[0, 1\], got -1 to 1"),
    "NaN": (Own(FLOATS / 0 * 0, LABELS), "got nan to nan"),
    "int64": (Own(COLOURS.transpose(0, 2, 3, 1).astype(int), LABELS), "item 0 of Own cannot be"),
    "batch": (Own(FLOATS[None]), "item 0 of Own cannot be read"),
    "path": (Own(["a.png"]), "item 0 of Own cannot be read: .* a str, not a PIL image"),
    "label first": ([{"label": 0, "image": IMAGES[0]}], "item 0 of list .* a int, not a PIL image"),
    "word": (Own(IMAGES, ["cat"] * 6), "label of item 0 must be a whole number .* got 'cat'"),
    "several": (Own(IMAGES, torch.zeros(6, 4).long()), "label of item 0 must be a whole number"),
    "too large": (Own(IMAGES, LABELS, classes=["a"]), "item 1 must be .* in 0..0, got 1"),
    "some labels": (Own(IMAGES, [1, 1, None, 1, 1, 1]), "item 2 must be a .* got None"),
    "own code": (Failing(IMAGES), "0 of Failing cannot be read: RuntimeError.*my own.*mist"),
    "float image": (Own([Image.new("F", (9, 9))]), "item 0 of Own cannot .* white is unknown"),
    "splits": ({"train": Own(IMAGES)}, "item 0 of dict cannot be read: KeyError"),
}  # fmt: skip


def test_objects_that_cannot_be_a_source_are_refused_in_one_line(tmp_path):
    for dataset, says in BAD.values():
        with pytest.raises(ValueError, match=says) as caught:
            opened(tmp_path, dataset)
        assert "\n" not in str(caught.value)
    ready = opened(tmp_path, Own(IMAGES, LABELS))
    with pytest.raises(ValueError, match="a dataset object is one split: leave split='test' out"):
        opened(tmp_path, Own(IMAGES, LABELS), split="test")
    with pytest.raises(ValueError, match="item 0 of ImageDataset .*floats"):
        opened(tmp_path, ready)
    assert len(caches(tmp_path)) == 1


def test_a_cache_is_used_again_until_a_sampled_item_changes(tmp_path):
    images = IMAGES * 50
    first = opened(tmp_path, Own(images, [0] * 300))
    again = opened(tmp_path, Own(images, [0] * 300))
    assert again.images.filename == first.images.filename
    changed = [pil(COLOURS[0] ^ 1), *images[1:]]
    opened(tmp_path, Own(changed, [0] * 300))
    opened(tmp_path, Own(images, [1] + [0] * 299))
    opened(tmp_path, Own(images[1:], [0] * 299))
    assert len(caches(tmp_path)) == 4


def test_a_changed_palette_or_transparent_colour_is_another_image(tmp_path):
    red, blue = (Image.new("P", (8, 8)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    clear = red.copy()
    clear.info["transparency"] = 0
    pixels = [opened(tmp_path, [x]).images[0, :, 0, 0].tolist() for x in (red, blue, clear)]
    assert pixels == [[255, 0, 0], [0, 0, 255], [255, 255, 255]]


def test_random_transforms_are_refused(tmp_path):
    torch.manual_seed(0)
    flip = transforms.RandomHorizontalFlip()
    own = type("Flipped", (Own,), {"__getitem__": lambda self, i: (flip(IMAGES[i % 6]), 0)})
    with pytest.raises(ValueError, match="changes from one reading to the next .a random transf"):
        opened(tmp_path, own([0] * 100))


def test_torchvisions_folder_with_its_transforms(tmp_path):
    for k, name in enumerate("ab"):
        put(tmp_path / "root" / name, 1, (100 + k, 0, 0))
    dark = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: x / 2)])
    whole, half = (
        opened(tmp_path, datasets.ImageFolder(tmp_path / "root", transform))
        for transform in (transforms.ToTensor(), dark)
    )
    assert whole.classes == half.classes == ("a", "b")
    assert whole.images[:, 0, 0, 0].tolist() == [100, 101] and half.images.max() == 50
    (tmp_path / "root" / "b" / "0.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="item 1 of ImageFolder cannot be read: .* identify"):
        opened(tmp_path, datasets.ImageFolder(tmp_path / "root"))
