"""Frames per second of plane.html with 400 points, in a headless Chromium without a GPU.

    python tests/benchmarks/bench_plane.py [seconds]

t moves by one in every frame. Each row adds something to what is drawn. A screen asks for at most
60 frames a second; the processor time that the page's thread takes for a frame also tells how much
is left (16.7 ms is all of it), and hardly depends on what else the machine does.
Needs playwright and a Chromium, as `make site-test` does.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import CDPSession, sync_playwright

from tools.website.plane import write_plane

STATES = {
    "x_t and density": "#data=letters&n=400",
    "and the cloud of 400": "#data=letters&n=400&cloud=1",
    "and a field of arrows": "#data=letters&n=400&cloud=1&field=exact",
    "and a walk of 50 steps": "#data=letters&n=400&cloud=1&field=exact&walk=50",
}
# Moves t in every frame; returns how many frames there were, and how many a second.
RUN = """
(seconds) => new Promise((resolve) => {
  const t = document.getElementById("t");
  const began = performance.now();
  let frames = 0;
  const frame = () => {
    const past = (performance.now() - began) / 1000;
    if (past > seconds) return resolve([frames, frames / past]);
    t.value = 1 + ((Number(t.value) + 1) % 500);
    t.dispatchEvent(new Event("input"));
    frames += 1;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})
"""


def busy(devtools: CDPSession) -> float:
    """Processor seconds of the page's thread so far."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return next(one["value"] for one in metrics if one["name"] == "TaskDuration")


def main(seconds: int = 5) -> None:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as run:
        file = Path(folder, "plane.html")
        write_plane(file)
        browser = run.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name, state in STATES.items():
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(file.as_uri() + state)
            page.evaluate(RUN, 2)  # until the script is compiled
            devtools = page.context.new_cdp_session(page)
            devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
            before = busy(devtools)
            frames, rate = page.evaluate(RUN, seconds)
            each = 1000 * (busy(devtools) - before) / frames
            print(f"{name:24} {rate:5.1f} frames a second, {each:5.1f} ms of the thread a frame")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
