"""Folders that people have, on disk: splits, classes, notes, one cache for each folder."""

import errno
import os
import shutil
import subprocess
import sys
import unicodedata
from contextlib import suppress

import numpy as np
import pytest
from albums import blues, caches, load, noise, put
from PIL import Image

from ddpm_helpers import cli
from ddpm_helpers.data import folder


def test_subfolders_are_classes_in_order_of_name(tmp_path):
    put(tmp_path / "p" / "zebra", 1, (0, 0, 3))
    put(tmp_path / "p" / "ant", 1, (0, 0, 7))
    put(tmp_path / "p" / "ant", 1, (0, 0, 9), first=1)
    ds = load(tmp_path / "p", tmp_path)
    assert ds.classes == ("ant", "zebra") and ds.labels.tolist() == [0, 1, 0]
    assert blues(ds) == [7, 3, 9]


def test_a_flat_folder_is_one_class_whatever_it_is_called(tmp_path):
    """So an album that was renamed keeps its row of the label embedding in fine-tuning."""
    put(tmp_path / "old")
    assert load(tmp_path / "old", tmp_path).classes == ("images",)
    (tmp_path / "old").rename(tmp_path / "new")
    ds = load(tmp_path / "new", tmp_path)
    assert ds.classes == ("images",) and ds.labels.tolist() == [0] * 4
    assert ds.name == "new" and len(caches(tmp_path)) == 1


def test_labels_mean_the_same_class_in_both_splits(tmp_path):
    put(tmp_path / "p" / "train" / "cat")
    put(tmp_path / "p" / "train" / "dog")
    put(tmp_path / "p" / "Val" / "dog", 2)
    train, test = (load(tmp_path / "p", tmp_path, split=split) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert test.labels.tolist() == [1, 1]


def test_without_a_split_a_tenth_is_held_out(tmp_path, capsys):
    for k in range(40):
        put(tmp_path / "album", 1, (0, 0, k), first=k)
    train, test = (load(tmp_path / "album", tmp_path, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (36, 4)
    assert sorted(blues(train) + blues(test)) == list(range(40))
    said = capsys.readouterr().out
    assert said.count("album: no test split: held out 4 of 40 images") == 1


def test_accents_are_one_class_however_a_drive_stores_them(tmp_path):
    """The same folder on a Mac and in an archive: one letter, or a letter and its accent."""
    for form, split in (("NFC", "train"), ("NFD", "test")):
        put(tmp_path / "p" / split / unicodedata.normalize(form, "caf\u00e9"), 2)
    for split in ("train", "test"):
        ds = load(tmp_path / "p", tmp_path, split=split)
        assert ds.classes == ("caf\u00e9",) and ds.labels.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["Ferien am Meer ☀", "假期", "صور", "отпуск", "कैमरा"])
def test_names_in_any_script(name, tmp_path):
    put(tmp_path / "p" / name, 1)
    assert load(tmp_path / "p", tmp_path).classes == (name,)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_not_text(tmp_path, capsys):
    odd = os.fsdecode(b"\xe9t\xe9")
    put(tmp_path / odd / odd, 2)
    put(tmp_path / odd / "b", 1)
    (tmp_path / odd / "b" / os.fsdecode(b"\xff\n.png")).touch()
    ds = load(tmp_path / odd, tmp_path)
    assert ds.classes == ("\\udce9t\\udce9", "b") and len(ds) == 3
    f"{ds.name}{ds.classes}{ds.settings}".encode()  # text for weights, model cards, config.toml
    assert "skipped b/\\udcff\\n.png: empty file" in capsys.readouterr().out


def test_broken_files_are_named_skipped_and_counted(tmp_path, capsys):
    put(tmp_path / "p" / "a", 1, first=1)
    whole = (tmp_path / "p" / "a" / "1.png").read_bytes()
    for k, content in enumerate((b"no image at all", b"", whole[:40])):
        (tmp_path / "p" / "a" / f"bad{k}.png").write_bytes(content)
    put(tmp_path / "p" / "b", 1)
    (tmp_path / "p" / "b" / "0.png").write_bytes(b"")
    (tmp_path / "p" / "notes.txt").write_text("ignored")
    ds = load(tmp_path / "p", tmp_path)
    text = capsys.readouterr().out
    assert len(ds) == 1 and ds.classes == ("a", "b")
    for words in ("skipped a/bad0.png: cannot identify", "a/bad1.png: empty file",
                  "a/bad2.png: ", "p: 4 of 5 files are not images and were skipped",
                  "other files were ignored: 1 .txt",
                  "the class b has no image that can be read"):  # fmt: skip
        assert words in text


def test_thousands_of_broken_files_do_not_flood_the_screen(tmp_path, capsys):
    for k in range(100):
        (put(tmp_path / "p" / "train", 1) / f"x{k}.png").touch()
    put(tmp_path / "p" / "test", 1)
    load(tmp_path / "p", tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("empty file") == folder.LISTED and "100 of 101 files" in printed


def test_a_folder_that_changes_keeps_one_cache_for_each_setting(tmp_path):
    for split in ("train", "test"):
        put(tmp_path / "p" / split / "a", 2)
    old = load(tmp_path / "p", tmp_path)
    for options in ({"fit": "pad"}, {"split": "test"}, {"size": 4}, {"channels": 1}):
        load(tmp_path / "p", tmp_path, **options)
    load(put(tmp_path / "other"), tmp_path)
    assert len(caches(tmp_path)) == 6
    for k in range(2, 5):
        put(tmp_path / "p" / "train" / "a", 1, first=k)
        assert len(load(tmp_path / "p", tmp_path)) == k + 1
        assert len(caches(tmp_path)) == 6
    if os.name != "nt":
        assert blues(old) == [30, 30]  # still open, still there


def test_a_moved_folder_opens_the_same_cache(tmp_path, capsys):
    put(tmp_path / "one" / "p" / "a")
    put(tmp_path / "one" / "p" / "b")
    before = load(tmp_path / "one" / "p", tmp_path)
    capsys.readouterr()
    (tmp_path / "one").rename(tmp_path / "two")
    after = load(tmp_path / "two" / "p", tmp_path)
    assert after.images.filename == before.images.filename
    assert "reading" not in capsys.readouterr().err


def test_a_folder_is_found_by_every_way_to_write_its_path(tmp_path, monkeypatch):
    place = put(tmp_path / "home" / "album")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    ways = ("~/album", None), ("home/album", None), ("album", "home"), ("album", "~"), (place, None)
    for source, root in ways:
        ds = load(source, tmp_path, root=root)
        assert (ds.source, ds.name) == (str(place), "album")
        assert ds.settings == {"source": str(place)}  # opens it again from any folder
    monkeypatch.chdir(place)
    assert load(".", tmp_path).name == "album"
    assert str(tmp_path) not in next((tmp_path / "cache").glob("folder-*.json")).read_text()


def test_a_line_says_that_a_folder_named_like_a_source_is_not_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "cartoons")
    assert load("cartoons", tmp_path, limit=5).source == "cartoons"
    assert "cartoons: the built-in one; ./cartoons is your folder" in capsys.readouterr().out
    assert load("./cartoons", tmp_path).source == str(tmp_path / "cartoons")


def a_run(folder):
    put(folder, 1, first=99)
    (folder / "99.png").rename(folder / "samples_epoch_0001.png")
    for name in ("config.toml", "history.jsonl"):
        (folder / name).touch()


def test_a_training_run_inside_a_folder_is_no_data(tmp_path, capsys):
    place = put(tmp_path / "album", 5)
    a_run(place / "runs" / "a")
    put(place / "runs" / "a" / "more")
    assert len(load(place, tmp_path)) == 5
    assert "album/runs/a: skipped, because it holds a training run" in capsys.readouterr().out
    a_run(place)  # ddpm train --data . --out .
    assert len(load(place, tmp_path)) == 5


def test_files_of_systems_are_ignored(tmp_path, capsys):
    put(tmp_path / "p" / "PetImages" / "Cat")
    put(tmp_path / "p" / "PetImages" / "Dog")
    put(tmp_path / "p" / "__MACOSX" / "PetImages")
    put(tmp_path / "p" / ".trash")
    (tmp_path / "p" / "PetImages" / "Thumbs.db").touch()
    assert load(tmp_path / "p", tmp_path).classes == ("Cat", "Dog")
    assert "ignored" not in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows, pipes are POSIX")
def test_cyclic_links_end_and_linked_albums_count(tmp_path, capsys):
    place = tmp_path / "p"
    put(place / "a", 1), put(place / "b", 1), put(tmp_path / "album", 1)
    links = {"a/up": place, "a/self": place / "a", "b/album": tmp_path / "album",
             "b/gone.png": tmp_path / "nowhere", "b/c.png": place / "b/c.png"}  # fmt: skip
    for link, target in links.items():
        (place / link).symlink_to(target)
    os.mkfifo(place / "b" / "pipe.png")
    assert sorted(load(place, tmp_path).labels) == [0, 1, 1]
    assert "other files were ignored: 2 broken link, 1 special file" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM])
def test_a_temporary_failure_is_not_cached_as_a_missing_image(number, tmp_path, monkeypatch):
    place, failing, read = put(tmp_path / "p", 2), ["1.png"], Image.open

    def flaky(path, **options):
        if path.name in failing:
            raise OSError(number, os.strerror(number), str(path))
        return read(path, **options)

    monkeypatch.setattr(Image, "open", flaky)
    with pytest.raises(OSError, match=r"cannot read .*1\.png: .*" + os.strerror(number)):
        load(place, tmp_path)
    failing.clear()
    assert len(load(place, tmp_path)) == 2


@pytest.mark.parametrize("gone", ["2.png", None])
def test_what_vanishes_while_it_is_read(gone, tmp_path, monkeypatch, capsys):
    """One file is skipped; if the whole folder is gone, nothing is cached."""
    place, decode = put(tmp_path / "p", 3), folder.decode

    def then_it_is_gone(path, size, fit):
        if gone and path.name == gone:
            path.unlink()
        elif not gone:
            with suppress(FileNotFoundError):  # another thread was faster
                place.rename(tmp_path / "unplugged")
        return decode(path, size, fit)

    monkeypatch.setattr(folder, "decode", then_it_is_gone)
    if gone:
        assert len(load(place, tmp_path)) == 2
        assert "2.png: " in capsys.readouterr().out
    else:
        with pytest.raises(OSError, match="is gone: is its drive still connected"):
            load(place, tmp_path)
        assert not caches(tmp_path)


@pytest.mark.slow
def test_a_folder_of_large_images_is_read_in_bounded_memory(tmp_path):
    """40 images of 9 megapixels are 1 GB decoded; a few at a time are a fraction of that."""
    pytest.importorskip("resource")
    (tmp_path / "large").mkdir()
    Image.fromarray(noise(size=30)).resize((3000, 3000)).save(tmp_path / "large" / "0.jpg")
    for k in range(1, 40):
        shutil.copy(tmp_path / "large" / "0.jpg", tmp_path / "large" / f"{k}.jpg")
    code = """
import resource, sys
from ddpm_helpers.data import ImageDataset
import PIL.Image, torch, tqdm.auto
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ds = ImageDataset(sys.argv[1], 16, cache_dir=sys.argv[2])
print(len(ds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    words = [sys.executable, "-c", code, tmp_path / "large", tmp_path / "cache"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    *_, count, megabytes = done.stdout.split()
    assert count == "36" and float(megabytes) < 500


# ---- the first n images hold every class ------------------------------------------------------


def test_a_limit_keeps_each_share_and_broken_files_leave_no_hole(tmp_path):
    for k, (name, n) in enumerate({"a": 30, "b": 10, "c": 20}.items()):
        put(tmp_path / "p" / "train" / name, n, (0, 0, k))
    put(tmp_path / "p" / "test" / "a", 1)
    few = load(tmp_path / "p", tmp_path, limit=12)
    assert np.bincount(few.labels).tolist() == [6, 2, 4]
    assert isinstance(few.images, np.memmap) and blues(few) == few.labels.tolist()
    for k in range(20):
        (tmp_path / "p" / "train" / "a" / f"{k}.png").write_bytes(b"")
    ds = load(tmp_path / "p", tmp_path)
    assert np.bincount(ds.labels[:12]).tolist() == [3, 3, 6]
    assert blues(ds) == ds.labels.tolist()


# ---- refusals, and what `ddpm data` prints ----------------------------------------------------


def test_refusals_name_the_folder_and_the_reason(tmp_path):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic" / "a.HEIC").touch()
    (tmp_path / "a.zip").touch()
    (put(tmp_path / "broken", 1) / "0.png").write_bytes(b"")
    put(tmp_path / "few", 4)
    refused = {
        "empty": ({}, r"empty \(looked for .*\.jpg"),
        "heic": ({}, r"1 \.heic\); convert HEIC first"),
        "a.zip": ({}, "a.zip' is a file: give its folder"),
        "broken": ({}, "none of the 1 file in .*broken"),
        "few": ({"split": "test"}, "few has no test split, and 4 images"),
        "nowhere": ({}, "nowhere'; choose cartoons, cifar10, mnist, fashion_mnist, auto or"),
    }
    for name, (options, words) in refused.items():
        with pytest.raises(ValueError, match=words) as caught:
            load(tmp_path / name, tmp_path, **options)
        assert "\n" not in str(caught.value)
    assert not caches(tmp_path)


def test_ddpm_data_prints_the_layout_and_the_counts_of_both_splits(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    put(tmp_path / "archive" / "train" / "cat", 4)
    put(tmp_path / "archive" / "train" / "dog", 3)
    put(tmp_path / "archive" / "val" / "dog", 2)
    put(tmp_path / "archive" / "val" / "fox", 2)
    (tmp_path / "archive" / "train" / "cat" / "0.png").write_bytes(b"")
    (tmp_path / "download").mkdir()
    shutil.move(tmp_path / "archive", tmp_path / "download")
    assert cli.main(["data", str(tmp_path / "download"), "--image-size", "8"]) == 0
    said = capsys.readouterr().out
    for line in ("download: descended into archive/", "download: val/ is the test split",
                 "left out 2 images of classes that train lacks: fox",
                 "6 images of 8×8, split train"):  # fmt: skip
        assert said.count(line) == 1
    rows = [line.split() for line in said.splitlines() if line.startswith("  ")]
    assert rows == [["class", "train", "test"], ["cat", "3", "0"], ["dog", "3", "2"]]


def test_pad_keeps_the_whole_image_and_crop_its_centre(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :4], wide[:, 12:] = 90, 90
    (tmp_path / "p").mkdir()
    Image.fromarray(wide).save(tmp_path / "p" / "wide.png")
    padded, cropped = load(tmp_path / "p", tmp_path, fit="pad"), load(tmp_path / "p", tmp_path)
    assert padded.images[0, 0, :, 3].tolist() == [255, 255, 0, 0, 0, 0, 255, 255]
    assert (cropped.images == 0).all()
