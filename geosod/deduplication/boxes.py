"""Boxes of several scenes as columns, in memory or as an Arrow table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geosod.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of several scenes as columns; row i of every column describes box i.

    Attributes:
        scene: (N,) int64, index of the scene in the order of scene ids.
        row: (N,) int64, row in the scene's file.
        bounds: (N, 4) float64 ``xmin, ymin, xmax, ymax`` of the polygons, in the CRS of the dataset.
        label: (N,) int64, one number for each label name.
        score: (N,) float32.
        truncated: (N,) bool, the object extends beyond its scene.
        n_merged: (N,) int32, raw boxes that were merged into it.
        area: (N,) float64, of the polygons in the plane of the CRS.
        parts: (N,) int32, how many polygons each geometry has.
        ids: (N,) detection ids, a string array.
        wkb: (N,) Polygons and MultiPolygons, all in one CRS; WKB takes a tenth of the memory of geometry objects.
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
        """The boxes at some indices, or where a mask is True."""
        chosen = np.flatnonzero(index) if index.dtype == np.bool_ else index
        columns = {name: getattr(self, name)[chosen] for name in _ARRAYS}
        indices = pa.array(chosen)
        return Boxes(**columns, ids=self.ids.take(indices), wkb=self.wkb.take(indices))

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
        """The inverse of `to_arrow`."""
        bounds = table["bounds"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
        plain = {
            name: table[name].combine_chunks().to_numpy(zero_copy_only=False) for name in _ARRAYS if name != "bounds"
        }
        return cls(**plain, bounds=bounds, ids=table["ids"].combine_chunks(), wkb=table["wkb"].combine_chunks())


_ARRAYS = ("scene", "row", "bounds", "label", "score", "truncated", "n_merged", "area", "parts")
