"""Sources for Sphinx: a copy of the notebooks, the Markdown pages and what they link to."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")  # Markdown's ](target#fragment)
PROGRESS = re.compile(r"\d+%\|")  # a line of tqdm
WIDGET = "application/vnd.jupyter.widget-view+json"
PAGES = (".md", ".ipynb")


def gather(root: Path, source: Path) -> None:
    """Fill a folder with all that the book is made of.

    Args:
        root: the repository.
        source: where to write; emptied first. Files keep their places, so that the links between
            them hold; README.md becomes index.md.
    """
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "docs/web/book", source)
    series, solutions, pages = find_pages(root)
    for page in [*series, *solutions, *pages, root / "README.md"]:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            text = json.dumps(prepare(json.loads(text), fold="solutions" in page.parts))
        place = page.relative_to(root)
        out = source / ("index.md" if page.name == "README.md" else place)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(retarget(text, page, root, source), encoding="utf-8")
    names = {name: [_docname(p, root) for p in found]
             for name, found in (("series", series), ("solutions", solutions), ("pages", pages))}  # fmt: skip
    write_api(root / "ddpm_helpers", source / "api")
    write_contents(source, **names)


def find_pages(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Notebooks of the series, those of the solutions, and the Markdown pages, whichever there are."""
    series = sorted((root / "notebooks").glob("*.ipynb"))
    solutions = sorted((root / "notebooks/solutions").glob("*.ipynb"))
    pages = [*sorted((root / "docs").glob("*.md")), root / "CONTRIBUTING.md"]
    return series, solutions, [page for page in pages if page.is_file()]


def prepare(notebook: dict[str, Any], *, fold: bool = False) -> dict[str, Any]:
    """A notebook for reading: no progress bars, alt texts for its pictures, solutions folded.

    Args:
        notebook: as its JSON says; changed.
        fold: hide every code cell behind a click.
    """
    heading = "this notebook"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ +(.+)$", "".join(cell["source"]), re.M)
            heading = found[-1] if found else heading
            continue
        if cell["cell_type"] != "code":
            continue
        cell["outputs"] = [one for one in cell["outputs"] if not _is_progress(one)]
        tags = cell["metadata"].setdefault("tags", [])
        if fold:
            tags.append("hide-cell")
        alt = _alt_text(cell["outputs"]) or f"Figure of the section “{heading.replace('$', '')}”"
        cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    return notebook


def _is_progress(output: dict[str, Any]) -> bool:
    data = output.get("data", {})
    return WIDGET in data and bool(PROGRESS.search("".join(data.get("text/plain", ""))))


def _alt_text(outputs: list[dict[str, Any]]) -> str | None:
    """What stands in the place of a picture in plain text, unless it is an object's address."""
    for output in outputs:
        data = output.get("data", {})
        text = "".join(data.get("text/plain", ""))
        if "image/png" in data and text and not text.startswith("<"):
            return " ".join(text.split())
    return None


def retarget(text: str, page: Path, root: Path, source: Path) -> str:
    """Links that hold in the book: README.md is index.md there, and linked files come along.

    A link to a file outside of the book copies that file; one to a folder becomes plain text.
    Links to nothing are left for the checks to find.
    """

    def replace(match: re.Match[str]) -> str:
        head, target, fragment, tail = match.groups()
        if "://" in target or target.startswith(("mailto:", "attachment:", "data:")):
            return match.group()
        file = (page.parent / target).resolve()
        if not file.is_relative_to(root):
            return match.group()
        place = file.relative_to(root)
        if place == Path("README.md"):
            target = target.removesuffix("README.md") + "index.md"
        elif file.is_file() and not _is_page(place):
            (source / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, source / place)
        elif file.is_dir():
            return head.replace("](", "]")
        return f"{head}{target}{fragment or ''}{tail}"

    return LINK.sub(replace, text)


def _is_page(place: Path) -> bool:
    return place.suffix in PAGES


def _docname(page: Path, root: Path) -> str:
    return page.relative_to(root).with_suffix("").as_posix()


def write_api(package: Path, out: Path) -> None:
    """A page for each folder of the package, each public module with its docstrings."""
    out.mkdir(parents=True)
    parts: dict[str, list[tuple[str, bool]]] = {}
    for file in sorted(package.rglob("*.py")):
        place = file.relative_to(package).with_suffix("").parts
        if any(name.startswith("_") for name in place if name != "__init__"):
            continue
        if place == ("__init__",):
            continue
        module = ".".join((package.name, *(name for name in place if name != "__init__")))
        folder = place[0] if len(place) > 1 else "the rest"
        parts.setdefault(folder, []).append((module, file.name == "__init__.py"))
    for folder, modules in parts.items():
        body = "\n".join(_automodule(*module) for module in modules)
        title = f"{package.name}.{folder}" if folder != "the rest" else "Settings and commands"
        name = folder.replace(" ", "-")
        (out / f"{name}.md").write_text(f"# {title}\n\n{body}", encoding="utf-8")
    names = "\n".join(sorted(folder.replace(" ", "-") for folder in parts))
    index = f"# The package\n\nFrom its docstrings.\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"
    (out / "index.md").write_text(index, encoding="utf-8")


def _automodule(module: str, package: bool) -> str:
    """A package's docstring, or a module's with all that it defines: each name stands once."""
    members = "" if package else "   :members:\n   :show-inheritance:\n"
    rst = f".. automodule:: {module}\n{members}"
    return f"## {module.split('.', 1)[1]}\n\n```{{eval-rst}}\n{rst}```\n"


def write_contents(
    source: Path, series: list[str], solutions: list[str], pages: list[str]
) -> None:
    """Append what the side bar shows to index.md; solutions get a page of their own there."""
    more = [*pages, "api/index"]
    if solutions:
        below = "\n".join(f"/{name}" for name in solutions)
        text = (
            "# Solutions\n\nTry the exercises first. Every answer is folded away until you open "
            f"it.\n\n```{{toctree}}\n:maxdepth: 1\n\n{below}\n```\n"
        )
        (source / "solutions.md").write_text(text, encoding="utf-8")
        more.insert(0, "solutions")
    with open(source / "index.md", "a", encoding="utf-8") as file:
        for caption, names in (("The series", series), ("More", more)):
            lines = "\n".join(names)
            file.write(f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n")
