"""Find broken links in a folder of HTML pages, offline."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LEADING = {"a": "href", "link": "href", "script": "src", "img": "src", "source": "src"}


class _Page(HTMLParser):
    """What a page links to, and the names it can be linked to by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []  # tag, target
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.names |= {value for key in ("id", "name") if (value := found.get(key))}
        if target := found.get(LEADING.get(tag, "")):
            self.links.append((tag, target))


def broken_links(site: Path, *, offline: bool = True) -> list[str]:
    """Every link inside a site that has no target, and every file loaded from another server.

    Args:
        site: a folder of HTML pages.
        offline: count what is loaded from other servers as broken.
    Returns:
        One line each, "page: target, what is wrong"; empty if all is well.
    """
    pages = {p: _Page(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html"))}
    wrong = []
    for page, content in pages.items():
        for tag, target in content.links:
            if why := _problem(page, tag, target, pages, offline):
                wrong.append(f"{page.relative_to(site)}: {target}, {why}")
    return wrong


def _problem(
    page: Path, tag: str, target: str, pages: dict[Path, _Page], offline: bool
) -> str | None:
    scheme, host, path, _, fragment = urlsplit(target)
    if scheme in ("data", "mailto", "javascript"):
        return None
    if scheme or host:
        return "is loaded from another server" if offline and tag != "a" else None
    file = (page.parent / unquote(path)).resolve() if path else page
    if file.is_dir():
        file = file / "index.html"
    if not file.is_file():
        return "no such file"
    names = pages[file].names if file in pages else None
    is_state = "=" in fragment  # of plane.html, whose scripts read it
    if fragment and not is_state and names is not None and unquote(fragment) not in names:
        return "no such place on that page"
    return None
