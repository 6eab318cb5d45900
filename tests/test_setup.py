"""The ways to install agree with each other, and the set-up script says what is wrong."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple

import pytest
import yaml
from packaging.requirements import Requirement

import setup_env

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(root):
    """name -> the markers and hashes of its block in requirements.txt."""
    text = (root / "requirements.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(.*?)(?=^\S|\Z)", text, re.M | re.S))


def test_environment_yml_holds_what_pyproject_asks_for(root, project):
    conda = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    assert conda["channels"] == ["conda-forge", "nodefaults"]
    *specs, last = conda["dependencies"]
    assert last == {"pip": ["-e ."]}
    extras = project["optional-dependencies"]
    wanted = {"python" + project["requires-python"], "pip"} | set(extras["pinned"])
    wanted |= set(project["dependencies"]) | set(extras["notebooks"]) | set(extras["test"])
    names = {Requirement(w).name: str(Requirement(w).specifier) for w in wanted}
    expected = {CONDA_NAMES.get(n, n) + spec for n, spec in names.items() if n != "uv"}
    assert set(specs) == expected


@pytest.fixture(scope="module")
def site_group(root):
    """What `make site` needs besides, in an environment of its own."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["dependency-groups"]["site"]


def test_every_dependency_has_a_lower_bound_only(project, site_group):
    groups = [project["dependencies"], *project["optional-dependencies"].values(), site_group]
    for text in sum(groups, []):
        assert [s.operator for s in Requirement(text).specifier] == [">="], text


def test_requirements_are_pinned_with_hashes_and_name_no_place(root, project, pins):
    text = (root / "requirements.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|index|find-links|/\w+/\w+/", text)
    assert len(pins) > 100 and all("--hash=sha256:" in block for block in pins.values())
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in map(Requirement, sum(groups, [])):
        version = re.match(r"[^\s;\\]+", pins[requirement.name]).group()
        assert requirement.specifier.contains(version), f"run `make lock` for {requirement}"


def test_the_site_has_pins_of_its_own_that_agree_with_the_others(root, pins, site_group):
    text = (root / "requirements-site.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|index-url|find-links|/\w+/\w+/", text)
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)(.*?)(?=^\S|\Z)", text, re.M | re.S)
    assert {Requirement(one).name for one in site_group} <= {name for name, *_ in found}
    assert not {Requirement(one).name for one in site_group} & set(pins), "`make lab` stays small"
    assert all("--hash=sha256:" in block for *_, block in found)
    both = {(name, version) for name, version, _ in found if name in pins}
    assert both, "the two environments share packages, and therefore their versions"
    lab = (root / "requirements.txt").read_text(encoding="utf-8")
    assert both <= set(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", lab, re.M))


def test_the_citation_names_the_version_of_the_package(root, project):
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"] and citation["license"] == project["license"]


def test_contributing_gives_a_reason_for_each_core_dependency(root, project):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for requirement in map(Requirement, project["dependencies"]):
        assert re.search(rf"^\| `{requirement.name}` \| .{{20,}} \|$", text, re.M), requirement.name


def stopped(action) -> str:
    with pytest.raises(SystemExit) as stop:
        action()
    assert "\n" not in stop.value.code
    return stop.value.code


def test_an_old_python_is_told_the_version_it_needs(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 8, 18, "final", 0))
    monkeypatch.setattr(setup_env.platform, "python_version", lambda: "3.8.18")
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    message = stopped(setup_env.use_new_python)
    assert "3.8.18" in message and "3.11" in message and "PYTHON=" in message


def test_an_old_python_hands_over_to_a_newer_one(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 8, 18, "final", 0))
    found = {"python3.12": "/here/python3.12"}
    monkeypatch.setattr(setup_env.shutil, "which", found.get)
    called = []
    monkeypatch.setattr(setup_env.subprocess, "call", lambda c, **k: called.append(c) or 0)
    with pytest.raises(SystemExit) as stop:
        setup_env.use_new_python()
    assert stop.value.code == 0
    assert called[-1][0] == "/here/python3.12" and called[-1][1:] == sys.argv


def test_a_full_disk_is_told_in_gigabytes(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda path: usage(0, 0, 1.5e9))
    message = stopped(lambda: setup_env.check_disk("cpu"))
    assert "1.5 GB free" in message and f"{setup_env.CPU_GB} GB" in message


def test_without_an_nvidia_driver_cpu_is_advised_before_the_download(monkeypatch, capsys):
    monkeypatch.setattr(setup_env.sys, "platform", "linux")
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    found = set()
    monkeypatch.setattr(setup_env.os.path, "exists", found.__contains__)
    setup_env.advise("cpu")
    assert capsys.readouterr().out == ""
    setup_env.advise("full")
    said = capsys.readouterr().out
    assert "CPU=1" in said and said.count("\n") == 1
    found.add("/dev/nvidiactl")
    setup_env.advise("full")
    assert capsys.readouterr().out == ""


def test_a_missing_network_is_named_after_pips_own_words(monkeypatch, root):
    monkeypatch.setattr(setup_env.subprocess, "call", lambda *a, **k: 1)
    assert "network" in stopped(lambda: setup_env.run("pip", "install", "x"))


@pytest.fixture
def world(monkeypatch, tmp_path, root):
    """A copy of the set-up in an empty folder, where installing is only written down."""
    for name in ("requirements.txt", "pyproject.toml", "setup_env.py"):
        shutil.copy(root / name, tmp_path)
    done = []
    monkeypatch.setattr(setup_env, "ROOT", str(tmp_path))
    monkeypatch.setattr(setup_env, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(setup_env, "STAMP", str(tmp_path / ".venv" / "ddpm-stamp"))
    monkeypatch.setattr(setup_env, "PYTHON", sys.executable)
    monkeypatch.setattr(setup_env, "check_disk", lambda flavour: None)
    monkeypatch.setattr(setup_env, "advise", lambda flavour: done.append("advice"))
    monkeypatch.setattr(setup_env, "venv_works", lambda: (tmp_path / ".venv").is_dir())
    monkeypatch.setattr(setup_env, "install_uv", lambda: None)
    monkeypatch.setattr(setup_env, "run", lambda *a: done.append(a))

    def make_venv():
        (tmp_path / ".venv").mkdir(exist_ok=True)
        done.append("venv")

    monkeypatch.setattr(setup_env, "make_venv", make_venv)

    def call(*arguments):
        done.clear()
        monkeypatch.setattr(sys, "argv", ["setup_env.py", *arguments])
        setup_env.main()
        return list(done)

    return call, tmp_path


def test_a_second_run_does_nothing_until_something_changes(world):
    call, folder = world
    first = call()
    assert first[:2] == ["advice", "venv"] and len(first) == 4
    assert {"--offline", "--no-deps", "--no-build-isolation", "-e"} <= set(first[-1])
    assert call() == []
    with open(folder / "pyproject.toml", "a") as file:
        file.write("\n")
    assert len(call()) == 2, "new pins go into the .venv that is there"
    assert call() == []


def test_the_cpu_choice_is_remembered_and_a_change_starts_afresh(world):
    call, _ = world
    assert "--require-hashes" in call()[2]
    cpu = call("--cpu")
    assert cpu[1] == "venv" and {"--torch-backend", "--no-verify-hashes"} <= set(cpu[2])
    assert call() == [] and call("--cpu") == []
    assert call("--no-cpu")[:2] == ["advice", "venv"]


def test_an_interrupted_set_up_continues(world, monkeypatch):
    call, _ = world
    run = setup_env.run

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call()
    monkeypatch.setattr(setup_env, "run", run)
    assert len(call()) == 2
    assert call() == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_every_target_and_names_a_python_that_is_missing(root):
    def make(*words):
        return subprocess.run(["make", *words], cwd=root, capture_output=True, text=True)

    text = (root / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.M).group(1).split()
    said = make("help").stdout
    assert all(f"make {target} " in said for target in targets), said
    done = make("setup", "PYTHON=no-such-python")
    assert done.returncode != 0 and "no-such-python" in done.stdout
