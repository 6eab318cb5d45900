"""A training in a notebook's kernel: interrupted as the stop button does it, watched in place."""

import json
import queue
import sys
import time

import accelerate
import pytest

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


def test_the_launcher_of_notebook_05_runs_as_it_is_printed(root, tmp_path, monkeypatch):
    """With one process and a tiny preset: the code is the reader's, copied into a fresh kernel."""
    text = json.loads((root / "notebooks" / "05_training.ipynb").read_text(encoding="utf-8"))
    cells = ("".join(cell["source"]) for cell in text["cells"])
    lesson = next(cell for cell in cells if "notebook_launcher" in cell)
    code = lesson.split("```python\n")[1].split("```")[0]
    tiny = TrainConfig.preset("ci", image_size=16, width=8, timesteps=10, limit=8, batch_size=4)
    monkeypatch.setattr(TrainConfig, "preset", lambda name: tiny)
    monkeypatch.setattr(accelerate, "notebook_launcher", lambda train, num_processes: train())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "notebook 05", "exec"), {})
    assert (tmp_path / "runs" / "two" / "checkpoint.pt").exists()
