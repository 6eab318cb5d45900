"""The one-way rule of the imports, read from the source, and what an import may need."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "ddpm_helpers"

# What each part may import, itself apart. A part that is missing here fails the test below.
BASE = {"checks", "config", "config_file", "device", "files"}
STAGES = {*BASE, "data", "diffusion", "model", "pretrained", "training", "evaluation"}
ALLOWED: dict[str, set[str]] = {
    "checks": set(),
    "config": {"checks", "config_file", "device", "files"},
    "config_file": set(),
    "device": set(),
    "files": set(),
    "data": BASE,
    "diffusion": BASE,
    "model": BASE,
    "pretrained": {*BASE, "data", "diffusion", "model"},
    "export": {*BASE, "diffusion", "model", "pretrained"},
    "training": {*BASE, "data", "diffusion", "model", "pretrained"},  # checkpoints hold weights
    "evaluation": STAGES,
    "doctor": STAGES,
    "exercises": STAGES,
    "display": {*STAGES, "doctor"},
    "commands": {*STAGES, "doctor", "export"},
    "cli": {"commands"},
    "__main__": {"cli"},
}
EXTRAS = {"matplotlib", "ipywidgets", "IPython"}


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
                folder = inside[: len(inside) - node.level]
                base = ".".join((*folder, base)).rstrip(".")
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def parts_imported(path: Path) -> set[str]:
    dotted = (name.split(".") for name in imported(path))
    parts = {name[1] for name in dotted if name[0] == "ddpm_helpers" and len(name) > 1}
    return {p for p in parts if (PACKAGE / p).is_dir() or (PACKAGE / f"{p}.py").exists()}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_run_one_way():
    for path in modules():
        part = part_of(path)
        assert part in ALLOWED, f"{part} has no place in the order of imports"
        wrong = parts_imported(path) - ALLOWED[part] - {part}
        assert not wrong, f"{path} imports {sorted(wrong)}, {part} may import {ALLOWED[part]}"


def graph() -> dict[str, set[str]]:
    """For each file, as "folder.file", the files it imports, inside functions and for types too.

    What a folder's `__init__` offers is imported from that file, which is called "folder".
    """
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    folders = {name for name, path in files.items() if path.name == "__init__.py"}
    found = {}
    for name, path in files.items():
        members = imported(path) - folders
        behind = {n if n in files else n.rpartition(".")[0] for n in members} & files.keys()
        found[name.removeprefix("ddpm_helpers.")] = {
            other.removeprefix("ddpm_helpers.") for other in behind
        }
    return found


def test_no_files_import_each_other_even_for_a_type():
    imports = graph()
    assert "diffusion.samplers" in imports["diffusion.process"]  # the reader of imports sees them
    TopologicalSorter(imports).prepare()  # CycleError names the files of a cycle


def test_no_two_files_have_one_name():
    """A traceback, a tab of an editor and a question name the file alone."""
    names = [p.name for p in modules() if p.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_samplers_know_nothing_but_numbers():
    roots = {name.split(".")[0] for name in imported(PACKAGE / "diffusion" / "samplers.py")}
    assert roots - {"__future__", "collections", "dataclasses", "itertools"} == {"math", "torch"}


def test_only_display_needs_the_notebook_extras_and_plots_no_widgets():
    for path in modules():
        extras = {name.split(".")[0] for name in imported(path)} & EXTRAS
        assert part_of(path) == "display" or not extras, f"{path} imports {sorted(extras)}"
    plots = imported(PACKAGE / "display" / "plots.py")
    assert not [name for name in plots if "widgets" in name or name.startswith("IPython")]


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
slow = {"torchvision", "matplotlib.pyplot", "accelerate"} & set(sys.modules)
assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
