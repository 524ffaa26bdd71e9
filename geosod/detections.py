"""Boxes as columns, and the flags of boxes that touch an edge of their tile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import ConfigError

#: Sides of a box that touch its tile's edge, and one for a box that is merely near one; see `Detections.fragment`.
LEFT, TOP, RIGHT, BOTTOM, EDGE_MARGIN, EXCLUDED = 1, 2, 4, 8, 16, 32
SIDES = LEFT | TOP | RIGHT | BOTTOM


def _column(name: str, values: Any, dtype: Any, length: int, default: Any) -> npt.NDArray[Any]:
    column = np.full(length, default, dtype) if values is None else np.ascontiguousarray(values, dtype)
    if column.shape != (length,):
        raise ConfigError(f"Detections: {name} has shape {column.shape}, expected ({length},), one value per box")
    return column


def _sides(values: Any, length: int) -> npt.NDArray[np.uint8]:
    sides = None if values is None else np.asarray(values)
    if sides is not None and sides.size and (sides.dtype.kind not in "iu" or sides.min() < 0 or sides.max() > 63):
        raise ConfigError(
            "Detections: fragment names the sides that touch a tile's edge, as sums of LEFT 1, TOP 2, RIGHT 4, "
            f"BOTTOM 8, EDGE_MARGIN 16 and EXCLUDED 32; got {sides.dtype}, "
            + ", ".join(map(str, np.unique(sides)[-3:]))
        )
    return _column("fragment", sides, np.uint8, length, 0)


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Detections:
    """Boxes as columns; the empty one is ordinary. Row i of every column describes box i.

    Attributes:
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame.
        scores: (N,) float32.
        labels: (N,) int32, index into the model's classes.
        truncated: (N,) bool, the object meets the scene's edge or nodata.
        fragment: (N,) uint8, the sides on which the box touches an edge of its tile that is not an edge of the
            scene, so that a neighbouring tile may show more of the object: a sum of `LEFT`, `TOP`, `RIGHT` and
            `BOTTOM`. 0 for a whole object; `EDGE_MARGIN` for one that is whole, but so near to such an edge that a tile
            which shows more of its surroundings is to be preferred; `EXCLUDED` for one that takes its fragments, but
            otherwise is not to be merged.
        n_merged: (N,) int32, how many raw boxes this one stands for.
        level: (N,) float32, the scale it was found at; 1.0 is full resolution.
    """

    boxes: FloatArray
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    truncated: BoolArray
    fragment: npt.NDArray[np.uint8]
    n_merged: npt.NDArray[np.int32]
    level: npt.NDArray[np.float32]

    def __init__(
        self,
        *,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        truncated: npt.ArrayLike | None = None,
        fragment: npt.ArrayLike | None = None,
        n_merged: npt.ArrayLike | None = None,
        level: npt.ArrayLike | None = None,
    ) -> None:
        corners = np.ascontiguousarray(boxes, np.float64)
        corners = corners.reshape(0, 4) if corners.size == 0 else corners
        if corners.ndim != 2 or corners.shape[1] != 4:
            raise ConfigError(f"Detections: boxes have shape {corners.shape}, expected (N, 4) as x0, y0, x1, y1")
        n = len(corners)
        columns = {
            "boxes": corners,
            "scores": _column("scores", scores, np.float32, n, 0),
            "labels": _column("labels", labels, np.int32, n, 0),
            "truncated": _column("truncated", truncated, np.bool_, n, False),
            "fragment": _sides(fragment, n),
            "n_merged": _column("n_merged", n_merged, np.int32, n, 1),
            "level": _column("level", level, np.float32, n, 1.0),
        }
        for name, column in columns.items():
            object.__setattr__(self, name, column)

    @classmethod
    def empty(cls) -> Self:
        """No boxes."""
        return cls(boxes=np.empty((0, 4)), scores=(), labels=())

    @classmethod
    def concat(cls, parts: Iterable[Detections]) -> Self:
        """All boxes of `parts`, in their order."""
        kept = list(parts)
        if not kept:
            return cls.empty()
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in kept]) for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: slice | npt.NDArray[Any] | Sequence[int]) -> Detections:
        chosen = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        if not isinstance(chosen, slice) and chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return Detections(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def with_columns(self, **columns: npt.ArrayLike) -> Detections:
        """The same boxes with some columns replaced."""
        return Detections(**{f.name: columns.get(f.name, getattr(self, f.name)) for f in fields(self)})

    def canonical_order(self) -> IntArray:
        """(N,) int64, indices by descending score, then x0, y0, x1, y1, label, whatever the input order.

        Boxes that are the same in all six are told apart by the remaining columns, so that the order of
        two distinguishable rows never depends on where they came from.
        """
        x0, y0, x1, y1 = self.boxes.T
        keys = (self.level, self.n_merged, self.fragment, self.truncated, self.labels, y1, x1, y0, x0, -self.scores)
        return np.lexsort(keys)

    def to_arrow(self) -> pa.RecordBatch:
        """One row a box: x0, y0, x1, y1 and the other columns under their names."""
        columns = dict(zip(("x0", "y0", "x1", "y1"), self.boxes.T, strict=True))
        columns |= {f.name: getattr(self, f.name) for f in fields(self) if f.name != "boxes"}
        return pa.RecordBatch.from_pydict({name: pa.array(column) for name, column in columns.items()})

    @classmethod
    def from_arrow(cls, batch: pa.RecordBatch | pa.Table) -> Self:
        """The inverse of `to_arrow`."""
        columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
        boxes = np.stack([columns.pop(name) for name in ("x0", "y0", "x1", "y1")], axis=1)
        return cls(boxes=boxes, **columns)
