"""Counting rows by date, zone and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geosod.arrays import FloatArray, IntArray
from geosod.deduplication.sources import UNDATED, SceneSource
from geosod.errors import ConfigError
from geosod.georeference.crs import is_earth
from geosod.summarizing.zones import Zones

#: The date of scenes without one.
UNKNOWN = "unknown"
Key = tuple[int, int, int]


def date_of(scene: SceneSource) -> str:
    """The day on which a scene was acquired (UTC), such as ``2024-05-01``, or `UNKNOWN`."""
    return UNKNOWN if scene.date == UNDATED else str(np.datetime64(scene.date, "us").astype("datetime64[D]"))


@dataclass(slots=True)
class Tally:
    """Numbers of rows of every date, zone and class; what is not told apart is 0 in the keys.

    Attributes:
        classes: names of the classes; None counts them together.
        zones: division of the ground; None counts all of it together.
        counts: date, zone and class → number of rows.
        outside: number of rows that lie in no zone.
    """

    classes: Sequence[str] | None
    zones: Zones | None
    counts: dict[Key, int] = field(default_factory=dict)
    outside: int = 0

    def add(self, table: pa.Table, date: int = 0) -> None:
        """Count rows with the columns ``label``, ``lon`` and ``lat``."""
        point, zone = self._zones_of(table)
        label = self._labels_of(table)[point]
        if not len(point):
            return
        keys, count = np.unique(np.stack([zone, label], axis=1), axis=0, return_counts=True)
        for (where, what), number in zip(keys.tolist(), count.tolist(), strict=True):
            key = (date, where, what)
            self.counts[key] = self.counts.get(key, 0) + number

    def _labels_of(self, table: pa.Table) -> IntArray:
        if self.classes is None:
            return np.zeros(len(table), np.int64)
        index = pc.index_in(table["label"], value_set=pa.array(self.classes, pa.string()))
        return np.asarray(index.to_numpy(zero_copy_only=False), np.int64)

    def _zones_of(self, table: pa.Table) -> tuple[IntArray, IntArray]:
        """(M,) rows, and (M,) the zone of each."""
        rows = np.arange(len(table))
        if self.zones is None or not len(table):
            return rows, np.zeros(len(table), np.int64)
        lon, lat = positions(table)
        point, zone = self.zones.assign(lon, lat)
        self.outside += len(rows) - len(np.unique(point))
        return point, zone


def positions(table: pa.Table) -> tuple[FloatArray, FloatArray]:
    """Longitudes and latitudes of the centres of rows of scenes of the Earth."""
    lon, lat = (table[name].to_numpy(zero_copy_only=False) for name in ("lon", "lat"))
    return np.asarray(lon, np.float64), np.asarray(lat, np.float64)


def check_on_earth(scenes: Sequence[SceneSource], what: str) -> None:
    """ConfigError where a scene has no longitudes and latitudes, which `what` needs."""
    other = next((scene for scene in scenes if scene.crs is None or not is_earth(scene.crs)), None)
    if other is not None:
        raise ConfigError(f"scene {other.id!r} is not on the Earth, and {what} need longitudes and latitudes")
