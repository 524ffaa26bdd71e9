"""Which row groups hold boxes that may overlap those of another scene, and in which strips to process them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geosod.arrays import FloatArray, IntArray
from geosod.deduplication.reading import reading
from geosod.deduplication.sources import SceneSource

#: Bins of the histogram of ymin from which strips are chosen.
_BINS = 1 << 20
#: Other scenes that a row group keeps separate bounds for. More saves work; it never changes the result.
_MAX_HULLS = 32
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class Layer:
    """A scene's detections in the CRS of the dataset.

    Attributes:
        index: position of the scene in the order of scene ids.
        scene: the scene.
        path: the detections file; a reprojected copy if the scene's own file has another CRS.
    """

    index: int
    scene: SceneSource
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class RowGroup:
    """A row group whose bounds meet those of other scenes.

    Attributes:
        layer: its file.
        number: index of the row group in the file.
        first_row: number of its first row in the file.
        near: (K, 4) float64 ``xmin, ymin, xmax, ymax`` of what it meets; a box that meets none of them meets no box
            of another scene.
        low, high: minimum and maximum ymin of its boxes that meet one of `near`.
    """

    layer: Layer
    number: int
    first_row: int
    near: FloatArray
    low: float = np.inf
    high: float = -np.inf


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a sweep reads, and in which strips.

    Attributes:
        groups: row groups with boxes that may meet another scene's, sorted by `low`.
        ends: (S - 1,) float64, ascending ymin at which each of the S strips but the last ends.
        rows: number of boxes in all strips.
    """

    groups: tuple[RowGroup, ...]
    ends: FloatArray
    rows: int


def box_bounds(bbox: pa.Array | pa.ChunkedArray) -> FloatArray:
    """(N, 4) float64 ``xmin, ymin, xmax, ymax`` from a bbox column."""
    column = bbox.combine_chunks() if isinstance(bbox, pa.ChunkedArray) else bbox
    return np.stack([column.field(name).to_numpy(zero_copy_only=False) for name in _SIDES], axis=1)


def near_any(bounds: FloatArray, near: FloatArray) -> IntArray:
    """Indices of the (N, 4) bounds that meet one of the (K, 4) others; touching counts."""
    out = np.zeros(len(bounds), np.bool_)
    for x0, y0, x1, y1 in near:
        out |= (bounds[:, 0] <= x1) & (bounds[:, 2] >= x0) & (bounds[:, 1] <= y1) & (bounds[:, 3] >= y0)
    return np.flatnonzero(out)


def plan_sweep(layers: Sequence[Layer], *, rows: int) -> SweepPlan:
    """Find the row groups that must be read, and divide their boxes into strips of about `rows` boxes.

    Args:
        layers: the files.
        rows: maximum number of boxes in a strip, unless very many begin at one y.

    Raises:
        UnreadableSceneError: a file cannot be read.
    """
    groups = _meeting(*_row_groups(layers))
    low = min((float(group.low) for group in groups), default=0.0)
    high = max((float(group.high) for group in groups), default=0.0)
    edges = np.linspace(low, high, _BINS + 1)
    counts, counted = np.zeros(_BINS, np.int64), []
    for group in groups:
        y = _min_y(group)
        if len(y):
            np.add.at(counts, np.clip(np.searchsorted(edges, y, side="right") - 1, 0, _BINS - 1), 1)
            counted.append(replace(group, low=float(y.min()), high=float(y.max())))
    return SweepPlan(tuple(sorted(counted, key=lambda g: g.low)), _strip_ends(counts, edges, rows), int(counts.sum()))


def _strip_ends(counts: IntArray, edges: FloatArray, rows: int) -> FloatArray:
    """Where strips end, each but the last as full as `rows` allows."""
    ends, filled = [], 0
    for bin_ in np.flatnonzero(counts):
        if filled and filled + counts[bin_] > rows:
            ends.append(edges[bin_])
            filled = 0
        filled += int(counts[bin_])
    return np.array(ends, np.float64)


def _row_groups(layers: Sequence[Layer]) -> tuple[list[RowGroup], FloatArray]:
    """Every row group that has rows, and the (N, 4) bounds of each; `low` and `high` are those of its bounds."""
    groups, bounds = [], []
    nothing = np.empty((0, 4))
    for layer in layers:
        with reading(layer.scene), pq.ParquetFile(layer.path) as file:
            first = 0
            for number in range(file.num_row_groups):
                footer = file.metadata.row_group(number)
                if footer.num_rows:
                    extent = _extent(file, number)
                    groups.append(RowGroup(layer, number, first, nothing, float(extent[1]), float(extent[3])))
                    bounds.append(extent)
                first += footer.num_rows
    return groups, np.array(bounds, np.float64).reshape(-1, 4)


def _extent(file: pq.ParquetFile, number: int) -> FloatArray:
    """(4,) bounds of a row group, from the statistics in the footer if there are any, else from its rows."""
    footer = file.metadata.row_group(number)
    columns = {footer.column(i).path_in_schema: footer.column(i) for i in range(footer.num_columns)}
    statistics = [columns[f"bbox.{side}"].statistics for side in _SIDES]
    if all(s is not None and s.has_min_max for s in statistics):
        ends = [s.min if side.endswith("min") else s.max for s, side in zip(statistics, _SIDES, strict=True)]
        return np.array(ends, np.float64)
    bounds = box_bounds(file.read_row_group(number, columns=["bbox"])["bbox"])
    return np.concatenate([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)])


def _meeting(groups: list[RowGroup], bounds: FloatArray) -> list[RowGroup]:
    """The row groups that meet one of another scene, with the bounds of what they meet in `near`."""
    if not groups:
        return []
    boxes: Any = shapely.box(*bounds.T)
    tree, scene = shapely.STRtree(boxes), np.array([group.layer.index for group in groups])
    met = []
    for here, group in enumerate(groups):
        there = tree.query(boxes[here])
        there = there[scene[there] != scene[here]]
        if len(there):
            met.append(replace(group, near=_hulls(bounds[there], scene[there])))
    return met


def _hulls(bounds: FloatArray, scene: IntArray) -> FloatArray:
    """(K, 4) bounds of each scene; with more than `_MAX_HULLS` scenes, one of all of them."""
    order = np.argsort(scene, kind="stable")
    starts = np.flatnonzero(np.diff(scene[order], prepend=-1))
    starts = starts if len(starts) <= _MAX_HULLS else starts[:1]
    low = np.minimum.reduceat(bounds[order, :2], starts)
    return np.hstack([low, np.maximum.reduceat(bounds[order, 2:], starts)])


def _min_y(group: RowGroup) -> FloatArray:
    """ymin of the boxes of a row group that may meet another scene's."""
    with reading(group.layer.scene), pq.ParquetFile(group.layer.path) as file:
        bounds = box_bounds(file.read_row_group(group.number, columns=["bbox"])["bbox"])
    low: FloatArray = bounds[near_any(bounds, group.near), 1]
    return low
