"""`ddpm train`: every field of `TrainConfig` is an option."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from ddpm_helpers.config import OF_NETWORK, OF_SOURCE, PRESETS, TrainConfig, settings
from ddpm_helpers.config_file import data_settings
from ddpm_helpers.files import user_path
from ddpm_helpers.pretrained import config_for_weights, distill_model, fine_tune_model
from ddpm_helpers.pretrained.distill import TEACHER_STEPS

BY_DEFAULT = "by default set by DDPM_PRESET, else by the hardware"
FINE_TUNING = 180  # updates that teach the cartoons' weights a new class


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddpm train` to a parser, and the function that runs it."""
    add = parser.add_argument
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--preset", help=f"{', '.join(PRESETS)} ({BY_DEFAULT})")
    base.add_argument("--config", type=Path, metavar="FILE", help="a TOML file instead of a preset,"
                      " such as the config.toml of a run")  # fmt: skip
    add("--data", help="a source, as in `ddpm data` (by default set by DDPM_DATA, else cartoons)")
    add("--root", help="folder of the source's files, or for its downloads")
    add("--fit", help="how images become square: crop to the centre, or pad (crop)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--weights", help="start from these: a shipped name, a file, or a run's"
                       " folder")  # fmt: skip
    start.add_argument("--distill", metavar="WEIGHTS", help="train a network that needs 1 to 4"
                       " steps, starting from these weights, which are its teacher")  # fmt: skip
    add(
        "--out",
        type=Path,
        help="folder for checkpoints and sample grids (runs/PRESET-DATA;"
        " with --config RUN/config.toml --resume: RUN)",
    )
    before = parser.add_mutually_exclusive_group()
    before.add_argument("--resume", nargs="?", const=True, metavar="FILE", help="continue from the"
                        " newest undamaged checkpoint in that folder, or from FILE; `auto` starts"
                        " a new run if there is none")  # fmt: skip
    before.add_argument("--overwrite", action="store_true", help="replace the run in that folder")
    group = parser.add_argument_group("single settings, on top of the preset")
    for field in fields(TrainConfig):
        kind = str(field.type).removesuffix(" | None")
        how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if kind != "bool":
            how = {"type": {"int": int, "float": float, "str": str}[kind], "metavar": kind.upper()}
        option = "--" + field.name.replace("_", "-")
        text = field.metadata["help"].replace("%", "%%")
        group.add_argument(option, default=argparse.SUPPRESS, help=text, **how)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train; checkpoints, history and sample grids go to --out."""
    from ddpm_helpers.data import ImageDataset
    from ddpm_helpers.device import make_accelerator
    from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model
    from ddpm_helpers.training.run_folder import RunFolder

    known = settings()
    data = read_data(args, known.data)
    args.weights = args.distill or args.weights
    name, config = read_config(args, known.preset, data["source"])
    out = args.out or default_folder(name, data["source"], args)
    if not args.resume and not args.overwrite and out.is_dir():
        RunFolder(out).refuse_another_run()  # before reading images takes minutes
    accelerator = make_accelerator()
    say = partial(accelerator.print, flush=True)  # one process prints; SIGTERM would lose a buffer
    data |= {"image_size": config.image_size, "channels": config.channels, "limit": config.limit}
    ds = ImageDataset(**data)
    classes = ds.classes if config.class_conditional else None
    if args.weights is None:
        model, diffusion = build_model(config, len(ds.classes)), build_diffusion(config)
    elif config.teacher_steps is None:
        model, diffusion = fine_tune_model(args.weights, classes, say=say)
        if args.config is None:
            config = for_fine_tuning(config, len(ds), vars(args))
    else:
        model, diffusion = distill_model(args.weights, classes, steps=config.teacher_steps, say=say)
    pipeline = TrainingPipeline(model, diffusion, ds, config, out, overwrite=args.overwrite)
    if args.resume:
        pipeline.resume(None if args.resume is True else args.resume)
    many = accelerator.num_processes
    where = f"{pipeline.device.type}, {many} {'process' if many == 1 else 'processes'}"
    start = f", from step {pipeline.step}" if pipeline.step else ""
    say(f"{name}, {len(ds)} images of {data['source']}, {where}, writing to {out}{start}")
    if pipeline.step >= pipeline.total_steps:
        say(f"step {pipeline.step} of {pipeline.total_steps}: nothing to train; raise --epochs")
    try:
        history = pipeline.fit()
    except KeyboardInterrupt:
        say(f"stopped at step {pipeline.step} of {pipeline.total_steps}; --resume continues")
        raise
    if last := [record.loss for record in history[-100:] if record.finite]:
        mean = sum(last) / len(last)
        say(f"{len(history)} steps, mean loss of the last {len(last)}: {mean:.4f}")


def read_config(args: argparse.Namespace, preset: str, source: str) -> tuple[str, TrainConfig]:
    """Read a preset or file, and apply the options; return its name and the configuration.

    The defaults of a source and of a network change a preset, but not a file. An option that
    contradicts the network of the weights is refused.
    """
    names = {field.name for field in fields(TrainConfig)}
    changes = {key: value for key, value in vars(args).items() if key in names}
    if args.config is not None:
        name, config = _name_of(args.config, "config.toml"), TrainConfig.load(args.config)
    else:
        name = args.preset or preset
        config = TrainConfig.preset(name, **OF_SOURCE.get(source, {}))
        config = replace(config, **OF_NETWORK.get(changes.get("network", ""), {}))
    config = replace(config, **changes)
    if args.distill is None and config.teacher_steps is not None:
        raise ValueError(
            f"teacher_steps = {config.teacher_steps} needs a teacher: --distill WEIGHTS"
        )
    if args.weights is None:
        return name, config
    if args.distill is not None and config.teacher_steps is None:
        config = replace(config, teacher_steps=TEACHER_STEPS)
    fitting = config_for_weights(args.weights, config)
    for key, value in changes.items():
        if value != (stored := getattr(fitting, key)):
            option = "--" + key.replace("_", "-")
            raise ValueError(
                f"{args.weights} was trained with {key} = {stored!r}, not {value!r}: leave "
                f"{option} out, or train without them"
            )
    return name, fitting


def for_fine_tuning(config: TrainConfig, images: int, chosen: Collection[str]) -> TrainConfig:
    """Raise epochs until they make 180 updates; `chosen` fields stay as they are.

    There are five checkpoints and sample grids in all, and a tenth of the run is warm-up at most.
    """
    per_epoch = math.ceil(images / config.batch_size)
    if "epochs" not in chosen:
        config = replace(config, epochs=max(config.epochs, math.ceil(FINE_TUNING / per_epoch)))
    fifth, tenth = math.ceil(config.epochs / 5), config.epochs * per_epoch // 10
    changes: dict[str, Any] = {"save_every": fifth, "sample_every": fifth}
    changes["warmup_steps"] = min(config.warmup_steps, tenth)
    return replace(config, **{name: v for name, v in changes.items() if name not in chosen})


def read_data(args: argparse.Namespace, source: str) -> dict[str, Any]:
    """Find the `ImageDataset` arguments: options, else the --config file, else `source`."""
    given = {key: getattr(args, key) for key in ("root", "fit") if getattr(args, key) is not None}
    if args.data is not None:
        return {"source": args.data} | given
    run = {} if args.config is None else data_settings(args.config)
    return {"source": source} | run | given


def default_folder(name: str, source: str, args: argparse.Namespace) -> Path:
    """Choose the folder of a run without --out.

    With --resume --config RUN/config.toml, it is RUN. Otherwise it is runs/PRESET-DATA, such as
    runs/laptop-cartoons, followed by the name of the weights that training starts from.
    """
    if args.resume and args.config is not None and args.config.name == "config.toml":
        return args.config.parent
    data = user_path(source).name
    start = "" if args.weights is None else f"-from-{_name_of(args.weights, 'weights.safetensors')}"
    return Path("runs") / f"{name}-{data}{start}"


def _name_of(path: str | Path, usual: str) -> str:
    """Return a file's name without its suffix, or its folder's name if the file is `usual`."""
    path = user_path(path)
    return path.parent.name if path.name == usual else path.stem
