"""The one-way rule of the imports, read from the source, and what an import may need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ddpm_helpers"

# What each part may import, itself apart. A part that is missing here fails the test below.
ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "data": {"config"},
    "diffusion": {"config"},
    "model": {"config"},
    "training": {"config", "data", "diffusion", "model", "pretrained"},  # checkpoints hold weights
    "evaluation": {"config", "data", "diffusion", "model", "training", "pretrained"},
    "pretrained": {"config", "data", "diffusion", "model"},
    "doctor": {"config", "data", "diffusion", "model", "training", "evaluation", "pretrained"},
    "display": {
        "config", "data", "diffusion", "model", "training", "evaluation", "pretrained", "doctor",
    },
    "cli": {
        "config", "data", "diffusion", "model", "training", "evaluation", "pretrained", "doctor",
        "display", "cli_train",
    },
    "cli_train": {"config", "data", "diffusion", "model", "training"},
    "__main__": {"cli"},
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Full names of all modules and members that a file imports, inside functions too."""
    inside = path.relative_to(PACKAGE.parent).with_suffix("").parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = inside[: len(inside) - node.level]
                base = ".".join((*package, base)).rstrip(".")
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_imported(path: Path) -> set[str]:
    dotted = (name.split(".") for name in imported(path))
    parts = {name[1] for name in dotted if name[0] == "ddpm_helpers" and len(name) > 1}
    return {
        part for part in parts if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists()
    }


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path):
    part = part_of(path)
    assert part in ALLOWED, f"{part} has no place in the order of imports"
    wrong = parts_imported(path) - ALLOWED[part] - {part}
    assert not wrong, f"{path.name} imports {sorted(wrong)}, {part} may import {ALLOWED[part]}"


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    """The rule above is worth what this parser sees: plain, from, relative, inside a function."""
    file = tmp_path / "ddpm_helpers" / "diffusion" / "bad.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import ddpm_helpers.model.net\n"
        "from ..training import ema\n"
        "from .. import cli\n"
        "from . import utils\n"
        "def f():\n    from ddpm_helpers import data\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", file.parents[1])
    for part in ("model", "training", "cli", "data", "diffusion"):
        (file.parents[1] / part).mkdir(exist_ok=True)
    assert parts_imported(file) == {"model", "training", "cli", "data", "diffusion"}


def test_plots_never_import_widgets():
    path = PACKAGE / "display" / "plots.py"
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"ipywidgets", "IPython"}
    assert not any("widgets" in name for name in imported(path))


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_only_display_needs_the_notebook_extras(path):
    extras = {name.split(".")[0] for name in imported(path)} & {
        "matplotlib", "ipywidgets", "IPython",
    }  # fmt: skip
    assert part_of(path) == "display" or not extras, f"{path} imports {sorted(extras)}"


def test_the_package_imports_without_the_extras_and_without_slow_modules():
    """In a fresh process where the extras cannot be imported; the slow ones come on demand."""
    code = """
import sys
for name in ("matplotlib", "ipywidgets", "IPython", "nbformat", "diffusers"):
    sys.modules[name] = None
import ddpm_helpers
names = ("ImageDataset DiffusionUtils Encoder Decoder DiffusionNet TrainingPipeline "
         "TrainConfig load_pretrained").split()
assert all(hasattr(ddpm_helpers, name) for name in names)
import ddpm_helpers.cli
slow = {"torchvision", "PIL", "matplotlib.pyplot", "accelerate"} & set(sys.modules)
assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
