"""Write the folder of `huggingface_hub.PyTorchModelHubMixin`: config, weights and a model card."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ddpm_helpers.export.card import model_card, public_description
from ddpm_helpers.files import user_path
from ddpm_helpers.pretrained import load_pretrained, save_weights
from ddpm_helpers.pretrained.weights import HUB_WEIGHTS

_USE = """\
```python
from ddpm_helpers import load_pretrained

model, diffusion = load_pretrained("{folder}")  # this folder, downloaded
x = diffusion.sample(model, 4, {y}{options}, seed=0)  # (4, {shape}) in [-1, 1]
```

The header of `model.safetensors` holds the network, schedule, classes and a checksum.
`config.json` holds the arguments of `{network}`, so a subclass of it and of
`PyTorchModelHubMixin` can load the folder too; the schedule is under `"diffusion"` there.
"""


def export_hub(name_or_path: str | Path, out: str | Path) -> Path:
    """Write trained weights as a folder that you can upload to the Hub unchanged.

    Nothing is uploaded. `load_pretrained` reads the folder offline, and so does a subclass of the
    network's class and of `PyTorchModelHubMixin`.

    Args:
        name_or_path: as for `load_pretrained`.
        out: folder to make.
    Returns:
        The folder: `config.json`, `model.safetensors`, `README.md`.
    Raises:
        FileNotFoundError: the weights do not exist.
        FileExistsError: the folder exists.
    """
    out = user_path(out)
    model, diffusion = load_pretrained(name_or_path)
    about = public_description(name_or_path)
    config = model.config | {"diffusion": about["diffusion"], "trained": about["trained"]}
    y = "" if model.num_classes is None else "y=0, "
    way = {"sampler": "dpm++", "steps": min(15, diffusion.T)} | diffusion.few_step_options
    options = ", ".join(f"{key}={value!r}" for key, value in way.items()).replace("'", '"')
    shape = ", ".join(map(str, model.image_shape))
    use = _USE.format(
        network=type(model).__name__, folder=out.name, y=y, options=options, shape=shape
    )
    weights = model.state_dict().values()
    half = all(torch.equal(w.half().float(), w) for w in weights)  # as they were stored
    dtype = torch.float16 if half else torch.float32
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_weights(out / HUB_WEIGHTS, model, diffusion, about["trained"], dtype=dtype)
    (out / "README.md").write_text(model_card(name_or_path, use), encoding="utf-8")
    return out
