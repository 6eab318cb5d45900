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


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)])
def test_a_count_may_come_from_any_whole_type(value):
    assert checks.count("n", value, most=3) == 3 and type(checks.count("n", value)) is int


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), True])
def test_a_number_may_come_from_any_real_type(value):
    assert checks.number("eta", value, 0, 1) == float(value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.count("n", 0), "n must be a whole number at least 1, got 0"),
        (lambda: checks.count("n", 9, 2, 8), "n must be a whole number in 2..8, got 9"),
        (lambda: checks.count("n", True), "n must be a whole number at least 1, got True"),
        (lambda: checks.count("n", "3"), "n must be a whole number at least 1, got '3'"),
        (lambda: checks.number("a", math.inf), "a must be a finite number, got inf"),
        (lambda: checks.number("a", [1]), "a must be a finite number, got 'list'"),
        (lambda: checks.number("a", 2, 0, 1), "a must lie in 0..1, got 2"),
        (lambda: checks.one_of("fit", "cut", ("crop", "pad")),
         "unknown fit 'cut'; choose from crop, pad"),
        (lambda: checks.one_of("fit", ["crop"], ("crop", "pad")),
         "unknown fit ['crop']; choose from crop, pad"),
        (lambda: checks.same_shape("a", torch.ones(2), "b", torch.ones(3)),
         "a must have the shape of b, (3,); got (2,)"),
        (lambda: checks.images("x", torch.ones(2, 3)),
         "x must be float images (B, C, H, W), got torch.float32 (2, 3)"),
        (lambda: checks.images("x", torch.ones(1, 1, 2, 2).byte()),
         "x must be float images (B, C, H, W), got torch.uint8 (1, 1, 2, 2)"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_with_the_value_and_the_choices(call, message):
    with pytest.raises(ValueError) as refused:
        call()
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("y", "numbers"),
    [
        (["cat", "ship"], [0, 2]),
        ("dog", [1, 1]),
        (["dog", 2], [1, 2]),
        (["1", "0"], [1, 0]),
        (np.array(["ship", "cat"]), [2, 0]),
        (np.array([2, 0], dtype=np.uint8), [2, 0]),
        (np.array(1), [1, 1]),
        ((2, -1), [2, -1]),
        (torch.tensor([1, 0], dtype=torch.int32), [1, 0]),
    ],
)
def test_classes_are_given_by_name_or_number(y, numbers):
    labels = checks.labels(y, 2, Net(), CPU)
    assert labels.dtype == torch.int64 and labels.tolist() == numbers


def test_a_folder_called_1_is_the_class_named_1():
    digits = Net(3, ("2", "1", "11"))
    assert checks.labels(["1", "2", "11"], 3, digits, CPU).tolist() == [1, 0, 2]
    assert checks.labels([1, 2, "0"], 3, digits, CPU).tolist() == [1, 2, 0]  # no class named 0
    with pytest.raises(ValueError, match="unknown class '3'; choose from 2, 1, 11"):
        checks.labels("3", 1, digits, CPU)


def test_a_model_without_classes_accepts_every_number_but_no_name():
    def model(x_t, t, y):
        return x_t

    assert checks.labels([12, "7"], 2, model, CPU).tolist() == [12, 7]
    with pytest.raises(ValueError, match="y must be whole class numbers, got 'cat'"):
        checks.labels("cat", 2, model, CPU)


@pytest.mark.parametrize(
    ("y", "net", "message"),
    [
        (["cat", "horse"], Net(), "unknown class 'horse'; choose from cat, dog, ship"),
        ("3", Net(), "unknown class '3'; choose from cat, dog, ship"),
        ("3", Net(classes=()), "unknown class '3'; choose from 0..2"),
        (["cat"], Net(classes=()), "y must be whole class numbers, got ['cat']"),
        ([0, 3], Net(), "y must lie in 0..2 (or -1 for no label), got 0..3"),
        (["cat"] * 3, Net(), "y must be (2,), one label per image; got (3,)"),
        (0.5, Net(), "y must be whole class numbers, got torch.float32"),
        ("cat", Net(None), "this network takes no labels (num_classes=None), but y was given"),
    ],
)
def test_a_class_that_does_not_exist_is_refused_with_the_choices(y, net, message):
    with pytest.raises(ValueError) as refused:
        checks.labels(y, 2, net, CPU)
    assert str(refused.value) == message


def test_class_names_are_one_text_however_they_are_written():
    assert checks.class_name("cafe\u0301") == checks.class_name("caf\u00e9") == "caf\u00e9"
    assert checks.class_name(1990) == "1990"
    assert checks.class_name("\udce9t") == "\\udce9t"  # a file name that is not UTF-8
    assert checks.class_number("cafe\u0301", 2, ("dog", "caf\u00e9")) == 1
