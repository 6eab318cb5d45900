"""The sheet that a person names, and the count of right answers."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

TOOL = Path(__file__).resolve().parents[1] / "tools" / "blind_naming.py"
spec = importlib.util.spec_from_file_location("blind_naming", TOOL)
blind_naming = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blind_naming)


def test_pictures_and_labels_are_shuffled_together():
    x = torch.arange(12.0).view(12, 1, 1, 1)
    a, b = blind_naming.shuffled(x, torch.arange(12), seed=1)
    assert torch.equal(a.flatten().long(), b) and not torch.equal(b, torch.arange(12))
    assert torch.equal(b, blind_naming.shuffled(x, torch.arange(12), seed=1)[1])


def test_a_sheet_of_samples_and_one_of_real_pictures(tmp_path, capsys):
    few = ["--n", "10", "--out", str(tmp_path / "sheet")]
    for words in (["--weights", "cartoons", "--steps", "2"], ["--real", "cartoons"]):
        assert blind_naming.main(["draw", *words, "--image-size", "32", *few]) == 0
        key = json.loads((tmp_path / "sheet.json").read_text())
        assert sorted(key["key"]) == sorted(key["classes"]) and len(key["key"]) == 10
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.width > 8 * 32 * 2
    answers = tmp_path / "answers.txt"
    answers.write_text("\n".join(key["key"][:-1] + ["frog"]))
    assert blind_naming.main(["score", str(tmp_path / "sheet.json"), str(answers)]) == 0
    right = 9 + (key["key"][-1] == "frog")
    assert f"all          {right} of 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [("cat", "1 answers for 2 images"), ("cat cow", "'cow' is not a class; choose from cat")],
)
def test_answers_of_the_wrong_number_or_class_are_one_line(tmp_path, capsys, given, message):
    key, answers = tmp_path / "key.json", tmp_path / "answers.txt"
    key.write_text(json.dumps({"classes": ["cat", "dog"], "key": ["cat", "dog"]}))
    answers.write_text(given)
    assert blind_naming.main(["score", str(key), str(answers)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
