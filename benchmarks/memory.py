"""Peak memory and time of a run by size of the scene: memory must not grow with it, and time no faster than it."""

from __future__ import annotations

import numpy as np

from benchmarks.detect_run import run_detect
from benchmarks.options import Options, say
from benchmarks.scenes import demo_scene, repeated
from benchmarks.table import Row, Table

#: How often the drawn scene stands side by side and below itself.
REPEATS = ((1, 1), (2, 2), (4, 2), (4, 4), (8, 4))


def run(options: Options) -> list[Table]:
    block = demo_scene(options, options.pick(16384, 1024))
    rows: list[dict[str, float]] = []
    for across, down in options.pick(REPEATS, ((1, 1), (2, 1))):
        path = options.folder / "scene.tif"
        say(f"writing and searching {across} x {down} drawn scenes")
        repeated(block, path, across, down)
        ended = run_detect(path, options.model, options.folder / "out", watch=True)
        rows.append({"seconds": ended.seconds, "peak": ended.peak} | ended.value)
        path.unlink()
    growth: list[Row] = [
        {
            "Gpx": row["megapixels"] / 1e3, "peak GiB": row["peak"] / 2**30,
            "peak relative to the first": row["peak"] / rows[0]["peak"], "seconds": row["seconds"],
            "Mpx/s": row["megapixels"] / row["seconds"], "tiles": int(row["tiles"]),
            "detections": int(row["detections"]),
        }
        for row in rows
    ]  # fmt: skip
    return [
        Table.of("memory", "A run by size of the scene, whole process", growth),
        Table.of("memory-growth", "How they grow", [exponents(rows)]),
    ]


def exponents(rows: list[dict[str, float]]) -> Row:
    """Powers of the scene's size that time and peak memory grow with, fitted to all sizes on logarithmic scales."""
    size = np.log([row["megapixels"] for row in rows])
    after = [row["end"] - row["first"] for row in rows]
    fits = {"seconds": [row["seconds"] for row in rows], "seconds from the first detection on": after}
    fits["peak"] = [row["peak"] for row in rows]
    return {f"exponent of {name}": float(np.polyfit(size, np.log(values), 1)[0]) for name, values in fits.items()}
