"""The steps of `geosod evaluate`, from options to tables and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosod.cli.display import Display
from geosod.cli.streams import print_error
from geosod.errors import ConfigError

if TYPE_CHECKING:
    from geosod.datasets.labels import Labels
    from geosod.evaluation.figures import Evaluation, EvaluationSettings
    from geosod.evaluation.found_scenes import FoundScene

#: Scales that levels are fitted to unless --levels names others.
SCALES = "1,0.5,0.25"


def check_options(
    found: list[str] | None,
    labels: Path | None,
    model: str | None,
    config: Path | None,
    fit_levels: Path | None,
    fit_thresholds: Path | None,
    min_precision: float | None,
    settings: dict[str, Any],
) -> None:
    """Refuse options that do not go together."""
    if labels is None:
        raise ConfigError("no labels are given: add --labels FILE")
    if min_precision is not None and fit_thresholds is None:
        raise ConfigError("--min-precision says how thresholds are fitted: add --fit-thresholds FILE")
    if model is not None or config is not None:
        return
    if not found:
        raise ConfigError("name the outputs of geosod detect to compare, or add --model NAME to search the images now")
    if fit_levels is not None:
        raise ConfigError("--fit-levels searches the images at every level: add --model NAME")
    given = [n for n, value in settings.items() if value not in (None, False) and n not in ("threshold", "overwrite")]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is a setting of a run: add --model NAME, or leave it out")


def figures_wanted(
    max_detections: int,
    iou: float,
    radius: float | None,
    sizes: str | None,
    border_tile: str | None,
    groups: str | None,
    confidence: float,
    resamples: int,
    threshold: Any,
) -> EvaluationSettings:
    """The settings of an evaluation, from options."""
    from geosod.config import make_config
    from geosod.evaluation.figures import EvaluationSettings
    from geosod.evaluation.ranges import METRES

    try:
        limits = METRES if sizes is None else tuple(float(part) for part in sizes.split(","))
    except ValueError as error:
        raise ConfigError(f"sizes {sizes!r}: give limits in metres, as 5,10,20") from error
    return EvaluationSettings(
        max_detections=max_detections or None,
        threshold=None if threshold is None else make_config(threshold=threshold).threshold,
        iou=iou,
        radius=radius,
        groups=groups,
        sizes=limits,
        border_tile=None if border_tile is None else make_config(tile=border_tile).tile,
        level=confidence,
        resamples=resamples,
    )


def read_truth(
    path: Path, reading: dict[str, Any], names: tuple[str | None, str | None], scenes: Any, shift: float
) -> Labels:
    """The labels, from options; problems and notes go to standard error."""
    from geosod.cli.dataset_options import say_problems
    from geosod.datasets.class_map import parse_renames
    from geosod.datasets.formats import find_format
    from geosod.datasets.read import read_labels

    classes, class_map = names
    ground = "scenes" in find_format(path.expanduser(), reading["format"]).takes
    result = read_labels(
        path,
        **reading,
        scenes=list(scenes) if ground else (),
        classes=[name.strip() for name in classes.split(",")] if classes else None,
        rename=parse_renames(class_map) if class_map else None,
    )
    say_problems(result.problems)
    for note in result.notes:
        print_error(note)
    return result.labels.with_columns(boxes=result.labels.boxes + shift) if shift else result.labels


def search_now(
    truth: Labels,
    shown: Display,
    scenes: Any,
    model: str | None,
    config: Path | None,
    out: str | None,
    fits_levels: bool,
    settings: dict[str, Any],
) -> list[FoundScene]:
    """Run the model on the images, or on the scenes named."""
    from geosod.cli.progress import show_run
    from geosod.evaluation.searched import search
    from geosod.running.detect import configured

    # Where levels are fitted, the figures are those of full resolution alone: ranges are not known yet.
    levels = {"levels": "1"} if fits_levels else {}
    resolved = configured(config, model=model, out=out, **(settings | levels))
    return search(truth, scenes=scenes, out=resolved.out, on_event=show_run(shown, verbose=False), config=resolved)


def write_levels(
    path: Path,
    truth: Labels,
    shown: Display,
    scenes: Any,
    model: str | None,
    config: Path | None,
    chosen: EvaluationSettings,
    settings: dict[str, Any],
) -> None:
    """Search at every level alone, and write the ranges that fit."""
    from geosod.cli.progress import show_run
    from geosod.evaluation.files import as_config, write_whole
    from geosod.evaluation.fit_levels import Scale, fit_levels
    from geosod.evaluation.searched import search
    from geosod.running.detect import configured

    resolved = configured(config, model=model, **settings)
    if len(resolved.levels) < 2:
        resolved = configured(config, model=model, **(settings | {"levels": SCALES}))
    found: dict[Scale, Any] = {}
    for level in resolved.levels:
        if level.scale == "auto":
            raise ConfigError("levels auto choose their sizes themselves; name the scales to fit, as 1,0.5,full")
        alone = configured(resolved, levels=[level.scale], out=None)
        found[level.scale] = search(
            truth, scenes=scenes, on_event=show_run(shown, verbose=False), config=alone.model_copy(update={"out": None})
        )
    fitted = fit_levels(truth, found, max_detections=chosen.max_detections)
    limits = ", ".join(f"{limit:g}" for limit in fitted.limits)
    rows = [
        f"scale {scale}: " + " ".join(f"{value:.3f}" for value in values)
        for scale, values in zip(fitted.scales, fitted.ap50.tolist(), strict=True)
    ]
    comment = "\n".join(
        [
            f"Levels fitted on {len(truth.images):,} images. AP50 by √area in pixels, limits {limits}:",
            *rows,
            "Measure them on other images.",
        ]
    )
    write_whole(path, as_config({"levels": fitted.setting()}, comment))


def write_files(result: Evaluation, thresholds: Path | None, min_precision: float | None, report: Path | None) -> None:
    """Write the thresholds and the report that were asked for."""
    from geosod.evaluation.files import write_whole

    if thresholds is not None:
        write_whole(thresholds, _fitted_thresholds(result, min_precision))
    if report is not None:
        from geosod.evaluation.report import report as html

        write_whole(report, html(result))


def _fitted_thresholds(result: Evaluation, min_precision: float | None) -> str:
    """A configuration with the thresholds that fit; one for all classes where the labels are points."""
    from geosod.evaluation.files import as_config
    from geosod.evaluation.overlaps import overlaps_of
    from geosod.evaluation.points import choose_threshold
    from geosod.evaluation.thresholds import fit_thresholds

    fitted: float | dict[str, float]
    rule = "the highest F-score" if min_precision is None else f"a precision of {min_precision:g}"
    if result.boxes is None:
        if min_precision is not None:
            raise ConfigError("--min-precision is for boxes; for points thresholds have the highest F-score")
        fitted, limit = choose_threshold(result.comparison, limit=result.settings.radius or 0.0), result.settings.radius
        how = f"of centres within {limit:g} px"
    else:
        overlaps = overlaps_of(result.comparison)
        fitted = fit_thresholds(result.comparison, overlaps, iou=result.settings.iou, min_precision=min_precision)
        how = f"at IoU {result.settings.iou:g}"
    comment = (
        f"Fitted to {rule} {how} on {result.images:,} images with {result.objects:,} objects.\n"
        "Measure it on other images."
    )
    return as_config({"threshold": fitted}, comment)


def print_tables(result: Evaluation) -> None:
    """Print all tables on standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from geosod.evaluation.report import summary
    from geosod.evaluation.tables import tables_of

    console = Console(highlight=False)
    console.width = max(console.width, 100)
    print(summary(result))
    for table in tables_of(result):
        shown = Table(box=None, pad_edge=False)
        for k, column in enumerate(table.columns):
            shown.add_column(escape(column), justify="right" if k else "left")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(f"\n[bold]{escape(table.title)}[/bold]")
        console.print(shown)
