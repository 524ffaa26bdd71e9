"""Which boxes of different scenes show one object: pure functions on arrays.

Two boxes *match* where they are of different scenes and of one class, and the metric of their polygons reaches the
threshold. Boxes are ranked; the best one that is left is kept, and of every other scene it takes one of those that it
matches and that are still left: the whole box that it overlaps best. So a kept box never stands for two whole boxes of
one scene, which would be two objects. Where it matches none but cut ones there, it takes them all, as its pieces; if it
is cut itself, the one that it overlaps best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.deduplication.overlap import shared_areas
from geosod.errors import ConfigError

#: By so much a metric may fall short of the threshold: boxes that overlap by half in pixels do not to the last bit
#: when their corners have been projected.
ROUNDING = 1e-6


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
        truncated: (N,) bool, the object meets the edge of its scene.
        n_merged: (N,) int32, raw boxes it stands for already.
        area: (N,) float64, of the shapes in the plane of the CRS.
        parts: (N,) int32, how many polygons each shape has.
        ids: (N,) detection ids, a string array.
        wkb: (N,) Polygons and MultiPolygons, all in one CRS, as WKB, in a tenth of the memory that geometries take.
    """

    scene: IntArray
    row: IntArray
    bounds: FloatArray
    label: IntArray
    score: npt.NDArray[np.float32]
    truncated: BoolArray
    n_merged: npt.NDArray[np.int32]
    area: FloatArray
    parts: npt.NDArray[np.int32]
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

    def to_arrow(self) -> pa.Table:
        """A table of the columns."""
        bounds = pa.FixedSizeListArray.from_arrays(pa.array(self.bounds.reshape(-1)), 4)
        plain = {name: pa.array(getattr(self, name)) for name in _ARRAYS if name != "bounds"}
        return pa.table(plain | {"bounds": bounds, "ids": self.ids, "wkb": self.wkb})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Boxes:
        """Boxes from `to_arrow`."""
        bounds = table["bounds"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
        plain = {
            name: table[name].combine_chunks().to_numpy(zero_copy_only=False) for name in _ARRAYS if name != "bounds"
        }
        return cls(**plain, bounds=bounds, ids=table["ids"].combine_chunks(), wkb=table["wkb"].combine_chunks())


_ARRAYS = ("scene", "row", "bounds", "label", "score", "truncated", "n_merged", "area", "parts")


def measured(boxes: Boxes, a: IntArray, b: IntArray, rule: MosaicRule, *, turn: float | None) -> FloatArray:
    """The metric of pairs of boxes, 0 where they do not match.

    Overlap is that of the polygons, not of their bounds, in the plane of the CRS; IoU and IoS are the same on every
    map that is affine on the scale of a box. From 80° of latitude on, polygons given in degrees are measured on a map
    about the pole. Where one of two boxes is cut by its scene's edge, the metric is intersection over the area of
    that one, since the piece lies within the whole; where both are, it is intersection over the smaller area.

    Args:
        boxes: boxes of any number of scenes.
        a, b: (M,) int64, boxes of different scenes, of one class where classes count.
        rule: when they match.
        turn: units of a full turn where the CRS is geographic, else None.

    Returns:
        (M,) float64; each depends on the two boxes alone, not on which is the first.
    """
    swap = boxes.scene[a] > boxes.scene[b]
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    shared, first, second = shared_areas(boxes.wkb, a, b, turn=turn)
    cut_a, cut_b = boxes.truncated[a], boxes.truncated[b]
    smaller = np.minimum(first, second)
    whole = first + second - shared if rule.metric == "iou" else smaller
    over = np.where(cut_a & ~cut_b, first, np.where(cut_b & ~cut_a, second, np.where(cut_a & cut_b, smaller, whole)))
    value = np.divide(shared, over, out=np.zeros_like(shared), where=over > 0)
    return np.where((shared > 0) & (value >= rule.threshold - ROUNDING), value, 0.0)


def ranking(boxes: Boxes, chosen: IntArray, dates: IntArray, rule: MosaicRule) -> IntArray:
    """(K,) int64, some boxes from the best to the last: whole ones before cut ones, then as the rule prefers.

    "score": descending score, then the newest. "newest": descending date, then descending score. Ties in both are
    broken by scene id, then detection id.

    Args:
        boxes: the boxes.
        chosen: (K,) int64, those to be ranked.
        dates: microseconds since 1970 of each scene; the least int64 where it is unknown, which comes last.
        rule: what to prefer.
    """
    columns = {
        "truncated": pa.array(boxes.truncated[chosen].astype(np.int8)),
        "score": pa.array(boxes.score[chosen]),
        "date": pa.array(dates[boxes.scene[chosen]]),
        "scene": pa.array(boxes.scene[chosen]),
        "id": boxes.ids.take(pa.array(chosen)),
    }
    values = [("score", "descending"), ("date", "descending")]
    values = values if rule.prefer == "score" else values[::-1]
    keys = [("truncated", "ascending"), *values, ("scene", "ascending"), ("id", "ascending")]
    order: IntArray = chosen[pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy()]
    return order
