"""`geosod model bench`: how fast this machine runs a model, by backend and precision."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from geosod.cli.printing import Json, print_json
from geosod.cli.sample import sample_of
from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.detectors.bench import Bench
    from geosod.detectors.ways import Way
    from geosod.evaluation.changes import Change


def bench_command(
    model: Annotated[str, typer.Argument(help="A shipped model's name, a bundle's folder, or a model file.")],
    scenes: Annotated[
        list[str] | None, typer.Option("--scenes", help="Take tiles of these scenes. Default: a drawn scene.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Also compare AP on labelled images.", show_default=False),
    ] = None,
    class_map: Annotated[
        str | None,
        typer.Option("--class-map", help="The model's names of labelled classes.", metavar="CLASS=NAME,..."),
    ] = None,
    tile: Annotated[str | None, typer.Option("--tile", help="Tile size in pixels. Default: the model's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Tiles in a forward pass.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of one detector.")] = 1,
    device: Annotated[
        str, typer.Option("--device", metavar="[auto|cpu|cuda]", help="Device of the detector.")
    ] = "auto",
    tiles: Annotated[int, typer.Option("--tiles", min=1, max=256, help="Number of tiles.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100, help="Rounds; medians are shown.")] = 3,
    trust: Annotated[bool, typer.Option("--trust", help="The model may execute code.")] = False,
    as_json: Json = False,
) -> None:
    """Time a model in every way this machine can run it, and compare its boxes with those of torch in fp32.

    The times are kept: later runs with this model and tile size take the fastest way by themselves. F1 counts the boxes
    of the reference as the truth; it says how much changes, not how good the model is. With --labels, AP says that.

    Example: geosod model bench demo-harbour
    """
    from geosod.detectors.bench import bench
    from geosod.detectors.measure import remember
    from geosod.running.detect import make_job
    from geosod.running.job import resolve_execution

    settings: dict[str, Any] = {"tile": tile, "batch": batch, "threads": threads, "device": device, "trust": trust}
    job = make_job(model, **settings)
    sample = sample_of(job, scenes or [], tiles)
    where: dict[str, Any] = {"device": resolve_execution(job)[0].device, "threads": threads}
    print_error(f"{job.model.card.name}: {sample.what}, {rounds} rounds")
    found = bench(job.model, sample.tiles, batch=batch, rounds=rounds, report=print_error, **where)
    remember(job.model, job.tile, found.measured, **where)
    chosen = resolve_execution(job)[1]
    measured = _changes(found, labels, class_map, model, settings) if labels is not None else {}
    if as_json:
        print_json(_as_json(found, sample.what, chosen, measured))
        return
    console = Console(highlight=False)
    console.width = max(console.width, 150 if measured else 100)  # columns that are cut off help nobody
    console.print(_table(found, measured))
    print(f"compared with {' '.join(found.reference)}; chosen from now on: {chosen}")


def _changes(
    found: Bench, labels: Path, class_map: str | None, model: str, settings: dict[str, Any]
) -> dict[Way, Change]:
    """AP of every way on labelled images, at the model's threshold."""
    from geosod.datasets.class_map import parse_renames
    from geosod.datasets.read import read_labels
    from geosod.evaluation.changes import changes
    from geosod.evaluation.searched import search

    truth = read_labels(labels, rename=parse_renames(class_map) if class_map else None).labels
    results = {
        row.way: search(truth, model=model, backend=row.way.backend, precision=row.way.precision, **settings)
        for row in found.rows
    }
    return changes(truth, results, found.reference)


def _table(found: Bench, measured: dict[Way, Change]) -> Table:
    table = Table(box=None)
    for name in ("backend", "precision"):
        table.add_column(name)
    heads = ("tiles/s", "Mpx/s", "speed", "boxes", "F1", "max px", "mean px", "max score")
    for name in (*heads, *(("AP", "AP50", "change", "95 %") if measured else ())):
        table.add_column(name, justify="right")
    for row in found.rows:
        boxes = row.boxes
        cells = [f"{row.tiles_per_s:.2f}", f"{row.mpx_per_s:.1f}", f"{row.speedup:.2f} x", f"{boxes.found:,}"]
        cells += [f"{boxes.f1:.4f}", f"{boxes.max_px:.3f}", f"{boxes.mean_px:.4f}", f"{boxes.max_score:.4f}"]
        if measured:
            change = measured[row.way]
            ends = "" if change.interval is None else f"{change.interval[0]:+.4f} to {change.interval[1]:+.4f}"
            cells += [f"{change.ap:.4f}", f"{change.ap50:.4f}", f"{change.ap50_change:+.4f}", ends]
        table.add_row(*row.way, *cells)
    return table


def _as_json(found: Bench, sample: str, chosen: str, measured: dict[Way, Change]) -> dict[str, Any]:
    rows = [
        {"backend": row.way.backend, "precision": row.way.precision, "seconds_per_tile": row.seconds,
         "tiles_per_s": row.tiles_per_s, "mpx_per_s": row.mpx_per_s, "speedup": row.speedup,
         "agreement": asdict(row.boxes) | {"f1": row.boxes.f1},
         "accuracy": asdict(measured[row.way]) if measured else None}
        for row in found.rows
    ]  # fmt: skip
    return {"sample": sample, "reference": found.reference._asdict(), "chosen": chosen, "ways": rows}
