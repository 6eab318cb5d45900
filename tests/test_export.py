"""Exported weights, read back by the programs that they are for."""

import copy
import importlib.util
import json

import numpy as np
import pytest
import torch

from ddpm_helpers import cli
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.export import export_diffusers, export_hub, export_onnx, onnx_file
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import available_weights, load_pretrained, save_weights

ONNX = ("onnx", "onnxscript", "onnxruntime")
MISSING = [name for name in ONNX if importlib.util.find_spec(name) is None]
OLD = onnx_file.torch_version() < onnx_file.OLDEST_TORCH
needs_onnx = pytest.mark.skipif(
    bool(MISSING) or OLD, reason=f"missing: {', '.join(MISSING) or 'torch 2.9 or newer'}"
)
BETAS = [0.0, *np.linspace(1e-3, 0.4, 20).tolist()]


def a_net(num_classes=3, channels=3):
    torch.manual_seed(0)
    model = DiffusionNet(16, width=8, num_classes=num_classes, channels=channels)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # no layer at 0, where nothing could be lost
    return model.eval()


def saved(folder, model, diffusion=None, dtype=torch.float32):
    diffusion = diffusion or DiffusionUtils(20, prediction="v")
    names = [f"class {i}" for i in range(model.num_classes or 0)]
    trained = {"classes": names, "data": "/home/me/album"}
    return save_weights(folder / "w.safetensors", model, diffusion, trained, dtype=dtype)


# ---- ONNX ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def networks_are_traced_once():
    """Tracing takes ten seconds; nets of one kind, from `a_net`, have one graph."""
    kept, traced = {}, onnx_file._traced

    def once(model):
        kind = str(model.config), next(model.parameters()).dtype
        if kind not in kept:
            kept[kind] = traced(model)
        return copy.deepcopy(kept[kind])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "_traced", once)
        yield


LABELLED, GREY = (3, 3, "float16"), (None, 1, "float32")


@needs_onnx
@pytest.mark.parametrize(
    "num_classes, channels, dtype", [LABELLED, pytest.param(*GREY, marks=pytest.mark.slow)]
)
def test_onnx_gives_torchs_outputs_at_any_batch(tmp_path, num_classes, channels, dtype):
    import onnxruntime

    path = saved(tmp_path, a_net(num_classes, channels), dtype=getattr(torch, dtype))
    file = export_onnx(path, tmp_path / "net.onnx")
    assert file.stat().st_size < 1.5 * path.stat().st_size, "float16 stays float16"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    model, diffusion = load_pretrained(path)
    for n in (1, 4):
        x_t = torch.randn(n, channels, 16, 16, generator=torch.Generator().manual_seed(n))
        t, y = torch.arange(n) * 5 + 1, None if num_classes is None else torch.arange(n) - 1
        feed = {"x_t": x_t.numpy(), "t": t.numpy()} | ({} if y is None else {"y": y.numpy()})
        found = session.run(None, feed)[0]
        np.testing.assert_allclose(found, model(x_t, t, y).numpy(), rtol=1e-4, atol=1e-4)
    about = json.loads(session.get_modelmeta().custom_metadata_map["ddpm_helpers"])
    assert about["diffusion"] == diffusion.config and about["model"] == model.config
    assert about["trained"]["data"] == "album", "the file does not tell where the data lie"
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="exists already: name a new file"):
        export_onnx(path, file)
    assert file.read_bytes() == before


@needs_onnx
@pytest.mark.slow
def test_an_onnx_file_that_differs_is_not_written(tmp_path, monkeypatch):
    from onnx import numpy_helper

    traced = onnx_file._traced

    def damaged(model):
        found = traced(model)
        tensor = max(found.graph.initializer, key=lambda t: len(t.raw_data))
        values = numpy_helper.to_array(tensor) * 1.1
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
        return found

    monkeypatch.setattr(onnx_file, "_traced", damaged)
    with pytest.raises(ValueError, match="ONNX differs from torch by .* in a batch of 1"):
        export_onnx(saved(tmp_path, a_net(), dtype=torch.float16), tmp_path / "net.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_missing_package_is_one_line_with_its_command(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    absent = ("onnxscript", "onnxruntime")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    words = ["export", "--to", "onnx", "--out", str(tmp_path / "a.onnx")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "pip install onnxscript onnxruntime" in error and error.count("\n") == 1


def test_the_command_names_what_it_cannot_do(tmp_path, capsys):
    path = str(saved(tmp_path, a_net()))
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("the only copy")
    wrong = {
        "exists": ["--to", "hub", "--out", str(full)],
        "--sampler does not apply to hub": ["--to", "hub", "--sampler", "ddim"],
        "must end in .onnx": ["--to", "onnx", "--out", str(tmp_path / "net.pt")],
        "'heun'": ["--to", "diffusers", "--sampler", "heun"],
    }
    for words, options in wrong.items():
        out = [] if "--out" in options else ["--out", str(tmp_path / "new")]
        assert cli.main(["export", "--weights", path, *options, *out]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert (full / "thesis.txt").read_text() == "the only copy"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", "w.safetensors"]


# ---- diffusers ----------------------------------------------------------------------------------


KINDS = {
    "v": DiffusionUtils(20, prediction="v"),
    "x_0": DiffusionUtils(20, "shifted_cosine", prediction="x_0"),
    "eps": DiffusionUtils(20, BETAS, prediction="eps"),
}
WAYS = [("dpm++", 7), ("ddim", 10), ("ddpm", 7)]


@pytest.mark.parametrize(
    "kind, sampler, steps",
    [("v", "dpm++", 7), *(
        pytest.param(kind, *way, marks=pytest.mark.slow) for kind in KINDS for way in WAYS
        if (kind, *way) != ("v", "dpm++", 7)
    )],
)  # fmt: skip
def test_diffusers_draws_our_samples_from_the_same_noise(tmp_path, kind, sampler, steps):
    from ddpm_helpers.export.diffusers_net import GuidedPipeline

    model, diffusion = a_net(), KINDS[kind]
    folder = export_diffusers(saved(tmp_path, model, diffusion), tmp_path / "out", sampler)
    pipe = GuidedPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    x_T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    # ddpm draws noise in its steps: here it is diffusers' own, so our walk is given the same.
    generator, ours = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    found = pipe(
        [2, 0], guidance_scale=2.0, num_inference_steps=steps, latents=x_T, generator=generator,
        output_type="pt",
    ).images  # fmt: skip
    wanted = walk(diffusion, model, sampler, steps, x_T, ours)
    assert wanted.std() > 0.05
    torch.testing.assert_close(found * 2 - 1, wanted, rtol=0, atol=1e-4)


def walk(diffusion, model, sampler, steps, x_T, generator):
    from ddpm_helpers.diffusion.samplers import ddpm
    from ddpm_helpers.diffusion.schedules import sub_sequence

    options = {"guidance": 2.0, "y": [2, 0]}
    if sampler != "ddpm":
        return diffusion.sample(model, 2, sampler=sampler, steps=steps, x_T=x_T, **options)
    ts = sub_sequence(diffusion.T, steps)
    denoise = diffusion.denoiser(model, 2, **options)
    noise = lambda: torch.randn(x_T.shape, generator=generator)  # noqa: E731
    *_, last = ddpm(denoise, x_T, ts, diffusion.alpha_bar, noise)
    return last.x_t


@pytest.mark.slow
def test_diffusers_own_pipeline_loads_a_network_without_labels(tmp_path):
    from diffusers import DDPMPipeline

    model = a_net(num_classes=None, channels=1)
    folder = export_diffusers(saved(tmp_path, model), tmp_path / "out")
    assert "batch_size=4" in (folder / "README.md").read_text(encoding="utf-8")
    pipe = DDPMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    x_t = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    found = pipe.unet(x_t, 19).sample
    torch.testing.assert_close(found, model(x_t, torch.tensor([20, 20])), rtol=0, atol=1e-6)
    images = pipe(batch_size=2, num_inference_steps=5, output_type="np").images
    assert images.shape == (2, 16, 16, 1) and np.isfinite(images).all()


def test_what_diffusers_cannot_express_is_said():
    from ddpm_helpers.export.diffusers_net import make_scheduler, set_steps

    zero = DiffusionUtils(20, prediction="v", rescale_zero_snr=True)
    with pytest.raises(ValueError, match=r"alpha_bar\[T\] = 0"):
        make_scheduler(zero, "dpm++")
    with pytest.raises(ValueError, match="divisor of T = 20, got 7"):
        set_steps(make_scheduler(zero, "ddim"), 7)


# ---- the Hub's folder ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.float32, marks=pytest.mark.slow)]
)
def test_the_hubs_mixin_and_load_pretrained_read_the_same_folder(tmp_path, dtype):
    from huggingface_hub import PyTorchModelHubMixin

    class HubNet(DiffusionNet, PyTorchModelHubMixin):
        pass

    diffusion = DiffusionUtils(20, BETAS, prediction="x_0")
    path = saved(tmp_path, a_net(), diffusion, dtype)
    folder = export_hub(path, tmp_path / "hub")
    assert (folder / "model.safetensors").stat().st_size < 1.1 * path.stat().st_size
    model, same = load_pretrained(folder)
    assert torch.equal(same.betas, diffusion.betas) and model.classes[2] == "class 2"
    stored = load_pretrained(path)[0].state_dict()
    for state in (model.state_dict(), HubNet.from_pretrained(folder).state_dict()):
        assert state.keys() == stored.keys()
        assert all(torch.equal(state[name], stored[name]) for name in stored)


def test_a_model_card_has_data_numbers_and_limits(tmp_path):
    card = (export_hub("cifar10-64", tmp_path / "hub") / "README.md").read_text(encoding="utf-8")
    front, text = card.split("---\n", 2)[1:]
    assert "license: mit" in front
    assert "JPEG re-encoding of CIFAR-10" in text and "airplane, automobile" in text
    measured = available_weights()["cifar10-64"]["metrics"]["frechet"]
    assert f"| frechet | {measured} |" in text and "not an FID" in text and "## Limits" in text


def test_the_card_of_distilled_weights_names_their_own_steps(tmp_path):
    card = (export_hub("cartoons-fast", tmp_path / "hub") / "README.md").read_text(encoding="utf-8")
    assert 'sampler="ddpm", steps=[500, 350]' in card and "dpm++" not in card.split("## Use")[1]
    assert "in 2 steps, from t = [500, 350]" in card


def test_no_path_of_a_machine_is_in_a_card(tmp_path):
    for k, data in enumerate(("/home/me/album", r"C:\Users\me\album")):
        path = save_weights(tmp_path / "w.safetensors", a_net(), KINDS["v"], {"data": data})
        folder = export_hub(path, tmp_path / f"hub{k}")
        for name in ("README.md", "config.json"):
            text = (folder / name).read_text(encoding="utf-8")
            assert "album" in text and "me\\" not in text and "/me" not in text


def test_names_with_dots_and_folders_under_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "v1.5").mkdir()
    saved(tmp_path, a_net()).rename(tmp_path / "v1.5" / "weights.safetensors")
    assert cli.main(["export", "--weights", "v1.5", "--to", "hub"]) == 0
    assert "# v1.5" in (tmp_path / "v1.5-hub" / "README.md").read_text(encoding="utf-8")
    assert export_hub("v1.5", "~/there") == tmp_path / "there"
