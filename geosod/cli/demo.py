"""`geosod demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geosod.cli.display import display
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.status_line import Status
from geosod.cli.streams import print_error


def demo_command(
    size: Annotated[int, typer.Option("--size", min=1024, max=131072, help="Side of the scene in pixels.")] = 16384,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the scene and all results.")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, max=999, help="Number of the scene to draw.")] = 7,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="As for geosod detect. Default: auto.", metavar="[auto|local|ray|serial]"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Number of detectors. Default: one per GPU, or per core.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw a harbour scene, detect its vessels, vehicles and tanks, and compare them with the ground truth.

    Example: geosod demo --size 8192 -o demo
    """
    with display(quiet=quiet) as shown:
        from geosod.cli.progress import show_run
        from geosod.demo.run import run_demo

        emit = show_run(shown)
        drawing = f"drawing {size:,} x {size:,} pixels"
        shown.update(Status(drawing))

        def on_drawn(fraction: float) -> None:
            shown.update(Status(drawing, fraction) if fraction < 1 else Status("compressing the scene"))

        summary = run_demo(out, size=size, seed=seed, on_drawn=on_drawn, on_event=emit, engine=engine, workers=workers)
    if json:
        print_json(summary)
    if not quiet:
        print_error(_table(summary, out))


def _table(s: dict[str, Any], out: Path) -> str:
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
    return "\n".join(f"{name:<{max(map(len, rows))}}  {value}" for name, value in rows.items())
