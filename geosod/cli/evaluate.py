"""`geosod evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geosod.cli.display import display
from geosod.cli.evaluation_steps import (
    SCALES,
    check_options,
    figures_wanted,
    print_tables,
    read_truth,
    search_now,
    write_files,
    write_levels,
)
from geosod.cli.inputs import with_listed
from geosod.cli.options import with_settings
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.status_line import Status
from geosod.cli.streams import print_error

_LABELS, _FIGURES, _FILES = "Labels", "Figures", "Files"


def _option(*flags: str, help: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*flags, help=help, metavar=metavar, show_default=False, rich_help_panel=panel)


@with_settings
def evaluate_command(
    found: Annotated[
        list[str] | None,
        typer.Argument(
            help="Outputs of geosod detect; - for a list on standard input. With "
            "--model, scenes to search, by default the labelled images.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None, _option("--labels", "-l", help="File or folder of labels, in any format.", panel=_LABELS)
    ] = None,
    format: Annotated[
        str | None, _option("--format", help="Format of the labels. Default: recognised.", panel=_LABELS)
    ] = None,
    images: Annotated[
        Path | None, _option("--images", help="Folder of the images. Default: where the format has it.", panel=_LABELS)
    ] = None,
    subset: Annotated[
        str | None, _option("--subset", help="Part of a set in several, such as val.", panel=_LABELS)
    ] = None,
    label_classes: Annotated[
        str | None,
        _option(
            "--label-classes",
            help="Names of classes in order, for files that hold only numbers.",
            panel=_LABELS,
            metavar="A,B,...",
        ),
    ] = None,
    label_column: Annotated[
        str | None, _option("--label-column", help="Column of a vector file with the classes.", panel=_LABELS)
    ] = None,
    labels_crs: Annotated[
        str | None, _option("--labels-crs", help="CRS of a vector file that has none.", panel=_LABELS)
    ] = None,
    class_map: Annotated[
        str | None,
        _option(
            "--class-map",
            help="The model's names of labelled classes, or a YAML file of them; CLASS= drops a class.",
            panel=_LABELS,
            metavar="CLASS=NAME,...",
        ),
    ] = None,
    invalid: Annotated[
        str,
        _option(
            "--invalid",
            help="What becomes of entries that cannot be used. Default: refuse.",
            panel=_LABELS,
            metavar="[refuse|skip]",
        ),
    ] = "refuse",
    points: Annotated[
        bool, _option("--points", help="Reduce labels to points at their centres; needs --radius.", panel=_LABELS)
    ] = False,
    label_shift: Annotated[
        float,
        _option(
            "--label-shift", help="Pixels added to label coordinates: 0.5 where these count pixels.", panel=_LABELS
        ),
    ] = 0.0,
    model: Annotated[
        str | None, _option("--model", "-m", help="Run this model now, instead of reading outputs.", panel="Model")
    ] = None,
    config: Annotated[
        Path | None, _option("--config", help="YAML file of settings; options override it.", panel="Model")
    ] = None,
    out: Annotated[
        str | None,
        _option("--out", "-o", help="With --model, also write the outputs here. A cluster needs this.", panel="Model"),
    ] = None,
    max_detections: Annotated[
        int,
        _option(
            "--max-detections",
            help="Detections of an image and class that count in AP, 0 for all; COCO has 100. Default: 500.",
            panel=_FIGURES,
        ),
    ] = 500,
    iou: Annotated[
        float, _option("--iou", help="IoU of a match, for precision, recall and curves. Default: 0.5.", panel=_FIGURES)
    ] = 0.5,
    radius: Annotated[
        float | None,
        _option("--radius", help="Also match centres, within so many pixels; needed for points.", panel=_FIGURES),
    ] = None,
    sizes: Annotated[
        str | None,
        _option("--sizes", help="Sizes in metres to report between. Default: 2.5,5,10,20,40.", panel=_FIGURES),
    ] = None,
    border_tile: Annotated[
        str | None,
        _option(
            "--border-tile",
            help="Report distances to borders of tiles of this size, without overlap. Default: those of the run.",
            panel=_FIGURES,
        ),
    ] = None,
    groups: Annotated[
        str | None,
        _option(
            "--groups",
            help="Regular expression; images whose names it matches with the same text are also reported together.",
            panel=_FIGURES,
        ),
    ] = None,
    confidence: Annotated[
        float, _option("--confidence", help="Rate of confidence intervals. Default: 0.95.", panel=_FIGURES)
    ] = 0.95,
    resamples: Annotated[
        int, _option("--resamples", help="Samples for intervals, 0 for none. Default: 1000.", panel=_FIGURES)
    ] = 1000,
    fit_thresholds: Annotated[
        Path | None,
        _option("--fit-thresholds", help="Write the best threshold of each class as a configuration.", panel=_FILES),
    ] = None,
    min_precision: Annotated[
        float | None,
        _option("--min-precision", help="Fit the highest recall with this precision, not the best F.", panel=_FILES),
    ] = None,
    fit_levels: Annotated[
        Path | None,
        _option(
            "--fit-levels",
            help=f"With --model, fit the sizes that each of --levels (default: {SCALES}) reports; a configuration.",
            panel=_FILES,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        _option("--report", help="Write an HTML file with figures, plots and examples.", panel=_FILES),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Compare detections with labels: average precision, errors, thresholds, intervals.

    Example: geosod evaluate out --labels val.json --report report.html

    Exit codes: 0 done; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.evaluation.evaluate import evaluate
        from geosod.evaluation.files import check_new

        check_new((fit_thresholds, fit_levels, report), overwrite=bool(settings["overwrite"]))
        check_options(found, labels, model, config, fit_levels, fit_thresholds, min_precision, settings)
        low = None if model else settings["threshold"]
        chosen = figures_wanted(
            max_detections, iou, radius, sizes, border_tile, groups, confidence, resamples, threshold=low
        )
        reading: dict[str, Any] = {"format": format, "images": images, "subset": subset, "label_column": label_column}
        reading |= {"crs": labels_crs, "invalid": invalid, "points": points}
        names = (label_classes, class_map)
        assert labels is not None
        if model is None and config is None:
            from geosod.evaluation.found_scenes import read_outputs

            shown.update(Status("reading the outputs"))
            scenes = read_outputs(with_listed(found or ()))
            truth = read_truth(labels, reading, names, [scene.uri for scene in scenes], label_shift)
        else:
            truth = read_truth(labels, reading, names, found or (), label_shift)
            scenes = search_now(truth, shown, found or (), model, config, out, fit_levels is not None, settings)
        shown.update(Status("comparing"))
        if fit_levels is not None:
            write_levels(fit_levels, truth, shown, found or (), model, config, chosen, settings)
        result = evaluate(truth, scenes, chosen)
        write_files(result, fit_thresholds, min_precision, report)
    for note in result.notes:
        print_error(f"note: {note}")
    if json:
        from geosod.evaluation.as_json import as_json

        print_json(as_json(result))
    else:
        print_tables(result)
