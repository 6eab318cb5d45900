"""Folders that people have, on disk: splits, classes, notes, one cache for each folder."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from albums import SIZE, blues, caches, load, put
from PIL import Image

from ddpm_helpers import cli
from ddpm_helpers.data import image_folder


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
    assert ds.name == "new"


def test_without_a_split_a_tenth_is_held_out(tmp_path, capsys):
    for k in range(40):
        put(tmp_path / "album", 1, (0, 0, k), first=k)
    train, test = (load(tmp_path / "album", tmp_path, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (36, 4)
    assert sorted(blues(train) + blues(test)) == list(range(40))
    said = capsys.readouterr().out
    assert said.count("album: no test split: held out 4 of 40 images") == 1


def test_names_in_any_script_and_names_that_are_not_text(tmp_path, capsys):
    names = ("Ferien am Meer ☀", "отпуск", "कैमरा", "صور", "假期")
    for name in names:
        put(tmp_path / "p" / name, 1)
    assert load(tmp_path / "p", tmp_path).classes == tuple(sorted(names))
    if os.name == "nt":
        return  # names are text there
    odd = os.fsdecode(b"\xe9t\xe9")
    put(tmp_path / odd / odd, 2)
    put(tmp_path / odd / "b", 1)
    (tmp_path / odd / "b" / os.fsdecode(b"\xff.png")).touch()
    ds = load(tmp_path / odd, tmp_path)
    assert ds.classes == ("\\udce9t\\udce9", "b") and len(ds) == 3
    f"{ds.name}{ds.classes}{ds.settings}".encode()  # text for weights, model cards, config.toml
    assert "b/\\udcff.png: cannot identify" in capsys.readouterr().out


def test_broken_files_are_named_skipped_and_counted(tmp_path, capsys, monkeypatch):
    put(tmp_path / "p" / "a", 1, first=1)
    whole = (tmp_path / "p" / "a" / "1.png").read_bytes()
    for k, content in enumerate((b"not an image", b"", whole[:40])):
        (tmp_path / "p" / "a" / f"bad{k}.png").write_bytes(content)
    put(tmp_path / "p" / "b", 1)
    (tmp_path / "p" / "b" / "0.png").write_bytes(b"")
    (tmp_path / "p" / "notes.txt").write_text("ignored")
    ds = load(tmp_path / "p", tmp_path)
    text = capsys.readouterr().out
    assert len(ds) == 1 and ds.classes == ("a", "b")
    for words in ("p: skipped 4 of 5 files that cannot be decoded, ", "a/bad0.png: cannot identify",
                  "a/bad1.png: cannot identify", "a/bad2.png: ",
                  "other files were ignored: 1 .txt"):  # fmt: skip
        assert words in text
    monkeypatch.setattr(image_folder, "LISTED", 2)  # thousands do not flood the screen
    load(tmp_path / "p", tmp_path, 4)
    text = capsys.readouterr().out
    assert text.count(".png: ") == 2


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
    put(place / "cartoons")
    assert load("cartoons", tmp_path, limit=5).source == "cartoons"
    assert load("./cartoons", tmp_path).source == str(place / "cartoons")
    assert str(tmp_path) not in next((tmp_path / "cache").glob("folder-*.json")).read_text()


def test_files_of_systems_and_training_runs_are_not_data(tmp_path, capsys):
    put(tmp_path / "p" / "PetImages" / "Cat")
    put(tmp_path / "p" / "PetImages" / "Dog")
    put(tmp_path / "p" / "__MACOSX" / "PetImages")
    put(tmp_path / "p" / ".trash")
    (tmp_path / "p" / "PetImages" / "Thumbs.db").touch()
    (put(tmp_path / "p" / "runs" / "a" / "grids").parent / "history.jsonl").touch()
    assert load(tmp_path / "p", tmp_path).classes == ("Cat", "Dog")
    said = capsys.readouterr().out
    assert "runs/a: skipped, because it holds a training run" in said and "ignored" not in said


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows, pipes are POSIX")
def test_cyclic_links_end_and_linked_albums_count(tmp_path):
    place = tmp_path / "p"
    put(place / "a", 1), put(place / "b", 1), put(tmp_path / "album", 1)
    links = {"a/up": place, "a/self": place / "a", "b/album": tmp_path / "album",
             "b/gone.png": tmp_path / "nowhere", "b/c.png": place / "b/c.png"}  # fmt: skip
    for link, target in links.items():
        (place / link).symlink_to(target)
    os.mkfifo(place / "b" / "pipe.png")
    assert sorted(load(place, tmp_path).labels) == [0, 1, 1]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
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


@pytest.mark.parametrize("vanishing", ["p", "p/a", "p/a/1.png"])
def test_no_image_is_lost_where_files_vanish_and_come_back(vanishing, tmp_path, monkeypatch):
    put(tmp_path / "p" / "a", 2), put(tmp_path / "p" / "b", 2)
    decode, away = image_folder.decode, tmp_path / "away"

    def unplugged(path, size, fit):
        with suppress(FileNotFoundError):  # another thread was faster
            (tmp_path / vanishing).rename(away)
        return decode(path, size, fit)

    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "decode", unplugged)
        with pytest.raises(OSError, match="cannot read .*No such file"):
            load(tmp_path / "p", tmp_path)
    away.rename(tmp_path / vanishing)
    assert len(load(tmp_path / "p", tmp_path)) == 4


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


def memory(key):
    """A line of /proc/self/status in bytes: VmRSS is used now, VmHWM was used at most."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if key in x)
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures as Linux does")
def test_forty_images_of_9_megapixels_are_not_held_at_once(tmp_path):
    place = put(tmp_path / "p", 1)
    load(place, tmp_path)  # the decoders are loaded now
    Image.new("RGB", (3000, 3000)).save(place / "0.jpg")
    for k in range(1, 40):
        os.link(place / "0.jpg", place / f"{k}.jpg")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM is VmRSS again
    before = memory("VmRSS")
    assert len(load(place, tmp_path)) == 37
    assert memory("VmHWM") - before < 20 * 3 * 3000**2  # eight threads hold two copies each


def test_refusals_name_the_folder_and_the_reason(tmp_path):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic" / "a.HEIC").touch()
    (put(tmp_path / "broken", 1) / "0.png").write_bytes(b"")
    put(tmp_path / "few", 4)
    refused = {
        "empty": ({}, r"empty \(looked for .*\.jpg"),
        "heic": ({}, r"other files: 1 \.heic"),
        "broken": ({}, "no image that can be read"),
        "few": ({"split": "test"}, "few has no test split, and 4 images"),
        "nowhere": ({}, "nowhere'.*; choose cartoons, cifar10, mnist, fashion_mnist, auto or"),
    }
    for name, (options, words) in refused.items():
        with pytest.raises(ValueError, match=words) as caught:
            load(tmp_path / name, tmp_path, **options)
        assert "\n" not in str(caught.value)
    assert not caches(tmp_path)


def test_ddpm_data_prints_the_layout_and_the_counts_of_both_splits(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "download" / "archive"
    for folder, n in {"train/cat": 4, "train/dog": 3, "val/dog": 2, "val/fox": 2}.items():
        put(archive / folder, n)
    (archive / "train" / "cat" / "0.png").write_bytes(b"")
    assert cli.main(["data", str(tmp_path / "download"), "--image-size", "8"]) == 0
    said = capsys.readouterr().out
    for line in ("download: descended into archive/", "download: val/ is the test split",
                 "left out 2 images of classes that train lacks: fox",
                 "6 images of 8×8, split train"):  # fmt: skip
        assert said.count(line) == 1
    rows = [line.split() for line in said.splitlines() if line.startswith("  ")]
    assert rows[-3:] == [["class", "train", "test"], ["cat", "3", "0"], ["dog", "3", "2"]]


def test_pad_keeps_the_whole_image_and_crop_its_centre(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :4], wide[:, 12:] = 90, 90
    (tmp_path / "p").mkdir()
    Image.fromarray(wide).save(tmp_path / "p" / "wide.png")
    padded, cropped = load(tmp_path / "p", tmp_path, fit="pad"), load(tmp_path / "p", tmp_path)
    assert padded.images[0, 0, :, 3].tolist() == [255, 255, 0, 0, 0, 0, 255, 255]
    assert (cropped.images == 0).all()


@pytest.mark.parametrize("sides", [(300, 4), (4, 300)])
def test_pad_keeps_an_image_that_is_very_long(sides, tmp_path):
    (tmp_path / "p").mkdir()
    Image.new("RGB", sides).save(tmp_path / "p" / "long.png")
    assert (load(tmp_path / "p", tmp_path, fit="pad").images == 0).sum() == 3 * SIZE
