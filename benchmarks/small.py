"""Many small scenes in one call, compared with one scene that holds the same pixels: what a scene costs by itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import rasterio
from rasterio.windows import Window

from benchmarks.detect_run import GEOSOD
from benchmarks.options import Options, say
from benchmarks.processes import command
from benchmarks.scenes import demo_scene, profile_of
from benchmarks.table import Table
from benchmarks.timing import medians

SIDE, TARGET_MS = 256, 10.0
#: Scenes side by side and below one another.
GRID = (40, 25)


def run(options: Options) -> list[Table]:
    across, down = options.pick(GRID, (4, 3))
    drawn = demo_scene(options, options.pick(10240, 1024))
    whole, folder = options.folder / "whole.tif", options.folder / "scenes"
    count = across * down
    say(f"cutting {count} scenes of {SIDE} x {SIDE} pixels")
    cut(drawn, whole, folder, across, down)
    inputs = {"one scene of the same pixels": whole, f"{count:,} scenes": folder}
    detect = [*GEOSOD, "detect", "-m", options.model, "--overwrite", "-q", "-o"]
    times = medians(
        {name: partial(command, [*detect, options.folder / "out", given]) for name, given in inputs.items()},
        options.rounds,
    )
    one, many = times.values()
    row = {
        "scenes": count,
        "Mpx": across * down * SIDE**2 / 1e6,
        "one scene of the same pixels, seconds": one,
        "all scenes in one call, seconds": many,
        "ms a scene more": 1e3 * (many - one) / count,
        "target, ms": TARGET_MS,
    }
    return [Table.of("small", f"Scenes of {SIDE} × {SIDE} pixels in one call", [row])]


def cut(drawn: Path, whole: Path, folder: Path, across: int, down: int) -> None:
    """Write a part of a scene as one file, and as many small ones."""
    folder.mkdir()
    with rasterio.open(drawn) as source:
        part = Window(0, 0, across * SIDE, down * SIDE)
        profile = profile_of(source, "deflate", part.width, part.height)
        pixels = source.read(window=part)
        with rasterio.open(whole, "w", **profile) as copy:
            copy.write(pixels)
        for k in range(across * down):
            row, col = k // across * SIDE, k % across * SIDE
            place = source.window_transform(Window(col, row, SIDE, SIDE))
            alone = {"width": SIDE, "height": SIDE, "transform": place, "blockxsize": SIDE, "blockysize": SIDE}
            with rasterio.open(folder / f"{k:04}.tif", "w", **(profile | alone)) as copy:
                copy.write(pixels[:, row : row + SIDE, col : col + SIDE])
