"""What `make site` does besides calling Sphinx: the sources of the book, and the links."""

import json
import re
import shutil
import subprocess

import pytest

from tools.website.book import find_pages, gather, name_anchors, prepare, retarget
from tools.website.links import broken_links
from tools.website.plane import inline, write_plane

WIDGET = "application/vnd.jupyter.widget-view+json"


def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": [text]}


def code(*outputs):
    cell = {"cell_type": "code", "metadata": {}, "source": ["x"], "execution_count": 1}
    return cell | {"outputs": [{"output_type": "display_data", "data": one} for one in outputs]}


def notebook(*cells):
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    files = {
        "README.md": "# The series\n[one](notebooks/01_one.ipynb) [licence](LICENSE) [t](tests)\n",
        "LICENSE": "MIT",
        "tests/test_a.py": "",
        "docs/web/book/conf.py": "",
        "docs/cheat_sheet.md": "# Cheat sheet\n[back](../README.md#start)\n",
        "notebooks/01_one.ipynb": json.dumps(
            notebook(markdown("# One\n[numbers](../README.md#measured), [exercise](#exercises)"))
        ),
        "notebooks/solutions/01_one.ipynb": json.dumps(notebook(markdown("# One"), code())),
        "ddpm_helpers/__init__.py": "",
        "ddpm_helpers/config.py": "",
        "ddpm_helpers/data/__init__.py": "",
        "ddpm_helpers/data/cache.py": "",
        "ddpm_helpers/data/_private.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_all_existing_pages_become_the_book(repository, tmp_path):
    gather(repository, tmp_path / "source")
    text = {p.relative_to(tmp_path / "source").as_posix(): p.read_text(encoding="utf-8")
            for p in (tmp_path / "source").rglob("*.*")}  # fmt: skip
    contents = re.findall(r"^(?!:|```)(\S+)$", text["index.md"].split("```{toctree}", 1)[1], re.M)
    assert contents == ["notebooks/01_one", "solutions", "docs/cheat_sheet", "api/index"]
    assert "notebooks/solutions/01_one" in text["solutions.md"]
    assert "ddpm_helpers.data.cache\n   :members:" in text["api/data.md"]
    assert "_private" not in "".join(text.values()) and "config" in text["api/top-level.md"]
    assert "](../index.md#measured)" in text["notebooks/01_one.ipynb"]
    assert (tmp_path / "source/LICENSE").read_text(encoding="utf-8") == "MIT"
    assert "[t]" in text["index.md"] and "(tests)" not in text["index.md"], "no page of a folder"


def test_a_series_without_solutions_and_docs_has_no_pages_of_them(repository, tmp_path):
    (repository / "notebooks/solutions/01_one.ipynb").unlink()
    (repository / "docs/cheat_sheet.md").unlink()
    gather(repository, tmp_path / "source", draw=True)
    index = (tmp_path / "source/index.md").read_text(encoding="utf-8")
    assert index.startswith('# The series\n\n<p><a href="plane.html">')
    assert '\n\n<p><a href="draw.html">' in index
    assert not (tmp_path / "source/solutions.md").exists()
    assert find_pages(repository)["more"] == []


def test_links_that_lead_out_are_left_alone(repository, tmp_path):
    page = repository / "docs/cheat_sheet.md"
    for link in ("https://example.org/README.md", "../../outside.md", "#here", "missing.md"):
        assert retarget(f"[a]({link})", page, repository, tmp_path) == f"[a]({link})"


def test_links_to_the_plane_lead_to_the_built_page(repository, tmp_path):
    page = repository / "notebooks/solutions/01_one.ipynb"
    text = "see [the plane](../../docs/web/plane.html#data=six&t=300&x=0.4,-1)."
    assert retarget(text, page, repository, tmp_path) == (
        "see <a href='../../plane.html#data=six&t=300&x=0.4,-1'>the plane</a>."
    )


def test_progress_bars_are_removed_and_pictures_get_alt_texts(repository):
    bar = {WIDGET: {}, "text/plain": ["reading:   0%|          | 0/500"]}
    slider = {WIDGET: {}, "text/plain": ["ScheduleSlider over T = 10..1000"]}
    plain = {"image/png": "…", "text/plain": ["<Figure size 1x1>"]}
    told = {"image/png": "…", "text/plain": ["Ten noisy ships"]}
    cells = [markdown("# A\n\n## 3. The slider"), code(bar, slider), code(plain), code(told)]
    _, first, second, third = prepare(notebook(*cells))["cells"]
    assert [one["data"] for one in first["outputs"]] == [slider]
    assert second["metadata"]["mystnb"]["image"]["alt"] == ("Figure of the section “3. The slider”")
    assert third["metadata"]["mystnb"]["image"]["alt"] == "Ten noisy ships"


def test_anchors_get_names_of_their_own_and_links_to_them_follow():
    cells = [markdown("[5](#loss), [numbers](#measured)"), markdown('<a id="loss"></a>\n## Loss')]
    first, second = name_anchors(notebook(*cells), "10_bugs")["cells"]
    assert first["source"] == "[5](#10_bugs-loss), [numbers](#measured)"
    assert second["source"] == "(10_bugs-loss)=\n## Loss"


def test_only_solutions_are_folded():
    folded, plain = (prepare(notebook(code()), fold=fold)["cells"][0] for fold in (True, False))
    assert folded["metadata"]["tags"] == ["hide-cell"] and plain["metadata"]["tags"] == []


def test_broken_links_are_found_and_valid_ones_are_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="a/b.html#here">1</a> <a href="a/b.html#gone">2</a> <a href="a/">3</a>'
        '<img src="no.png"><script src="https://cdn.example.org/x.js"></script>'
        '<a href="https://example.org">4</a><img src="data:,"><a href="#top" id="top">5</a>'
        '<a href="a/b.html#data=six&t=3">a state</a><a href="a/c.html#data=six">7</a>'
    )
    (tmp_path / "a/b.html").write_text('<p id="here"><a href="../index.html#top">6</a>')
    foreign = "index.html: https://cdn.example.org/x.js, is loaded from another server"
    assert foreign not in broken_links(tmp_path, offline=False)
    assert broken_links(tmp_path) == [
        "index.html: a/b.html#gone, no such place on that page",
        "index.html: a/, no such file",
        "index.html: no.png, no such file",
        foreign,
        "index.html: a/c.html#data=six, no such file",
    ]


def test_npm_packages_are_pinned_with_checksums_and_name_no_place(root):
    folder = root / "docs/web"
    wanted = json.loads((folder / "package.json").read_text(encoding="utf-8"))["dependencies"]
    text = (folder / "package-lock.json").read_text(encoding="utf-8")
    packages = json.loads(text)["packages"]
    assert not re.search(r"https?://(?!opencollective|github)", text) and '"resolved"' not in text
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    for name, version in wanted.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    assert all(p["integrity"].startswith("sha512-") for name, p in packages.items() if name)


def test_modules_become_one_classic_script(tmp_path):
    files = {
        "page.html": '<head>\n  <link rel="stylesheet" href="a.css">\n'
        '  <script type="module" src="js/main.js"></script>\n</head>\n<body>\n</body>',
        "a.css": "p { color: red; }\n",
        "js/main.js": 'import { twice } from "./more.js";\nimport {\n  one as first,\n'
        '} from "./one.js";\nconst text = "export nothing";\nprint(twice(first), text);\n',
        "js/more.js": 'import { one } from "./one.js";\nexport const twice = (x) => 2 * x * one;\n',
        "js/one.js": "export const one = 1;\nexport async function* walk() {}\nexport class A {}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    page = inline(tmp_path / "page.html")
    script = re.search(r"<script>\n(.*)</script>\n</body>$", page, re.S)[1]
    assert "color: red" in page and "module" not in re.sub(r"module_\w+", "", page)
    assert script.count("const one = 1;") == 1 and "return { one, walk, A };" in script
    if shutil.which("node"):
        code = f"const print = (...all) => console.log(...all);\n{script}"
        done = subprocess.run(["node", "--eval", code], capture_output=True, text=True)
        assert done.stdout == "2 export nothing\n", done.stderr
    (tmp_path / "js/one.js").write_text("export default 1;\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"one\.js: this form .* export default 1"):
        inline(tmp_path / "page.html")


def test_the_plane_is_one_small_file_that_asks_for_nothing(tmp_path):
    write_plane(tmp_path / "site/plane.html")
    write_plane(tmp_path / "plane.html", alone=True)
    page = (tmp_path / "site/plane.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 150_000
    assert not re.search(r'(src|href)="(?!data:|index\.html)|https?:|@import|url\(', page)
    assert 'href="index.html"' in page and "index.html" not in (tmp_path / "plane.html").read_text()
