"""ruff on code and notebooks, mypy on the package."""

import subprocess
import sys

import pytest


def run(root, module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing(root):
    run(root, "ruff", "check", "--no-cache", "--quiet", ".")


@pytest.mark.slow  # it reads torch's own types
@pytest.mark.skipif(sys.version_info[:2] > (3, 14), reason="torch's stubs may lag behind")
def test_mypy_finds_nothing(root):
    run(root, "mypy")
