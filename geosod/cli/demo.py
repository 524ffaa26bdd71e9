"""`geosod demo`."""

from __future__ import annotations

import json as json_module
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from geosod.cli.progress import reporter


def demo_command(
    size: Annotated[int, typer.Option("--size", min=1024, max=131072, help="Side of the scene in pixels.")] = 32768,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the scene and all results.")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, max=999, help="Number of the scene to draw.")] = 7,
    engine: Annotated[str | None, typer.Option("--engine", help="ray or serial.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Number of detectors that run at the same time.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
) -> None:
    """Draw a harbour scene, detect its vessels, vehicles and tanks, and compare them with the ground truth."""
    from geosod.demo.run import run_demo

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with redirect_stdout(sys.stderr), reporter(quiet=quiet) as emit:
        on_drawn = _percentages(console, size) if not quiet else None
        summary = run_demo(out, size=size, seed=seed, on_drawn=on_drawn, on_event=emit, engine=engine, workers=workers)
    if json:
        print(json_module.dumps(summary, indent=2))
    if not quiet:
        _show(Console(file=sys.stderr, highlight=False), summary, out)


def _percentages(console: Console, size: int) -> Any:
    console.print(f"drawing a scene of {size} x {size} pixels", markup=False)
    quarters = 0

    def report(fraction: float) -> None:
        nonlocal quarters
        if fraction * 4 >= quarters + 1:
            quarters = int(fraction * 4)
            console.print(f"drawn: {quarters * 25} %", style="dim", markup=False)

    return report


def _show(console: Console, s: dict[str, Any], out: Path) -> None:
    table = Table(show_header=False, box=None)
    rows = {
        "objects": f"{s['objects']:,} true, {s['detections']:,} found",
        "recall": f"{s['recall']:.4f}",
        "recall at borders": f"{s['recall_at_borders']:.4f} at tile borders, {s['recall_elsewhere']:.4f} elsewhere",
        "precision": f"{s['precision']:.4f}",
        "duplicates": f"{s['duplicates']:,}",
        "speed": f"{s['megapixels']:,.0f} Mpx in {s['seconds']:.0f} s: {s['mpx_per_s']:.1f} Mpx/s",
        "total time": f"{s['seconds_total']:.0f} s, including {s['seconds_drawing']:.0f} s of drawing",
        "peak memory": f"{s['peak_pss_bytes'] / 2**30:.2f} GiB, sum of all processes",
        "map layer": str(out / s["detections_file"]),
        "pictures": ", ".join(str(out / name) for name in s["pictures"]),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
