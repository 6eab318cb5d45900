"""Layouts of folders, from the names of their images alone."""

import hashlib
from collections import Counter

import pytest

from ddpm_helpers.data.layout import ONE_CLASS, find_layout


def names(*patterns):
    """ "cat/3" is cat/0.png, cat/1.png and cat/2.png."""
    found = []
    for pattern in patterns:
        folder, _, count = pattern.rpartition("/")
        parts = tuple(folder.split("/")) if folder else ()
        found += [(*parts, f"{k}.png") for k in range(int(count))]
    return found


def layout_of(*patterns):
    return find_layout(names(*patterns))


def counts(layout, split):
    """Images of each class by the name of their class folder: label and folder must agree."""
    files = getattr(layout, split)
    if layout.classes == ONE_CLASS:
        assert {label for _, label in files} <= {0}
        return len(files)
    assert all(layout.classes[label] in name for name, label in files)
    return dict(Counter(layout.classes[label] for _, label in files))


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "val"), ("TRAINING", "Valid"), ("train", "VALIDATION"),
     ("train", "testing"), ("train", "test1"), ("training_set", "test_set"),
     ("train_images", "test_images"), ("seg_train/seg_train", "seg_test/seg_test"),
     ("Train Data", "Validation Data")],
)  # fmt: skip
def test_splits_in_any_case_whose_names_differ_in_one_word(train, test):
    layout = layout_of(f"{train}/cat/3", f"{train}/dog/2", f"{test}/cat/1", "train_masks/9")
    assert layout.classes == ("cat", "dog")
    assert counts(layout, "train") == {"cat": 3, "dog": 2}
    assert counts(layout, "test") == {"cat": 1}
    assert f"{test.split('/')[0]}/ is the test split" in layout.notes


def test_classes_whose_names_contain_the_word_test_are_classes():
    assert layout_of("train station/3", "test tube/3").classes == (
        "test tube", "train station",
    )  # fmt: skip
    assert layout_of("bus/3", "train/3").classes == ("bus", "train")
    assert layout_of("pen/3", "test/3").classes == ("pen", "test")


def test_a_label_means_the_same_class_where_the_splits_have_different_classes():
    layout = layout_of("train/cat/3", "train/dog/2", "test/bird/4", "test/dog/1")
    assert layout.classes == ("cat", "dog") and counts(layout, "test") == {"dog": 1}
    assert "left out 4 images of classes that train lacks: bird" in layout.notes


def test_test_is_preferred_to_val_and_unused_splits_are_reported():
    layout = layout_of("train/cat/9", "val/cat/3", "test/cat/2")
    assert counts(layout, "test") == {"cat": 2}
    assert "val/ (3 images) is not used" in layout.notes
    layout = layout_of("train/cat/9", "train/dog/9", "test/50", "val/cat/2", "val/dog/2")
    assert counts(layout, "test") == {"cat": 2, "dog": 2}  # test has no labels
    assert (
        "test/ (50 images) is not used, because it has no class of the train split" in layout.notes
    )


@pytest.mark.parametrize("inside", ["test", "test/test", "test/unlabelled"])
def test_without_labels_in_test_a_tenth_of_train_is_held_out(inside):
    layout = layout_of("train/cat/40", "train/dog/60", f"{inside}/50")
    assert counts(layout, "train") == {"cat": 36, "dog": 54}
    assert counts(layout, "test") == {"cat": 4, "dog": 6}
    assert "held out 10 of 100 images" in " ".join(layout.notes)


@pytest.mark.parametrize("wrapper", ["PetImages", "archive/data", "train", "dataset/images"])
def test_enclosing_folders_are_looked_through(wrapper):
    layout = layout_of(f"{wrapper}/cat/3", f"{wrapper}/dog/2")
    assert layout.classes == ("cat", "dog") and counts(layout, "train") == {"cat": 3, "dog": 2}
    assert f"descended into {wrapper}/" in layout.notes


def test_a_folder_of_images_alone_is_one_class_at_any_depth():
    layout = layout_of("holidays/3", "holidays/beach/2", "holidays/hills/2")
    assert layout.classes == ("holidays",) and counts(layout, "train") == {"holidays": 7}


def test_folders_in_a_split_that_hold_no_classes_are_looked_through():
    layout = layout_of("a/train/train/cat/3", "a/train/train/dog/2", "a/val/cat/2")
    assert layout.classes == ("cat", "dog") and counts(layout, "test") == {"cat": 2}
    layout = layout_of("train/images/9", "valid/images/4")
    assert layout.classes == ONE_CLASS
    assert (counts(layout, "train"), counts(layout, "test")) == (9, 4)


def test_loose_images_beside_classes_and_folders_beside_splits_are_reported():
    layout = layout_of("cat/3", "dog/3", "2")
    assert "left out 2 images beside the class folders" in " ".join(layout.notes)
    layout = layout_of("train/cat/3", "test/cat/3", "extra/4")
    assert "left out 4 images beside train/" in layout.notes


def test_an_album_with_a_small_subfolder_and_flat_splits_are_one_class():
    layout = layout_of("train/20", "test/5")
    assert layout.classes == ONE_CLASS
    assert (counts(layout, "train"), counts(layout, "test")) == (20, 5)
    layout = layout_of("40", "edited/3")
    assert layout.classes == ("images",) and len(layout.train) + len(layout.test) == 43
    assert "40 of 43 images lie beside the folders (edited)" in " ".join(layout.notes)
    layout = layout_of("train/30", "test/cat/3", "test/dog/2")
    assert (counts(layout, "train"), counts(layout, "test")) == (30, 5)


def test_a_tenth_is_held_out_of_each_class_and_none_is_in_both():
    layout = layout_of("a/10", "b/25", "c/200", "d/65")
    assert counts(layout, "test") == {"a": 1, "b": 2, "c": 20, "d": 7}
    train, test = ({name for name, _ in files} for files in (layout.train, layout.test))
    assert not train & test and len(train | test) == 300


def test_files_with_the_smallest_hashes_are_held_out():
    found = sorted(names("100"), key=lambda name: hashlib.sha256(name[0].encode()).digest())[:10]
    assert [name for name, _ in layout_of("100").test] == sorted(found)


def test_what_is_held_out_depends_on_names_below_the_folder_alone():
    def held_out(layout):
        return {name[-2:] for name, _ in layout.test}

    plain = held_out(layout_of("a/100", "b/100"))
    assert plain == held_out(find_layout(names("x/y/b/100", "x/y/a/100")[::-1]))
    assert plain == held_out(layout_of("train/a/100", "train/b/100", "test/7"))
    assert plain == held_out(layout_of("train/train/a/100", "train/train/b/100", "test/7"))


def test_accents_are_the_same_however_a_disk_stores_them():
    one, two = "\u00e9", "e\u0301"  # one letter, or a letter and its accent
    whole, apart = (find_layout([(f"{e}{k}.png",) for k in range(40)]) for e in (one, two))
    assert len(whole.test) == 4
    assert [n.replace(one, two) for (n,), _ in whole.test] == [n for (n,), _ in apart.test]
    layout = find_layout([("train", f"caf{one}", "0.png"), ("test", f"caf{two}", "1.png")])
    assert layout.classes == (f"caf{one}",) and len(layout.test) == 1


def test_a_class_is_never_held_out_as_a_whole_and_tiny_folders_keep_all():
    layout = find_layout([(f"class {k}", "1.png") for k in range(30)])
    assert len(layout.train) == 30 and layout.test == []
    assert layout_of("9").test == []
    assert len(layout_of("10").test) == 1
