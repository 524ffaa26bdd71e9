"""Greedy NMS over the boxes of a dense forest: geosod beside torchvision and SAHI, on one core.

    python benchmarks/merge.py [--largest 1000000] [--repeat 3]

Boxes imitate crowns of about 30 pixels that cover 0.3 of the ground, three boxes to a crown. Peers get the
same arrays; those that are not installed, and sizes at which a peer would take minutes, are left out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torchvision

from geosod.merging import MergeRule, merge, settle
from geosod.tiling.grid import Grid, make_grid
from geosod.tiling.units import plan_units
from geosod.types import Detections, FloatArray

COVER, COPIES = 0.3, 3
TILE, OVERLAP, UNIT = 1024, 96, (8, 8)
LARGEST_TORCHVISION, LARGEST_SAHI = 50_000, 1_000_000


def crowns(n: int, rng: np.random.Generator) -> tuple[FloatArray, float]:
    """(n, 4) boxes of objects, and the side of the square they are spread over."""
    side = rng.normal(30, 6, n).clip(10, 60)
    extent = float(np.sqrt((side**2).sum() / COVER))
    centre = rng.uniform(0, extent, (n, 2))
    return np.concatenate([centre - side[:, None] / 2, centre + side[:, None] / 2], axis=1), extent


def proposals(objects: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Three boxes for each object, each with its own error of about a pixel."""
    boxes = np.repeat(objects, COPIES, axis=0)
    return boxes + rng.normal(0, 1, boxes.shape)


def raw_boxes(n: int) -> Detections:
    rng = np.random.default_rng(0)
    boxes = proposals(crowns(n // COPIES, rng)[0], rng)
    return Detections(boxes=boxes, scores=rng.permutation(len(boxes)) / len(boxes), labels=np.zeros(len(boxes)))


def best_of(repeat: int, function: Callable[[], object]) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def torchvision_nms(d: Detections) -> Callable[[], int] | None:
    if len(d) > LARGEST_TORCHVISION:
        return None
    boxes, scores = torch.from_numpy(d.boxes.astype(np.float32)), torch.from_numpy(d.scores)
    return lambda: len(torchvision.ops.nms(boxes, scores, 0.5))


def sahi_nms(d: Detections) -> Callable[[], int] | None:
    try:
        batched_nms = importlib.import_module("sahi.postprocess.combine").batched_nms
    except ImportError:
        return None
    if len(d) > LARGEST_SAHI:
        return None
    rows = np.column_stack([d.boxes, d.scores, d.labels]).astype(np.float32)
    return lambda: len(batched_nms(rows, "IOU", 0.5))


def timed(function: Callable[[], int] | None, repeat: int, ours: float) -> str:
    if function is None:
        return f"{'-':>10} {'':>8}"
    function()
    seconds = best_of(repeat, function)
    return f"{seconds:10.3f} {seconds / ours:7.1f}x"


def tiled(grid: Grid, objects: FloatArray, rng: np.random.Generator) -> dict[tuple[int, int], Detections]:
    """What a detector would give for each tile: three boxes for every object in it, clipped to it."""
    tiles = {}
    for i in range(grid.rows):
        top, bottom = grid.y_starts[i], grid.y_starts[i] + grid.tile_height
        band = objects[(objects[:, 1] < bottom - 2) & (objects[:, 3] > top + 2)]
        for j in range(grid.cols):
            left, right = grid.x_starts[j], grid.x_starts[j] + grid.tile_width
            seen = band[(band[:, 0] < right - 2) & (band[:, 2] > left + 2)]
            boxes = np.clip(proposals(seen, rng), (left, top) * 2, (right, bottom) * 2)
            boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
            inner = np.array([left > 0, top > 0, right < grid.width, bottom < grid.height])
            fragment = ((boxes == (left, top, right, bottom)) & inner).any(axis=1)
            tiles[top, left] = Detections(
                boxes=boxes, scores=rng.random(len(boxes)), labels=np.zeros(len(boxes)), fragment=fragment
            )
    return tiles


def shipping(n: int) -> None:
    rng = np.random.default_rng(1)
    objects, extent = crowns(n // COPIES, rng)
    grid = make_grid(int(extent), int(extent), tile=TILE, overlap=OVERLAP)
    tiles = tiled(grid, objects, rng)
    units = plan_units("forest", grid, shape=UNIT)
    parts = [Detections.concat([tiles[w.row, w.col] for w in u.windows]) for u in units]
    start = time.perf_counter()
    settled = [settle(part, unit.core, MergeRule()) for part, unit in zip(parts, units, strict=True)]
    seconds = time.perf_counter() - start
    raw, shipped = sum(map(len, parts)), sum(len(s.open) for s in settled)
    print(
        f"\nIn units of {UNIT[0]} x {UNIT[1]} tiles of {TILE} px, overlap {OVERLAP}: {grid.width} x {grid.height} px,"
    )
    print(f"{len(units)} units, {raw:,} raw boxes settled in {seconds:.2f} s; shipped open: {shipped / raw:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000, help="most raw boxes (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="best of so many runs (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    merge(raw_boxes(30))
    print(f"compiling, or loading what was compiled before: {time.perf_counter() - start:.2f} s\n")
    print(f"{'boxes':>10} {'kept':>9} {'geosod s':>9} {'exponent':>8} {'torchvision':>19} {'sahi':>19}")
    before: tuple[int, float] | None = None
    for n in (10_000, 50_000, 100_000, 1_000_000, 10_000_000):
        if n > options.largest:
            break
        d = raw_boxes(n)
        kept = len(merge(d))
        ours = best_of(options.repeat, lambda d=d: merge(d))  # type: ignore[misc]
        exponent = f"{np.log(ours / before[1]) / np.log(n / before[0]):8.2f}" if before else f"{'':>8}"
        peers = [timed(peer(d), options.repeat, ours) for peer in (torchvision_nms, sahi_nms)]
        print(f"{n:10,} {kept:9,} {ours:9.3f} {exponent} {' '.join(peers)}", flush=True)
        before = (n, ours)
    shipping(min(options.largest, 3_000_000))


if __name__ == "__main__":
    main()
