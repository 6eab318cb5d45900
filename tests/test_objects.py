"""Dataset objects, torchvision's and one's own, as a source: pictures, labels, names, caches."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from albums import load
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)
from torchvision import datasets, transforms

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)  # as (C, H, W)


class Own(Dataset):
    """Pictures and labels in lists, as people write them."""

    def __init__(self, pictures, labels=None, **attributes):
        self.pictures, self.labels = list(pictures), labels
        vars(self).update(attributes)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return self.pictures[i] if self.labels is None else (self.pictures[i], self.labels[i])


def pil(picture):
    return Image.fromarray(picture.transpose(1, 2, 0))


def opened(tmp_path, dataset, size=16, **options):
    return load(dataset, tmp_path, size, **options)


def held(ds):
    """{picture: label}: what a dataset holds, whatever its order."""
    return {x.tobytes(): ds.classes[y] for x, y in zip(ds.images, ds.labels, strict=True)}


FORMS = {
    "PIL": pil,
    "array (H, W, C)": lambda x: x.transpose(1, 2, 0).copy(),
    "array (C, H, W)": lambda x: x,
    "tensor (C, H, W)": torch.from_numpy,
    "tensor (H, W, C)": lambda x: torch.from_numpy(x.transpose(1, 2, 0).copy()),
    "float in [0, 1]": lambda x: torch.from_numpy(x).float() / 255,
    "half": lambda x: (torch.from_numpy(x) / 255).half(),
    "double array": lambda x: x.transpose(1, 2, 0) / 255,
    "RGBA": lambda x: np.concatenate([x, np.full_like(x[:1], 255)]).transpose(1, 2, 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_is_the_same_picture(form, tmp_path):
    labels = [0, 1, 2, 0, 1, 2]
    ds = opened(tmp_path, Own(map(FORMS[form], COLOURS), labels))
    assert ds.images.shape == (6, 3, 16, 16) and isinstance(ds.images, np.memmap)
    order = np.argsort(ds.images[:, 0, 0, 0])
    expected = np.argsort(COLOURS[:, 0, 0, 0])
    error = np.abs(ds.images[order].astype(int) - COLOURS[expected])
    assert error.max() == 0
    assert ds.labels[order].tolist() == [labels[k] for k in expected]
    assert ds.classes == ("0", "1", "2") and ds.source == "Own" and ds.split == "train"


GREYS = {
    "tensor (1, H, W)": lambda x: torch.from_numpy(x[:1]),
    "tensor (H, W)": lambda x: torch.from_numpy(x[0]),
    "array (H, W)": lambda x: x[0],
    "array (H, W, 1)": lambda x: x[0][..., None],
    "PIL": lambda x: Image.fromarray(x[0]),
}


@pytest.mark.parametrize("form", GREYS)
def test_grey_pictures_come_in_grey_or_in_colour(form, tmp_path):
    dataset = Own(map(GREYS[form], COLOURS), range(6))
    grey, colour = opened(tmp_path, dataset, channels=1), opened(tmp_path, dataset)
    assert held(grey) == {x[:1].tobytes(): str(k) for k, x in enumerate(COLOURS)}
    assert colour.images.shape == (6, 3, 16, 16) and (colour.images == grey.images).all()


@pytest.mark.parametrize(
    "label", [1, np.int64(1), np.uint8(1), torch.tensor(1), torch.tensor([1]), True, np.array(1)]
)
def test_any_whole_number_is_a_label(label, tmp_path):
    ds = opened(tmp_path, Own(map(pil, COLOURS[:2]), [0, label]))
    assert sorted(ds.labels) == [0, 1] and ds.labels.dtype == np.int64
    assert held(ds)[COLOURS[1].tobytes()] == "1"


@pytest.mark.parametrize("items", [lambda x: x, lambda x: (x,), lambda x: (x, None)])
def test_pictures_without_labels_are_one_class(items, tmp_path):
    ds = opened(tmp_path, Own([items(pil(x)) for x in COLOURS]))
    assert ds.classes == ("images",) and ds.labels.tolist() == [0] * 6


def test_plain_lists_and_tensors_are_datasets_too(tmp_path):
    pairs = [(pil(x), k % 2) for k, x in enumerate(COLOURS)]
    expected = {x.tobytes(): str(k % 2) for k, x in enumerate(COLOURS)}
    assert held(opened(tmp_path, pairs)) == expected
    whole = TensorDataset(torch.from_numpy(COLOURS), torch.arange(6) % 2)
    assert held(opened(tmp_path, whole)) == expected
    assert opened(tmp_path, torch.from_numpy(COLOURS)).classes == ("images",)
    named = SimpleNamespace(names=["even", "odd"])

    class Dicts(Own):
        features = {"image": None, "label": named}

    ds = opened(tmp_path, Dicts([{"image": x, "label": y} for x, y in pairs]))
    assert held(ds) == {x.tobytes(): ("even", "odd")[k % 2] for k, x in enumerate(COLOURS)}


@pytest.mark.parametrize(
    "attributes",
    [
        {"classes": ["cat", "dog", "fox"]},
        {"categories": ("cat", "dog", "fox")},
        {"class_to_idx": {"fox": 2, "cat": 0, "dog": 1}},
        {"classes": [("cat", "tomcat"), ("dog",), ("fox", "vixen")]},
        {"classes": np.array(["cat", "dog", "fox"])},
    ],
)
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, range(3))])
def test_names_are_taken_from_the_dataset(attributes, wrap, tmp_path):
    ds = opened(tmp_path, wrap(Own(map(pil, COLOURS), [0, 1, 2, 0, 1, 2], **attributes)))
    assert ds.classes == ("cat", "dog", "fox")
    assert held(ds)[COLOURS[1].tobytes()] == "dog"
    assert ds.source == ("Own" if len(ds) == 6 else "Subset of Own")


@pytest.mark.parametrize(
    ("labels", "classes", "says"),
    [
        ([3, 7, 3, 7, 7, 7], {}, "2 labels in 3..7 do not fit 0 class names; they are renumbered"),
        ([-1, 1, -1, 1, 1, 1], {}, "2 labels in -1..1"),
        ([1, 2, 3, 1, 2, 3], {"classes": list("abc")}, "3 labels in 1..3 do not fit 3 class names"),
        ([0, 1, 0, 1, 0, 1], {"classes": 2}, ""),
    ],
)
def test_numbers_name_the_classes_where_nothing_else_does(labels, classes, says, tmp_path, capsys):
    ds = opened(tmp_path, Own(map(pil, COLOURS), labels, **classes))
    assert ds.classes == tuple(map(str, sorted(set(labels))))
    assert held(ds) == {x.tobytes(): str(k) for x, k in zip(COLOURS, labels, strict=True)}
    assert says in capsys.readouterr().out


def test_names_that_are_numbers_become_words(tmp_path):
    for names in (range(1990, 1993), [1990, 1991, 1992]):
        ds = opened(tmp_path, Own(map(pil, COLOURS), [0, 1, 2] * 2, classes=names))
        assert ds.classes == ("1990", "1991", "1992")


def test_joined_datasets_keep_the_names_that_they_share(tmp_path):
    def part(k, *names):
        return Own(PICTURES[k : k + 3], [0, 1, 0], classes=list(names))

    same = ConcatDataset([part(0, "cat", "dog"), part(3, "cat", "dog")])
    ds = opened(tmp_path, same)
    assert ds.classes == ("cat", "dog") and len(ds) == 6
    ds = opened(tmp_path, ConcatDataset([part(0, "cat", "dog"), part(3, "dog", "fox")]))
    assert ds.classes == ("0", "1")


def test_names_are_not_taken_where_a_target_transform_changes_labels(tmp_path):
    dataset = Own(map(pil, COLOURS), [0, 1] * 3, classes=["cat", "dog", "fox"])
    dataset.target_transform = lambda y: y
    assert opened(tmp_path, dataset).classes == ("0", "1")


class Stream(IterableDataset):
    def __iter__(self):
        yield COLOURS[0], 0


class Failing(Own):
    def __getitem__(self, i):
        raise RuntimeError("my own\nmistake")


PICTURES = [pil(x) for x in COLOURS]
FLOATS = torch.from_numpy(COLOURS).float() / 255
BAD = {
    "loader": (DataLoader(Own(PICTURES)), "source is a DataLoader; .* pass its .dataset"),
    "stream": (Stream(), "source is a Stream; it must be a name, a folder, or a dataset"),
    "number": (7, "source is a int; it must be"),
    "generator": ((x for x in PICTURES), "source is a generator; it must be"),
    "empty": (Own([]), "Own holds no images"),
    "minus one to one": (Own(FLOATS * 2 - 1, range(6)), "0 of Own holds float32 from -1 to 1;"),
    "255": (Own(FLOATS * 255, range(6)), "holds float32 from 0 to 255"),
    "NaN": (Own(FLOATS / 0 * 0, range(6)), "holds float32 from nan to nan"),
    "int64": (Own(COLOURS.astype(int), range(6)), "holds int64 from 0 to 255; give uint8"),
    "two channels": (Own(FLOATS[:, :2]), r"has the shape \(2, 16, 16\)"),
    "batch": (Own(FLOATS[None]), r"has the shape \(6, 3, 16, 16\)"),
    "path": (Own(["a.png"]), "item 0 of Own is a str; an image is"),
    "three parts": (Own([(PICTURES[0], 1, 2)]), "has 3 parts"),
    "dictionary": (Own([{"pixels": 1}]), "is a dictionary of 'pixels'; it needs 'image'"),
    "word": (Own(PICTURES, ["cat"] * 6), "has the label 'cat'"),
    "float": (Own(PICTURES, [0.5] * 6), "has the label 0.5"),
    "attributes": (Own(PICTURES, torch.zeros(6, 40).long()), r"the label Tensor of shape \(40,\)"),
    "own code": (Failing(PICTURES), "0 of Failing cannot be read: RuntimeError: my own mist"),
    "float picture": (Own([Image.new("F", (9, 9))]), "item 0 of Own cannot be read: .*white"),
    "some labels": (Own(PICTURES, [None, 1, 1, 1, 1, None]), "2 of 6 images .* have no label"),
    "splits": ({"train": Own(PICTURES)}, "source is a dict; .* of a dictionary, one of its val"),
}  # fmt: skip


def test_objects_that_cannot_be_a_source_are_refused_in_one_line(tmp_path):
    for dataset, says in BAD.values():
        with pytest.raises(ValueError, match=says) as caught:
            opened(tmp_path, dataset)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_bad_item_beyond_the_sampled_ones_is_named_by_its_number(tmp_path):
    many = [COLOURS[k % 6] for k in range(200)]  # more than are sampled
    many[131] = FLOATS[0] * 2 - 1
    with pytest.raises(ValueError, match="item 131 of Own holds float32 from -1 to"):
        opened(tmp_path, Own(many, [0] * 200))


def test_rows_without_a_column_named_label_are_one_class_and_a_line_says_so(tmp_path, capsys):
    rows = [{"img": picture, "fine_label": k % 2} for k, picture in enumerate(PICTURES)]
    assert len(opened(tmp_path, Own(rows)).classes) == 1
    said = capsys.readouterr().out
    assert said.count("none of 'img', 'fine_label' is named 'label'") == 1


def test_an_object_is_one_split(tmp_path):
    dataset = Own(PICTURES, [0] * 6)
    assert len(opened(tmp_path, dataset)) == 6
    with pytest.raises(ValueError, match="a dataset object is one split: leave split='test' out"):
        opened(tmp_path, dataset, split="test")
    with pytest.raises(ValueError, match="source is an ImageDataset already"):
        opened(tmp_path, opened(tmp_path, dataset))


class Counted(Own):
    reads = 0

    def __getitem__(self, i):
        type(self).reads += 1
        return super().__getitem__(i)


def many(n=300):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_the_same_dataset_is_read_once(tmp_path):
    Counted.reads = 0
    first = opened(tmp_path, Counted(many(), [0] * 300))
    assert Counted.reads == 300 + 2 * 64
    again = opened(tmp_path, Counted(many(), [0] * 300))
    assert Counted.reads == 300 + 4 * 64 and len(list(tmp_path.rglob("*.npy"))) == 1
    assert (again.images == first.images).all()


def one_pixel(pictures, labels):
    pictures[151, 3, 3, 0] ^= 1  # of an item that is not sampled


def one_label(pictures, labels):
    labels[151] = 1


def another_order(pictures, labels):
    pictures[[150, 151]] = pictures[[151, 150]]


@pytest.mark.parametrize("keep", [list, np.asarray, torch.as_tensor])
@pytest.mark.parametrize("change", [one_pixel, one_label, another_order])
def test_a_changed_dataset_makes_another_cache(change, keep, tmp_path):
    """Whatever holds the pictures: lists and arrays are compared whole."""
    pictures, labels = many(), [0, 1] + [0] * 298

    def dataset():
        own = Own([], keep(labels))
        own.pictures = keep(pictures)
        return own

    before = held(opened(tmp_path, dataset(), 8))
    change(pictures, labels)
    after = opened(tmp_path, dataset(), 8)
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    expected = zip(pictures.transpose(0, 3, 1, 2), labels, strict=True)
    assert held(after) == {x.tobytes(): str(y) for x, y in expected}
    if change is not another_order:
        assert held(after) != before


def test_a_file_that_changes_makes_another_cache(tmp_path):
    """A list of paths, as own datasets have: item 151 of 300 is not sampled."""
    paths = [tmp_path / f"{k}.png" for k in range(300)]
    for path, picture in zip(paths, many(), strict=True):
        Image.fromarray(picture).save(path)

    class Files(Own):
        def __getitem__(self, i):
            return Image.open(self.pictures[i]), 0

    before = opened(tmp_path, Files(paths)).images[:].copy()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(paths[151])
    os.utime(paths[151], ns=(10**18, 10**18))
    after = opened(tmp_path, Files(paths)).images
    assert (after == np.uint8([1, 2, 3])[:, None, None]).all((1, 2, 3)).sum() == 1
    assert not (before == np.uint8([1, 2, 3])[:, None, None]).all((1, 2, 3)).any()


def test_other_transforms_splits_and_subsets_have_caches_of_their_own(tmp_path):
    for name, colour in (("a", 10), ("b", 240)):
        (tmp_path / "root" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (20, 20), (colour + k, 0, 0)).save(
                tmp_path / "root" / name / f"{k}.png"
            )
    tensors, dark = transforms.ToTensor(), transforms.Lambda(lambda x: x / 2)
    folder = datasets.ImageFolder(tmp_path / "root", tensors)
    whole = opened(tmp_path, folder)
    assert whole.classes == ("a", "b")
    assert sorted(whole.images[:, 0, 0, 0]) == [10, 11, 12, 240, 241, 242]
    half = datasets.ImageFolder(tmp_path / "root", transforms.Compose([tensors, dark]))
    assert opened(tmp_path, half).images.max() == 121
    first, second = Subset(folder, [0, 1, 2]), Subset(folder, [3, 4, 5])
    assert [opened(tmp_path, half).images.max() for half in (first, second)] == [12, 242]


def test_random_transforms_are_refused(tmp_path):
    torch.manual_seed(0)
    flip = transforms.RandomHorizontalFlip()

    class Flipped(Own):
        def __getitem__(self, i):
            return flip(PICTURES[i % 6]), 0

    with pytest.raises(ValueError, match="changes from one reading to the next .a random transf"):
        opened(tmp_path, Flipped([0] * 100))


def test_a_digest_is_the_same_in_every_process():
    """Addresses in memory, the order of sets, and objects shared or not, say nothing."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import numpy as np\n"
        "from test_objects import Own\n"
        "from ddpm_helpers.data.content import content_digest\n"
        "one, two = np.arange(9), np.arange(9)\n"
        "lists = [[one, one], [one, two]]\n"
        "for pair in lists:\n"
        "    own = Own(pair, keep={'a', 'b', 'c'}, pick=lambda x: x, table={'a': [1, 2]})\n"
        "    print(content_digest(own, lambda i: own.pictures[i]))\n"
    )
    words = [sys.executable, "-c", code, os.path.dirname(__file__)]
    found = [subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ
                            | {"PYTHONHASHSEED": seed}).stdout for seed in "12"]  # fmt: skip
    assert len(set("".join(found).split())) == 1


def test_damaged_files_are_left_out_and_counted(tmp_path, capsys):
    (tmp_path / "root" / "a").mkdir(parents=True)
    for k in range(4):
        pil(COLOURS[k]).save(tmp_path / "root" / "a" / f"{k}.png")
    (tmp_path / "root" / "a" / "2.png").write_bytes(b"no picture")
    ds = opened(tmp_path, datasets.ImageFolder(tmp_path / "root"))
    assert held(ds) == {COLOURS[k].tobytes(): "a" for k in (0, 1, 3)}
    assert (
        "ImageFolder: 1 of 4 files are not images and were skipped; the first is item 2 (cannot"
        in capsys.readouterr().out
    )
