"""`geosod summarize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from geosod.cli.display import display
from geosod.cli.inputs import with_listed
from geosod.cli.options import Outputs
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.status_line import Status
from geosod.cli.streams import print_error
from geosod.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from geosod.summarizing.change import Changes
    from geosod.summarizing.run import Summary
    from geosod.summarizing.zones import Zones

#: Rows that are printed.
_SHOWN = 40
_CHANGE = "Change between two dates"


def summarize_command(
    outputs: Outputs,
    by: Annotated[
        str, typer.Option("--by", help="What to tell apart: class, date, both, or none.", metavar="[class|date|...]")
    ] = "class",
    h3: Annotated[
        int | None,
        typer.Option("--h3", help="Tell H3 cells apart, of this resolution: 7 is 5 km2.", show_default=False),
    ] = None,
    areas: Annotated[
        str | None,
        typer.Option(
            "--areas", help="Tell polygons of a vector file apart.", metavar="FILE[:LAYER]", show_default=False
        ),
    ] = None,
    area_column: Annotated[
        str | None,
        typer.Option("--area-column", help="Column with their names. Default: the first text.", show_default=False),
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Minimum score.")] = 0.0,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Classes to count; by default all.", metavar="A,B,...")
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", help="Rate of the Poisson intervals.")] = 0.95,
    change: Annotated[
        str | None,
        typer.Option(
            "--change",
            help="Compare two days (UTC), such as 2024-05-01,2024-06-10: new, gone and same objects.",
            metavar="DATE,DATE",
            show_default=False,
            rich_help_panel=_CHANGE,
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option("--metric", help="Overlap measure of boxes.", metavar="[iou|ios]", rich_help_panel=_CHANGE),
    ] = "iou",
    merge_threshold: Annotated[
        float,
        typer.Option("--merge-threshold", help="Boxes are one object from this value on.", rich_help_panel=_CHANGE),
    ] = 0.5,
    objects: Annotated[
        str | None,
        typer.Option(
            "--objects",
            help="Write all objects with their change: .gpkg, .fgb, .geojson, .parquet or .csv.",
            show_default=False,
            rich_help_panel=_CHANGE,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the rows: .csv, or with --h3 or --areas also .gpkg, .fgb, .geojson or .parquet.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count objects per class, date and place, and per square kilometre of ground that was inspected.

    Example: geosod summarize out --by class,date --areas districts.gpkg -o counts.csv

    Exit codes: 0 done; 3 done, but some scenes were skipped; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.summarizing.files import check_summary_file, write_summary
        from geosod.summarizing.run import summarize

        if out is not None:
            check_summary_file(out, zones=h3 is not None or areas is not None, overwrite=overwrite)
        if objects is not None and change is None:
            raise ConfigError("--objects has the change of objects; give --change, or use geosod export")
        shown.update(Status("reading the outputs"))
        common: dict[str, Any] = {"zones": _zones(h3, areas, area_column), "threshold": threshold}
        common |= {"classes": _names(classes) or None, "confidence": confidence}
        result: Summary | Changes
        if change is None:
            wanted = [name for name in _names(by) if name != "none"]
            result = summarize(with_listed(outputs), by=wanted, on_rows=_progress(shown), **common)
        else:
            result = _changes(with_listed(outputs), change, metric, merge_threshold, objects, overwrite, common)
        if out is not None:
            write_summary(result.table, result.outlines, out, metadata={"confidence": confidence})
    for failure in result.skipped:
        print_error(f"skipped: {failure.message}")
    for note in result.notes:
        print_error(f"note: {note}")
    if json:
        values = {"rows": result.table.to_pylist(), "confidence": confidence, "notes": list(result.notes)}
        print_json(values | {"exit_code": result.exit_code})
    else:
        print_rows(result.table, out)
    raise typer.Exit(result.exit_code)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _progress(shown: Any) -> Any:
    def on_rows(done: int, total: int) -> None:
        count = f"{done:,} of {total:,}"
        shown.update(Status("counting", done / total if done < total else None, ((f"{count} detections", count),)))

    return on_rows


def _zones(h3: int | None, areas: str | None, column: str | None) -> Zones | None:
    from geosod.scenes.aoi import split_layer
    from geosod.summarizing.zones import H3Zones, read_areas

    if h3 is not None and areas is not None:
        raise ConfigError("--h3 and --areas are two divisions of the ground; give one")
    if column is not None and areas is None:
        raise ConfigError("--area-column is of --areas; give that, too")
    if h3 is not None:
        return H3Zones(h3)
    return None if areas is None else read_areas(*split_layer(areas), column)


def _changes(
    outputs: list[str],
    change: str,
    metric: str,
    merge_threshold: float,
    objects: str | None,
    overwrite: bool,
    common: dict[str, Any],
) -> Changes:
    from geosod.summarizing.change import changes

    days = _names(change)
    if len(days) != 2:
        raise ConfigError(f"change {change!r}: give two days, such as 2024-05-01,2024-06-10")
    return changes(
        outputs,
        dates=(days[0], days[1]),
        metric=cast(Literal["iou", "ios"], metric),
        merge_threshold=merge_threshold,
        objects=objects,
        overwrite=overwrite,
        **common,
    )


def print_rows(table: pa.Table, out: str | None) -> None:
    """Print the first rows of a summary as a table; intervals stand in brackets behind their number."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    names = [name for name in table.schema.names if not name.endswith(("_low", "_high"))]
    for name in names:
        is_text = str(table.schema.field(name).type) == "string"
        shown.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for row in table.slice(0, _SHOWN).to_pylist():
        shown.add_row(*(_cell(row, name) for name in names))
    Console(highlight=False, width=max(80, Console().width)).print(shown)
    if len(table) > _SHOWN:
        rest = f"{len(table) - _SHOWN:,} more rows"
        print_error(f"{rest} in {out}" if out else f"{rest}; -o FILE.csv or --json has all")


def _cell(row: dict[str, Any], name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    between = "" if low is None or high is None else f" ({_shown(low)}-{_shown(high)})"
    return _shown(row[name]) + between


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
