"""The sheet that a person names, and the count of right answers."""

import json

import pytest
from PIL import Image

from tools import blind_naming


def test_a_sheet_of_samples_and_one_of_real_pictures(tmp_path, capsys):
    few = ["--n", "10", "--out", str(tmp_path / "sheet")]
    for words in (["--weights", "cartoons", "--steps", "2"], ["--real", "cartoons"]):
        blind_naming.main(["draw", *words, "--image-size", "32", *few])
        key = json.loads((tmp_path / "sheet.json").read_text())
        assert sorted(key["key"]) == sorted(key["classes"]) and len(key["key"]) == 10
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.width > 8 * 32 * 2
    answers = tmp_path / "answers.txt"
    answers.write_text("\n".join(key["key"][:-1] + ["frog"]))
    blind_naming.main(["score", str(tmp_path / "sheet.json"), str(answers)])
    right = 9 + (key["key"][-1] == "frog")
    assert f"all          {right} of 10" in capsys.readouterr().out


def test_answers_of_the_wrong_number_or_class_are_refused(tmp_path):
    key, answers = tmp_path / "key.json", tmp_path / "answers.txt"
    key.write_text(json.dumps({"classes": ["cat", "dog"], "key": ["cat", "dog"]}))
    for given, words in (("cat", "1 answers"), ("cat cow", "'cow'")):
        answers.write_text(given)
        with pytest.raises(ValueError, match=words):
            blind_naming.score(key, answers)
