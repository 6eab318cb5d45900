"""The data behind the figures: pixels, sizes, lines. No picture is compared with a picture."""

import io
from itertools import pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.display import plots
from ddpm_helpers.display.canvas import tile


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    assert plt.get_fignums() == []


def pictures(n, size=4):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def sheet(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_to_uint8_maps_the_ends_and_cuts_off_the_rest():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 0.5]).reshape(1, 1, 2, 3)
    pixels = plots.to_uint8(x)
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 2, 3, 1)
    assert pixels.ravel().tolist() == [0, 0, 128, 255, 255, 191]
    for wrong, value in (
        (torch.zeros(2, 4, 8, 8), r"\(2, 4, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), r"\(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "int64"),
        (torch.full((1, 1, 2, 2), float("nan")), "4 of 4"),
    ):
        with pytest.raises(ValueError, match=value):
            plots.to_uint8(wrong)


def test_tile_puts_every_picture_where_it_belongs():
    pixels = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    whole = tile(pixels, 3, gap=1, heads=[4, 0])
    assert whole.shape == (4 + 2 + 1 + 2, 3 * 3 + 2, 3)
    assert whole[4:6, :3].tolist() == np.full((2, 3, 3), 1).tolist()
    assert (whole[4:6, 8:11] == 3).all() and (whole[7:9, 4:7] == 5).all()
    assert (whole[:4] == 255).all() and (whole[7:9, 8:11] == 255).all()


def test_show_images_repeats_pixels_without_smoothing():
    x = pictures(2)
    figure = plots.show_images(x, scale=5)
    expected = plots.to_uint8(x)
    shown = sheet(figure)
    assert shown.shape == (20, 44, 3)
    assert np.array_equal(shown[2::5, 2:20:5], expected[0])
    assert np.array_equal(shown[2::5, 26:44:5], expected[1])
    assert len(np.unique(shown[:, :20].reshape(-1, 3), axis=0)) == 16  # no colour in between
    assert figure.axes[0].images[0].get_interpolation() == "nearest"
    for side in (28, 32, 40, 64, 200):  # without a scale, at least 96 screen pixels wide
        wide = sheet(plots.show_images(pictures(1, side))).shape[1]
        assert 96 <= wide <= 96 + side or wide == side


def test_a_picture_pixel_is_a_whole_number_of_screen_pixels():
    figure = plots.show_images(pictures(3), scale=7, title="three", row_labels=["a row"])
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    box = figure.axes[0].get_window_extent()
    assert (round(box.width), round(box.height)) == (3 * 28 + 8, 28)
    colours = plots.to_uint8(pictures(3))[0, 1, 1]
    assert (drawn == colours).all(-1).sum() >= 49
    assert Image.fromarray(drawn).size == tuple((figure.get_size_inches() * 100).round())


def test_show_images_says_its_titles():
    figure = plots.show_images(pictures(4), titles=list("abcd"), ncols=2, title="all of them")
    assert [t for t in texts(figure) if t] == ["a", "b", "c", "d"]
    assert figure.get_suptitle() == "all of them"
    taller = sheet(figure).shape[0] - sheet(plots.show_images(pictures(4), ncols=2)).shape[0]
    assert taller == 2 * 18  # room for two rows of titles


def test_show_images_refuses_what_does_not_fit():
    for name, value in (("titles", ["a"]), ("row_labels", ["a", "b", "c"]), ("ncols", 0)):
        with pytest.raises(ValueError, match=name):
            plots.show_images(pictures(2), **{name: value})


def test_titles_of_neighbours_never_touch():
    names = ["airplane", "automobile", "mmmmmmmm"]
    figure = plots.show_images(pictures(3, 32), titles=names, scale=2)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text() in names]
    assert len(boxes) == 3
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    short = plots.show_images(pictures(2, 32), titles=["cat", "$\\hat x_0$"], scale=2)
    assert {t.get_fontsize() for t in short.axes[0].texts if t.get_text()} == {9.0}


def test_a_row_label_stands_inside_the_figure():
    for label in ("jump", "WWWWWWWW", "$x_{t-1}$ clipped", "many words " * 5 + "."):
        figure = plots.show_images(pictures(1, 32), row_labels=[label], scale=2)
        FigureCanvasAgg(figure).draw()
        (text,) = [t for t in figure.axes[0].texts if t.get_text() == label]
        assert 8 < text.get_window_extent().x0 < 16  # neither cut off nor far from the border


def test_noising_strip_shows_the_formula():
    x_0, diffusion = pictures(1), DiffusionUtils(50, "linear")
    figure = plots.noising_strip(x_0[0], diffusion, ts=(0, 25, 50), seed=3, scale=1)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3))
    shown = sheet(figure)[18:]
    for k, t in enumerate((0, 25, 50)):
        bar = float(np.prod(1 - diffusion.betas.numpy()[: t + 1]))
        x_t = plots.to_uint8(bar**0.5 * x_0 + (1 - bar) ** 0.5 * eps)[0].astype(int)
        assert abs(shown[:, 8 * k : 8 * k + 4] - x_t).max() <= 1
    assert [text for text in texts(figure) if text] == ["t = 0", "t = 25", "t = 50"]


def test_noising_strip_compares_schedules_row_by_row():
    named = {"linear": DiffusionUtils(50, "linear"), "cosine": DiffusionUtils(50, "cosine")}
    figure = plots.noising_strip(pictures(1), named, ts=(0, 50))
    assert "linear" in texts(figure) and "cosine" in texts(figure)


def test_denoising_path_spans_the_whole_walk():
    x = pictures(2)
    steps = [SimpleNamespace(t=t, x_t=x * t / 50, x_0_pred=x) for t in range(50, -1, -1)]
    figure = plots.denoising_path(iter(steps), 6, picture=1, scale=1)
    assert [text for text in texts(figure) if text.startswith("t =")] == [
        f"t = {t}" for t in (50, 40, 30, 20, 10, 0)
    ]
    shown = sheet(figure)[18:]
    assert np.array_equal(shown[:4, :4], plots.to_uint8(x)[1])  # t = 50: all of x
    assert (shown[:4, 40:44] == 128).all()  # t = 0: grey
    assert np.array_equal(shown[8:, 40:44], plots.to_uint8(x)[1])


def test_class_grid_sorts_pictures_into_rows():
    images = np.repeat(np.arange(5, dtype=np.uint8), 3 * 4).reshape(5, 3, 2, 2) * 10
    ds = SimpleNamespace(images=images, labels=np.array([1, 0, 1, 1, 0]), classes=("a", "b", "c"))
    figure = plots.class_grid(ds, 3, scale=1)
    shown = sheet(figure)
    firsts = [[int(shown[r * 6, c * 6, 0]) for c in range(3)] for r in range(2)]
    assert firsts == [[10, 40, 255], [0, 20, 30]]  # class c has no pictures and no row
    assert [text for text in texts(figure) if text] == ["a", "b"]


def test_plot_schedules_draws_the_tables():
    named = {"linear": DiffusionUtils(50, "linear"), "cosine": DiffusionUtils(50, "cosine")}
    ax = plots.plot_schedules(named).axes[0]
    for line, one in zip(ax.lines, named.values(), strict=True):
        assert np.array_equal(line.get_xdata(), np.arange(51))
        assert np.allclose(line.get_ydata(), np.cumprod(1 - one.betas.numpy()))
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}
    assert len(looks) == 2 and len({look[1] for look in looks}) == 2
    assert ax.get_title() and ax.get_xlabel() and ax.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().texts] == ["linear", "cosine"]


def test_schedules_of_different_length_share_a_scale():
    ax = plots.plot_schedules({str(T): DiffusionUtils(T) for T in (20, 50)}).axes[0]
    assert [line.get_xdata()[-1] for line in ax.lines] == [1, 1] and ax.get_xlabel() == "t / T"


def test_plot_snr_leaves_out_what_has_no_logarithm():
    zero = DiffusionUtils(20, "linear", prediction="v", rescale_zero_snr=True)
    y = plots.plot_snr({"zero": zero}).axes[0].lines[0].get_ydata()
    bar = zero.alpha_bar.numpy()
    assert np.isnan(y[[0, -1]]).all() and np.allclose(y[1:-1], 1 / (1 / bar[1:-1] - 1))


def test_plot_history_smooths_with_a_running_mean():
    history = [SimpleNamespace(step=i + 1, loss=1 / (i + 1)) for i in range(50)]
    raw, smooth = plots.plot_history(history).axes[0].lines
    assert np.allclose(raw.get_ydata(), 1 / np.arange(1, 51))
    assert list(smooth.get_xdata()) == list(range(5, 51))
    assert smooth.get_ydata()[0] == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]))


@pytest.fixture
def shell(monkeypatch):
    """IPython with nothing but the formatters of its display."""
    from IPython.core.formatters import DisplayFormatter

    events = SimpleNamespace(register=lambda *hook: None)
    shell = SimpleNamespace(display_formatter=DisplayFormatter(), events=events)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    with plt.rc_context():
        yield shell
    plt.close("all")


def test_a_notebook_shows_small_charts_as_svg_and_images_as_dense_png(shell):
    plots.notebook_figures()
    fig, ax = plt.subplots()
    ax.semilogy([0.2, 0.6, 0.8], [0.3, 0.6, 40])
    data, _ = shell.display_formatter.format(fig)
    assert "image/png" not in data
    text = data["image/svg+xml"]
    assert text.lstrip().startswith("<?xml") and len(text) < 60_000
    fig.canvas.draw()
    ticks = [label.get_text() for label in ax.get_yticklabels(which="both")]
    assert not any("10^" in tick or "times" in tick for tick in ticks)
    again, _ = shell.display_formatter.format(fig)
    assert again["image/svg+xml"] == text  # a second Run All changes nothing
    ax.imshow(np.zeros((4, 4)))
    data, about = shell.display_formatter.format(fig)
    width, height = Image.open(io.BytesIO(data["image/png"])).size
    assert about["image/png"] == {"width": width // 2, "height": height // 2}
    assert "image/svg+xml" not in data
    many, ax = plt.subplots()
    ax.plot(np.random.default_rng(0).normal(size=5000))
    assert "image/png" in shell.display_formatter.format(many)[0]
