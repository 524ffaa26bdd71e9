"""Merging the boxes of a dense forest: geosod compared with torchvision and SAHI, on one core.

Boxes imitate crowns of about 30 pixels that cover 0.3 of the ground, three boxes per crown. The other libraries get
the same arrays, up to numbers at which one would take minutes. Figures are medians of CPU time, since other programs
may share the machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torchvision

from benchmarks.forest import OVERLAP, TILE, crowns, piled_boxes, raw_boxes, tiled
from benchmarks.options import Options, UnavailableError, say
from benchmarks.peers.environments import python_of
from benchmarks.processes import call
from benchmarks.table import Row, Table
from geosod.detections import Detections
from geosod.merging.components import settle
from geosod.merging.merge import merge
from geosod.merging.methods import METHODS
from geosod.merging.rule import MergeRule
from geosod.tiling.grid import make_grid
from geosod.tiling.units import plan_units

#: Default margin of a model card, in pixels.
MARGIN = 2.0
PILE, UNIT = 33_337, (8, 8)
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000, 10_000_000), (1_000, 10_000)
LARGEST_TORCHVISION, LARGEST_SAHI = 50_000, 1_000_000
SAHI_METHODS = ("nms", "greedy_nmm", "nmm")


class Times(NamedTuple):
    """Medians in seconds."""

    wall: float
    cpu: float


def run(options: Options) -> list[Table]:
    torch.set_num_threads(1)
    for method in METHODS:
        merge(raw_boxes(30), method=method)
    sizes = options.pick(SIZES, QUICK_SIZES)
    return [
        Table.of("merge", "Merging boxes on one core, CPU seconds", by_size(sizes, options)),
        Table.of("merge-memory", "Memory of a process that makes boxes and merges them", [peak(sizes[-1])]),
        Table.of("merge-pending", "Boxes that stay pending in units", pending(options.pick(3_000_000, 20_000))),
    ]


def by_size(sizes: tuple[int, ...], options: Options) -> list[Row]:
    """A row for each number of boxes, with a column for each method and each of other libraries; exponents; a pile."""
    rows: list[dict[str, str | float | None]] = []
    for n in sizes:
        say(f"{n:,} boxes")
        rounds = options.rounds if n < SIZES[-1] else 1
        rows.append({"boxes": f"{n:,}"} | timings(raw_boxes(n), f"raw_boxes:{n}", rounds))
    exponents = {method: slope([float(row[method] or 0) for row in rows], sizes) for method in METHODS}
    pile = options.pick(PILE, 500)
    say(f"{pile:,} boxes on one pile, {pile * (pile - 1) // 2:,} pairs")
    last = {"boxes": f"{pile:,} on one pile"} | timings(piled_boxes(pile), f"piled_boxes:{pile}", options.rounds)
    return [*rows, {"boxes": "exponent", **exponents}, last]


def timings(boxes: Detections, made_by: str, rounds: int) -> dict[str, float | None]:
    """CPU seconds of every method, and of the same methods of other libraries."""
    found: dict[str, float | None] = {}
    for method in METHODS:
        found[method] = measured(partial(merge, boxes, method=method), rounds).cpu
    found["torchvision nms"] = torchvision_nms(boxes)
    theirs = sahi(made_by) if len(boxes) <= LARGEST_SAHI else {}
    return found | {f"SAHI {method}": theirs.get(method) for method in SAHI_METHODS}


def slope(seconds: list[float], sizes: tuple[int, ...]) -> float:
    """The power of the number of boxes that time grows with."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def measured(function: Callable[[], object], repeat: int) -> Times:
    wall, cpu = [], []
    for _ in range(repeat):
        before = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    return Times(float(np.median(wall)), float(np.median(cpu)))


def torchvision_nms(d: Detections) -> float | None:
    """CPU seconds; None where it would take minutes."""
    if len(d) > LARGEST_TORCHVISION:
        return None
    boxes, scores = torch.from_numpy(d.boxes.astype(np.float32)), torch.from_numpy(d.scores.copy())
    return measured(lambda: torchvision.ops.nms(boxes, scores, 0.5), 1).cpu


def sahi(made_by: str) -> dict[str, float]:
    """CPU seconds of SAHI's methods, in its environment; none where it is not installed."""
    try:
        value = call("benchmarks.peers.sahi_merge:seconds", python=python_of("sahi"), made_by=made_by).value
    except UnavailableError as reason:
        say(str(reason))
        return {}
    return {method: float(seconds) for method, seconds in value.items()}


def pending(n: int) -> list[Row]:
    """The share of boxes that stay pending in units, by rule."""
    rng = np.random.default_rng(1)
    objects, extent = crowns(n // 3, rng)
    grid = make_grid(int(extent), int(extent), tile=TILE, overlap=OVERLAP)
    tiles = tiled(grid, objects, rng)
    units = plan_units("forest", grid, shape=UNIT)
    parts = [Detections.concat([tiles[w.row, w.col] for w in u.windows]) for u in units]
    raw = sum(map(len, parts))
    settle(parts[0][:9], units[0].core, MergeRule("nms"))  # loads compiled code
    rules = [MergeRule(m) for m in METHODS]
    rules += [MergeRule("soft_nms", decay="linear"), *(MergeRule("wbf", threshold=t) for t in (0.55, 0.4, 0.3, 0.2))]
    rows: list[Row] = []
    for plain in [*rules, MergeRule("wbf", "ios")]:
        rule = replace(plain, margin=MARGIN)
        start = time.process_time()
        left = sum(len(settle(part, unit.core, rule).pending) for part, unit in zip(parts, units, strict=True))
        kind = f"{rule.decay} decay" if rule.method == "soft_nms" else f"{rule.metric} {rule.threshold:g}"
        seconds = time.process_time() - start
        rows.append({"method": rule.method, "": kind, "boxes": raw, "pending, %": 100 * left / raw, "CPU s": seconds})
    return rows


def peak(n: int) -> Row:
    """Peak memory of a process that makes and merges `n` boxes."""
    value = call("benchmarks.forest:merged", n=n).value
    return {"method": "nms", "boxes": n, "kept": value["kept"], "peak GiB": value["peak"] / 2**30}
