"""With the oldest versions that pyproject.toml allows: train, sample, evaluate, and notebook 00.

OLD_PYTHON names the Python of such an environment; CONTRIBUTING.md says how to make one.
"""

import json
import os
import shutil
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement

OLD_PYTHON = os.environ.get("OLD_PYTHON", "")
if found := shutil.which(OLD_PYTHON):
    OLD_PYTHON = os.path.abspath(found)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OLD_PYTHON, reason="OLD_PYTHON names no environment (CONTRIBUTING.md)"),
]


@pytest.fixture
def old(root, tmp_path):
    """Run the old Python in an empty folder, on the ci preset; return what it printed."""

    def run(*words):
        env = os.environ | {
            "PYTHONPATH": str(root), "DDPM_CACHE": str(tmp_path / "cache"), "DDPM_PRESET": "ci",
            "DDPM_DATA": "cartoons",
        }  # fmt: skip
        words = (OLD_PYTHON, *map(str, words))
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_these_are_the_oldest_versions(old, root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = map(Requirement, project["dependencies"])
    core = {r.name: next(iter(r.specifier)).version for r in wanted}
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    for (name, bound), found in zip(core.items(), old("-c", code, *core).split(), strict=True):
        assert (found + ".0").startswith(bound + "."), f"{name} {found} is not {bound}"


def test_train_resume_sample_and_evaluate(old):
    code = """
from ddpm_helpers.cli import main
train = "train --data cartoons --limit 64 --sample-every 0 --out run".split()
assert main(train) == 0
assert main([*train, "--epochs", "2", "--resume"]) == 0
assert main("sample --weights run --n 4 --steps 3 --out a.png".split()) == 0
assert main("evaluate --weights run --n 20 --steps 2".split()) == 0
"""
    old("-c", code)


def test_notebook_00(old, root):
    notebook = root / "notebooks" / "00_a_picture_from_noise.ipynb"
    cells = len(json.loads(notebook.read_text(encoding="utf-8"))["cells"])
    said = old(root / "tests" / "notebooks" / "run_in_process.py", notebook, cells)
    assert json.loads(said.splitlines()[-1])["error"] is None
