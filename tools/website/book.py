"""The sources for Sphinx: copies of the notebooks, the Markdown pages and what they link to."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")  # Markdown's ](target#fragment)
ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')  # the target of a notebook's links to itself
PROGRESS = re.compile(r"\d+%\|")  # a line of tqdm
WIDGET = "application/vnd.jupyter.widget-view+json"
PLANE_LINK = re.compile(r"\[([^\]]*)\]\([^)\s]*docs/web/plane\.html(#[^)\s]*)?\)")
PLANE = '<p><a href="plane.html">Touch diffusion in the plane</a></p>'
DRAW = '<p><a href="draw.html">Draw a picture in this browser</a></p>'
PAGES = (".md", ".ipynb")


def gather(root: Path, source: Path, *, draw: bool = False) -> None:
    """Fill a folder with everything that the book is made of.

    Args:
        root: the repository.
        source: where to write; emptied first. Files keep their places, so that the links between
            them hold; README.md becomes index.md.
        draw: whether there will be a draw.html, which the first page then links to.
    """
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "docs/web/book", source)
    pages = find_pages(root)
    for page in [root / "README.md", *sum(pages.values(), [])]:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            notebook = prepare(json.loads(text), fold=page in pages["solutions"])
            text = json.dumps(name_anchors(notebook, page.stem))
        if page.name == "README.md":
            links = f"{PLANE}\n\n{DRAW}" if draw else PLANE
            text = re.sub(r"^# .+$", rf"\g<0>\n\n{links}", text, count=1, flags=re.M)
        place = "index.md" if page.name == "README.md" else page.relative_to(root)
        out = source / place
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(retarget(text, page, root, source), encoding="utf-8")
    write_api(root / "ddpm_helpers", source / "api")
    write_contents(source, {kind: _names(found, root) for kind, found in pages.items()})


def find_pages(root: Path) -> dict[str, list[Path]]:
    """The notebooks of the series, those of the solutions and the Markdown pages, if any."""
    top = [root / "CONTRIBUTING.md", root / "CHANGELOG.md"]
    markdown = [*sorted((root / "docs").glob("*.md")), *top]
    return {
        "series": sorted((root / "notebooks").glob("[0-9]*.ipynb")),
        "solutions": sorted((root / "notebooks/solutions").glob("[0-9]*.ipynb")),
        "more": [page for page in markdown if page.is_file()],
    }


def _names(pages: list[Path], root: Path) -> list[str]:
    """What Sphinx calls the pages: their paths without the file extension."""
    return [page.relative_to(root).with_suffix("").as_posix() for page in pages]


def prepare(notebook: dict[str, Any], *, fold: bool = False) -> dict[str, Any]:
    """Prepare a notebook for reading: no progress bars, alt texts for figures, solutions folded.

    Args:
        notebook: its JSON, changed in place.
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


def name_anchors(notebook: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Turn a notebook's HTML anchors, and the links to them, into Sphinx's.

    Args:
        notebook: its JSON, changed in place.
        prefix: makes the names unique to this notebook.
    """
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    texts = ["".join(cell["source"]) for cell in cells]
    names = {name for text in texts for name in ANCHOR.findall(text)}
    for cell, text in zip(cells, texts, strict=True):
        for name in names:
            text = text.replace(f'<a id="{name}"></a>', f"({prefix}-{name})=")
            text = text.replace(f"](#{name})", f"](#{prefix}-{name})")
        cell["source"] = text
    return notebook


def _is_progress(output: dict[str, Any]) -> bool:
    data = output.get("data", {})
    return WIDGET in data and bool(PROGRESS.search("".join(data.get("text/plain", ""))))


def _alt_text(outputs: list[dict[str, Any]]) -> str | None:
    """The plain-text alternative of a picture, unless it is only an object's address."""
    for output in outputs:
        data = output.get("data", {})
        text = "".join(data.get("text/plain", ""))
        if "image/png" in data and text and not text.startswith("<"):
            return " ".join(text.split())
    return None


def retarget(text: str, page: Path, root: Path, source: Path) -> str:
    """Adapt a page's links to the book: README.md is index.md there, and linked files come along.

    A file outside of the book that is linked to is copied; a link to a folder becomes plain text;
    one to plane.html becomes HTML, since Sphinx does not know that page. Broken links stay, for the
    checks to find.
    """
    up = "../" * len(page.parent.relative_to(root).parts)
    text = PLANE_LINK.sub(rf"<a href='{up}plane.html\2'>\1</a>", text)

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
        elif file.is_file() and place.suffix not in PAGES:
            (source / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, source / place)
        elif file.is_dir():
            return head.replace("](", "]")
        return f"{head}{target}{fragment or ''}{tail}"

    return LINK.sub(replace, text)


def write_api(package: Path, out: Path) -> None:
    """Write a page for each folder of the package, and one for its top-level modules.

    Args:
        package: its folder. Modules whose names begin with _ are left out.
        out: where the pages go.
    """
    parts: dict[str, list[str]] = {}  # page -> what Sphinx shows there
    for file in sorted(package.rglob("*.py")):
        *folders, name = file.relative_to(package).with_suffix("").parts
        inside = [*folders, *([] if name == "__init__" else [name])]
        if inside and not any(part.startswith("_") for part in inside):
            page = inside[0] if folders else "top-level"
            parts.setdefault(page, []).append(_automodule(package.name, inside, name == "__init__"))
    for page, modules in parts.items():
        title = f"{package.name}.{page}" if page != "top-level" else "Settings and commands"
        _write(out / f"{page}.md", f"# {title}\n\n" + "\n".join(modules))
    _write(out / "index.md", "# The package\n\nFrom its docstrings.\n" + _toctree(sorted(parts)))


def _automodule(package: str, inside: list[str], is_folder: bool) -> str:
    """A folder's docstring, or a module's with its members, so that each name appears once."""
    module = ".".join(inside)
    members = "" if is_folder else "   :members:\n   :show-inheritance:\n"
    rst = f".. automodule:: {package}.{module}\n{members}"
    return f"## {module}\n\n```{{eval-rst}}\n{rst}```\n"


def write_contents(source: Path, names: dict[str, list[str]]) -> None:
    """Append the side bar's contents to index.md; the solutions get a page of their own.

    Args:
        source: the folder of sources.
        names: series, solutions and more, each with the names that Sphinx gives its pages.
    """
    more = [*names["more"], "api/index"]
    if names["solutions"]:
        text = (
            "# Solutions\n\nTry the exercises first. The code is folded away until you open it.\n"
        )
        _write(source / "solutions.md", text + _toctree(names["solutions"]))
        more.insert(0, "solutions")
    index = (source / "index.md").read_text(encoding="utf-8")
    index += _toctree(names["series"], "The series") + _toctree(more, "More")
    _write(source / "index.md", index)


def _toctree(names: list[str], hidden_as: str = "") -> str:
    """A table of contents; with a caption it is in the side bar only."""
    options = f":hidden:\n:caption: {hidden_as}" if hidden_as else ":maxdepth: 1"
    return "\n".join(["", "```{toctree}", options, "", *names, "```", ""])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
