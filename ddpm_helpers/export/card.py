"""Write model cards: the data, quality and limits of weights."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Any

from ddpm_helpers.model import NETWORKS
from ddpm_helpers.pretrained import available_weights
from ddpm_helpers.pretrained.weights import description

_CARD = """\
---
license: mit
library_name: ddpm_helpers
pipeline_tag: unconditional-image-generation
tags:
- ddpm
- diffusion
---

# {title}

A denoising diffusion model of {kind} {side}×{side} images, trained with `ddpm_helpers`.

## Data

{data}

## Network and schedule

`{kind_of_network}({network})`, `DiffusionUtils({diffusion})`{training}.{few}

## Numbers

{numbers}

## Use

{use}
## Limits

- It only draws {side}×{side} images like those that it was trained on{classes}.
- If those images are biased or wrong, its own images are too.
- It was made for teaching. Its images are not marked as generated.
"""
_NOTES = (
    "`frechet` is a distance on the features of this project's own small classifier, so it is not "
    "an FID. `_of_real` is the same measure of real training images: the noise floor."
)


def weights_name(name_or_path: str | Path) -> str:
    """Name files that are made from weights: the shipped name, or that of the file or folder."""
    return Path(name_or_path).resolve().name.removesuffix(".safetensors")


def public_description(name_or_path: str | Path) -> dict[str, Any]:
    """Read the `description` and shorten each path in it to the name of its file or folder.

    Args, Raises: as for `load_pretrained`.
    """
    about = description(name_or_path)
    trained = {
        key: PureWindowsPath(value).name if isinstance(value, str) else value  # takes / and \\
        for key, value in about["trained"].items()
    }
    return {key: about[key] for key in ("network", "model", "diffusion")} | {"trained": trained}


def model_card(name_or_path: str | Path, use: str) -> str:
    """Write a model card in Markdown, with the front matter that the Hub reads.

    Args:
        name_or_path: as for `load_pretrained`; shipped weights add the manifest's numbers.
        use: Markdown that says how to load these files.
    """
    about = public_description(name_or_path)
    entry = available_weights().get(str(name_or_path), {})
    trained, classes = about["trained"], about["trained"].get("classes", [])
    note = f" ({entry['note']})" if "note" in entry else ""
    training = f", {trained['steps']:,} updates" if "steps" in trained else ""
    if "images_seen" in entry:
        training += f" ({entry['images_seen']:,} images, {entry['minutes']:.0f} minutes)"
    few = about["diffusion"].get("few_steps")
    return _CARD.format(
        title=weights_name(name_or_path),
        kind="class-conditional" if about["model"].get("num_classes") else "unconditional",
        side=about["model"]["image_size"],
        data=f"Source: `{trained.get('data', 'not recorded')}`{note}."
        + (f" Classes: {', '.join(classes)}." if classes else ""),
        kind_of_network=NETWORKS[about["network"]].__name__,
        network=_arguments(about["model"]),
        diffusion=_arguments(about["diffusion"]),
        training=training,
        few=f" Distilled: it draws with ddpm in {len(few)} steps, from t = {few}." if few else "",
        numbers=_table(entry.get("metrics", {})),
        use=use,
        classes=": no words, no sizes, no other classes" if classes else ": no words, no sizes",
    )


def _arguments(config: dict[str, Any]) -> str:
    shown = {k: v if len(str(v)) < 40 else "[…]" for k, v in config.items()}  # a table of betas
    return ", ".join(f"{k}={v!r}" for k, v in shown.items())


def _table(metrics: dict[str, Any]) -> str:
    if not metrics:
        return "None were recorded. `ddpm evaluate` measures them."
    rows = "\n".join(f"| {name} | {value} |" for name, value in metrics.items())
    notes = f"\n\n{_NOTES}" if "frechet" in metrics else ""
    return f"| measure | value |\n|---|---|\n{rows}{notes}"
