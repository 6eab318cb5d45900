"""What README.md promises: its Python runs, its files exist, it stays short."""

import re

import pytest


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


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


def test_its_links_lead_to_files(readme, root):
    links = re.findall(r"\]\((?!http)([^)#]+)", readme)
    assert len(links) > 15
    assert not [link for link in links if not (root / link).exists()]


def test_it_stays_short(readme):
    assert len(readme.splitlines()) <= 200
