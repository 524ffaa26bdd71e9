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
from geosod.html_repr import MAX_ROWS, boxes_svg, card, grid
from geosod.scene import Scene, Window

#: Bits of `Detections.fragment`.
LEFT, TOP, RIGHT, BOTTOM, EDGE_MARGIN, EXCLUDED = 1, 2, 4, 8, 16, 32
SIDES = LEFT | TOP | RIGHT | BOTTOM

#: Column → its dtype and default.
_COLUMNS: dict[str, tuple[Any, Any]] = {
    "scores": (np.float32, 0),
    "labels": (np.int32, 0),
    "truncated": (np.bool_, False),
    "fragment": (np.uint8, 0),
    "n_merged": (np.int32, 1),
    "level": (np.float32, 1.0),
}


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Detections:
    """Boxes as columns. Row i of every column describes box i. They may be empty.

    Immutable: the columns are copies of what is passed in, and cannot be written to.

    Attributes:
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame.
        scores: (N,) float32.
        labels: (N,) int32, index into the model's classes.
        truncated: (N,) bool, the object meets the scene's edge or nodata.
        fragment: (N,) uint8, a sum of bits. `LEFT`, `TOP`, `RIGHT` and `BOTTOM` are the sides on which the box touches
            an edge of its tile that is not an edge of the scene: a neighbouring tile may show more of the object. 0 is
            a whole object. `EDGE_MARGIN` is a whole object close to such an edge: a box of the same object from a tile
            that shows more of its surroundings is preferred. `EXCLUDED` takes part in merging only by absorbing its
            fragments. See `fragment_flags`.
        n_merged: (N,) int32, number of raw boxes that this one represents.
        level: (N,) float32, the scale it was found at; 1.0 is full resolution.

    Raises:
        ConfigError: a column has the wrong shape or unusable values.
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
        corners = np.array(boxes, np.float64, order="C")
        corners = corners.reshape(0, 4) if corners.size == 0 else corners
        if corners.ndim != 2 or corners.shape[1] != 4:
            raise ConfigError(f"Detections: boxes have shape {corners.shape}, expected (N, 4) as x0, y0, x1, y1")
        given = {
            "scores": scores,
            "labels": _whole_numbers(labels),
            "truncated": truncated,
            "fragment": _checked_flags(fragment),
            "n_merged": _counts(n_merged),
            "level": level,
        }
        self._set({"boxes": corners} | {name: _column(name, value, len(corners)) for name, value in given.items()})

    def _set(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        for name, column in columns.items():
            column.flags.writeable = False
            object.__setattr__(self, name, column)

    def __setstate__(self, state: list[npt.NDArray[Any]]) -> None:
        self._set({f.name: column for f, column in zip(fields(self), state, strict=True)})

    @classmethod
    def _of(cls, columns: dict[str, npt.NDArray[Any]]) -> Self:
        """From columns that are known to be right and that nobody else writes to."""
        made = object.__new__(cls)
        made._set(columns)
        return made

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
        return cls._of({f.name: np.concatenate([getattr(p, f.name) for p in kept]) for f in fields(cls)})

    def __repr__(self) -> str:
        if not len(self):
            return "Detections(no boxes)"
        labels, counts = np.unique(self.labels, return_counts=True)
        by_label = ", ".join(f"{label}: {count}" for label, count in zip(labels[:5], counts[:5], strict=True))
        more = f", … {len(labels) - 5} more" if len(labels) > 5 else ""
        scores = f"scores {self.scores.min():.3g} to {self.scores.max():.3g}"
        return f"Detections({len(self)} boxes, {scores}, labels {{{by_label}{more}}})"

    def _repr_html_(self) -> str:
        best = self[np.argsort(-self.scores, kind="stable")]
        first = best[:MAX_ROWS]
        rows = [
            (label, f"{score:.3f}", *(f"{side:.1f}" for side in box))
            for box, score, label in zip(first.boxes, first.scores, first.labels, strict=True)
        ]
        table = grid(("label", "score", "x0", "y0", "x1", "y1"), rows, more=len(self) - len(rows)) if rows else ""
        title = f"Detections: {len(self):,} boxes" if len(self) else "Detections: no boxes"
        return card(title, boxes_svg(best.boxes, best.labels), table)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: slice | npt.NDArray[Any] | Sequence[int]) -> Detections:
        chosen = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        if not isinstance(chosen, slice) and chosen.ndim != 1:
            raise ConfigError(f"Detections: an index of shape {chosen.shape} chooses no boxes; give one dimension")
        return Detections._of({f.name: _chosen(getattr(self, f.name), chosen) for f in fields(self)})

    def with_columns(self, **columns: npt.ArrayLike) -> Detections:
        """The same boxes with some columns replaced."""
        return Detections(**{f.name: columns.get(f.name, getattr(self, f.name)) for f in fields(self)})

    def canonical_order(self) -> IntArray:
        """(N,) int64, indices by descending score, then x0, y0, x1, y1, label, whatever the input order.

        Ties in all six are broken by the remaining columns, so that the order of two different rows never depends
        on where they came from.
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


def _chosen(column: npt.NDArray[Any], index: slice | npt.NDArray[Any]) -> npt.NDArray[Any]:
    if isinstance(index, slice) or (index.dtype == np.bool_ and len(index)):
        return np.ascontiguousarray(column[index])
    # Several times as fast as brackets, for boxes.
    return np.take(column, index if len(index) else index.astype(np.int64), axis=0)


def fragment_flags(
    boxes: npt.ArrayLike,
    tile: Window | Sequence[int],
    scene: Scene | Sequence[int],
    *,
    border: float = 2.0,
    edge_margin: float = 0.0,
) -> npt.NDArray[np.uint8]:
    """`Detections.fragment` of the boxes of one tile: on which sides a neighbouring tile may show more of the object.

    With these flags `geosod.merge` treats objects at tile borders as `geosod.detect` does: a whole box absorbs its
    fragments, and fragments of objects larger than the overlap are stitched.

        flags = geosod.fragment_flags(boxes, tile=(768, 0, 1024, 1024), scene=(8192, 8192))
        found = geosod.Detections(boxes=boxes, scores=scores, labels=labels, fragment=flags)
        merged = geosod.merge(geosod.Detections.concat([found, *others]), margin=2.0)

    Args:
        boxes: (N, 4) ``x0, y0, x1, y1``, scene frame, clipped to the tile.
        tile: the tile's window, or its (col, row, width, height), scene frame.
        scene: the scene, or its (width, height) in pixels.
        border: a box this close to an edge, in pixels, touches it. The argument `margin` of `geosod.merge` should be
            the same.
        edge_margin: a box this close to an edge, in pixels, that does not touch it gets `EDGE_MARGIN`.

    Returns:
        (N,) uint8.

    Raises:
        ConfigError: the boxes do not have the shape (N, 4), or the tile does not lie in the scene.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4) if np.size(boxes) == 0 else np.asarray(boxes, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ConfigError(f"fragment_flags: boxes have shape {corners.shape}, expected (N, 4) as x0, y0, x1, y1")
    try:
        window = tile if isinstance(tile, Window) else Window(*(int(v) for v in tile))
        width, height = (scene.width, scene.height) if isinstance(scene, Scene) else (int(v) for v in scene)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"fragment_flags: tile {tile!r} and scene {scene!r} must be (col, row, width, height) and (width, height)"
        ) from error
    if window.intersection(Window(0, 0, width, height)) != window:
        raise ConfigError(
            f"fragment_flags: tile {window} does not lie in a scene of {width} x {height} pixels; a "
            "tile is (col, row, width, height), not corners"
        )
    x0, y0, x1, y1 = corners.T
    outside = (x0 < window.col - 1) | (y0 < window.row - 1) | (x1 > window.right + 1) | (y1 > window.bottom + 1)
    if outside.any():
        raise ConfigError(
            f"fragment_flags: boxes extend beyond the tile {window}; give them in the scene's frame (add the tile's "
            "column and row), clipped to the tile"
        )
    gaps = (x0 - window.col, y0 - window.row, window.right - x1, window.bottom - y1)
    interior = (window.col > 0, window.row > 0, window.right < width, window.bottom < height)
    return np.asarray(edge_flags(gaps, interior, border, edge_margin), np.uint8)


def edge_flags(gaps: Sequence[Any], interior: Sequence[Any], border: float, edge_margin: float) -> Any:
    """The sum of bits for boxes whose distances to their tile's edges are known; arrays of numpy or torch.

    Args:
        gaps: four (N,) arrays, distance to the left, top, right and bottom edge in pixels.
        interior: four (N,) bool arrays or bools, whether that edge is inside the scene.
        border, edge_margin: as `fragment_flags`.
    """
    bits = (LEFT, TOP, RIGHT, BOTTOM)
    sides = sum(((gap <= border) & inside) * bit for gap, inside, bit in zip(gaps, interior, bits, strict=True))
    close = sum(((gap <= edge_margin) & inside) * 1 for gap, inside in zip(gaps, interior, strict=True))
    return sides + ((close > 0) & (sides == 0)) * EDGE_MARGIN


def _column(name: str, values: Any, length: int) -> npt.NDArray[Any]:
    dtype, default = _COLUMNS[name]
    if np.ma.is_masked(values):
        raise ConfigError(f"Detections: {name} has masked values; drop those boxes")
    try:
        column = np.full(length, default, dtype) if values is None else np.array(values, dtype, order="C")
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"Detections: {name} holds no numbers: {' '.join(str(error).split())}") from error
    if column.shape != (length,):
        raise ConfigError(f"Detections: {name} has shape {column.shape}, expected ({length},), one value per box")
    return column


def _whole_numbers(values: npt.ArrayLike) -> npt.ArrayLike:
    labels = np.asarray(values)
    if labels.size and labels.dtype.kind not in "iufb":
        raise ConfigError(f"Detections: labels are ids of classes, whole numbers from 0, but hold {labels.flat[0]!r}")
    if labels.size and not (fits := (labels > -(1 << 31)) & (labels < 1 << 31)).all():
        raise ConfigError(f"Detections: labels are ids of classes below 2^31, but hold {labels[~fits][0]}")
    if labels.dtype.kind == "f" and not (np.mod(labels, 1) == 0).all():
        raise ConfigError(f"Detections: labels are ids of classes, but hold {labels[np.mod(labels, 1) != 0][0]}")
    return labels


def _counts(values: npt.ArrayLike | None) -> npt.ArrayLike | None:
    if values is None:
        return None
    counts = np.asarray(values)
    whole = counts.dtype.kind in "iu" or (counts.dtype.kind == "f" and bool((np.mod(counts, 1) == 0).all()))
    if counts.size and not (whole and counts.min() >= 1 and counts.max() < 1 << 31):
        raise ConfigError("Detections: n_merged are numbers of boxes, whole numbers from 1 to below 2^31")
    return counts


def _checked_flags(values: npt.ArrayLike | None) -> npt.ArrayLike | None:
    if values is None:
        return None
    flags = np.asarray(values)
    if flags.size and (flags.dtype.kind not in "iu" or flags.min() < 0 or flags.max() > 63):
        raise ConfigError(
            "Detections: fragment is a sum of LEFT 1, TOP 2, RIGHT 4, BOTTOM 8, EDGE_MARGIN 16 and EXCLUDED 32; got "
            f"{flags.dtype}, " + ", ".join(map(str, np.unique(flags)[-3:]))
        )
    return flags
