"""`geosod train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.display import Display, display
from geosod.cli.options import with_settings
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.status_line import Status
from geosod.cli.streams import print_error
from geosod.training.config import TrainConfig

if TYPE_CHECKING:
    from geosod.training.events import Emit
    from geosod.training.train import TrainResult

#: Problems that are printed; the others are counted.
_SHOWN = 10
_PANELS: dict[str, tuple[str, ...]] = {
    "Labels": (
        *("val", "val_share", "format", "images", "scenes", "subset", "val_subset", "classes"),
        *("label_column", "labels_crs", "rename_classes", "class_agnostic", "points", "box_size", "on_error"),
    ),
    "Pixels": (*("bands", "band_names", "scaling", "minimum", "maximum", "gamma", "alpha", "gsd_range"),),
    "Model": (*("network", "parameters", "fusion", "anchors", "init", "loss", "name", "license", "tile", "overlap"),),
    "Slices": (
        *("batch", "slice", "resize_width", "scale_jitter", "whole_images", "negatives", "balance", "min_visible"),
        *("levels", "chips"),
    ),
    "Augmentation": ("flips", "photometric", "noise", "copy_paste", "occlusion"),
    "Optimization": (
        *("steps", "epochs", "max_minutes", "optimizer", "lr", "weight_decay", "momentum", "warmup", "schedule"),
        *("milestones", "clip", "ema", "precision", "seed", "validate_every"),
    ),
    "Output": ("overwrite",),
    "Execution": ("device", "threads", "loaders", "cache_mb", "save_every", "ray_workers", "ray_address"),
}


def train_command(
    labels: Annotated[
        str | None,
        typer.Argument(help="File or folder of labels to train on. Default: that of --config.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of settings; options override it.", show_default=False)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the run; a run that was interrupted goes on in it.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Draw a batch with its labels and matched prior boxes, see whether the network can learn it by heart, "
            "and stop.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Train a model on labelled images; the result is a bundle for geosod detect.

    Example: geosod train train.json --val val.json -o runs/ships

    Exit codes: 0 done; 3 stopped before the end, or labels or images were left out; 2 bad usage or input; 1 a bug.
    """
    from geosod.training.config import make_train_config

    resolved = make_train_config(config, labels=labels, out=out, **settings)
    with display(quiet=quiet) as shown:
        shown.update(Status("reading the labels"))
        if dry_run:
            from geosod.training.dry_run import dry_run as try_batch

            report = try_batch(resolved, on_event=show_training(shown))
        else:
            from geosod.training.train import run_training

            result = run_training(resolved, on_event=show_training(shown))
    if dry_run:
        print(report.text)
        raise typer.Exit(0 if report.learns else 3)
    _print(result, json=json, quiet=quiet)
    raise typer.Exit(result.exit_code)


def show_training(shown: Display) -> Emit:
    """A callback for the events of a training run, which shows them on a display."""
    from geosod.training.events import Event, Noted, Stepped, Validated

    def emit(event: Event) -> None:
        match event:
            case Stepped():
                speed = event.step / max(1e-3, event.seconds)
                losses = ", ".join(f"{name} {value:.3f}" for name, value in event.losses.items() if name != "total")
                details = (
                    (f"{event.step:,} of {event.steps:,} steps",),
                    (f"loss {event.losses['total']:.3f} ({losses})", f"loss {event.losses['total']:.3f}"),
                    (f"{speed:.2f} steps/s",),
                )
                shown.update(Status("training", event.step / event.steps, details))
            case Validated():
                figures = ", ".join(f"{name} {value:.3f}" for name, value in event.figures.items())
                shown.say(f"step {event.step:,}: {figures}{' (best so far)' if event.best else ''}")
            case Noted():
                shown.say(f"note: {event.text}", "warning")

    return emit


def _print(result: TrainResult, *, json: bool, quiet: bool) -> None:
    for problem in result.left_out[:_SHOWN]:
        print_error(f"left out: {problem}")
    if len(result.left_out) > _SHOWN:
        print_error(f"left out: {len(result.left_out) - _SHOWN:,} more")
    if json:
        bundle = None if result.bundle is None else str(result.bundle)
        print_json({"bundle": bundle, "step": result.step, "steps": result.steps, "figures": result.figures})
    elif result.bundle is not None and not quiet:
        print_error(f"{result.bundle}: ready; try it with {_use(result)}")


def _use(result: TrainResult) -> str:
    if "accuracy" in result.figures:
        return f"geosod detect SCENES --model DETECTOR --classifier {result.bundle} -o OUT"
    return f"geosod detect SCENES --model {result.bundle} -o OUT"


train_command = with_settings(train_command, model=TrainConfig, panels=_PANELS)
