"""Merging the boxes of a dense forest: geosod compared with torchvision and SAHI, on one core.

    python -m benchmarks.merge [--largest 10000000] [--repeat 3]

Boxes imitate crowns of about 30 pixels that cover 0.3 of the ground, three boxes per crown. The other libraries get
the same arrays; those that are not installed, and sizes at which one would take minutes, are skipped. Times are
medians of wall clock and, since other programs may share the machine, of CPU time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torchvision

from geosod.arrays import FloatArray
from geosod.detections import Detections
from geosod.merging.components import settle
from geosod.merging.merge import merge
from geosod.merging.methods import METHODS
from geosod.merging.rule import MergeRule
from geosod.tiling.grid import Grid, make_grid
from geosod.tiling.units import plan_units

#: Default margin of a model card, in pixels.
MARGIN = 2.0
COVER, COPIES, PILE = 0.3, 3, 33_337
TILE, OVERLAP, UNIT = 1024, 96, (8, 8)
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
LARGEST_TORCHVISION, LARGEST_SAHI = 50_000, 1_000_000


class Times(NamedTuple):
    """Medians in seconds."""

    wall: float
    cpu: float


def crowns(n: int, rng: np.random.Generator) -> tuple[FloatArray, float]:
    """(n, 4) boxes of objects, and the side of the square that they lie in."""
    side = rng.normal(30, 6, n).clip(10, 60)
    extent = float(np.sqrt((side**2).sum() / COVER))
    centre = rng.uniform(0, extent, (n, 2))
    return np.concatenate([centre - side[:, None] / 2, centre + side[:, None] / 2], axis=1), extent


def proposals(objects: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Three boxes per object, each with an independent error of about a pixel."""
    boxes = np.repeat(objects, COPIES, axis=0)
    return boxes + rng.normal(0, 1, boxes.shape)


def raw_boxes(n: int) -> Detections:
    rng = np.random.default_rng(0)
    boxes = proposals(crowns(n // COPIES, rng)[0], rng)
    scores = (1 + rng.permutation(len(boxes))) / len(boxes)
    return Detections(boxes=boxes, scores=scores, labels=np.zeros(len(boxes)))


def piled_boxes(n: int) -> Detections:
    """Boxes of about 100 pixels at one place, each shifted by some pixels."""
    rng = np.random.default_rng(0)
    boxes = np.array([0.0, 0, 100, 100]) + rng.normal(0, 5, (n, 4))
    return Detections(boxes=boxes, scores=(1 + rng.permutation(n)) / n, labels=np.zeros(n))


def measured(function: Callable[[], object], repeat: int) -> Times:
    wall, cpu = [], []
    for _ in range(repeat):
        before = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    return Times(float(np.median(wall)), float(np.median(cpu)))


def torchvision_peer(d: Detections, method: str) -> Callable[[], int] | None:
    if method != "nms" or len(d) > LARGEST_TORCHVISION:
        return None
    boxes, scores = torch.from_numpy(d.boxes.astype(np.float32)), torch.from_numpy(d.scores)
    return lambda: len(torchvision.ops.nms(boxes, scores, 0.5))


def sahi_peer(d: Detections, method: str) -> Callable[[], int] | None:
    try:
        combine = importlib.import_module("sahi.postprocess.combine")
    except ImportError:
        return None
    function = getattr(combine, f"batched_{method}", None)
    if function is None or len(d) > LARGEST_SAHI:
        return None
    rows = np.column_stack([d.boxes, d.scores, d.labels]).astype(np.float32)
    return lambda: len(function(rows, "IOU", 0.5))


def compared(peer: Callable[[], int] | None, ours: float) -> str:
    """CPU seconds of another library, and the ratio to ours."""
    if peer is None:
        return f"{'-':>9} {'':>8}"
    seconds = measured(peer, 1).cpu
    return f"{seconds:9.3f} {seconds / ours:7.1f}x"


def scaling(largest: int, repeat: int) -> None:
    """Every method on growing numbers of boxes."""
    sizes = [n for n in SIZES if n <= largest]
    scenes = {n: raw_boxes(n) for n in sizes}
    print(
        f"{'method':>10} {'boxes':>10} {'kept':>9} {'wall s':>8} {'CPU s':>8} {'exponent':>8}"
        f" {'torchvision s':>18} {'SAHI s':>18}"
    )
    for method in METHODS:
        seconds = []
        for n in sizes:
            d = scenes[n]
            kept = len(merge(d, method=method))
            ours = measured(partial(merge, d, method=method), repeat if n < SIZES[-1] else 1)
            seconds.append(ours.cpu)
            exponent = "" if len(seconds) < 2 else f"{np.log(seconds[-1] / seconds[-2]) / np.log(10):.2f}"
            peers = " ".join(compared(peer(d, method), ours.cpu) for peer in (torchvision_peer, sahi_peer))
            print(f"{method:>10} {n:10,} {kept:9,} {ours.wall:8.3f} {ours.cpu:8.3f} {exponent:>8} {peers}", flush=True)
        if len(sizes) > 1:
            slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
            print(f"{method:>10} scales with boxes to the power of {slope:.2f}, {sizes[0]:,} to {sizes[-1]:,}\n")


def pile(repeat: int) -> None:
    """Boxes that nearly all overlap each other."""
    d = piled_boxes(PILE)
    print(f"{PILE:,} boxes on one pile, {PILE * (PILE - 1) // 2:,} pairs")
    for method in METHODS:
        kept, ours = len(merge(d, method=method)), measured(partial(merge, d, method=method), repeat)
        peers = " ".join(compared(peer(d, method), ours.cpu) for peer in (torchvision_peer, sahi_peer))
        print(f"{method:>10} {len(d):10,} {kept:9,} {ours.wall:8.3f} {ours.cpu:8.3f} {'':>8} {peers}", flush=True)


def tiled(grid: Grid, objects: FloatArray, rng: np.random.Generator) -> dict[tuple[int, int], Detections]:
    """The boxes of a detector for each tile: three for every object in it, clipped to it."""
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
            fragment = ((boxes == (left, top, right, bottom)) & inner) @ np.array([1, 2, 4, 8])
            tiles[top, left] = Detections(
                boxes=boxes, scores=rng.random(len(boxes)), labels=np.zeros(len(boxes)), fragment=fragment
            )
    return tiles


def pending_share(n: int) -> None:
    """The share of boxes that stay pending in a unit."""
    rng = np.random.default_rng(1)
    objects, extent = crowns(n // COPIES, rng)
    grid = make_grid(int(extent), int(extent), tile=TILE, overlap=OVERLAP)
    tiles = tiled(grid, objects, rng)
    units = plan_units("forest", grid, shape=UNIT)
    parts = [Detections.concat([tiles[w.row, w.col] for w in u.windows]) for u in units]
    raw = sum(map(len, parts))
    print(
        f"\n{len(units)} units of {UNIT[0]} x {UNIT[1]} tiles of {TILE} px, overlap {OVERLAP}: {grid.width} px square,"
    )
    print(f"{raw:,} raw boxes, of which these stay pending in units:")
    rules = [MergeRule(m) for m in METHODS]
    rules += [MergeRule("soft_nms", decay="linear"), *(MergeRule("wbf", threshold=t) for t in (0.55, 0.4, 0.3, 0.2))]
    for plain in [*rules, MergeRule("wbf", "ios")]:
        rule = replace(plain, margin=MARGIN)
        start = time.process_time()
        pending = sum(len(settle(part, unit.core, rule).pending) for part, unit in zip(parts, units, strict=True))
        kind = rule.decay if rule.method == "soft_nms" else f"{rule.metric} {rule.threshold:g}"
        print(f"{rule.method:>10} {kind:>10} {pending / raw:7.2%}, in {time.process_time() - start:.2f} s", flush=True)


def memory(n: int) -> None:
    """Peak memory of a process that merges `n` boxes."""
    kept = len(merge(raw_boxes(n)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"nms of {n:,} boxes, {kept:,} kept: peak memory {peak:.2f} GiB, including the generation of the boxes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--largest", type=int, default=10_000_000, help="maximum number of raw boxes (default: %(default)s)"
    )
    parser.add_argument(
        "--repeat", type=int, default=3, help="number of runs of which the median is taken (default: %(default)s)"
    )
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory(options.memory)
        return
    torch.set_num_threads(1)
    start = time.perf_counter()
    for method in METHODS:
        merge(raw_boxes(30), method=method)
    print(f"compiling, or loading compiled code: {time.perf_counter() - start:.2f} s\n")
    scaling(options.largest, options.repeat)
    pile(options.repeat)
    pending_share(min(options.largest, 3_000_000))
    print(flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.merge", "--memory", str(options.largest)], check=True)


if __name__ == "__main__":
    main()
