"""Polygons on the globe → polygons on a map of longitude and latitude (RFC 7946, section 3.1.9)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geosod.arrays import FloatArray

Geometries = npt.NDArray[Any]
Offsets = npt.NDArray[np.integer[Any]]

#: Parts of a split polygon narrower than this, in degrees (0.1 mm), are rounding and dropped.
_SLIVER = 1e-9


def oriented(polygons: Any) -> Geometries:
    """The same polygons, shells counter-clockwise and holes clockwise."""
    return np.asarray(shapely.orient_polygons(np.asarray(polygons, object)), object)


def geographic_polygons(xy: FloatArray, rings: Offsets, parts: Offsets, turn: float) -> Geometries:
    """Polygons from rings whose longitudes may jump by a full turn, cut at the antimeridian and closed at poles.

    Args:
        xy: (M, 2) longitudes and latitudes, rings closed, no edge half a turn long or longer.
        rings: (R + 1,) offsets of the rings into `xy`.
        parts: (N + 1,) offsets of the polygons into the rings; the first ring of each is its shell.
        turn: units of a full turn, 360 for degrees.

    Returns:
        (N,) object array of Polygons and MultiPolygons with longitudes within half a turn. A shell that goes
        round a pole holds the pole of its mean latitude.
    """
    starts, half = rings[:-1], turn / 2
    # Jumps are counted, not summed up, so that a vertex keeps its coordinates to the last bit.
    jumps = np.rint(np.diff(xy[:, 0], prepend=xy[0, 0]) / turn).astype(np.int64)
    jumps[starts] = 0
    turns = np.cumsum(jumps)
    lengths = np.diff(rings)
    turns -= np.repeat(turns[starts], lengths)
    lon = xy[:, 0] - turn * turns
    shift = np.floor((np.minimum.reduceat(lon, starts) + half) / turn)
    lon = lon - turn * np.repeat(shift, lengths)
    xy = np.stack([lon, np.clip(xy[:, 1], -turn / 4, turn / 4)], axis=1)
    winding = turns[rings[1:] - 1] != 0
    across = (np.maximum.reduceat(lon, starts) > half + _SLIVER) | winding
    inside = np.clip(xy, (-half, -turn / 4), (half, turn / 4))
    out = np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, inside, (rings, parts)), object)
    split = np.logical_or.reduceat(across, parts[:-1])
    out[~split] = oriented(out[~split])
    for i in np.flatnonzero(split):
        regions = [_ring_region(xy[rings[r] : rings[r + 1]], turn) for r in range(parts[i], parts[i + 1])]
        region = _areal(shapely.difference(regions[0], shapely.union_all(regions[1:])))
        out[i] = out[i] if region.is_empty else region
    return out


def _ring_region(ring: FloatArray, turn: float) -> Any:
    """What a ring with continuous longitudes encloses, brought back to one turn."""
    half = turn / 2
    if abs(ring[-1, 0] - ring[0, 0]) > half:
        # The ring goes round a pole: along the pole it comes back to its start.
        pole = np.copysign(turn / 4, ring[:, 1].mean())
        ring = np.concatenate([ring, [(ring[-1, 0], pole), (ring[0, 0], pole), ring[0]]])
    region = shapely.make_valid(shapely.polygons(ring))
    lowest = int(np.floor((ring[:, 0].min() + half) / turn))
    highest = int(np.ceil((ring[:, 0].max() + half) / turn))
    pieces = []
    for k in range(lowest, highest):
        piece = shapely.intersection(region, shapely.box(k * turn - half, -turn / 4, k * turn + half, turn / 4))
        pieces.append(shapely.transform(piece, lambda xy, k=k: xy - (k * turn, 0.0)))
    return _areal(shapely.union_all(np.asarray(pieces, object)))


def _areal(geometry: Any) -> Any:
    """The polygons of a geometry, slivers left out."""
    parts = shapely.get_parts(geometry)
    parts = shapely.get_parts(parts) if len(parts) else parts
    polygons = parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON)]
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    kept = oriented(polygons[bounds[:, 2] - bounds[:, 0] > _SLIVER])
    return kept[0] if len(kept) == 1 else shapely.multipolygons(kept)
