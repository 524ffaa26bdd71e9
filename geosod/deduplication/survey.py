"""Where in the files boxes of different scenes may meet, from the bounds of row groups."""

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
from geosod.deduplication.sources import SceneSource, reading

#: Bins of the count that strips are laid out by.
_BINS = 1 << 20
#: Scenes whose bounds are told apart in a row group; it saves work, and changes no result.
_HULLS = 32
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class Layer:
    """A detections file to be merged, in the CRS of all.

    Attributes:
        index: place of the scene in the order of scene ids.
        scene: the scene.
        path: the file; another than the scene's own where it had to be put in the CRS.
    """

    index: int
    scene: SceneSource
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A row group that meets other scenes.

    Attributes:
        layer: its file.
        number: which row group of the file it is.
        first_row: number of its first row in the file.
        near: (K, 4) float64 ``xmin, ymin, xmax, ymax`` of what it meets; a box that meets none of them meets no box
            of another scene.
        low, high: least and greatest ymin of its boxes that meet one of `near`.
    """

    layer: Layer
    number: int
    first_row: int
    near: FloatArray
    low: float = np.inf
    high: float = -np.inf


@dataclass(frozen=True, slots=True)
class Survey:
    """The plan of a sweep.

    Attributes:
        groups: row groups with boxes that may meet another scene's, by `low`.
        ends: ascending ymin at which a strip ends and the next begins.
        rows: boxes in all strips.
    """

    groups: tuple[Group, ...]
    ends: FloatArray
    rows: int


def box_bounds(bbox: pa.Array | pa.ChunkedArray) -> FloatArray:
    """(N, 4) float64 from a column of bounds."""
    column = bbox.combine_chunks() if isinstance(bbox, pa.ChunkedArray) else bbox
    return np.stack([column.field(name).to_numpy(zero_copy_only=False) for name in _SIDES], axis=1)


def near_any(bounds: FloatArray, near: FloatArray) -> IntArray:
    """Places of the (N, 4) bounds that meet one of the (K, 4) others; touching is meeting."""
    out = np.zeros(len(bounds), np.bool_)
    for x0, y0, x1, y1 in near:
        out |= (bounds[:, 0] <= x1) & (bounds[:, 2] >= x0) & (bounds[:, 1] <= y1) & (bounds[:, 3] >= y0)
    return np.flatnonzero(out)


def survey(layers: Sequence[Layer], *, rows: int) -> Survey:
    """Find the row groups that must be looked into, and lay strips of about `rows` boxes over them.

    Args:
        layers: the files.
        rows: boxes a strip holds at most, unless very many begin at one y.

    Raises:
        LostSceneError: a file cannot be read.
    """
    groups = _meeting(*_row_groups(layers))
    low = min((float(group.low) for group in groups), default=0.0)
    high = max((float(group.high) for group in groups), default=0.0)
    edges = np.linspace(low, high, _BINS + 1)
    counts, counted = np.zeros(_BINS, np.int64), []
    for group in groups:
        y = _begins(group)
        if len(y):
            np.add.at(counts, np.clip(np.searchsorted(edges, y, side="right") - 1, 0, _BINS - 1), 1)
            counted.append(replace(group, low=float(y.min()), high=float(y.max())))
    return Survey(tuple(sorted(counted, key=lambda g: g.low)), _ends(counts, edges, rows), int(counts.sum()))


def _ends(counts: IntArray, edges: FloatArray, rows: int) -> FloatArray:
    """Where strips end, each but the last as full as `rows` allows."""
    ends, filled = [], 0
    for place in np.flatnonzero(counts):
        if filled and filled + counts[place] > rows:
            ends.append(edges[place])
            filled = 0
        filled += int(counts[place])
    return np.array(ends, np.float64)


def _row_groups(layers: Sequence[Layer]) -> tuple[list[Group], FloatArray]:
    """Every row group that has rows, and the (N, 4) bounds of each; `low` and `high` are those of its bounds."""
    groups, bounds = [], []
    nowhere = np.empty((0, 4))
    for layer in layers:
        with reading(layer.scene), pq.ParquetFile(layer.path) as file:
            first = 0
            for number in range(file.num_row_groups):
                footer = file.metadata.row_group(number)
                if footer.num_rows:
                    extent = _extent(file, number)
                    groups.append(Group(layer, number, first, nowhere, float(extent[1]), float(extent[3])))
                    bounds.append(extent)
                first += footer.num_rows
    return groups, np.array(bounds, np.float64).reshape(-1, 4)


def _extent(file: pq.ParquetFile, number: int) -> FloatArray:
    """Bounds of a row group: those the footer tells, else those of its rows."""
    footer = file.metadata.row_group(number)
    columns = {footer.column(i).path_in_schema: footer.column(i) for i in range(footer.num_columns)}
    told = [columns[f"bbox.{side}"].statistics for side in _SIDES]
    if all(statistics is not None and statistics.has_min_max for statistics in told):
        ends = [s.min if side.endswith("min") else s.max for s, side in zip(told, _SIDES, strict=True)]
        return np.array(ends, np.float64)
    bounds = box_bounds(file.read_row_group(number, columns=["bbox"])["bbox"])
    return np.concatenate([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)])


def _meeting(groups: list[Group], bounds: FloatArray) -> list[Group]:
    """The row groups that meet one of another scene, each with the hulls of these."""
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
    """The hull of the bounds of each scene; of all in one, where scenes are many."""
    order = np.argsort(scene, kind="stable")
    starts = np.flatnonzero(np.diff(scene[order], prepend=-1))
    starts = starts if len(starts) <= _HULLS else starts[:1]
    low = np.minimum.reduceat(bounds[order, :2], starts)
    return np.hstack([low, np.maximum.reduceat(bounds[order, 2:], starts)])


def _begins(group: Group) -> FloatArray:
    """ymin of the boxes of a row group that may meet another scene's."""
    with reading(group.layer.scene), pq.ParquetFile(group.layer.path) as file:
        bounds = box_bounds(file.read_row_group(group.number, columns=["bbox"])["bbox"])
    begins: FloatArray = bounds[near_any(bounds, group.near), 1]
    return begins
