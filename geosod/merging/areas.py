"""How much polygons overlap: the pairs that matter for merging, and their metric."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import EDGE_MARGIN, EXCLUDED, SIDES, Detections
from geosod.merging.borders import touching_sides
from geosod.merging.index import Index, Pairs, cells_of, run_of
from geosod.merging.kernel import kernel, lean_kernel
from geosod.merging.match import MIN_AGREEMENT, MIN_INSIDE, Match, limit_of
from geosod.merging.rule import MergeRule

Polygons = npt.NDArray[np.object_]

#: How many pairs have their intersections computed at a time.
_CHUNK = 1 << 17


class _Shapes(NamedTuple):
    """Polygons by rank.

    Attributes:
        rows: N boxes, those of the polygons, best first.
        polygons: (N,) polygons.
        area: (N,) float64.
    """

    rows: Detections
    polygons: Polygons
    area: FloatArray


def list_pairs(index: Index, ranked: Detections, polygons: Polygons, match: Match, rule: MergeRule) -> Pairs:
    """The pairs of polygons that overlap enough to matter.

    Only pairs whose bounding boxes share some area are formed, a bounded number at a time.

    Args:
        index: of `ranked`.
        ranked: N boxes, those of the polygons, best first.
        polygons: (N,) polygons.
        match: the edges of the method's graph.
        rule: the metric, and whether fragments have a metric of their own.

    Returns:
        The pairs, by place in the index.
    """
    import shapely

    shapes = _Shapes(ranked, polygons, shapely.area(polygons))
    n = len(ranked)
    left, right = np.empty(_CHUNK + n, np.int64), np.empty(_CHUNK + n, np.int64)
    place, parts = 0, [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    while place < n:
        place, count = _candidates(index, place, match, _CHUNK, left, right)
        # The better-ranked one comes first, so that rounding does not depend on the order of the input.
        one, two = np.minimum(left[:count], right[:count]), np.maximum(left[:count], right[:count])
        value = _metric(shapes, one, two, rule)
        enough = (value > 0) & (value >= _limits(match, ranked.labels[one], ranked.labels[two]))
        parts.append((one[enough], two[enough], value[enough]))
    one, two, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _by_place(index, one, two, value)


def _by_place(index: Index, one: IntArray, two: IntArray, value: FloatArray) -> Pairs:
    n = len(index.order)
    place = np.empty(n, np.int64)
    place[index.order] = np.arange(n)
    low, high = place[np.append(one, two)], place[np.append(two, one)]
    order = np.lexsort((high, low))
    return Pairs(np.searchsorted(low[order], np.arange(n + 1)), high[order], np.append(value, value)[order])


def _metric(shapes: _Shapes, one: IntArray, two: IntArray, rule: MergeRule) -> FloatArray:
    """(P,) float64, the metric of pairs, as for boxes: see `geosod.merging.match.fragment_overlap`."""
    import shapely

    shared = shapely.area(shapely.intersection(shapes.polygons[one], shapes.polygons[two]))
    first, second = shapes.area[one], shapes.area[two]
    whole = np.minimum(first, second) if rule.metric == "ios" else first + second - shared
    value = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    if rule.borders:
        _set_flagged(value, shapes, one, two, shared)
    return np.asarray(value)


def _set_flagged(value: FloatArray, shapes: _Shapes, one: IntArray, two: IntArray, shared: FloatArray) -> None:
    """Overwrite the metric of pairs with fragments, boxes in the edge margin, or excluded boxes."""
    flags, other_flags = shapes.rows.fragment[one], shapes.rows.fragment[two]
    # A whole object ranks before a box in the edge margin, so only the second of a pair can be the latter.
    margin = (flags == 0) & (other_flags == EDGE_MARGIN)
    value[margin] = shared[margin] / shapes.area[two][margin]
    touching, other = flags & SIDES > 0, other_flags & SIDES > 0
    value[((flags | other_flags) & EXCLUDED > 0) | touching | other] = 0
    for mixed, fragment, whole in ((touching & ~other, one, two), (other & ~touching, two, one)):
        at = np.flatnonzero(mixed)
        value[at] = _contained(shapes, fragment[at], whole[at], shared[at])
    at = np.flatnonzero(touching & other)
    if len(at):
        area, other_area = _on_common_ground(shapes, one[at], two[at])
        value[at] = (shared[at] > 0) & (shared[at] >= MIN_AGREEMENT * np.maximum(area, other_area))


def _contained(shapes: _Shapes, fragment: IntArray, whole: IntArray, shared: FloatArray) -> BoolArray:
    """(P,) bool, whether fragments belong to whole objects: see `geosod.merging.match`."""
    b, touched = shapes.rows.boxes, _touched(shapes, fragment)
    continues = np.concatenate([b[whole, :2] <= b[fragment, :2], b[whole, 2:] >= b[fragment, 2:]], axis=1)
    inside = (shared > 0) & (shared >= MIN_INSIDE * shapes.area[fragment])
    return np.asarray(inside & (continues | ~touched).all(axis=1))


def _touched(shapes: _Shapes, rows: IntArray) -> BoolArray:
    """(P, 4) bool, which sides of boxes touch their tile's edge, in the order of the corners."""
    sides = touching_sides(shapes.rows)[rows]
    return np.asarray((sides[:, None] >> np.arange(4, dtype=np.uint8)) & 1 == 1)


def _on_common_ground(shapes: _Shapes, one: IntArray, two: IntArray) -> tuple[FloatArray, FloatArray]:
    """(P,) float64 each, the areas of two fragments on the ground that both tiles show."""
    import shapely

    b = shapes.rows.boxes
    # Sides that touch no edge do not limit that ground: a rectangle around both stands in for them.
    around = np.concatenate([np.minimum(b[one, :2], b[two, :2]) - 1, np.maximum(b[one, 2:], b[two, 2:]) + 1], axis=1)
    first, second = (np.where(_touched(shapes, rows), b[rows], around) for rows in (one, two))
    ground = np.concatenate([np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])], axis=1)
    clip = shapely.box(*ground.T)
    areas = [shapely.area(shapely.intersection(shapes.polygons[rows], clip)) for rows in (one, two)]
    return areas[0], areas[1]


@kernel
def _limits(match: Match, labels: npt.NDArray[np.int32], others: npt.NDArray[np.int32]) -> FloatArray:
    limits = np.empty(len(labels))
    for i in range(len(labels)):
        limits[i] = max(limit_of(match, labels[i]), limit_of(match, others[i]))
    return limits


@lean_kernel
def _candidates(index: Index, first: int, match: Match, chunk: int, left: IntArray, right: IntArray) -> tuple[int, int]:
    """Write the rows of pairs of boxes that share some area, each pair once, until there are at least `chunk`.

    Returns:
        The place to continue from, and the number of pairs.
    """
    boxes, labels, order = index.boxes, index.labels, index.order
    n, i = 0, first
    while i < len(boxes) and n < chunk:
        b = boxes[i]
        for k in range(len(index.levels)):
            row, row_high, col_low, col_high = cells_of(index, k, b[0], b[1], b[2], b[3])
            while row <= row_high and col_low <= col_high:
                place, end, row = run_of(index, k, row, col_low, col_high)
                for j in range(max(place, i + 1), end):
                    width = min(b[2], boxes[j, 2]) - max(b[0], boxes[j, 0])
                    height = min(b[3], boxes[j, 3]) - max(b[1], boxes[j, 1])
                    if width > 0 and height > 0 and (match.class_agnostic or labels[i] == labels[j]):
                        left[n], right[n] = order[i], order[j]
                        n += 1
        i += 1
    return i, n
