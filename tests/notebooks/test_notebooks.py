"""The rules for every committed notebook; test_running.py runs them."""

import getpass
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(FOLDER.rglob("[0-9]*.ipynb"))
MAX_LINES, MAX_BYTES = 15, 2_000_000
pytestmark = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def cells(path: Path, kind: str) -> list[str]:
    return ["".join(c["source"]) for c in load(path)["cells"] if c["cell_type"] == kind]


def outputs(path: Path) -> list[dict]:
    code = (c for c in load(path)["cells"] if c["cell_type"] == "code")
    return [output for cell in code for output in cell["outputs"]]


def printed(output: dict) -> str:
    """The readable part of an output: what was printed, or the text forms of what was shown."""
    data = {k: v for k, v in output.get("data", {}).items() if k.startswith("text/")}
    return "".join("".join(text) for text in (output.get("text", ""), *data.values()))


def test_metadata_is_what_every_reader_understands(path):
    metadata = load(path)["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert "widgets" not in metadata, "GitHub answers 'Invalid Notebook' to widget metadata"


def test_outputs_come_from_one_run_in_order(path):
    code = [c for c in load(path)["cells"] if c["cell_type"] == "code" and "".join(c["source"])]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))


def test_no_output_is_an_error_or_a_warning(path):
    for output in outputs(path):
        assert output["output_type"] != "error"
        assert not re.search(r"\w+Warning\b", printed(output)), printed(output)


def test_nothing_names_the_machine_it_ran_on(path):
    readable = cells(path, "code") + cells(path, "markdown") + [printed(o) for o in outputs(path)]
    text = "\n".join(readable)
    own = {str(Path.home()), str(FOLDER.parent)} - {"/"}
    assert not [name for name in own if name in text]
    assert not re.search(r"(?<![\w/.:])/(home|Users|root|tmp|work|usr|opt|mnt|var)/", text)
    assert not re.search(r"\b[A-Z]:\\\\?\w", text)
    if len(user := getpass.getuser()) > 4:
        assert user not in text


def test_small_enough_to_open_in_a_browser(path):
    assert path.stat().st_size < MAX_BYTES


def test_no_code_cell_is_longer_than_a_screen(path):
    for source in cells(path, "code"):
        lines = [line for line in source.splitlines() if line.strip()]
        assert len(lines) <= MAX_LINES, f"{len(lines)} lines:\n{source}"


def test_settings_is_the_only_switch(path):
    code = "\n".join(cells(path, "code"))
    assert "settings()" in cells(path, "code")[0]
    assert "environ" not in code and "getenv" not in code and "%env" not in code


def test_opens_with_a_title_and_ends_with_exercises_and_references(path):
    text = cells(path, "markdown")
    assert re.match(r"# \S", text[0])
    if path.parent == FOLDER:
        titles = re.findall(r"^##+ +(.*)$", "\n\n".join(text), re.M)
        ending = " ".join(titles[-8:]).lower()
        assert all(word in ending for word in ("recap", "exercises", "references")), titles
    else:  # solutions lead back to the notebook that asks
        back = re.search(r"\]\(\.\./(\d\d)_\w+\.ipynb\)", "\n".join(text))
        assert back and path.stem == f"{back[1]}_solutions"
        assert (path.parent / back[0][2:-1]).is_file()


def test_equation_numbers_are_unique(path):
    tags = re.findall(r"\\tag\{([^}]*)\}", "\n".join(cells(path, "markdown")))
    assert len(tags) == len(set(tags)), tags
