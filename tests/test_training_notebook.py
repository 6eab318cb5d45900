"""A training in a notebook's kernel: interrupted as the stop button does it, watched in place."""

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
p.fit(watch=LiveView(every=4))
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
def test_the_stop_button_saves_and_one_figure_stays(kernel, tmp_path, root):
    manager, client = kernel
    paths = [str(root), str(root / "tests")]
    shown, updated, errors = [], 0, []
    cell = CELL.format(paths=paths, folder=str(tmp_path / "run"))
    for kind, content in messages(client, client.execute(cell)):
        if kind == "error":
            errors.append(content["ename"])
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
    assert errors == ["KeyboardInterrupt"] and len(shown) == 1 and updated >= 2
    request = client.execute("step = p.step; p.resume(); print(step, p.step, len(p.history))")
    said = "".join(c["text"] for kind, c in messages(client, request) if kind == "stream")
    before, saved, records = map(int, said.split())
    assert before == saved == records >= 12


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
