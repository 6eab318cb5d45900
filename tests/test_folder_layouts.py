"""Folder layouts that people have, on disk: splits, classes, and one cache per folder."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ddpm_helpers import cli
from ddpm_helpers.commands.sample import class_numbers
from ddpm_helpers.data import ImageDataset


def put(folder, count=4, colour=(200, 30, 30), first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + count):
        Image.new("RGB", (8, 8), colour).save(folder / f"{k}.png")


def load(place, tmp_path, split="train", **options):
    return ImageDataset(place, 8, split=split, cache_dir=tmp_path / "cache", **options)


def numbers(ds):
    """The blue of every picture."""
    return ds.images[:, 2, 0, 0].tolist()


def test_labels_mean_the_same_class_in_both_splits(tmp_path):
    put(tmp_path / "p" / "train" / "cat")
    put(tmp_path / "p" / "train" / "dog")
    put(tmp_path / "p" / "Val" / "dog", 2)
    train, test = (load(tmp_path / "p", tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert test.labels.tolist() == [1, 1]


def test_a_class_that_train_lacks_is_an_error_that_names_it(tmp_path, capsys):
    put(tmp_path / "p" / "train" / "cat")
    put(tmp_path / "p" / "test" / "cat")
    put(tmp_path / "p" / "test" / "bird")
    with pytest.raises(ValueError, match=r"classes that train lacks: bird; train has cat$"):
        load(tmp_path / "p", tmp_path, "test")
    assert load(tmp_path / "p", tmp_path).classes == ("cat",)
    assert "train lacks: bird" in capsys.readouterr().out


def test_without_a_split_a_tenth_is_held_out(tmp_path, capsys):
    for k in range(40):
        put(tmp_path / "album", 1, (0, 0, k), first=k)
    train, test = (load(tmp_path / "album", tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (36, 4)
    assert sorted(numbers(train) + numbers(test)) == list(range(40))
    assert train.classes == test.classes == ("album",)
    said = capsys.readouterr().out
    assert said.count("album: no test split: held out 4 of 40 pictures") == 1


def test_too_few_pictures_to_hold_out_is_one_line(tmp_path):
    put(tmp_path / "p", 4)
    assert len(load(tmp_path / "p", tmp_path)) == 4
    with pytest.raises(ValueError, match="has no test split, and 4 pictures are too few"):
        load(tmp_path / "p", tmp_path, "test")


def test_a_class_of_broken_files_is_left_out_of_every_split_and_named(tmp_path, capsys):
    for split in ("train", "test"):
        for number, name in enumerate(("ant", "bee", "cat")):
            put(tmp_path / "p" / split / name, 3, (0, 0, number))
    for path in (tmp_path / "p" / "train" / "bee").iterdir():
        path.write_bytes(b"")
    test, train = (load(tmp_path / "p", tmp_path, split) for split in ("test", "train"))
    for ds in (train, test):
        assert ds.classes == ("ant", "cat")
        assert numbers(ds) == [2 * y for y in ds.labels] and np.bincount(ds.labels).min() == 3
    assert "left out the class bee: none of its 3 files can be read" in capsys.readouterr().out


def test_a_class_whose_first_file_is_broken_stays(tmp_path):
    put(tmp_path / "p" / "ant")
    put(tmp_path / "p" / "bee")
    (tmp_path / "p" / "ant" / "0.png").write_bytes(b"")
    ds = load(tmp_path / "p", tmp_path)
    assert ds.classes == ("ant", "bee") and np.bincount(ds.labels).tolist() == [3, 4]


def caches(tmp_path):
    return sorted((tmp_path / "cache").glob("*.npy"))


def test_a_growing_folder_keeps_one_cache_for_each_setting(tmp_path):
    put(tmp_path / "p" / "train" / "a", 2)
    put(tmp_path / "p" / "test" / "a", 2)
    old = load(tmp_path / "p", tmp_path)
    load(tmp_path / "p", tmp_path, fit="pad")
    load(tmp_path / "p", tmp_path, "test")
    ImageDataset(tmp_path / "p", 4, cache_dir=tmp_path / "cache")
    put(tmp_path / "other")
    load(tmp_path / "other", tmp_path)
    assert len(caches(tmp_path)) == 5
    for k in range(2, 5):
        put(tmp_path / "p" / "train" / "a", 1, first=k)
        assert len(load(tmp_path / "p", tmp_path)) == k + 1
        assert len(caches(tmp_path)) == 5
    if os.name != "nt":
        assert numbers(old) == [30, 30]  # still open, still there


def test_a_moved_folder_opens_the_same_cache(tmp_path, capsys):
    put(tmp_path / "one" / "p" / "a")
    put(tmp_path / "one" / "p" / "b")
    before = load(tmp_path / "one" / "p", tmp_path)
    capsys.readouterr()
    (tmp_path / "one").rename(tmp_path / "two")
    after = load(tmp_path / "two" / "p", tmp_path)
    assert after.images.filename == before.images.filename
    assert "reading" not in capsys.readouterr().err


def test_a_renamed_album_is_called_by_its_new_name(tmp_path):
    put(tmp_path / "old")
    assert load(tmp_path / "old", tmp_path).classes == ("old",)
    (tmp_path / "old").rename(tmp_path / "new")
    ds = load(tmp_path / "new", tmp_path)
    assert ds.classes == ("new",) and ds.name == "new" and len(caches(tmp_path)) == 1


def test_the_name_of_a_dataset_is_short_and_holds_no_path(tmp_path):
    put(tmp_path / "p" / "wrapper" / "a")
    put(tmp_path / "p" / "wrapper" / "b")
    ds = load(tmp_path / "p", tmp_path)
    assert (ds.name, ds.source) == ("p", str(tmp_path / "p"))
    assert load("p", tmp_path, root=tmp_path).name == "p"
    assert ImageDataset("cartoons", 8, cache_dir=tmp_path / "cache", limit=5).name == "cartoons"
    manifest = next((tmp_path / "cache").glob("folder-*.json"))
    assert str(tmp_path) not in manifest.read_text()


def test_system_folders_inside_archives_are_ignored(tmp_path):
    put(tmp_path / "p" / "PetImages" / "Cat")
    put(tmp_path / "p" / "PetImages" / "Dog")
    put(tmp_path / "p" / "__MACOSX" / "PetImages")
    for name in ("$RECYCLE.BIN", "#recycle", "@Recycle"):
        put(tmp_path / "p" / name / "S-1-5-21")
    assert load(tmp_path / "p", tmp_path).classes == ("Cat", "Dog")


def test_ddpm_data_prints_the_layout_and_the_counts_of_both_splits(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    put(tmp_path / "archive" / "train" / "cat", 4)
    put(tmp_path / "archive" / "train" / "dog", 3)
    put(tmp_path / "archive" / "val" / "dog", 2)
    (tmp_path / "archive" / "train" / "cat" / "0.png").write_bytes(b"")
    (tmp_path / "download").mkdir()
    shutil.move(tmp_path / "archive", tmp_path / "download")
    assert cli.main(["data", str(tmp_path / "download"), "--image-size", "8"]) == 0
    said = capsys.readouterr().out
    for line in ("download: descended into archive/", "download: val/ is the test split",
                 "6 pictures of 8×8, split train"):  # fmt: skip
        assert said.count(line) == 1
    rows = [line.split() for line in said.splitlines() if line.startswith("  ")]
    assert rows == [["class", "train", "test"], ["cat", "3", "0"], ["dog", "3", "2"]]


def test_names_of_class_folders_take_precedence_over_numbers(capsys):
    assert class_numbers(["1"], 1, 3, ("1", "2", "3")).tolist() == [0]
    assert "--y 1: the class named 1, which has the number 0" in capsys.readouterr().out
    assert class_numbers(["2", "2"], 2, 3, ("cat", "dog", "2")).tolist() == [2, 2]
    assert class_numbers(["0", "1"], 2, 2, ("cat", "dog")).tolist() == [0, 1]
    assert capsys.readouterr().out == ""  # one number, or the same one
