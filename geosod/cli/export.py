"""`geosod export`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from geosod.cli.display import display
from geosod.cli.inputs import with_listed
from geosod.cli.options import Outputs
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.status_line import Status, counted
from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.exporting.run import ExportResult
    from geosod.output.geoparquet import GeoParquetVersion


def export_command(
    outputs: Outputs,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="New file; its suffix says the format: .gpkg, .fgb, .geojson, .pmtiles, .csv, .parquet, .json (COCO).",
            show_default=False,
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Format, where the suffix does not say it.",
            metavar="[geoparquet|gpkg|flatgeobuf|geojson|pmtiles|csv|coco|yolo]",
            show_default=False,
        ),
    ] = None,
    geoparquet: Annotated[
        str,
        typer.Option(
            "--geoparquet",
            help="Version of GeoParquet: 2.0 has Parquet's own GEOMETRY type, with statistics of row groups.",
            metavar="[1.1|2.0]",
        ),
    ] = "1.1",
    crs: Annotated[
        str | None,
        typer.Option("--crs", help="CRS of the file; by default that of the outputs, or OGC:CRS84 if they differ."),
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Minimum score.")] = 0.0,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Classes to write; by default all.", metavar="A,B,...")
    ] = None,
    image_files: Annotated[
        str | None,
        typer.Option(
            "--image-files",
            help="Images of a YOLO folder; by default links, if all are local files.",
            metavar="[none|link|copy]",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write detections in the format of another program, with a QGIS style beside it.

    Example: geosod export out -o boats.gpkg --threshold 0.5

    Exit codes: 0 done; 3 done, but some scenes were skipped; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.exporting.run import as_images, export

        def on_rows(done: int, total: int) -> None:
            count = f"{done:,} of {total:,}"
            fraction = done / total if done < total else None
            shown.update(Status("writing", fraction, ((f"{count} detections", count),)))

        shown.update(Status("reading the outputs"))
        result = export(
            with_listed(outputs),
            out=out,
            format=to,
            geoparquet=cast("GeoParquetVersion", geoparquet),
            crs=crs,
            threshold=threshold,
            classes=None if classes is None else [name.strip() for name in classes.split(",")],
            images=as_images(image_files),
            overwrite=overwrite,
            on_rows=on_rows,
        )
    if json:
        values: dict[str, Any] = asdict(result) | {"exit_code": result.exit_code}
        print_json(values)
    for failure in result.skipped:
        print_error(f"skipped: {failure.message}")
    if not quiet:
        print_error(summary(result))
    raise typer.Exit(result.exit_code)


def summary(result: ExportResult) -> str:
    """The lines printed at the end."""
    lines = [f"note: {note}" for note in result.notes]
    lines.append(
        f"{counted(result.rows, 'detection')} of {counted(result.scenes, 'scene')} in {result.out} ({result.format}, "
        f"{result.crs or 'pixels'})"
    )
    lines.append(f"done in {result.seconds:.1f} s")
    if result.skipped:
        lines.append(f"{counted(len(result.skipped), 'scene')} skipped")
    return "\n".join(lines)
