"""The transformer: its equations written a second time, and the rest of the package on it."""

import json
import math
from importlib.resources import files

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_export import needs_onnx
from toy_training import TINY, TwoColours, pipeline, same_run, stop_after

from ddpm_helpers import cli
from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.export import export_diffusers, export_hub, export_onnx
from ddpm_helpers.model import DiffusionNet, DiT
from ddpm_helpers.pretrained import (
    config_for_weights,
    fine_tune_model,
    load_pretrained,
    save_weights,
)
from ddpm_helpers.pretrained.weights import description
from ddpm_helpers.training import TrainingPipeline, build_model
from ddpm_helpers.training.muon import split_parameters

TOY = {"network": "transformer", "width": 16, "patch": 4, "depth": 2, "heads": 2}


def small_net(size=16, **options):
    torch.manual_seed(0)
    sizes = {"patch": 4, "width": 16, "depth": 2, "heads": 2, "num_classes": 3}
    return DiT(size, **sizes | options)


def awake(net):
    """Every weight random, as no layer of a trained network is 0."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def a_batch(n=3, size=16, channels=3):
    torch.manual_seed(2)
    return torch.randn(n, channels, size, size), torch.tensor([1, 40, 500])[:n], torch.arange(n) - 1


def normalised(h):
    mean = h.mean(-1, keepdim=True)
    return (h - mean) / (((h - mean) ** 2).mean(-1, keepdim=True) + 1e-6) ** 0.5


def linear(layer, h):
    return h @ layer.weight.T + layer.bias


def silu(a):
    return a / (1 + (-a).exp())


def naive_block(block, h, c, heads):
    """One image: h (N, width), c (width,); every head on its own."""
    a1, b1, g1, a2, b2, g2 = linear(block.modulation, silu(c)).split(h.shape[1])
    q, k, v = linear(block.qkv, normalised(h) * (1 + b1) + a1).split(h.shape[1], dim=1)
    d, found = h.shape[1] // heads, []
    for i in range(heads):
        part = slice(i * d, (i + 1) * d)
        scores = (q[:, part] @ k[:, part].T / math.sqrt(d)).exp()
        found.append(scores / scores.sum(1, keepdim=True) @ v[:, part])
    h = h + g1 * linear(block.out, torch.cat(found, 1))
    u = linear(block.mlp[0], normalised(h) * (1 + b2) + a2)
    u = 0.5 * u * (1 + (math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)).tanh())
    return h + g2 * linear(block.mlp[2], u)


def waves(place, dim):
    angles = [place * 10_000 ** (-k / (dim // 2)) for k in range(dim // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def naive_net(net, x, t, y):
    """One image (C, S, S), patch by patch, in float64."""
    p, width, heads = net.patch, net.config["width"], net.config["heads"]
    side = x.shape[-1] // p
    first, last = net.time.mlp[0], net.time.mlp[2]
    c = linear(last, silu(linear(first, torch.tensor(waves(t, width)).double())))
    c = c + net.label.weight[y + 1]
    tokens = []
    for i in range(side):
        for j in range(side):
            patch = x[:, i * p : i * p + p, j * p : j * p + p].flatten()
            place = torch.tensor(waves(i, width // 2) + waves(j, width // 2)).double()
            tokens.append(linear(net.to_tokens, patch) + place)
    h = torch.stack(tokens)
    for block in net.blocks:
        h = naive_block(block, h, c, heads)
    shift, scale = linear(net.modulation, silu(c)).split(width)
    h = linear(net.to_pixels, normalised(h) * (1 + scale) + shift)
    out = torch.zeros_like(x)
    for n in range(side * side):
        i, j = n // side * p, n % side * p
        out[:, i : i + p, j : j + p] = h[n].reshape(-1, p, p)
    return out


@pytest.mark.parametrize("channels, patch", [(3, 4), (1, 2), (3, 16)])
def test_the_network_computes_its_equations(channels, patch):
    net = awake(small_net(channels=channels, patch=patch)).double()
    x, t, y = a_batch(channels=channels)
    x = x.double()
    wanted = [naive_net(net, *one) for one in zip(x, t.tolist(), y.tolist(), strict=True)]
    torch.testing.assert_close(net(x, t, y), torch.stack(wanted), rtol=1e-5, atol=1e-5)
    assert net(x, t, y).std() > 0.1


def test_a_fresh_network_outputs_zero_and_its_blocks_change_nothing():
    net = small_net()
    x, t, y = a_batch()
    assert torch.equal(net(x, t, y), torch.zeros_like(x))
    h = torch.randn(3, 16, 16)
    assert torch.equal(net.blocks[0](h, torch.randn(3, 16)), h)


def test_refuses_wrong_arguments():
    for call, words in (
        (lambda: DiT(30, patch=4), "patch = 4, got 30; the nearest is 32"),
        (lambda: DiT(4, patch=8), "patch = 8, got 4; the nearest is 8"),
        (lambda: DiT(32, width=130, heads=4), "width .* heads = 4, got 130"),
        (lambda: DiT(32, width=15, heads=3), "width .* 15"),
        (lambda: DiT(32, depth=0), "depth .* 1..100, got 0"),
        (lambda: DiT(32, depth=10**9), "depth .* 1..100"),
        (lambda: DiT(32, num_classes=0), "num_classes .* 0"),
        (lambda: TrainConfig(network="mamba"), "network 'mamba'.*unet, transformer"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# ---- training and weights -----------------------------------------------------------------------


def test_training_lowers_the_loss_and_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    whole = pipeline(**TOY, epochs=16)
    whole.fit()
    stop_after(pipeline(tmp_path, **TOY, epochs=16), 9).save()
    resumed = pipeline(tmp_path, **TOY, epochs=16)
    resumed.resume()
    resumed.fit()
    assert same_run(whole, resumed)
    losses = [record.loss for record in whole.history]
    assert sum(losses[-16:]) / 16 < 0.7 * sum(losses[:4]) / 4
    with pytest.raises(ValueError, match="network = 'transformer', not 'unet'"):
        pipeline(tmp_path).resume()


def test_muon_trains_the_matrices_inside():
    net = pipeline(**TOY, optimizer="muon").fit() and build_model(TrainConfig(**TOY), 2)
    matrices, others = split_parameters(net)
    names = {id(p): name for name, p in net.named_parameters()}
    inside, outside = ({names[id(p)] for p in part} for part in (matrices, others))
    assert {"blocks.0.qkv.weight", "blocks.1.modulation.weight", "time.mlp.0.weight"} <= inside
    assert {"to_tokens.weight", "to_pixels.weight", "label.weight", "blocks.0.out.bias"} <= outside


def stored(folder, model=None, **options):
    model = model or awake(small_net())
    classes = [f"class {i}" for i in range(model.num_classes or 0)]
    diffusion = DiffusionUtils(20, prediction="v")
    return save_weights(folder / "w.safetensors", model, diffusion, {"classes": classes}, **options)


def test_weights_say_which_network_they_are_of_and_old_ones_mean_the_unet(tmp_path):
    net = awake(small_net(num_classes=2))
    path = stored(tmp_path, net)
    read, _ = load_pretrained(path)
    assert isinstance(read, DiT) and read.config == net.config
    x, t, _ = a_batch()
    assert torch.equal(read(x, t), net(x, t))
    assert description(path)["network"] == "transformer"
    fitting = config_for_weights(path, TrainConfig())
    assert (fitting.network, fitting.patch, fitting.depth) == ("transformer", 4, 2)
    path = stored(tmp_path, DiffusionNet(16, width=8, num_classes=2))
    about = {k: v for k, v in description(path).items() if k not in ("network", "sha256")}
    assert isinstance(of_description(path, about), DiffusionNet)
    with pytest.raises(ValueError, match="network of .*w.safetensors 'mamba'; choose from unet"):
        of_description(path, about | {"network": "mamba"})


def of_description(path, about):
    save_file(load_file(path), path, metadata={"ddpm_helpers": json.dumps(about)})
    return load_pretrained(path)[0]


def test_a_described_size_that_the_weights_do_not_have_is_refused_before_it_is_built(tmp_path):
    path = stored(tmp_path)
    about = {k: v for k, v in description(path).items() if k != "sha256"}
    for change, words in [
        ({"image_size": 4 * 10**6}, "positions: expected"),
        ({"depth": 10**9}, "depth must be .* 1..100"),
        ({"heads": 0}, "cannot be built"),
    ]:
        with pytest.raises(ValueError, match=words):
            of_description(path, about | {"model": about["model"] | change})


def test_fine_tuning_keeps_the_rows_of_known_classes(tmp_path):
    path = stored(tmp_path)
    model, diffusion = fine_tune_model(path, ("class 2", "new"), say=lambda line: None)
    old, (x, t, _) = load_pretrained(path)[0], a_batch()
    two, none = torch.full((3,), 2), torch.full((3,), -1)
    assert torch.equal(model(x, t, none + 1), old(x, t, two))
    assert torch.equal(model(x, t, none + 2), old(x, t, none))
    config = TrainConfig(**TOY, image_size=16, timesteps=20, prediction="v", epochs=1)
    before = model.to_tokens.weight.clone()
    data = TwoColours()
    data.classes = model.classes
    TrainingPipeline(model, diffusion, data, config).fit()
    assert not torch.equal(model.to_tokens.weight, before)


# ---- the command line and other formats ---------------------------------------------------------


@pytest.mark.slow  # evaluate and doctor take a few seconds each
def test_the_commands_train_resume_draw_examine_and_measure(tmp_path, capsys):
    run = str(tmp_path / "run")
    tiny = TINY.replace("--image-size 16 --width 8", "--image-size 32 --width 16").split()
    words = ["train", "--preset", "ci", "--data", "cartoons", "--network", "transformer", *tiny]
    words += ["--patch", "8", "--depth", "2", "--heads", "2", "--out", run]
    assert cli.main(words) == 0
    assert cli.main([*words, "--epochs", "2", "--resume"]) == 0
    assert "from step 2" in capsys.readouterr().out
    assert cli.main(["sample", "--weights", run, "--n", "4", "--steps", "2",
                     "--out", str(tmp_path / "drawn.png")]) == 0  # fmt: skip
    assert cli.main(["evaluate", "--weights", run, "--n", "10", "--steps", "2"]) == 0
    assert cli.main(["doctor", "--weights", run]) in (0, 1, 2)
    out = capsys.readouterr().out
    assert "ok     repeats" in out and "ok     precision" in out
    tuned = ["train", "--preset", "ci", "--weights", run, "--data", "cartoons", "--limit", "16"]
    assert cli.main([*tuned, "--epochs", "1", "--out", str(tmp_path / "tuned")]) == 0
    assert description(tmp_path / "tuned")["network"] == "transformer"


def test_a_preset_gets_the_width_of_a_token_and_a_size_that_patches_do_not_fill_is_one_line(capsys):
    from ddpm_helpers.commands.train import read_config

    read = cli.build_parser().parse_args
    words = ["train", "--preset", "laptop", "--network", "transformer"]
    assert read_config(read(words), "laptop", "cartoons")[1].width == 128
    assert read_config(read([*words, "--width", "64"]), "laptop", "cartoons")[1].width == 64
    assert read_config(read(words[:3]), "laptop", "cartoons")[1].width == 32
    assert cli.main([*words, "--data", "cartoons", "--patch", "5", "--limit", "10"]) == 2
    assert "multiple of patch = 5, got 32; the nearest is 30" in capsys.readouterr().err


def test_the_hubs_folder_names_the_network_and_diffusers_is_refused(tmp_path):
    path = stored(tmp_path)
    folder = export_hub(path, tmp_path / "hub")
    assert "arguments of `DiT`" in (folder / "README.md").read_text(encoding="utf-8")
    assert "`DiT(image_size=16" in (folder / "README.md").read_text(encoding="utf-8")
    x, t, y = a_batch()
    assert torch.equal(load_pretrained(folder)[0](x, t, y), load_pretrained(path)[0](x, t, y))
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match="takes a unet, not a transformer: choose onnx or hub"):
        export_diffusers(path, tmp_path / "diffusers")
    assert not (tmp_path / "diffusers").exists()


@needs_onnx
@pytest.mark.slow  # tracing takes ten seconds
def test_onnx_gives_torchs_outputs(tmp_path):
    import onnxruntime

    file = export_onnx(stored(tmp_path), tmp_path / "net.onnx")
    x, t, y = a_batch()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x_t": x.numpy(), "t": t.numpy(), "y": y.numpy()})[0]
    wanted = load_pretrained(tmp_path / "w.safetensors")[0](x, t, y)
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-3)
    about = json.loads(session.get_modelmeta().custom_metadata_map["ddpm_helpers"])
    assert about["network"] == "transformer"


# ---- what notebook 12 shows ---------------------------------------------------------------------


def test_the_networks_of_the_stored_race_cost_the_same_and_its_weights_load():
    from benchmarks.bench_tools import forward_flops

    stored = files("ddpm_helpers.evaluation")
    race = json.loads((stored / "transformer_cartoons.json").read_text(encoding="utf-8"))
    for name, net in race["networks"].items():
        sizes = {key: net[key] for key in net.keys() - {"mflop", "lr"}}
        kind = "unet" if name == "U-Net" else "transformer"
        config = TrainConfig.preset("laptop", network=kind, **sizes)
        assert forward_flops(config) / 1e6 == pytest.approx(net["mflop"])
        assert 40 < net["mflop"] < 48, name
    model, diffusion = load_pretrained(str(stored / "transformer_cartoons.safetensors"))
    assert (model.patch, diffusion.prediction) == (4, "x_0") and len(model.classes) == 10
