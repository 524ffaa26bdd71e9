"""All commands, with the line that the help has of each; a test compares it with their docstrings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from geosod.cli.lazy import Lazy, LazyGroup

#: Options after the name of another command are that command's.
_OTHERS_OPTIONS = {"ignore_unknown_options": True, "allow_interspersed_args": False}
#: What `geosod --help` lists, in its order.
COMMANDS: dict[str, Lazy | LazyGroup] = {
    "detect": Lazy(
        "detect:detect_command",
        "Find small objects in scenes, and write them as GeoParquet, with the ground that was inspected.",
    ),
    "predict": Lazy(
        "predict:predict_command",
        "Detect objects in images as PaddleX's pipelines do: print each result, and save a picture and a JSON file.",
    ),
    "deduplicate": Lazy(
        "deduplicate:deduplicate_command",
        "Combine the outputs of overlapping scenes into one dataset in which each object occurs once.",
    ),
    "export": Lazy(
        "export:export_command", "Write detections in the format of another program, with a QGIS style beside it."
    ),
    "view": Lazy("view:view_command", "Make a map of outputs: one HTML page that any browser shows without a network."),
    "summarize": Lazy(
        "summarize:summarize_command",
        "Count objects per class, date and place, and per square kilometre of ground that was inspected.",
    ),
    "status": Lazy(
        "status:status_command",
        "Show how far the runs into an output have come, what failed, and what the next run will do.",
    ),
    "submit": Lazy(
        "submit:submit_command",
        "Run geosod detect as a job on a Ray cluster, follow its log, and submit it again where it is lost.",
    ),
    "demo": Lazy(
        "demo:demo_command",
        "Draw a harbour scene, detect its vessels, vehicles and tanks, and compare them with the ground truth.",
    ),
    "doctor": Lazy("doctor:doctor_command", "Show versions, cores, GPU, backends, codecs, Ray and disk space."),
    "config": LazyGroup(
        help="Show, save and check the settings of a command.",
        commands={
            "show": Lazy(
                "config:show_command",
                "Print every setting of a command: its meaning, value, default, and where the value comes from.",
                context_settings=_OTHERS_OPTIONS,
            ),
            "save": Lazy(
                "config:save_command",
                "Write a YAML file with every setting of a command: those that are given, and the defaults as "
                "comments.",
                context_settings=_OTHERS_OPTIONS,
            ),
            "validate": Lazy(
                "config:validate_command",
                "Check a YAML file of settings; name each wrong one, its line, and what may have been meant.",
            ),
        },
    ),
    "evaluate": Lazy(
        "evaluate:evaluate_command", "Compare detections with labels: average precision, errors, thresholds, intervals."
    ),
    "stats": Lazy("stats:stats_command", "Sizes of labelled objects, and tiles, levels and prior boxes that fit them."),
    "train": Lazy("train:train_command", "Train a model on labelled images; the result is a bundle for geosod detect."),
    "serve": Lazy("serve:serve_command", "Detect objects in images and scenes that come over HTTP."),
    "mine": Lazy(
        "mine:mine_command",
        "Choose what to label next: crops of scenes of which a model is unsure, and which are unlike each other.",
    ),
    "model": LazyGroup(
        help="List models, show what one is made for, and make bundles.",
        commands={
            "list": Lazy("model:list_command", "The models that come with geosod."),
            "info": Lazy("model:info_command", "The card of a model; its weights are checked against it."),
            "pack": Lazy(
                "model_pack:pack_command",
                "Make a bundle from a model file; what the file says of itself need not be said again.",
            ),
            "try": Lazy(
                "model_try:try_command",
                "Show what a model finds in an image: a wrong order of bands or scale of values is silent otherwise.",
            ),
            "bench": Lazy(
                "model_bench:bench_command",
                "Time a model in every way this machine can run it, and compare its boxes with those of torch in fp32.",
            ),
            "export": Lazy(
                "model_export:export_command",
                "Write a network as an ONNX graph, and compare its boxes with those of the model.",
            ),
        },
    ),
    "dataset": LazyGroup(
        help="Check, convert, split, slice and scale labelled images.",
        commands={
            "check": Lazy(
                "dataset_check:check_command", "Report what looks wrong in labels, and how large the objects are."
            ),
            "convert": Lazy("dataset_convert:convert_command", "Write labels in another format."),
            "split": Lazy(
                "dataset_convert:split_command",
                "Divide labelled images at random into parts, each a file or folder in OUT.",
            ),
            "slice": Lazy(
                "dataset_tiles:slice_command",
                "Cut labelled images into tiles: OUT/labels.json (COCO) and OUT/images with GeoTIFFs.",
            ),
            "scale": Lazy(
                "dataset_tiles:scale_command",
                "Resample labelled images: OUT/labels.json (COCO) and OUT/images with GeoTIFFs.",
            ),
        },
    ),
    "ingest": LazyGroup(
        help="Take what is new at a source into a dataset, unattended, and see how that stands.",
        commands={
            "run": Lazy("ingest_run:run_command", "Take what is new, changed or withdrawn at a source into a dataset."),
            "status": Lazy(
                "ingest_state:status_command", "Show how an ingestion stands: what waits, what failed, and since when."
            ),
            "replay": Lazy(
                "ingest_state:replay_command", "Let dead scenes be tried again, once what made them fail is dealt with."
            ),
            "backfill": Lazy(
                "ingest_run:backfill_command",
                "Enter the scenes of a range of dates into the ledger; ingesters process them when nothing newer "
                "waits.",
            ),
        },
    ),
}


def command_of(*words: str) -> TyperCommand:
    """The command of these words, such as ``ingest run``."""
    commands: Mapping[str, Any] = COMMANDS
    *groups, name = words
    for group in groups:
        commands = commands[group].commands
    found = commands[name]
    assert isinstance(found, Lazy)
    return found.load(name)
