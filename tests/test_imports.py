"""The one-way rule of the imports, read from the source, and what an import may need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ddpm_helpers"

# What each part may import, itself apart. A part that is missing here fails the test below.
BASE = {"checks", "config", "config_file", "device", "files"}
ALLOWED: dict[str, set[str]] = {
    "checks": set(),
    "config": {"checks", "config_file", "device", "files"},
    "config_file": {"checks"},
    "device": set(),
    "files": set(),
    "data": BASE,
    "diffusion": BASE,
    "model": BASE,
    "pretrained": {*BASE, "data", "diffusion", "model"},
    "export": {*BASE, "diffusion", "model", "pretrained"},
    "training": {*BASE, "data", "diffusion", "model", "pretrained"},  # checkpoints hold weights
    "evaluation": {*BASE, "data", "diffusion", "model", "training", "pretrained"},
    "doctor": {*BASE, "data", "diffusion", "model", "training", "evaluation", "pretrained"},
    "exercises": {*BASE, "data", "diffusion", "model", "training", "evaluation", "pretrained"},
    "display": {
        *BASE, "data", "diffusion", "model", "training", "evaluation", "pretrained", "doctor",
    },
    "commands": {
        *BASE, "data", "diffusion", "model", "training", "evaluation", "pretrained", "doctor",
        "export",
    },
    "cli": {"commands"},
    "__main__": {"cli"},
}  # fmt: skip

# Files that import each other, if only for a type. This list only ever gets shorter.
KNOWN_CIRCLES: list[set[str]] = []

KNOWN_TWICE: set[str] = set()  # this list only ever gets shorter


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


def graph() -> dict[str, set[str]]:
    """For each file, as "folder.file", the files it imports, inside functions and for types too.

    What a folder's `__init__` offers is imported from that file, which is called "folder".
    """
    files = {name_of(p): p for p in PACKAGE.rglob("*.py")}
    folders = {name for name, path in files.items() if path.name == "__init__.py"}

    def files_behind(path: Path) -> set[str]:
        members = imported(path) - folders
        return {n if n in files else n.rpartition(".")[0] for n in members} & files.keys()

    return {
        short(file): {short(other) for other in files_behind(path)} for file, path in files.items()
    }


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def short(name: str) -> str:
    return name.removeprefix("ddpm_helpers.")


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Sets of files each of which leads to all others of its set."""
    reached = {file: set(to) for file, to in imports.items()}
    for middle in imports:  # Warshall's transitive closure
        for file in imports:
            if middle in reached[file]:
                reached[file] |= reached[middle]
    found: list[set[str]] = []
    for file in imports:
        circle = {other for other in reached[file] if file in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_no_files_import_each_other_even_for_a_type():
    found = circles(graph())
    new = [sorted(c) for c in found if c not in KNOWN_CIRCLES]
    assert not new, f"these files import each other: {new}"
    gone = [sorted(c) for c in KNOWN_CIRCLES if c not in found]
    assert not gone, f"no circle any more, so take it off the list: {gone}"


def test_circles_are_found_in_a_graph_whose_circles_are_known():
    imports = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}, "g": {"g"}}
    assert circles(imports) == [{"a", "b", "c"}, {"e", "f"}, {"g"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_for_types_and_from_a_folder_count(tmp_path, monkeypatch):
    folder = tmp_path / "ddpm_helpers" / "diffusion"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from ddpm_helpers.diffusion.b import B\n"
    )
    (folder / "b.py").write_text("def f():\n    from ddpm_helpers.diffusion import a\n")
    (folder / "__init__.py").write_text("from ddpm_helpers.diffusion.c import C\n")
    (folder / "c.py").write_text("from ddpm_helpers.diffusion import C\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", folder.parent)
    found = sorted(map(sorted, circles(graph())))
    assert found == [["diffusion", "diffusion.c"], ["diffusion.a", "diffusion.b"]]


def test_no_two_files_have_one_name():
    """A traceback, a tab of an editor and a question name the file alone."""
    names = [p.name for p in modules() if p.name != "__init__.py"]
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= KNOWN_TWICE, f"these names stand for several files: {sorted(twice)}"
    assert twice == KNOWN_TWICE, f"take off the list: {sorted(KNOWN_TWICE - twice)}"


def test_samplers_know_nothing_but_numbers():
    path = PACKAGE / "diffusion" / "samplers.py"
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots - {"__future__", "collections", "dataclasses", "itertools"} == {"math", "torch"}


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
for name in ("matplotlib", "ipywidgets", "IPython", "nbformat", "diffusers", "onnx",
             "onnxscript", "onnxruntime", "huggingface_hub"):
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
