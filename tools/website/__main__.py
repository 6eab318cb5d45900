"""Build site/: the book with Sphinx, plane.html and draw.html, then check every link.

    make site
    python -m tools.website [--no-draw]

The notebooks are rendered as they were committed; nothing is executed. npm fetches MathJax and
onnxruntime-web in the versions, and with the checksums, of docs/web/package-lock.json. Without npm
the book is built without draw.html.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tools.website.book import gather
from tools.website.links import broken_links
from tools.website.plane import write_plane

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "site"
NOWHERE = re.compile(r"WARNING: .*\[(myst\.xref_\w+|toc\.\w+|image\.\w+|download\.\w+)\]")


def main() -> int:
    """Build the site.

    Returns:
        Exit status: 0, or 2 after lines on stderr that say what is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.website", description=__doc__)
    parser.add_argument("--no-draw", action="store_true", help="all but draw.html")
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder to make (site)")
    args = parser.parse_args()
    started = time.monotonic()
    try:
        modules = None if args.no_draw else fetch_modules()
        html = build_book(modules)
        write_plane(html / "plane.html")
        if modules is not None:
            from tools.website.drawing import write_drawing

            write_drawing(ROOT / "docs/web", modules / "onnxruntime-web/dist", html)
        (html / ".nojekyll").touch()  # GitHub Pages would leave out _static
        if wrong := broken_links(html, offline=modules is not None):
            raise ValueError("links that lead nowhere:\n  " + "\n  ".join(wrong))
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"website: error: {error}", file=sys.stderr)
        return 2
    shutil.rmtree(args.out, ignore_errors=True)
    html.rename(args.out)
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file()) / 1e6
    print(f"{args.out}: {size:.1f} MB in {time.monotonic() - started:.0f} s; look at it with")
    print(f"  python -m http.server --bind 127.0.0.1 --directory {os.path.relpath(args.out)}")
    return 0


def fetch_modules() -> Path | None:
    """Fetch the npm packages, once for each version of the lock file; None without npm."""
    if shutil.which("npm") is None:
        print("no npm: the book is built without draw.html, and its equations need the network")
        return None
    lock = ROOT / "docs/web/package-lock.json"
    folder = BUILD / "npm"
    modules, seal = folder / "node_modules", folder / "package-lock.json"
    if modules.is_dir() and seal.is_file() and seal.read_bytes() == lock.read_bytes():
        return modules
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock.with_name(name), folder / name)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    try:
        subprocess.run(["npm", "ci", *quiet], cwd=folder, check=True)
    except subprocess.CalledProcessError:
        seal.unlink()  # so that the next call tries again
        why = "npm could not fetch its packages (see above); make site SITE=--no-draw does without"
        raise ValueError(why) from None
    return modules


def build_book(modules: Path | None) -> Path:
    """Run Sphinx.

    Args:
        modules: the npm packages; without them, pages load MathJax from the network.
    Returns:
        The folder of HTML pages.
    Raises:
        ValueError: a link in the sources that leads nowhere, each with its file and line.
    """
    source, html, log = BUILD / "source", BUILD / "html", BUILD / "warnings.txt"
    gather(ROOT, source, draw=modules is not None)
    shutil.rmtree(html, ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if modules is not None:
        copy_mathjax(modules / "mathjax/es5", source / "_static/mathjax")
        environment |= {"DDPM_SITE_MATHJAX": "1", "DDPM_SITE_DRAW": "1"}
    # -E: the book is small; a cache would hide the warnings of pages that did not change.
    command = ["-m", "sphinx", "-b", "html", "-E", "-q", "-w", str(log), "-d", str(BUILD / "trees")]
    subprocess.run(
        [sys.executable, *command, str(source), str(html)], check=True, env=environment,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    warnings = log.read_text(encoding="utf-8").replace(f"{source}/", "").splitlines()
    wrong = [line for line in warnings if NOWHERE.search(line)]
    if wrong:
        raise ValueError("links that lead nowhere:\n  " + "\n  ".join(wrong))
    if warnings:
        print("\n".join(["Sphinx remarks:", *warnings]))
    for left in (".buildinfo", "objects.inv"):
        (html / left).unlink(missing_ok=True)
    return html


def copy_mathjax(es5: Path, out: Path) -> None:
    """Copy the script and the fonts that MathJax needs for TeX."""
    fonts = "output/chtml/fonts/woff-v2"
    out.mkdir(parents=True)
    shutil.copy(es5 / "tex-chtml.js", out)
    shutil.copytree(es5 / fonts, out / fonts)


if __name__ == "__main__":
    sys.exit(main())
