"""Create .venv with the pinned environment; do nothing when it is already there.

    python3 setup_env.py [--cpu | --no-cpu]

The Makefile calls this, and Windows users can call it by hand. It needs only Python itself: it
makes a virtual environment, puts a pinned uv into it, lets uv install requirements.txt with
hashes, then the package itself in editable form. A stamp inside .venv remembers what was
installed, so a second run takes no time and no network.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, *(["Scripts", "python.exe"] if os.name == "nt" else ["bin", "python"]))
STAMP = os.path.join(VENV, "ddpm-stamp")
GPU_GB, CPU_GB = 8, 3  # free disk that the environment needs, with and without CUDA's libraries


def main():
    use_new_python()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cpu",
        action=argparse.BooleanOptionalAction,
        help="PyTorch without CUDA's libraries; remembered, as --no-cpu is",
    )
    flavour = choose_flavour(parser.parse_args().cpu)
    if read(STAMP) == stamp(flavour):
        return
    started = time.time()
    if recorded_flavour() not in (None, flavour) or not venv_works():
        advise(flavour)
        check_disk(flavour)
        make_venv()
    write(STAMP, flavour + "\n")
    install_uv()
    install_requirements(flavour)
    install_package()
    write(STAMP, stamp(flavour))
    say(f"ready after {time.time() - started:.0f} s")


def use_new_python():
    """Hand over to a newer Python on the path if this one is too old, or explain and stop."""
    if sys.version_info[:2] >= OLDEST:
        return
    for minor in range(14, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            sys.exit(subprocess.call([found] + sys.argv))
    stop(
        f"Python {platform.python_version()} is too old: 3.11 or newer is needed. "
        "Install one, then name it: make lab PYTHON=/path/to/python3"
    )


def choose_flavour(cpu):
    """`cpu` or `full`; without a wish, what .venv already holds."""
    if cpu is None:
        return recorded_flavour() or "full"
    return "cpu" if cpu else "full"


def advise(flavour):
    """Say, before anything is downloaded, when CUDA's libraries would be of no use."""
    if flavour == "full" and sys.platform == "linux" and not has_nvidia():
        say("no NVIDIA driver here: CPU=1 (make lab CPU=1) saves nine tenths of the download")


def has_nvidia():
    """Is there a driver of NVIDIA's, also in WSL or in a container?"""
    files = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
    return shutil.which("nvidia-smi") is not None or any(map(os.path.exists, files))


def recorded_flavour():
    """What .venv was set up for, also if that was interrupted; None where there is none."""
    return (read(STAMP).splitlines() or [None])[0]


def stamp(flavour):
    """All that decides what .venv holds: flavour, place, pins and package metadata."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml", "setup_env.py"):
        digest.update(read(os.path.join(ROOT, name)).encode())
    return f"{flavour}\n{ROOT}\n{digest.hexdigest()}\n"


def venv_works():
    """Is there a .venv with pip and a Python that is new enough?"""
    code = f"import sys, pip; sys.exit(sys.version_info[:2] < {OLDEST})"
    return os.path.exists(PYTHON) and not subprocess.call(
        [PYTHON, "-c", code], stderr=subprocess.DEVNULL
    )


def check_disk(flavour):
    needed = GPU_GB if flavour == "full" and sys.platform == "linux" else CPU_GB
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        hint = "" if needed == CPU_GB else f"; with CPU=1 it needs {CPU_GB} GB"
        stop(f"disk too full: {free:.1f} GB free in {ROOT}, {needed} GB needed{hint}")


def make_venv():
    say(f"making .venv with Python {platform.python_version()}")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        stop(
            "this Python cannot make virtual environments (see above); "
            "on Debian and Ubuntu run: sudo apt install python3-venv"
        )


def install_uv():
    """The uv that requirements.txt pins: it installs all the rest in parallel."""
    block = r"^(uv==\S+)((?:\s+\\?\s*--hash=\S+)+)"
    pin, hashes = re.search(block, read(os.path.join(ROOT, "requirements.txt")), re.M).groups()
    code = "import importlib.metadata as m; print('uv==' + m.version('uv'))"
    have = subprocess.run([PYTHON, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if have.stdout.decode().strip() == pin:
        return
    say("installing " + pin)
    wanted = os.path.join(VENV, "uv.txt")
    write(wanted, pin + hashes + "\n")
    run("pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2",
        "-r", wanted)  # fmt: skip


def install_requirements(flavour):
    if flavour == "full":
        say("installing the pinned requirements")
        uv("--require-hashes", "-r", "requirements.txt")
        return
    # Same versions, but PyTorch's own CPU builds: other files, so other hashes than the pinned
    # ones. As constraints, the pins leave out what the CPU builds do not ask for.
    say("installing the pinned requirements without CUDA (CPU=0 brings it back)")
    pins = ["--no-verify-hashes", "-c", "requirements.txt"]
    uv("--torch-backend", "cpu", *pins, "-r", "pyproject.toml", "--all-extras")


def install_package():
    """Editable, with the setuptools that is there by now: needs no network."""
    uv("--quiet", "--offline", "--no-deps", "--no-build-isolation", "-e", ".")


def uv(*arguments):
    run("uv", "pip", "install", "--python", PYTHON, *arguments)


def run(module, *arguments):
    """Run a module of .venv; what it prints stands above our own line if it fails."""
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    if subprocess.call((PYTHON, "-m", module) + arguments, cwd=ROOT, env=env) != 0:
        stop(
            "the installation stopped (see above). If it could not connect, the network is away: "
            "the first set-up needs it, later ones do not. Run the command again to continue."
        )


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def say(text):
    print("[set-up] " + text, flush=True)


def stop(text):
    sys.exit("[set-up] " + text)


if __name__ == "__main__":
    main()
