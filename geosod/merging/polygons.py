"""Merging of oriented boxes and other polygons, by the overlap of the polygons themselves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import EDGE_MARGIN, EXCLUDED, SIDES, Detections
from geosod.errors import ConfigError
from geosod.merging.borders import put_together, sides
from geosod.merging.components import check
from geosod.merging.graph import connected, tally
from geosod.merging.index import Index, build_index, cells_of, run_of
from geosod.merging.kernel import kernel
from geosod.merging.match import AGREEMENT, SHARE, Match, limit_of
from geosod.merging.order import canonical_order
from geosod.merging.rule import MergeRule
from geosod.merging.soft_nms import sift

if TYPE_CHECKING:
    Polygons = npt.NDArray[np.object_]

#: Pairs whose intersections are computed at a time.
_CHUNK = 1 << 17
_METHODS = ("nms", "soft_nms", "nmm", "greedy_nmm")


class Edges(NamedTuple):
    """The pairs that overlap enough, from both sides: those of polygon i lie at ``starts[i]:starts[i + 1]``.

    Polygons are numbered in order of rank.
    """

    starts: IntArray
    others: IntArray
    values: FloatArray


def merge_polygons(detections: Detections, geometry: Polygons, rule: MergeRule) -> tuple[Detections, Polygons]:
    """Merge polygons that stand for one object. See `geosod.merge`.

    Only pairs whose bounding boxes share some area are formed, a bounded number at a time.

    Raises:
        ConfigError: the method needs boxes, or a polygon is missing, not a polygon, empty or invalid.
    """
    import shapely

    if rule.method not in _METHODS:
        raise ConfigError(f"{rule.method} averages corners, so it is for boxes; choose one of {', '.join(_METHODS)}.")
    if rule.margin or rule.gap:
        raise ConfigError(
            f"margin={rule.margin} and gap={rule.gap} move the sides of boxes; they must be 0 for polygons."
        )
    polygons = _checked(geometry, len(detections))
    detections = detections.with_columns(boxes=shapely.bounds(polygons).reshape(-1, 4) + 0.0)
    detections = check(detections)
    ranking = _ranking(detections, polygons, rule)
    ranked, polygons = detections[ranking], polygons[ranking]
    pairs = _pairs_of(ranked, polygons, rule)
    fragment = ranked.fragment if rule.borders else np.zeros(len(ranked), np.uint8)
    piece, aside = fragment & SIDES > 0, (fragment & EXCLUDED > 0) & (fragment & SIDES == 0)
    found = _listed(len(ranked), pairs, ~(piece[pairs[0]] | piece[pairs[1]]))
    if rule.method == "soft_nms":
        scores = ranked.scores.astype(np.float64)
        sigma = float(rule.sigma) if rule.decay == "gaussian" else 0.0
        last = (ranked.fragment > 0) & rule.borders
        owner = _soften(found, scores, last, sigma, float(rule.min_score))
        ranked = ranked.with_columns(scores=scores)
    else:
        owner = _suppress(found, rule.method == "nmm")
    owner[aside] = np.flatnonzero(aside)
    if piece.any():
        _assemble(ranked, pairs, piece, rule, owner)
    rows = np.flatnonzero(owner == np.arange(len(owner)))
    kept = ranked[rows].with_columns(n_merged=tally(owner, ranked.n_merged)[rows])
    # Fragments that were given to a whole object do not add to it.
    adding = (piece == piece[owner]) & (owner >= 0)
    adding &= piece | (rule.method in {"nmm", "greedy_nmm"}) | (owner == np.arange(len(owner)))
    groups = np.where(adding, owner, -1)
    if piece.any():
        fragment = np.where(piece, put_together(ranked, np.where(piece, groups, -1))["fragment"], ranked.fragment)
        kept = kept.with_columns(fragment=fragment[rows])
    kept, polygons = _united(ranked, polygons, groups, kept)
    order = canonical_order(kept)
    return kept[order], polygons[order]


def _checked(geometry: Any, n: int) -> Polygons:
    import shapely

    polygons = np.asarray(geometry, dtype=object)
    if polygons.shape != (n,):
        raise ConfigError(f"geometry has shape {polygons.shape}, expected ({n},), one polygon per box.")
    kind = shapely.get_type_id(polygons)
    other = np.count_nonzero((kind != shapely.GeometryType.POLYGON) & (kind != shapely.GeometryType.MULTIPOLYGON))
    empty, invalid = np.count_nonzero(shapely.is_empty(polygons)), np.count_nonzero(~shapely.is_valid(polygons))
    if other or empty or invalid:
        raise ConfigError(
            f"Of {n} geometries, {other} are no polygons, {empty} are empty and {invalid} are invalid or missing. "
            "Drop them, or mend them with shapely.make_valid, before merging."
        )
    return polygons


def _ranking(detections: Detections, polygons: Polygons, rule: MergeRule) -> IntArray:
    """Best first; polygons whose rows are equal in every column by their outlines."""
    import shapely

    order = canonical_order(detections, fragments_last=rule.borders)
    row = detections[order]
    same = np.ones(max(len(row) - 1, 0), np.bool_)
    for column in (row.boxes, row.scores, row.labels, row.truncated, row.fragment, row.n_merged, row.level):
        alike = column[1:] == column[:-1]
        same &= alike.all(axis=1) if alike.ndim > 1 else alike
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    run = np.cumsum(np.append(True, ~same))[tied]
    outlines = shapely.to_wkb(polygons[order[tied]])
    again = sorted(range(len(tied)), key=lambda i: (run[i], outlines[i]))
    order[tied] = order[tied][again]
    return order


def _pairs_of(detections: Detections, polygons: Polygons, rule: MergeRule) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs of ranks that overlap enough for the method, the better one first, and how much."""
    import shapely

    match = rule.graph.match
    n, area = len(detections), shapely.area(polygons)
    index = build_index(detections, borders=rule.borders)
    left, right = np.empty(_CHUNK + n, np.int64), np.empty(_CHUNK + n, np.int64)
    place, parts = 0, []
    while place < n:
        place, count = _pairs(index, place, match, _CHUNK, left, right)
        # The better-ranked comes first, so that rounding does not depend on the order of the input.
        one, two = np.minimum(left[:count], right[:count]), np.maximum(left[:count], right[:count])
        shared = shapely.area(shapely.intersection(polygons[one], polygons[two]))
        value = _metric(detections, polygons, area, one, two, shared, rule)
        enough = (value > 0) & (value >= _limits(match, detections.labels[one], detections.labels[two]))
        parts.append((one[enough], two[enough], value[enough]))
    one, two, value = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else _NOTHING
    return one, two, value


def _listed(n: int, pairs: tuple[IntArray, IntArray, FloatArray], some: BoolArray) -> Edges:
    one, two, value = pairs[0][some], pairs[1][some], pairs[2][some]
    low, high, values = np.append(one, two), np.append(two, one), np.append(value, value)
    order = np.lexsort((high, low))
    return Edges(np.searchsorted(low[order], np.arange(n + 1)), high[order], values[order])


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def _metric(
    detections: Detections,
    polygons: Polygons,
    area: FloatArray,
    one: IntArray,
    two: IntArray,
    shared: FloatArray,
    rule: MergeRule,
) -> FloatArray:
    """As for boxes: see `geosod.merging.match.shared`."""
    first, second = area[one], area[two]
    whole = np.minimum(first, second) if rule.metric == "ios" else first + second - shared
    value = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    if not rule.borders:
        return value
    one_is, two_is = detections.fragment[one], detections.fragment[two]
    # Of a whole object and what is near a rim the second is the latter, since it comes last.
    near = (one_is == 0) & (two_is == EDGE_MARGIN)
    value[near] = shared[near] / second[near]
    touching, other = one_is & SIDES > 0, two_is & SIDES > 0
    value[((one_is | two_is) & EXCLUDED > 0) | touching | other] = 0
    for part, pieces, holders in ((touching & ~other, one, two), (other & ~touching, two, one)):
        at = np.flatnonzero(part)
        value[at] = _held(detections, area, pieces[at], holders[at], shared[at])
    at = np.flatnonzero(touching & other)
    if len(at):
        there, then = _on_common_ground(detections, polygons, one[at], two[at])
        agree = shared[at] >= AGREEMENT * np.maximum(there, then)
        value[at] = (shared[at] > 0) & agree
    return value


def _held(detections: Detections, area: FloatArray, piece: IntArray, whole: IntArray, shared: FloatArray) -> BoolArray:
    """Whether fragments may be pieces of whole objects."""
    b, cut = detections.boxes, _touched(detections, piece)
    goes_on = np.concatenate([b[whole, :2] <= b[piece, :2], b[whole, 2:] >= b[piece, 2:]], axis=1)
    return np.asarray((shared > 0) & (shared >= SHARE * area[piece]) & (goes_on | ~cut).all(axis=1))


def _touched(detections: Detections, rows: IntArray) -> BoolArray:
    """(M, 4) bool, which sides of some boxes are cut by their tile, in the order of the corners."""
    return np.asarray((sides(detections)[rows][:, None] >> np.arange(4, dtype=np.uint8)) & 1 == 1)


def _on_common_ground(
    detections: Detections, polygons: Polygons, one: IntArray, two: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Areas of fragments on the ground that the tiles of both show."""
    import shapely

    b = detections.boxes
    # Where neither is cut, ground that holds both.
    reach = np.concatenate([np.minimum(b[one, :2], b[two, :2]) - 1, np.maximum(b[one, 2:], b[two, 2:]) + 1], axis=1)
    first, second = (np.where(_touched(detections, rows), b[rows], reach) for rows in (one, two))
    ground = np.concatenate([np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])], axis=1)
    clip = shapely.box(*ground.T)
    areas = [shapely.area(shapely.intersection(polygons[rows], clip)) for rows in (one, two)]
    return areas[0], areas[1]


def _assemble(
    ranked: Detections, pairs: tuple[IntArray, IntArray, FloatArray], piece: BoolArray, rule: MergeRule, owner: IntArray
) -> None:
    """Give fragments to whole objects and group the others, as `geosod.merging.borders`; writes to `owner`."""
    one, two, value = pairs
    near = value >= _limits(rule.match, ranked.labels[one], ranked.labels[two])
    n = len(ranked)
    taker = np.full(n, n)
    # What is near a rim may come after a fragment.
    for whole, part in ((one, two), (two, one)):
        taken = near & piece[part] & ~piece[whole] & (owner[whole] >= 0)
        np.minimum.at(taker, part[taken], whole[taken])
    absorbed = taker < n
    joined = near & piece[one] & piece[two] & ~absorbed[one] & ~absorbed[two]
    heads = connected(n, one[joined], two[joined])
    before = owner.copy()
    owner[piece] = heads[piece]
    owner[absorbed] = before[taker[absorbed]]


@kernel
def _limits(match: Match, labels: npt.NDArray[np.int32], others: npt.NDArray[np.int32]) -> FloatArray:
    limits = np.empty(len(labels))
    for i in range(len(labels)):
        limits[i] = max(limit_of(match, labels[i]), limit_of(match, others[i]))
    return limits


@kernel
def _pairs(index: Index, first: int, match: Match, chunk: int, left: IntArray, right: IntArray) -> tuple[int, int]:
    """Write rows of boxes that share some area, each pair once, until there are at least `chunk`.

    Returns:
        The place to go on from, and the number of pairs.
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


@kernel
def _suppress(found: Edges, chained: bool) -> IntArray:
    n = len(found.starts) - 1
    owner = np.full(n, -1, np.int64)
    for i in range(n):
        if owner[i] < 0 or chained:
            mine = i if owner[i] < 0 else owner[i]
            owner[i] = mine
            for e in range(found.starts[i], found.starts[i + 1]):
                if owner[found.others[e]] < 0:
                    owner[found.others[e]] = mine
    return owner


@kernel
def _soften(found: Edges, scores: FloatArray, last: BoolArray, sigma: float, floor: float) -> IntArray:
    """As the kernel of `soft_nms`, by number; linear where `sigma` is 0."""
    n = length = len(scores)
    heap, rank, gone = np.arange(n), np.arange(n), np.zeros(n, np.bool_)
    owner, least, key = np.full(n, -1, np.int64), np.ones(n), scores.copy()
    while length:
        i = heap[0]
        if not gone[i] and key[i] != scores[i]:
            key[i] = scores[i]
            sift(heap, 0, length, key, rank, last)
            continue
        if not gone[i] and scores[i] >= floor:
            owner[i] = i
            for e in range(found.starts[i], found.starts[i + 1]):
                j, value = found.others[e], found.values[e]
                if not gone[j]:
                    factor = math.exp(-(value * value) / sigma) if sigma else 1 - value
                    scores[j] *= factor
                    if factor < least[j]:
                        least[j], owner[j] = factor, i
                    gone[j] = scores[j] < floor
        gone[i] = True
        length -= 1
        heap[0] = heap[length]
        if length:
            sift(heap, 0, length, key, rank, last)
    return owner


def _united(ranked: Detections, polygons: Polygons, owner: IntArray, kept: Detections) -> tuple[Detections, Polygons]:
    """The union of each group, whose best-ranked members are `kept`; -1 is in no group."""
    import shapely

    members = np.argsort(owner, kind="stable")
    members = members[np.searchsorted(owner[members], 0) :]
    heads, starts = np.unique(owner[members], return_index=True)
    united, ends = polygons[heads], np.append(starts[1:], len(members))
    for k in np.flatnonzero(ends - starts > 1):
        united[k] = shapely.union_all(polygons[members[starts[k] : ends[k]]])
    scores, cut = ranked.scores[members], ranked.truncated[members]
    if len(heads):
        scores, cut = np.maximum.reduceat(scores, starts), np.logical_or.reduceat(cut, starts)
    boxes = shapely.bounds(united).reshape(-1, 4)
    return kept.with_columns(boxes=boxes, scores=scores, truncated=cut), united
