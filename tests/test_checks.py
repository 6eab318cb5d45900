"""Checks of arguments: what passes unchanged, and the one line that refuses the rest."""

import math

import numpy as np
import pytest
import torch

from ddpm_helpers import checks

CPU = torch.device("cpu")


class Net:
    """What `labels` asks of a network."""

    def __init__(self, num_classes=3, classes=("cat", "dog", "ship")):
        self.num_classes, self.classes = num_classes, classes


def test_counts_and_numbers_may_come_from_any_type():
    for value in (3, np.int64(3), torch.tensor(3)):
        assert checks.count("n", value, most=3) == 3 and type(checks.count("n", value)) is int
    for value in (0.5, np.float32(0.5), torch.tensor(0.5), True):
        assert checks.number("eta", value, 0, 1) == float(value)


def test_a_refusal_is_one_line_with_the_name_the_value_and_the_choices():
    refused = {
        "n .*1, got 0": lambda: checks.count("n", 0),
        "n .*2..8, got 9": lambda: checks.count("n", 9, 2, 8),
        "n .*got True": lambda: checks.count("n", True),
        "n .*got '3'": lambda: checks.count("n", "3"),
        "a .*got inf": lambda: checks.number("a", math.inf),
        "a .*got 'list'": lambda: checks.number("a", [1]),
        "a .*0..1, got 2": lambda: checks.number("a", 2, 0, 1),
        "fit 'cut'.*crop, pad": lambda: checks.one_of("fit", "cut", ("crop", "pad")),
        "fit .'crop'.*crop, pad": lambda: checks.one_of("fit", ["crop"], ("crop", "pad")),
        "a .*b, .3,.*2,": lambda: checks.same_shape("a", torch.ones(2), "b", torch.ones(3)),
        "x .*float32 .2, 3": lambda: checks.images("x", torch.ones(2, 3)),
        "x .*uint8": lambda: checks.images("x", torch.ones(1, 1, 2, 2).byte()),
    }
    for words, call in refused.items():
        with pytest.raises(ValueError, match=f"^.*{words}.*$"):
            call()


def test_classes_are_given_by_name_or_number():
    for y, numbers in [
        (["cat", "ship"], [0, 2]),
        ("dog", [1, 1]),
        (["dog", 2], [1, 2]),
        (["1", "0"], [1, 0]),
        (np.array(["ship", "cat"]), [2, 0]),
        (np.array([2, 0], dtype=np.uint8), [2, 0]),
        (np.array(1), [1, 1]),
        ((2, -1), [2, -1]),
        (torch.tensor([1, 0], dtype=torch.int32), [1, 0]),
    ]:
        labels = checks.labels(y, 2, Net(), CPU)
        assert labels.dtype == torch.int64 and labels.tolist() == numbers


def test_a_folder_called_1_is_the_class_named_1():
    digits = Net(3, ("2", "1", "11"))
    assert checks.labels(["1", "2", "11"], 3, digits, CPU).tolist() == [1, 0, 2]
    assert checks.labels([1, 2, "0"], 3, digits, CPU).tolist() == [1, 2, 0]  # no class named 0
    with pytest.raises(ValueError, match="'3'.*2, 1, 11"):
        checks.labels("3", 1, digits, CPU)


def test_a_model_without_classes_accepts_every_number_but_no_name():
    def model(x_t, t, y):
        return x_t

    assert checks.labels([12, "7"], 2, model, CPU).tolist() == [12, 7]
    with pytest.raises(ValueError, match="y .*'cat'"):
        checks.labels("cat", 2, model, CPU)


def test_a_class_that_does_not_exist_is_refused_with_the_choices():
    for y, net, words in [
        (["cat", "horse"], Net(), "'horse'.*cat, dog, ship"),
        ("3", Net(), "'3'.*cat, dog, ship"),
        ("3", Net(classes=()), "'3'.*0..2"),
        (["cat"], Net(classes=()), "y .*'cat'"),
        ([0, 3], Net(), "y .*0..2 .*0..3"),
        (["cat"] * 3, Net(), "y .*2,.*3,"),
        (0.5, Net(), "y .*float32"),
        ("cat", Net(None), "num_classes=None"),
    ]:
        with pytest.raises(ValueError, match=words):
            checks.labels(y, 2, net, CPU)


def test_class_names_are_one_text_however_they_are_written():
    assert checks.class_name("cafe\u0301") == checks.class_name("caf\u00e9") == "caf\u00e9"
    assert checks.class_name(1990) == "1990"
    assert checks.class_name("\udce9t") == "\\udce9t"  # a file name that is not UTF-8
    assert checks.class_number("cafe\u0301", 2, ("dog", "caf\u00e9")) == 1
