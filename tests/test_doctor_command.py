"""`ddpm doctor`: what it prints, and the exit status that a script reads."""

import json

import pytest
import torch
from torchvision.utils import save_image

from ddpm_helpers import DiffusionNet, DiffusionUtils, ImageDataset, cli, doctor
from ddpm_helpers.pretrained import save_weights
from ddpm_helpers.training.checkpoint import FORM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images in a flat folder."""
    path = tmp_path_factory.mktemp("album")
    ds = ImageDataset("cartoons", 32, split="test", limit=12)
    for i in range(12):
        save_image((ds[i][0] + 1) / 2, path / f"{i}.png")
    return path


def weights_of(path, *, T=20, schedule="cosine", trained=None, **network):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DiffusionNet(16, width=8, **network)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.02 * torch.randn_like(p))
    return save_weights(path / "weights.safetensors", net, DiffusionUtils(T, schedule), trained)


def lines(capsys):
    out = capsys.readouterr().out.splitlines()
    return out, {line.split()[1]: line.split()[0] for line in out[1:-1]}


def test_the_shipped_weights_pass_every_check(capsys):
    assert cli.main(["doctor"]) == 0
    out, verdicts = lines(capsys)
    assert set(verdicts.values()) == {"ok"} and len(verdicts) == 15
    assert out[-1] == "ok: 15 checks, no alarm"


def test_a_schedule_that_leaves_an_image_at_T_is_status_2_and_reported_first(tmp_path, capsys):
    path = weights_of(tmp_path, schedule="linear")
    assert cli.main(["doctor", "--weights", str(path)]) == 2
    out, verdicts = lines(capsys)
    assert verdicts["schedule"] == "broken" and verdicts["sampler"] == "ok"
    assert out[1].startswith("without images: the weights do not say")
    assert out[-1].startswith("broken: begin with schedule:") and "zero SNR" in out[-1]


def test_an_album_alone_is_status_1_where_it_is_small(folder, capsys):
    assert cli.main(["doctor", "--data", str(folder)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[1].startswith("ok     data") and out[2].startswith("look   data")
    assert out[-1].startswith("look: begin with data: 11 images are too few")


def test_one_channel_and_strange_classes_are_examined_too(folder, capsys, tmp_path):
    path = weights_of(tmp_path, channels=1, num_classes=3)
    assert cli.main(["doctor", "--weights", str(path), "--data", str(folder)]) == 2
    _, verdicts = lines(capsys)
    assert verdicts["data"] == "ok" and verdicts["loss"] == "look"
    assert verdicts["null"] == "skipped"  # needs the network's own labels


def test_a_run_is_examined_with_its_history_and_both_copies(tmp_path, capsys, monkeypatch):
    path = weights_of(tmp_path, num_classes=10, trained={"data": "cartoons", "steps": 60})
    records = [{"step": i, "loss": 1.0} for i in range(60)]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    from ddpm_helpers import load_pretrained

    net, _ = load_pretrained(path)
    state = {"form": FORM, "model": net.state_dict(), "step": 60}
    torch.save(state, tmp_path / "checkpoint.pt")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in tmp_path.iterdir())
    assert cli.main(["doctor", "--weights", str(tmp_path)]) == 2
    _, verdicts = lines(capsys)
    assert verdicts["history"] == "skipped" and verdicts["average"] == "look"
    assert sorted((p.name, p.stat().st_mtime_ns) for p in tmp_path.iterdir()) == before


def test_a_run_on_a_folder_is_examined_with_the_images_of_that_folder(folder, tmp_path, capsys):
    weights_of(tmp_path, trained={"data": folder.name})  # a name; config.toml has the place
    (tmp_path / "config.toml").write_text(f"[data]\nsource = {json.dumps(str(folder))}\n")
    (tmp_path / "history.jsonl").touch()
    cli.main(["doctor", "--weights", str(tmp_path)])
    out, verdicts = lines(capsys)
    assert "without images" not in out[1] and verdicts["data"] == "ok"


def test_missing_data_is_reported_and_the_rest_is_examined(tmp_path, capsys):
    path = weights_of(tmp_path, trained={"data": str(tmp_path / "gone"), "steps": 60})
    cli.main(["doctor", "--weights", str(path)])
    out, verdicts = lines(capsys)
    assert "without images" in out[1] and out[1].endswith("give --data")
    assert verdicts["schedule"] == "ok"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--weights", "nobody"], "no weights at nobody"),
        (["--data", "nowhere"], "unknown source 'nowhere'"),
        (["--weights", "cartoons", "--data", "nowhere"], "unknown source 'nowhere'"),
    ],
)
def test_a_refusal_is_one_line_on_stderr_and_nothing_on_stdout(options, said, capsys):
    """So a script can tell it from status 2 of an examination."""
    assert cli.main(["doctor", *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and said in shown.err and shown.err.count("\n") == 1


def test_help_documents_the_exit_status(capsys):
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "exit status: 0 ok, 1 look, 2 broken" in words and "begins with the verdict" in words


def test_order_holds_every_check_of_the_package():
    names = {n for n in doctor.__all__ if n.startswith("check_")} - {"check_sampler_all"}
    assert len(names) == len(doctor.finding.ORDER)
