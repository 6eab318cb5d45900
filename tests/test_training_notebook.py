"""A training in a notebook's kernel: interrupted as the stop button does it, watched in place."""

import json
import queue
import shlex
import sys
import time

import accelerate
import pytest

from ddpm_helpers import cli
from ddpm_helpers.config import TrainConfig

pytest.importorskip("ipykernel")
CELL = """
import sys
sys.path[:0] = {paths}
from toy_training import pipeline
from ddpm_helpers.display.live import LiveView
p = pipeline({folder!r}, epochs=2000, save_every=0)
print("ready")
history = p.fit(watch=LiveView(every=4))
print("returned", len(history), p.step, p.stopped_by)
"""


@pytest.fixture
def kernel(tmp_path):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def messages(client, request):
    """What a running cell sends, until it is done."""
    while True:
        try:
            message = client.get_iopub_msg(timeout=120)
        except queue.Empty:
            pytest.fail("the cell sends nothing any more")
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["content"].get("execution_state") == "idle":
            return
        yield message["msg_type"], message["content"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_the_stop_button_saves_and_returns_and_one_figure_stays(kernel, tmp_path, root):
    manager, client = kernel
    paths = [str(root), str(root / "tests")]
    shown, updated, text = [], 0, ""
    cell = CELL.format(paths=paths, folder=str(tmp_path / "run"))
    for kind, content in messages(client, client.execute(cell)):
        if kind == "error":
            pytest.fail("\n".join(content["traceback"]))
        if kind == "stream":
            text += content["text"]
        image = "image/png" in content.get("data", {})
        if kind == "display_data" and image:
            shown.append(content["transient"]["display_id"])
        if kind == "update_display_data" and image:
            assert content["transient"]["display_id"] == shown[0]
            updated += 1
            if updated == 2:
                manager.interrupt_kernel()
                time.sleep(0.01)
                manager.interrupt_kernel()
    words = text[text.index("returned") :].split()
    assert words[1] == words[2] and int(words[1]) >= 12 and words[3] == "2"
    assert len(shown) == 1 and updated >= 2
    request = client.execute("p.resume(); print('alive', p.step)")
    said = "".join(c["text"] for kind, c in messages(client, request) if kind == "stream")
    assert said.split() == ["alive", words[2]]


def test_the_launcher_of_the_page_on_training_runs_as_it_is_printed(root, tmp_path, monkeypatch):
    """With one process and a tiny preset: the code is the reader's, copied into a fresh kernel."""
    page = (root / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = (block.split("```")[0] for block in page.split("```python\n")[1:])
    code = next(block for block in blocks if "notebook_launcher" in block)
    tiny = TrainConfig.preset("ci", image_size=16, width=8, timesteps=10, limit=8, batch_size=4)
    monkeypatch.setattr(TrainConfig, "preset", lambda name: tiny)
    monkeypatch.setattr(accelerate, "notebook_launcher", lambda train, num_processes: train())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/training.md", "exec"), {})
    assert (tmp_path / "runs" / "two" / "checkpoint.pt").exists()


def test_the_commands_of_notebook_05_have_options_that_exist(root):
    text = json.loads((root / "notebooks" / "05_training.ipynb").read_text(encoding="utf-8"))
    page = next(
        source
        for source in ("".join(cell["source"]) for cell in text["cells"])
        if "timeout -s KILL" in source
    )
    lines = page.split("```sh\n")[1].split("```")[0].replace("\\\n", " ").splitlines()
    words = [shlex.split(line.split(" #")[0]) for line in lines]
    starts = [next(k for k, word in enumerate(line) if word.startswith("ddpm")) for line in words]
    for line, start in zip(words, starts, strict=True):
        cli.build_parser().parse_args(line[start + 1 :])  # SystemExit: an unknown option
    assert [line[start + 1] for line, start in zip(words, starts, strict=True)] == [
        "data", "train", "train", "sample",
    ]  # fmt: skip
