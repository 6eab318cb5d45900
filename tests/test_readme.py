"""What README.md, docs/ and notebooks promise: commands and Python run, links lead to files."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from ddpm_helpers import cli
from ddpm_helpers.data import cartoons

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
START = re.compile(r"(?:^|.* -m |timeout -s KILL \d+ )(?:ddpm|ddpm_helpers) +(?=[a-z-])")


def commands(page: Path) -> list[str]:
    """Each `ddpm …` of a page, without comments: lines of shell blocks, and code within text."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    text = text.replace("\\\n", " ")  # a command on several lines
    blocks = re.findall(r"```\w*\n(.*?)```|((?:^    .*\n)+)", text, re.S | re.M)
    lines = [line.strip() for pair in blocks for line in "".join(pair).splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    spans = [span for span in spans if len(span.split()) > 2]  # `ddpm export` is only a name
    found = [" ".join(line.split(" #")[0].split()) for line in lines + spans]
    return [line for line in found if START.match(line) and "…" not in line]


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS, ids=lambda page: page.stem)
def test_every_command_has_options_that_exist(page, capsys):
    for line in commands(page):
        words = shlex.split(START.sub("", line, count=1))
        try:
            cli.build_parser().parse_args(words)
        except SystemExit as stop:
            assert stop.code == 0, f"{line}: {capsys.readouterr().err}"


def test_the_search_for_commands_finds_those_that_are_known():
    training = commands(ROOT / "docs" / "training.md")
    assert any(line.startswith("torchrun") or "num_processes" in line for line in training)
    assert "ddpm info" in commands(ROOT / "README.md") and len(training) > 3
    in_05 = [START.sub("", line).split()[0] for line in commands(NOTEBOOKS[5])]
    assert {"data", "train", "sample"} <= set(in_05) and in_05.count("train") > 1  # with `timeout`


@pytest.mark.slow
def test_the_readmes_commands_run_in_its_order(readme, tmp_path, monkeypatch):
    """As printed, with settings appended that take seconds instead of hours."""
    monkeypatch.chdir(tmp_path)
    for k, image in enumerate(cartoons.draw("train", 40)[0]):
        (tmp_path / "my" / "album").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"my/album/{k:02}.png")
    shorter = {
        "train": "--limit 64 --epochs 1 --batch-size 16 --warmup-steps 1",
        "sample": "--n 4 --steps 2",
        "evaluate": "--n 20 --steps 2",
    }
    block = next(b for b in re.findall(r"```sh\n(.*?)```", readme, re.S) if "ddpm train" in b)
    lines = [line.split(" #")[0].strip() for line in block.splitlines()]
    for line in lines:
        words = shlex.split(line)[1:]
        status = cli.main([*words, *shorter.get(words[0], "").split()])
        assert status == 0 or words[0] == "doctor", line  # such a network is no good
    assert (tmp_path / "samples.png").exists() and len(list((tmp_path / "drawn").iterdir())) == 4


def test_its_python_runs(readme, tmp_path, monkeypatch):
    """As printed, on settings that take a second instead of minutes."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert len(blocks) >= 2 and '"laptop", epochs=1' in blocks[0]
    names: dict = {}
    for block in blocks:
        quick = block.replace('"laptop", epochs=1', '"ci", width=8, timesteps=20')
        quick = quick.replace("config.image_size)", "config.image_size, limit=32)")
        exec(compile(quick, "README.md", "exec"), names)
    assert names["x"].shape == (2, 3, 32, 32)


def test_links_lead_to_files_and_to_headings():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        for target, _, place in re.findall(r"\]\((?!http)([^)#]*)(#([^)]+))?\)", text):
            file = (page.parent / target) if target else page
            assert file.exists(), f"{page.name}: {target}"
            if place and file.suffix == ".md":
                headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
                assert place in [slug(h) for h in headings], f"{page.name}: {target}#{place}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_readme_stays_short(readme):
    assert len(readme.splitlines()) <= 160
