"""Folders of pictures, generated here."""

import numpy as np
import pytest
from PIL import Image

from ddpm_helpers.data import ImageDataset


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture, np.uint8)).save(path)


def plain(colour, height=8, width=8):
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


def load(folder, tmp_path, size=8, **options):
    return ImageDataset(folder, size, cache_dir=tmp_path / "cache", **options)


def test_subfolders_are_classes_in_order_of_name(tmp_path):
    save(tmp_path / "p" / "zebra" / "1.png", plain((1, 2, 3)))
    save(tmp_path / "p" / "ant" / "b.png", plain((4, 5, 6)))
    save(tmp_path / "p" / "ant" / "a.png", plain((7, 8, 9)))
    ds = load(tmp_path / "p", tmp_path)
    assert ds.classes == ("ant", "zebra") and ds.labels.tolist() == [0, 1, 0]
    assert ds.images[:, :, 0, 0].tolist() == [[7, 8, 9], [1, 2, 3], [4, 5, 6]]
    assert ds.source == str(tmp_path / "p")


def test_a_flat_folder_is_one_class(tmp_path):
    save(tmp_path / "cats" / "1.png", plain((1, 2, 3)))
    ds = load(tmp_path / "cats", tmp_path)
    assert ds.classes == ("cats",) and ds.labels.tolist() == [0]


def test_train_and_test_folders_are_splits(tmp_path):
    for k, split in enumerate(("train", "test")):
        save(tmp_path / "p" / split / "a" / "1.png", plain((k, k, k)))
    assert load(tmp_path / "p", tmp_path).images.max() == 0
    assert load(tmp_path / "p", tmp_path, split="test").images.max() == 1
    with pytest.raises(ValueError, match="has no test split"):
        load(tmp_path / "p" / "train", tmp_path, split="test")


def test_the_centre_square_is_kept(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    save(tmp_path / "p" / "wide.png", wide)
    assert (load(tmp_path / "p", tmp_path).images == 200).all()


def test_exif_turns_the_picture_upright(tmp_path):
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "p").mkdir()
    Image.fromarray(picture).save(tmp_path / "p" / "1.png", exif=exif)
    ds = load(tmp_path / "p", tmp_path)
    assert (ds.images[0, :, 4:] == 255).all() and (ds.images[0, :, :4] == 0).all()


def test_grey_palette_and_transparent_pictures_become_rgb(tmp_path):
    save(tmp_path / "p" / "1.png", np.full((8, 8), 90))
    Image.fromarray(np.full((8, 8), 90, np.uint8)).convert("P").save(tmp_path / "p" / "2.png")
    save(tmp_path / "p" / "3.png", np.full((8, 8, 4), (90, 90, 90, 255)))
    assert (load(tmp_path / "p", tmp_path).images == 90).all()


def test_broken_files_are_named_skipped_and_counted(tmp_path, capsys):
    save(tmp_path / "p" / "a" / "1.png", plain((1, 2, 3)))
    (tmp_path / "p" / "a" / "0.png").write_bytes(b"no picture at all")
    whole = (tmp_path / "p" / "a" / "1.png").read_bytes()
    (tmp_path / "p" / "a" / "2.png").write_bytes(whole[:40])
    (tmp_path / "p" / "a" / "notes.txt").write_text("not looked at")
    ds = load(tmp_path / "p", tmp_path)
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert len(ds) == 1 and "skipped a/0.png" in text.replace("\\", "/")
    assert "2 of 3 files" in text and "notes" not in text


def test_a_new_picture_is_noticed(tmp_path):
    save(tmp_path / "p" / "1.png", plain((1, 2, 3)))
    assert len(load(tmp_path / "p", tmp_path)) == 1
    save(tmp_path / "p" / "2.png", plain((4, 5, 6)))
    assert len(load(tmp_path / "p", tmp_path)) == 2


def test_an_empty_folder_is_one_clear_line(tmp_path):
    (tmp_path / "p" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no pictures in .*looked for .*\.jpg"):
        load(tmp_path / "p", tmp_path)


def test_only_broken_files_is_one_clear_line(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 files"):
        load(tmp_path / "p", tmp_path)
