"""`geosod detect`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from geosod.cli.progress import reporter, summary
from geosod.config import RunConfig


def _help(name: str) -> str:
    text = RunConfig.model_fields[name].description or ""
    return text[0].upper() + text[1:] + "."


def _option(name: str, *extra: str) -> Any:
    return typer.Option(f"--{name.replace('_', '-')}", *extra, help=_help(name), show_default=False)


def detect_command(
    scenes: Annotated[
        list[str],
        typer.Argument(
            help="Paths, folders, globs, https:// and s3:// addresses, STAC items; - for a list on standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="A model's name, a bundle's folder, or module:function.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder; with one scene also NAME.parquet.")],
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings; flags go on top.")] = None,
    bands: Annotated[str | None, _option("bands")] = None,
    asset: Annotated[str | None, _option("asset")] = None,
    aoi: Annotated[Path | None, _option("aoi")] = None,
    mask: Annotated[list[str] | None, _option("mask")] = None,
    tile_gsd: Annotated[str | None, _option("tile_gsd")] = None,
    rpc_height: Annotated[float | None, _option("rpc_height")] = None,
    dem: Annotated[str | None, _option("dem")] = None,
    tile: Annotated[str | None, _option("tile")] = None,
    overlap: Annotated[str | None, _option("overlap")] = None,
    levels: Annotated[str | None, _option("levels")] = None,
    threshold: Annotated[float | None, _option("threshold")] = None,
    merge_method: Annotated[str | None, _option("merge_method")] = None,
    metric: Annotated[str | None, _option("metric")] = None,
    merge_threshold: Annotated[float | None, _option("merge_threshold")] = None,
    per_class: Annotated[str | None, _option("per_class")] = None,
    sigma: Annotated[float | None, _option("sigma")] = None,
    min_score: Annotated[float | None, _option("min_score")] = None,
    decay: Annotated[str | None, _option("decay")] = None,
    borders: Annotated[bool | None, typer.Option("--borders/--no-borders", help=_help("borders"))] = None,
    class_agnostic: Annotated[bool | None, _option("class_agnostic")] = None,
    crs: Annotated[str | None, _option("crs")] = None,
    datetime: Annotated[str | None, _option("datetime")] = None,
    engine: Annotated[str | None, _option("engine")] = None,
    workers: Annotated[int | None, _option("workers")] = None,
    threads: Annotated[int | None, _option("threads")] = None,
    ray_address: Annotated[str | None, _option("ray_address")] = None,
    device: Annotated[str | None, _option("device")] = None,
    backend: Annotated[str | None, _option("backend")] = None,
    precision: Annotated[str | None, _option("precision")] = None,
    batch: Annotated[int | None, _option("batch")] = None,
    unit: Annotated[tuple[int, int] | None, _option("unit")] = None,
    read_threads: Annotated[int | None, _option("read_threads")] = None,
    cache_mb: Annotated[int | None, _option("cache_mb")] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help=_help("overwrite"))] = None,
    trust: Annotated[bool | None, typer.Option("--trust", help=_help("trust"))] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what went wrong.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print every scene.")] = False,
) -> None:
    """Find small objects in scenes, and write them as GeoParquet, with the ground that was inspected.

    Exit codes: 0 all done; 3 finished, but some ground or scenes failed; 2 bad usage or input; 1 a bug.
    """
    settings: Any = {name: value for name, value in locals().items() if name in RunConfig.model_fields}
    from geosod.running.detect import detect

    # Ray prints messages about lost workers; standard output is for the result.
    with redirect_stdout(sys.stderr), reporter(quiet=quiet, verbose=verbose) as emit:
        result = detect(scenes, model=model, out=out, config=config, on_event=emit, **settings)
    if json:
        from geosod.cli.report import as_json

        print(as_json(result))
    if not quiet:
        print(summary(result), file=sys.stderr)
    raise typer.Exit(result.exit_code)
