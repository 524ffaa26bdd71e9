"""Merging of oriented boxes and other polygons, by the overlap of the polygons themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from geosod.arrays import IntArray
from geosod.detections import SIDES, Detections
from geosod.errors import ConfigError
from geosod.merging.areas import Polygons, list_pairs
from geosod.merging.assign import assign, kept_boxes
from geosod.merging.index import build_index
from geosod.merging.methods import METHODS, method_of
from geosod.merging.order import canonical_order
from geosod.merging.rule import Decay, MergeRule, Metric, PerClass
from geosod.merging.validate import check_boxes, check_per_class


def merge_polygons(
    detections: Detections,
    polygons: Polygons,
    *,
    method: str = "nms",
    metric: Metric = "iou",
    threshold: float = 0.5,
    class_agnostic: bool = False,
    sigma: float = 0.5,
    min_score: float = 0.001,
    per_class: PerClass | None = None,
    decay: Decay = "gaussian",
    borders: bool = True,
) -> tuple[Detections, Polygons]:
    """Merge polygons that show the same object, such as oriented boxes.

    Works like `geosod.merge`, with the areas of the polygons in place of those of the boxes. "nms" and "soft_nms"
    return the polygon of each kept row, "nmm" and "greedy_nmm" the union of each group. Stitched fragments become
    the union of the fragments.

    Args:
        detections: N rows in any order and any one frame; their boxes are replaced by the bounds of the polygons.
        polygons: (N,) valid shapely polygons or multipolygons, one per row, in the same frame.
        method: "nms", "soft_nms", "nmm" or "greedy_nmm".
        metric: "iou", intersection over union, or "ios", intersection over the smaller area.
        threshold: polygons match where the metric reaches this value, in (0, 1].
        class_agnostic: whether polygons of different classes may match.
        sigma: width of the Gaussian decay of "soft_nms".
        min_score: "soft_nms" drops rows whose score falls below this value.
        per_class: thresholds of single classes, by label id, which replace `threshold`.
        decay: "gaussian", at every overlap, or "linear", of matches only.
        borders: False treats fragments as ordinary polygons.

    Returns:
        M rows in canonical order, with the bounds of their polygons as boxes and `n_merged` summed over the rows that
        each represents; and (M,) polygons in the same order.

    Raises:
        ConfigError: an argument has an invalid value, the method is only for boxes, `per_class` has a label id that no
            row has, a score is not finite, or a geometry is not a valid polygon.
    """
    pairs: Any = per_class
    rule = MergeRule(method, metric, threshold, class_agnostic, sigma, min_score, pairs, decay, borders)
    _check_method(rule)
    shapes = _checked(polygons, len(detections))
    check_per_class(rule, detections)
    return _merge(detections, shapes, rule)


def _merge(detections: Detections, polygons: Polygons, rule: MergeRule) -> tuple[Detections, Polygons]:
    import shapely

    rows = check_boxes(detections.with_columns(boxes=shapely.bounds(polygons).reshape(-1, 4) + 0.0))
    ranking = _ranking(rows, polygons, rule)
    ranked, polygons = rows[ranking], polygons[ranking]
    index, match = build_index(ranked, borders=rule.borders), method_of(rule).graph(rule).match
    index = index._replace(pairs=list_pairs(index, ranked, polygons, match, rule))
    outcome = assign(ranked, index, np.zeros(len(ranked), np.bool_), rule)
    kept, kept_rows = kept_boxes(ranked, index, outcome)
    by_rank = np.argsort(kept_rows)
    kept_rank = np.full(len(ranked), -1)
    kept_rank[index.order] = np.where(outcome.kept_index >= 0, index.order[outcome.kept_index], -1)
    merged = _united(ranked, polygons, kept_rank, rule)
    kept = kept[by_rank].with_columns(boxes=shapely.bounds(merged).reshape(-1, 4))
    order = canonical_order(kept)
    return kept[order], merged[order]


def _check_method(rule: MergeRule) -> None:
    if method_of(rule).polygons is None:
        choices = ", ".join(name for name, method in METHODS.items() if method.polygons is not None)
        raise ConfigError(f"{rule.method} averages corners, so it is for boxes only; choose one of {choices}.")


def _checked(polygons: Any, n: int) -> Polygons:
    import shapely

    shapes = np.asarray(polygons, dtype=object)
    if shapes.shape != (n,):
        raise ConfigError(f"polygons has shape {shapes.shape}, expected ({n},), one polygon per row of the detections.")
    kind = shapely.get_type_id(shapes)
    other = np.count_nonzero((kind != shapely.GeometryType.POLYGON) & (kind != shapely.GeometryType.MULTIPOLYGON))
    empty, invalid = np.count_nonzero(shapely.is_empty(shapes)), np.count_nonzero(~shapely.is_valid(shapes))
    if other or empty or invalid:
        raise ConfigError(
            f"Of {n} geometries, {other} are not polygons, {empty} are empty and {invalid} are invalid or missing. "
            "Drop them, or fix them with shapely.make_valid, before merging."
        )
    return shapes


def _ranking(detections: Detections, polygons: Polygons, rule: MergeRule) -> IntArray:
    """(N,) int64, rows, best first; rows that are equal in every column are sorted by the WKB of their polygons."""
    import shapely

    order = canonical_order(detections, fragments_last=rule.borders)
    row = detections[order]
    same = np.ones(max(len(row) - 1, 0), np.bool_)
    for column in (row.boxes, row.scores, row.labels, row.truncated, row.fragment, row.n_merged, row.level):
        equal = column[1:] == column[:-1]
        same &= equal.all(axis=1) if equal.ndim > 1 else equal
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    run = np.cumsum(np.append(True, ~same))[tied]
    outlines = shapely.to_wkb(polygons[order[tied]])
    again = sorted(range(len(tied)), key=lambda i: (run[i], outlines[i]))
    order[tied] = order[tied][again]
    return order


def _united(ranked: Detections, polygons: Polygons, kept_rank: IntArray, rule: MergeRule) -> Polygons:
    """(M,) polygons of the kept rows, in order of rank: unions of groups where the method asks for them.

    Args:
        ranked: N rows, best first.
        polygons: (N,) polygons of these rows.
        kept_rank: (N,) int64, the row that represents each row, or -1.
        rule: the method, and whether fragments are stitched.
    """
    import shapely

    own = kept_rank == np.arange(len(kept_rank))
    is_fragment = (ranked.fragment & SIDES > 0) & rule.borders
    # A fragment that was assigned to a whole object does not extend it.
    extends = own | is_fragment | (method_of(rule).polygons == "union")
    extends &= (kept_rank >= 0) & (is_fragment == is_fragment[kept_rank])
    members = np.flatnonzero(extends)
    members = members[np.argsort(kept_rank[members], kind="stable")]
    kept, starts = np.unique(kept_rank[members], return_index=True)
    united, ends = polygons[kept], np.append(starts[1:], len(members))
    for k in np.flatnonzero(ends - starts > 1):
        united[k] = shapely.union_all(polygons[members[starts[k] : ends[k]]])
    return united
