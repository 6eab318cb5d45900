"""plane.html in a headless Chromium, from the file system: by pointer, touch and keys."""

import functools
import http.server
import math
import re
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from ddpm_helpers.diffusion import DiffusionUtils
from tools.website.plane import write_plane

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
WAIT = 120_000  # ms, for a shared machine; nothing here measures time
REACH = 2.3  # the canvas shows -REACH..REACH
SIX = np.array([[-0.85, 0.6], [-0.3, 0.9], [0.8, 0.7], [0.9, -0.2], [0.1, -0.85], [-0.8, -0.55]])
STILL = {"reduced_motion": "reduce"}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
FOCUSED = "(({ id, name, parentElement: p }) => id || name || p.id)(document.activeElement)"
TABLE = (
    "[...document.querySelectorAll('#{} tbody tr')]"
    ".map((row) => [...row.cells].map((cell) => cell.textContent))"
)
BUGS = ["last noise", "one ahead", "root", "wraps", "clipped mean", "wrong kind"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plane") / "plane.html"
    write_plane(path)
    return path


@contextmanager
def opened(browser, address, state="", **options):
    """The page in a state; at the end it must have asked for itself alone, without any error."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(f"{address}{state}")
    page.wait_for_function("document.getElementById('facts').children.length > 0")
    yield page
    assert not errors, errors
    assert {url.split("#")[0] for url in asked if not url.startswith(("data:", "blob:"))} == {
        address
    }
    context.close()


@pytest.fixture
def show(browser, file):
    return functools.partial(opened, browser, file.as_uri())


def facts(page):
    """What the page tells about x_t, name -> text."""
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#facts dt')]"
        ".map((e) => [e.textContent, e.nextElementSibling.textContent]))"
    )


def numbers(text):
    return [float(one.replace("−", "-")) for one in re.findall(r"[−-]?\d+\.\d+", text)]


def place(page, x, y):
    """Where a point of the plane is on the screen."""
    page.locator("#plane").scroll_into_view_if_needed()
    box = page.locator("#plane").bounding_box()
    across, down = (x + REACH) / (2 * REACH), (REACH - y) / (2 * REACH)
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def known(x_t, t):
    """The number of points still possible and the mean, for the six points, by the formula."""
    bar = DiffusionUtils(500).alpha_bar[t].item()
    logits = -np.square(x_t - math.sqrt(bar) * SIX).sum(1) / (2 * (1 - bar))
    w = np.exp(logits - logits.max())
    w /= w.sum()
    return math.exp(-(w * np.log(w)).sum()), w @ SIX


def check_facts(page, t):
    told = facts(page)
    x_t = np.array(numbers(told["x_t"]))
    possible, mean = known(x_t, t)
    assert float(told["Still possible"].split()[0]) == pytest.approx(possible, abs=0.051)
    np.testing.assert_allclose(numbers(told["E[x_0 | x_t]"]), mean, atol=0.0051)
    return x_t


def settled(page, expression):
    page.wait_for_function(expression)
    return page


def test_at_first_sight_there_is_one_thing_to_do(show):
    with show() as page:
        assert page.text_content("#tour-title") == "Drag the point"
        assert page.is_hidden("#error") and page.is_visible("#tour-next")
        assert check_facts(page, 120).tolist() == [0.35, 0.25]
        settled(page, "location.hash === '#tour=1'")
        assert "3." in page.get_attribute("#plane", "aria-label")
        open_panels = page.locator("details[open]").count()
        assert open_panels == 0


def test_dragging_x_t_by_mouse(show):
    with show("#data=six&t=120&x=0,0") as page:
        page.mouse.move(*place(page, 0, 0))
        page.mouse.down()
        page.mouse.move(*place(page, 0.4, -0.3), steps=3)
        page.mouse.move(*place(page, 1.0, -0.6), steps=3)
        page.mouse.up()
        page.mouse.move(*place(page, -1, -1))  # nothing is held any more
        settled(page, "!document.getElementById('facts').textContent.includes('(0.00, 0.00)')")
        np.testing.assert_allclose(check_facts(page, 120), [1.0, -0.6], atol=0.02)


def test_touching_and_drawing_by_finger(show):
    with show("#data=six&t=60", **PHONE) as page:
        page.touchscreen.tap(*place(page, -0.5, 0.5))
        settled(page, "document.getElementById('facts').textContent.includes('(−0.')")
        np.testing.assert_allclose(check_facts(page, 60), [-0.5, 0.5], atol=0.02)
        page.check("input[name=tool][value='1']")
        page.touchscreen.tap(*place(page, 0.5, 0.5))
        settled(page, "document.getElementById('data').value === 'hand'")
        page.check("input[name=tool][value=move]")
        settled(page, "document.getElementById('facts').textContent.includes('of 7 points')")
        settled(page, "/data=hand.*points=.{21}/.test(location.hash)")


def test_everything_can_be_done_by_keyboard(show):
    with show() as page:
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(FOCUSED))
        wanted = {
            "tour-next", "tour-end", "plane", "t", "play", "data", "n", "walk", "show", "field",
            "cloud", "density", "tool", "undo", "clear", "learn", "race", "break", "share",
        }  # fmt: skip
        assert wanted <= reached
        page.focus("#plane")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("PageDown")
        settled(page, "document.getElementById('facts').textContent.includes('(0.40, 0.00)')")
        check_facts(page, 110)
        outline = page.evaluate("getComputedStyle(document.getElementById('plane')).outlineWidth")
        assert outline == "3px"
        page.focus("input[name=tool]:checked")
        page.keyboard.press("ArrowRight")
        page.focus("#plane")
        page.keyboard.press("Space")
        settled(page, "document.getElementById('n-value').value === '7'")


def test_time_runs_down_and_stops(show):
    with show("#data=moons&cloud=1&field=exact") as page:
        page.focus("#t")
        page.keyboard.press("End")
        assert page.input_value("#t") == "500"
        page.click("#play")
        settled(page, "Number(document.getElementById('t').value) < 480")
        page.click("#play")
        left = page.input_value("#t")
        page.wait_for_timeout(200)
        assert page.input_value("#t") == left and page.text_content("#play") == "Play"


def test_reduced_motion_is_a_few_jumps(show):
    with show("#data=six&t=500", **STILL) as page:
        page.evaluate(
            "window.seen = new Set(); const look = () => {"
            " seen.add(document.getElementById('t').value); requestAnimationFrame(look); }; look()"
        )
        page.click("#play")
        settled(page, "document.getElementById('t').value === '0'")
        assert page.evaluate("seen.size") <= 11


def test_the_tour(show):
    with show(**STILL) as page:
        titles = []
        for step in range(1, 7):
            settled(page, f"document.getElementById('tour-count').innerText.includes('{step} of')")
            titles.append(page.text_content("#tour-title"))
            if step in (3, 4):
                settled(page, "document.getElementById('facts').textContent.includes('Walk')")
                walk = facts(page)["Walk"]
                x_t = numbers(walk)[:2]
                if step == 3:  # one step ends on the mean, which is no data point
                    np.testing.assert_allclose(
                        x_t, known(np.array([-0.4, -1.7]), 500)[1], atol=0.006
                    )
                    assert "1 step" in walk and "from the nearest data point" in walk
                else:
                    assert "50 steps" in walk and "on a data point" in walk
                    assert np.abs(SIX - x_t).sum(1).min() < 0.011
            if step >= 5:
                said = "with the exact mean" if step == 5 else "6000 updates"
                settled(
                    page, f"document.getElementById('tour-text').textContent.includes('{said}')"
                )
                far = float(page.text_content("#results tbody td:last-child"))
                assert far == 0 if step == 5 else 0.05 < far < 0.2
            if step == 5:
                assert "all end on the 12 data points" in page.text_content("#tour-text")
            if step < 6:
                page.click("#tour-next")
        assert len(set(titles)) == 6
        page.click("#tour-next")
        assert page.is_hidden("#tour") and page.is_visible("#tour-start")
        assert page.input_value("#t") == "120" and page.input_value("#data") == "ring"
        page.click("#tour-start")
        assert page.text_content("#tour-title") == titles[0]


def test_play_moves_x_t_along_its_walk(show):
    with show("#data=six&t=500&x=-0.4,-1.7&walk=50", **STILL) as page:
        settled(page, "document.getElementById('facts').textContent.includes('Walk')")
        page.click("#play")
        settled(page, "document.getElementById('t').value === '0'")
        settled(page, "document.getElementById('facts').textContent.includes('1.0 of 6')")
        assert facts(page)["x_t"] == "(0.10, −0.85)"
        settled(page, "location.hash.includes('t=500')")  # a link shows the walk from its start
        page.mouse.click(*place(page, 1.5, 1.2))  # the walk is over: another one from T
        settled(page, "document.getElementById('t').value === '500'")
        settled(page, "document.getElementById('facts').textContent.includes('50 steps end')")
        assert numbers(facts(page)["x_t"]) == pytest.approx([1.5, 1.2], abs=0.02)


def test_the_tour_tells_of_the_network_that_was_raced(show):
    with show("#tour=5", **STILL) as page:
        settled(page, "document.querySelectorAll('#results tbody tr').length === 1")
        page.click("#learn summary")
        page.click("#retrain")  # the network that comes with the page is the tour's next step
        settled(page, "parseInt(document.getElementById('learned').textContent) > 20")
        page.click("#train")
        assert "all end on the 12 data points" in page.text_content("#tour-text")
        page.click("#start")
        settled(page, "document.getElementById('results').textContent.includes('of the network')")
        text = page.text_content("#tour-text")
        assert "all end on" not in text and "learned too little" in text


def test_one_step_ends_on_the_star_that_it_was_told(show):
    with show("#tour=3", **STILL) as page:
        settled(page, "document.getElementById('facts').textContent.includes('Walk')")
        page.click("#play")
        settled(page, "document.getElementById('t').value === '0'")
        settled(page, "document.getElementById('facts').textContent.includes('Last asked')")
        told = facts(page)
        assert told["Last asked"] == "at t = 500, where x_t was (−0.40, −1.70)"
        assert told["Still possible"].startswith("6.0 of 6")
        np.testing.assert_allclose(numbers(told["x_t"]), numbers(told["E[x_0 | x_t]"]), atol=0.011)


def test_points_that_were_removed_come_back(show):
    with show("#data=hand&points=AAABBB") as page:
        page.click("#clear")
        settled(page, "document.getElementById('facts').textContent.includes('no points yet')")
        page.click("#undo")
        settled(page, "document.getElementById('facts').textContent.includes('of 2 points')")
        page.click("#undo")
        settled(page, "document.getElementById('facts').textContent.includes('of 1 points')")


def test_a_bug_that_few_points_cannot_show_says_so(show):
    with show("#data=six&open=break", **STILL) as page:
        page.check("input[name=bug][value=root]")
        settled(page, "document.getElementById('seen').textContent.includes('too few points')")
        page.select_option("#data", "classes")
        page.click("#broken")
        settled(page, "!document.getElementById('seen').textContent.includes('too few points')")


def test_space_never_scrolls_the_page(show):
    with show("#data=six&t=500", viewport={"width": 700, "height": 500}) as page:
        page.focus("#plane")
        before = page.evaluate("scrollY")
        page.keyboard.press("Space")
        settled(page, "Number(document.getElementById('t').value) < 500")
        page.keyboard.press("Space")
        assert page.text_content("#play") == "Play"
        page.wait_for_timeout(300)
        assert page.evaluate("scrollY") == before
        page.check("input[name=tool][value='2']")
        settled(page, "document.getElementById('facts').textContent.includes('class 2')")
        assert "star" not in page.text_content("#facts")


def test_a_phone_keeps_the_plane_in_sight(show):
    with show("#data=six", viewport={"width": 375, "height": 667}, has_touch=True) as page:
        page.locator("#share summary").scroll_into_view_if_needed()
        page.click("#share summary")
        page.evaluate("scrollTo(0, 600)")
        box = page.locator("#plane").bounding_box()
        assert 0 <= box["y"] < 20 and box["height"] < 0.5 * 667


def test_a_link_holds_the_state_and_changes_it_without_reloading(show):
    state = "#data=classes&t=40&x=0.1,0.2&show=eps&field=exact&walk=5"
    with show(state) as page:
        page.wait_for_timeout(600)
        assert page.evaluate("location.hash") == state
        assert page.is_checked("input[name=show][value=eps]") and "eps" in facts(page)
        page.evaluate("window.before = 1; location.hash = '#data=moons&t=77'")
        settled(page, "document.getElementById('t').value === '77'")
        assert page.evaluate("window.before") == 1 and page.input_value("#data") == "moons"
        page.click("#share summary")
        settled(
            page, "document.getElementById('link').value.endsWith('#data=moons&t=77&open=share')"
        )


def test_a_broken_address_is_one_sentence_and_the_page_goes_on(show):
    with show("#data=six&t=NaN&x=0,0") as page:
        assert "t is a whole number in 0..500" in page.text_content("#error")
        page.mouse.click(*place(page, 0.5, 0.5))
        settled(page, "!document.getElementById('facts').textContent.includes('(0.00, 0.00)')")
        check_facts(page, 120)


def test_without_points_there_is_a_sentence(show):
    with show("#data=moons") as page:
        page.click("#clear")
        settled(page, "document.getElementById('facts').textContent.includes('no points yet')")
        for panel, button in (("race", "start"), ("break", "broken"), ("learn", "train")):
            page.click(f"#{panel} summary")
            page.click(f"#{button}")
            assert "no data points" in page.text_content("#error")
        page.select_option("#data", "ring")
        settled(page, "document.getElementById('facts').textContent.includes('of 12 points')")


def test_a_network_trains_on_the_page(show):
    with show("#data=ring&seed=1&open=learn&run=1&field=learned&t=200", **STILL) as page:
        settled(page, "parseInt(document.getElementById('learned').textContent) > 20")
        page.click("#train")
        settled(page, "document.getElementById('train').textContent === 'Train'")
        said = page.text_content("#learned")
        assert 0 < float(re.search(r"loss (\d\.\d+)", said)[1]) < 1
        assert "2000" in said
        assert "network's x_0" in facts(page)
        assert "learned" in page.get_attribute("#errors", "aria-label")
        page.check("input[name=measured][value=new]")
        page.select_option("#data", "moons")  # it has not learned these
        settled(page, "document.getElementById('learned').textContent.startsWith('Not trained')")
        assert page.is_checked("input[name=field][value=exact]")


def test_training_that_is_not_finite_says_so(show):
    with show("#data=ring&open=learn") as page:
        page.evaluate("Math.atan2 = () => NaN")
        page.click("#train")
        settled(page, "!document.getElementById('error').hidden")
        assert "not finite" in page.text_content("#error")
        assert page.text_content("#train") == "Train"


def test_samplers_race(show):
    with show("#data=classes&open=race&run=1&calls=20&racers=4", **STILL) as page:
        rows = "document.querySelectorAll('#results tbody tr').length"
        settled(page, f"{rows} === 5")
        table = page.evaluate(TABLE.format("results"))
        assert [row[0] for row in table] == ["ddpm", "ddim", "heun", "dpm++", "flow"]
        assert table[0][2] == "–" and int(table[2][1]) < 20
        assert all(0 <= float(row[2]) < 0.5 for row in table[1:])
        page.uncheck("input[name=samplers][value=ddpm]")
        settled(page, f"{rows} === 4")
        page.select_option("#class", "1")
        page.focus("#guidance")
        page.keyboard.press("End")
        settled(page, "location.hash.includes('class=1&guidance=8')")
        page.focus("#plane")
        page.keyboard.press("ArrowUp")  # back to x_t
        settled(page, "document.getElementById('facts').textContent.includes('Still possible')")


def test_broken_samplers_show_the_doctors_sentence(show):
    with show("#data=classes&open=break", **STILL) as page:
        said = set()
        for bug in BUGS:
            page.check(f"input[name=bug][value='{bug}']")
            page.click("#broken")
            said.add(page.text_content("#doctor"))
            table = page.evaluate(TABLE.format("ends"))
            far, reached = ([float(row[k]) for row in table] for k in (1, 2))
            if bug in ("last noise", "one ahead", "wraps"):
                assert far[1] > 1.3 * far[0], bug
            if bug in ("root", "clipped mean", "wrong kind", "wraps"):
                assert reached[1] < 0.85 * reached[0], bug
        assert len(said) == len(BUGS) and all(one.startswith("The doctor says: ") for one in said)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(show, scheme):
    with show("#data=letters&open=race&run=1", color_scheme=scheme, **PHONE, **STILL) as page:
        page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        settled(page, "document.querySelectorAll('#results tbody tr').length === 5")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        style = page.evaluate_handle("getComputedStyle(document.body)")
        ink, back = style.evaluate("({ color, backgroundColor }) => [color, backgroundColor]")
        brightness = [sum(map(int, rgb.strip("rgb()").split(","))) for rgb in (ink, back)]
        assert (brightness[0] < brightness[1]) == (scheme == "light")


def test_every_control_has_a_name(show):
    with show("#data=classes&open=race") as page:
        nameless = page.evaluate(
            "[...document.querySelectorAll('input, select, button, canvas')].filter((e) => "
            "!(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()))"
            ".map((e) => e.outerHTML)"
        )
        assert nameless == []


def test_the_image_can_be_saved(show):
    with show("#data=spiral&t=100&cloud=1&open=share") as page:
        with page.expect_download() as download:
            page.click("#save")
        content = download.value.path().read_bytes()
        assert download.value.suggested_filename == "plane.png"
        assert content.startswith(b"\x89PNG") and len(content) > 20_000


def test_it_works_from_a_server_too(browser, file):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(file.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/plane.html"
        with opened(browser, address, "#tour=2") as page:
            assert page.text_content("#tour-title") == "Lower t"
        server.shutdown()
