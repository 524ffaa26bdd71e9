"""Which boxes of different scenes show one object: pure functions on arrays.

Two boxes *match* where they are of different scenes and of one class, and the metric of their polygons reaches the
threshold. Boxes are ranked; the best one that is left is kept, and of every other scene it takes the box that it
overlaps best among those it matches and that are still left. So a kept box never stands for two boxes of one scene,
which would be two objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from geosod.errors import ConfigError
from geosod.mosaic.overlap import intersection_areas, meeting
from geosod.types import BoolArray, FloatArray, IntArray

#: By so much a metric may fall short of the threshold: boxes that overlap by half in pixels do not to the last bit
#: when their corners have been projected.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class MosaicRule:
    """When boxes of two scenes show one object, and which of them stays.

    Attributes:
        prefer: "score", the surest box stays, or "newest", that of the latest scene.
        metric: "iou", intersection over union, or "ios", intersection over the smaller area.
        threshold: boxes match where the metric reaches this value, in (0, 1], to within a millionth.
        class_agnostic: whether boxes of different classes may match.

    Raises:
        ConfigError: a field has an unusable value.
    """

    prefer: Literal["score", "newest"] = "score"
    metric: Literal["iou", "ios"] = "iou"
    threshold: float = 0.5
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("prefer", self.prefer, ("score", "newest")),
            ("metric", self.metric, ("iou", "ios")),
        ):
            if value not in known:
                raise ConfigError(f"{name} = {value!r} is not known; choose one of {', '.join(known)}")
        if not (math.isfinite(self.threshold) and 0 < self.threshold <= 1):
            raise ConfigError(f"merge threshold {self.threshold} must be greater than 0 and at most 1, such as 0.5")


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of several scenes as columns; row i of every column describes box i.

    Attributes:
        scene: (N,) int64, place of the scene in the order of scene ids.
        row: (N,) int64, row in the scene's file.
        bounds: (N, 4) float64 ``xmin, ymin, xmax, ymax`` of the shapes.
        label: (N,) int64, one number for each label name.
        score: (N,) float32.
        cut: (N,) bool, the object meets the edge of its scene.
        n_merged: (N,) int32, raw boxes it stands for already.
        ids: (N,) detection ids, a string array.
        wkb: (N,) Polygons and MultiPolygons, all in one CRS, as WKB, in a tenth of the memory that geometries take.
    """

    scene: IntArray
    row: IntArray
    bounds: FloatArray
    label: IntArray
    score: npt.NDArray[np.float32]
    cut: BoolArray
    n_merged: npt.NDArray[np.int32]
    ids: pa.Array
    wkb: pa.Array

    def __len__(self) -> int:
        return len(self.scene)

    def take(self, index: npt.NDArray[Any]) -> Boxes:
        """The boxes at some places, or where a mask is True."""
        chosen = np.flatnonzero(index) if index.dtype == np.bool_ else index
        columns = {name: getattr(self, name)[chosen] for name in _ARRAYS}
        places = pa.array(chosen)
        return Boxes(**columns, ids=self.ids.take(places), wkb=self.wkb.take(places))

    @classmethod
    def concat(cls, parts: list[Boxes]) -> Boxes:
        """All boxes of at least one part, in their order."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
        ids, wkb = (pa.concat_arrays([getattr(part, name) for part in parts]) for name in ("ids", "wkb"))
        return cls(**columns, ids=ids, wkb=wkb)


_ARRAYS = ("scene", "row", "bounds", "label", "score", "cut", "n_merged")


class Edges(NamedTuple):
    """Matches: boxes `a` and `b`, (M,) int64 each, the first of the lower scene, and their `measure`, (M,) float64."""

    a: IntArray
    b: IntArray
    measure: FloatArray

    @classmethod
    def none(cls) -> Edges:
        """No matches."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def plus(self, other: Edges) -> Edges:
        """Both lots."""
        return Edges(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


def find_edges(boxes: Boxes, fresh: BoolArray, rule: MosaicRule, *, turn: float | None) -> Edges:
    """The matches among boxes of which at least one is fresh.

    Overlap is that of the polygons, not of their bounds, in the plane of the CRS; IoU and IoS are the same on every
    map that is affine on the scale of a box. From 80° of latitude on, polygons given in degrees are measured on a map
    about the pole. Where one of two boxes is cut by its scene's edge, the metric is intersection over the area of
    that one, since the piece lies within the whole; where both are, it is intersection over the smaller area.

    Args:
        boxes: boxes of any number of scenes.
        fresh: (N,) bool; pairs without a fresh box are left out.
        rule: when they match.
        turn: units of a full turn where the CRS is geographic, else None.

    Returns:
        Each match once; it depends on the two boxes alone.
    """
    shapes = np.asarray(shapely.from_wkb(boxes.wkb.to_numpy(zero_copy_only=False)), object).reshape(-1)
    found = [Edges.none()]
    pairs = meeting(shapes, boxes.scene, fresh, turn=turn)
    found += [_matching(boxes, shapes, *some, rule=rule, turn=turn) for some in pairs]
    return Edges(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _matching(
    boxes: Boxes,
    shapes: npt.NDArray[Any],
    a: IntArray,
    b: IntArray,
    most: FloatArray,
    *,
    rule: MosaicRule,
    turn: float | None,
) -> Edges:
    """Those of some pairs that match."""
    if not rule.class_agnostic:
        same = boxes.label[a] == boxes.label[b]
        a, b, most = a[same], b[same], most[same]
    overlap = intersection_areas(shapes, a, b, most, turn=turn, enough=_enough(boxes, rule))
    measure = _measure(overlap.shared, overlap.first, overlap.second, boxes.cut[a], boxes.cut[b], rule.metric)
    match = (overlap.shared > 0) & (measure >= rule.threshold - _ROUNDING)
    return Edges(a[match], b[match], measure[match])


def _enough(boxes: Boxes, rule: MosaicRule) -> Any:
    """A test of pairs: could they match if they shared so much area?"""

    def enough(a: IntArray, b: IntArray, shared: FloatArray, first: FloatArray, second: FloatArray) -> BoolArray:
        least = np.minimum(shared, np.minimum(first, second))
        measure = _measure(least, first, second, boxes.cut[a], boxes.cut[b], rule.metric)
        return np.asarray((least > 0) & (measure >= rule.threshold - 2 * _ROUNDING))

    return enough


def _measure(
    shared: FloatArray, first: FloatArray, second: FloatArray, cut_a: BoolArray, cut_b: BoolArray, metric: str
) -> FloatArray:
    smaller = np.minimum(first, second)
    whole = first + second - shared if metric == "iou" else smaller
    over = np.where(cut_a & ~cut_b, first, np.where(cut_b & ~cut_a, second, np.where(cut_a & cut_b, smaller, whole)))
    return np.divide(shared, over, out=np.zeros_like(shared), where=over > 0)


def ranking(boxes: Boxes, dates: IntArray, rule: MosaicRule) -> IntArray:
    """(N,) int64, boxes from the best to the last: whole ones before cut ones, then as the rule prefers.

    "score": descending score, then the newest. "newest": descending date, then descending score. Ties in both are
    broken by scene id, then detection id.

    Args:
        boxes: the boxes.
        dates: microseconds since 1970 of each scene; the least int64 where it is unknown, which comes last.
        rule: what to prefer.
    """
    columns = {
        "cut": pa.array(boxes.cut.astype(np.int8)),
        "score": pa.array(boxes.score),
        "date": pa.array(dates[boxes.scene]),
        "scene": pa.array(boxes.scene),
        "id": boxes.ids,
    }
    values = [("score", "descending"), ("date", "descending")]
    values = values if rule.prefer == "score" else values[::-1]
    keys = [("cut", "ascending"), *values, ("scene", "ascending"), ("id", "ascending")]
    return np.asarray(pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy(), np.int64)


def keepers(boxes: Boxes, edges: Edges, dates: IntArray, rule: MosaicRule) -> IntArray:
    """(N,) int64, the box that each is merged into, or -1 for one that is kept.

    What becomes of a box depends on its connected component in the graph of matches alone.

    Args:
        boxes: the boxes.
        edges: all their matches.
        dates: as `ranking`.
        rule: what to prefer.
    """
    order = ranking(boxes, dates, rule)
    rank = np.empty(len(boxes), np.int64)
    rank[order] = np.arange(len(boxes))
    one, other = np.concatenate([edges.a, edges.b]), np.concatenate([edges.b, edges.a])
    measure = np.concatenate([edges.measure, edges.measure])
    sequence = np.lexsort((rank[other], -measure, boxes.scene[other], one))
    start = np.searchsorted(one[sequence], np.arange(len(boxes) + 1))
    keeper: IntArray = _claim(order, rank, start, other[sequence], boxes.scene)
    return keeper


@numba.njit(cache=True)
def _claim(order: IntArray, rank: IntArray, start: IntArray, other: IntArray, scene: IntArray) -> IntArray:
    """Down the ranking, each box that is left takes the best of its matches that is left in every other scene."""
    keeper = np.full(len(order), -1, np.int64)
    for box in order:
        if keeper[box] >= 0:
            continue
        served = -1
        for place in range(start[box], start[box + 1]):
            twin = other[place]
            if scene[twin] != served and rank[twin] > rank[box] and keeper[twin] < 0:
                keeper[twin] = box
                served = scene[twin]
    return keeper


@numba.njit(cache=True)
def components(n: int, a: IntArray, b: IntArray) -> IntArray:
    """(n,) int64, the lowest box of each box's connected component, for matches between `a` and `b`."""
    parent = np.arange(n)
    for edge in range(len(a)):
        i, j = a[edge], b[edge]
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        while parent[j] != j:
            parent[j] = parent[parent[j]]
            j = parent[j]
        parent[max(i, j)] = min(i, j)
    for i in range(n):
        parent[i] = parent[parent[i]]
    return parent
