"""plane.html: one file without modules, so that it opens from the file system.

python -m tools.website.plane [site/plane.html]
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "docs/web"
IMPORT = re.compile(r'^import (\{[^}]*\}) from "([^"]+)";\n', re.M)
EXPORT = re.compile(r"^export (?=(?:(?:async )?function\*?|const|class) ([\w$]+))", re.M)
STYLE = re.compile(r'<link rel="stylesheet" href="([^"]+)">')
SITE = re.compile(r'^ *<a href="index\.html">.*\n', re.M)  # the page's link to the site around it
SCRIPT = re.compile(r' *<script type="module" src="([^"]+)"></script>\n')


def inline(page: Path) -> str:
    """A page of HTML with its style sheets and its module in it, as one classic script.

    Args:
        page: names style sheets by `<link rel="stylesheet">` and one module, relative to itself.
    Returns:
        The page. The script stands at the end of its body.
    Raises:
        ValueError: the page does not name one module, or a module has another form of import or
            export than `import { a, b } from "./file.js"` and `export` before a declaration.
        OSError: a file that cannot be read.
    """
    text = page.read_text(encoding="utf-8")

    def style(match: re.Match[str]) -> str:
        return f"<style>\n{(page.parent / match[1]).read_text(encoding='utf-8')}</style>"

    if len(found := SCRIPT.findall(text)) != 1:
        raise ValueError(f"{page.name} must name one module, got {found}")
    script = bundle(page.parent / found[0])
    if "</script" in script:
        raise ValueError(f"a module of {page.name} contains </script, which would end the script")
    text = SCRIPT.sub("", STYLE.sub(style, text))
    return text.replace("</body>", f"<script>\n{script}</script>\n</body>")


def bundle(module: Path) -> str:
    """A JavaScript module and all that it imports as one strict classic script."""
    names: dict[Path, str] = {}  # file -> the variable that holds its exports
    parts: list[str] = ['"use strict";\n']
    _add(module.resolve(), names, parts)
    return "".join(parts)


def _add(file: Path, names: dict[Path, str], parts: list[str]) -> None:
    """Append a module, after those that it imports, as a function that returns its exports."""
    text = file.read_text(encoding="utf-8")

    def take(match: re.Match[str]) -> str:
        other = (file.parent / match[2]).resolve()
        if other not in names:
            _add(other, names, parts)
        return f"const {match[1].replace(' as ', ': ')} = {names[other]};\n"

    names[file] = f"module_{file.stem.replace('-', '_')}_{len(names)}"
    body = IMPORT.sub(take, text)
    exports = EXPORT.findall(body)
    body = EXPORT.sub("", body)
    if left := re.search(r"^(?:import|export)\b.*", body, re.M):
        raise ValueError(f"{file.name}: this form cannot be put into one script: {left[0]}")
    parts.append(
        f"const {names[file]} = (() => {{\n{body}return {{ {', '.join(exports)} }};\n}})();\n"
    )


def write_plane(out: Path, *, alone: bool = False) -> None:
    """Write plane.html as one file.

    Args:
        out: the file.
        alone: there is no index.html beside it, so leave out the link.
    Raises:
        ValueError, OSError: as `inline`.
    """
    text = inline(SOURCES / "plane.html")
    text = SITE.sub("", text) if alone else text
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page where the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.website.plane", description="Write plane.html as one file."
    )
    parser.add_argument("out", nargs="?", type=Path, default=Path("site/plane.html"))
    out = parser.parse_args(argv).out
    write_plane(out, alone=not out.with_name("index.html").exists())
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB; open it in a browser")


if __name__ == "__main__":
    main()
