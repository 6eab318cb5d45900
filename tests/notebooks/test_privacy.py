"""No secret is committed, and no notebook uses the network."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb"))
SECRETS = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[A-Za-z0-9_-]{20,}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,})|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|[?&]token=\w{8,}|\beyJ[\w-]{10,}\.eyJ|(?i:password|secret|api_key)[\"']?\s*[:=]\s*[\"']\w{6,}"
    r"|://[^/\s:@]+:[^/\s:@]+@"
)
NETWORK = {"urllib", "requests", "httpx", "socket", "http", "ftplib", "aiohttp", "huggingface_hub"}


def sources(path):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def uses_network(code):
    """Modules of the network that code imports, and shell lines, which could be anything."""
    shell = [line for line in code.splitlines() if re.match(r"\s*[!%]", line)]
    plain = "\n".join(line for line in code.splitlines() if line not in shell)
    names = set()
    for node in ast.walk(ast.parse(plain)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    shell = [line for line in shell if not line.strip().startswith("%matplotlib")]
    return sorted(names & NETWORK) + shell + re.findall(r"[\"']cifar10[\"']", plain)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_no_secret_is_committed(path):
    assert not SECRETS.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_no_cell_uses_the_network(path):
    assert [found for code in sources(path) if (found := uses_network(code))] == []


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "a1" * 15, "ghp_" + "Z9" * 18, "http://127.0.0.1:8888/lab?token=" + "ab12" * 8,
        "AKIA" + "A1B2" * 4, "-----BEGIN " + "RSA PRIVATE KEY-----", 'password = "' + 'hunter22"',
        "https://me:" + "word@example.org",
    ],
)  # fmt: skip
def test_the_search_for_secrets_finds_planted_ones(text):
    assert SECRETS.search(f"before {text} after")


@pytest.mark.parametrize(
    "code", ["import requests", "from urllib.request import urlopen", "!pip x", "a('cifar10')"]
)
def test_the_search_for_network_use_finds_planted_ones(code):
    assert uses_network(code) and not uses_network("%matplotlib inline\nimport torch")


def test_make_lab_stays_on_this_machine_and_keeps_the_token():
    shown = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--ServerApp.ip=127.0.0.1" in shown
    assert "token" not in shown.lower() and "password" not in shown.lower()
    assert "0.0.0.0" not in shown and "allow_remote" not in shown
