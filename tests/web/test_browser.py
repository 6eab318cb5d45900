"""site/ in a headless Chromium: `make site site-test`. Skipped without a site or a browser."""

import functools
import http.server
import threading

import numpy as np
import pytest
import torch

from ddpm_helpers import load_pretrained
from ddpm_helpers.diffusion.editing import sdedit

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
WAIT = 120_000  # ms, for a shared machine; nothing here measures time
DRAWN = (
    "document.getElementById('status').textContent.startsWith('Drawn') && "
    "document.getElementById('pictures').ariaBusy === 'false'"
)
# A whole walk by the page's own worker: the last picture, as numbers.
WALK = """
async (request) => {
  const { models, runtime } = await (await fetch("draw/models/models.json")).json();
  const model = models.find(({ name }) => name === request.model);
  const worker = new Worker("draw/worker.js", { type: "module" });
  return new Promise((resolve, reject) => {
    let last;
    worker.onmessage = ({ data: { step, done, error } }) => {
      if (error) reject(new Error(error));
      last = step ?? last;
      if (done !== undefined) resolve(Array.from(last.x_t));
    };
    const doodle = request.doodle && Float32Array.from(request.doodle);
    worker.postMessage({ ...request, doodle, id: 1, model, runtimeFiles: runtime });
  });
}
"""


@pytest.fixture(scope="module")
def address(root):
    """The site on this machine alone, as `python -m http.server` serves it."""
    site = root / "site"
    if not (site / "draw.html").is_file():
        pytest.skip("no site/draw.html: run `make site` first")
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def page(browser, address):
    """An empty page; when the test ends, it must have asked this server alone, without errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(WAIT)
    yield page
    foreign = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert asked and not foreign, foreign
    assert not errors, errors
    page.close()


@pytest.fixture
def drawing(page, address):
    """draw.html, with its first picture finished."""
    page.goto(f"{address}/draw.html")
    page.wait_for_function(DRAWN)
    return page


def canvas(page, name="noisy"):
    """RGB of a canvas, uint8 (S, S, 3)."""
    data, side = page.evaluate(
        "name => { const c = document.getElementById(name); return [Array.from(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data), c.width]; }",
        name,
    )
    return np.array(data, np.uint8).reshape(-1, side, 4)[..., :3]


def as_pixels(x):
    return ((x[0] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    "name, sampler, y, guidance",
    [("cartoons", "dpm++", 3, 2.0), ("cartoons", "heun", -1, 1.0), ("cartoons", "ddpm", 8, 1.0),
     ("cifar10-64", "dpm++", 7, 2.0), ("cifar10-64", "ddim", 1, 3.0)],
)  # fmt: skip
def test_the_browser_computes_the_same_numbers_as_python(page, address, name, sampler, y, guidance):
    page.goto(f"{address}/search.html")  # any page of the site; the worker is what is tested
    request = {"y": y, "seed": 11, "steps": 15, "guidance": guidance, "sampler": sampler}
    found = page.evaluate(WALK, request | {"model": name, "doodle": None})
    model, diffusion = load_pretrained(name)
    request["y"] = None if y < 0 else y
    wanted = diffusion.sample(model, 1, **request).flatten().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)


def test_a_doodle_gives_the_same_numbers_as_sdedit(page, address):
    page.goto(f"{address}/search.html")
    doodle = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    request = {"y": 5, "seed": 2, "steps": 15, "guidance": 2.0, "sampler": "dpm++"}
    own = {"model": "cartoons", "doodle": doodle.flatten().tolist(), "from": 325}
    found = page.evaluate(WALK, request | own)
    model, diffusion = load_pretrained("cartoons")
    wanted = sdedit(diffusion, model, doodle, 325, **request).flatten().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)


def test_the_page_shows_the_picture_that_its_python_draws(drawing, capsys):
    model, diffusion = load_pretrained("cartoons")
    drawing.select_option("#class", label="frog")
    for _ in range(4):  # only the last counts
        drawing.click("#next")
    drawing.wait_for_function(DRAWN)
    drawing.wait_for_function("document.getElementById('path').value === '15'")
    assert "y=[6]" in (code := drawing.text_content("#code")) and "seed=4" in code
    names = {}
    exec(code, names)  # the very lines that the page shows
    assert np.abs(canvas(drawing) - as_pixels(names["x"])).max() <= 1
    with capsys.disabled():
        print(f"\n  draw.html: {drawing.text_content('#status')}")


def test_the_slider_walks_back_to_the_noise(drawing):
    end, seen = canvas(drawing), canvas(drawing, "clean")
    assert (end == seen).all(), "at t = 0 both are the result"
    drawing.focus("#path")
    drawing.keyboard.press("Home")
    assert "t = 500" in drawing.text_content("#where")
    assert canvas(drawing).std() > 80 and (canvas(drawing, "clean") != seen).any()
    drawing.keyboard.press("End")
    assert (canvas(drawing) == end).all()


def test_everything_can_be_done_by_keyboard(drawing):
    reached = set()
    for _ in range(40):
        drawing.keyboard.press("Tab")
        reached.add(drawing.evaluate("document.activeElement.id"))
    controls = {"path", "model", "class", "seed", "next", "guidance", "steps", "sampler", "draw",
                "replay", "use-doodle"}  # fmt: skip
    assert controls <= reached
    before = canvas(drawing)
    drawing.focus("#class")
    drawing.keyboard.press("ArrowDown")
    drawing.wait_for_function("document.getElementById('code').textContent.includes('automobile')")
    drawing.wait_for_function(DRAWN)
    assert (canvas(drawing) != before).any()
    drawing.focus("#use-doodle")
    drawing.keyboard.press("Space")
    drawing.focus("#doodle")
    empty = canvas(drawing, "doodle")
    for key in ("ArrowLeft", "Space", "Shift+ArrowRight", "Shift+ArrowRight"):
        drawing.keyboard.press(key)
    assert (canvas(drawing, "doodle") != empty).any()
    drawing.wait_for_function("document.getElementById('code').textContent.includes('sdedit')")
    drawing.wait_for_function(DRAWN)


def test_every_control_has_a_name(drawing):
    drawing.check("#use-doodle")
    nameless = drawing.evaluate(
        "[...document.querySelectorAll('input, select, button, canvas')].filter((e) => "
        "!(e.labels?.length || e.ariaLabel || e.getAttribute('aria-label') || "
        "e.textContent.trim())).map((e) => e.outerHTML)"
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_does_not_scroll_sideways(browser, address, scheme):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.goto(f"{address}/draw.html")
    page.wait_for_function(DRAWN, timeout=WAIT)
    page.check("#use-doodle")
    width = page.evaluate("document.documentElement.scrollWidth")
    ink, back = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    page.close()
    assert width <= 360
    brightness = [sum(map(int, rgb.strip("rgb()").split(","))) for rgb in (ink, back)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")


def truncated(route):
    whole = route.fetch().body()
    route.fulfill(body=whole[: len(whole) // 2])


def altered(route):
    whole = bytearray(route.fetch().body())
    whole[len(whole) // 2] ^= 1
    route.fulfill(body=bytes(whole))


def missing(route):
    route.fulfill(status=404, body="")


@pytest.mark.parametrize(
    "file, fault, words",
    [
        ("models/cartoons.onnx", missing, ["models/cartoons.onnx", "404"]),
        ("models/cartoons.onnx", truncated, ["models/cartoons.onnx is incomplete", "of 6"]),
        ("models/cartoons.onnx", altered, ["models/cartoons.onnx is damaged"]),
        ("models/models.json", missing, ["models/models.json", "404"]),
        ("ort/ort-wasm-simd-threaded.wasm", truncated, ["threaded.wasm is incomplete"]),
        ("ort/ort.wasm.bundle.min.mjs", missing, ["ort/ort.wasm.bundle.min.mjs"]),
        ("worker.js", missing, ["worker.js"]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)) if not isinstance(value, list) else "",
)
def test_a_file_that_is_missing_or_damaged_is_named(page, address, file, fault, words):
    page.context.route(f"**/draw/{file}", fault)
    page.goto(f"{address}/draw.html")
    page.wait_for_selector("#error:not([hidden])")
    shown = page.text_content("#error")
    page.context.unroute(f"**/draw/{file}")
    assert all(word in shown for word in words) and "make site" in shown
    if file == "models/cartoons.onnx":  # mended on the server: the next try works
        page.click("#draw")
        page.wait_for_function(DRAWN)
        assert page.is_hidden("#error")


def test_the_books_equations_and_search_need_no_network(page, address, root):
    notebook = sorted((root / "site/notebooks").glob("02*.html"))[0]
    page.goto(f"{address}/notebooks/{notebook.name}")
    page.wait_for_function("document.querySelectorAll('mjx-container').length > 20")
    assert page.locator("mjx-merror").count() == 0
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth)")
    page.goto(f"{address}/search.html?q=guidance")
    page.wait_for_function("document.querySelectorAll('#search-results li').length > 2")
