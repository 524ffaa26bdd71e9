"""Split polygons at the antimeridian and close them at the poles, as RFC 7946 (section 3.1.9) asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geosod.arrays import FloatArray, paired
from geosod.georeference.outlines import polygon_parts

Geometries = npt.NDArray[Any]
Offsets = npt.NDArray[np.integer[Any]]

#: Parts of a split polygon narrower than this, in degrees (0.1 mm), are rounding errors and dropped.
_SLIVER = 1e-9


def oriented(polygons: Any) -> Geometries:
    """The same polygons, shells counter-clockwise and holes clockwise."""
    return np.asarray(shapely.orient_polygons(np.asarray(polygons, object)), object)


def geographic_polygons(xy: FloatArray, rings: Offsets, parts: Offsets, circle: float) -> Geometries:
    """Build polygons from rings whose longitudes may jump by a full circle.

    Args:
        xy: (M, 2) longitudes and latitudes, rings closed, every edge shorter than half a circle.
        rings: (R + 1,) offsets of the rings into `xy`.
        parts: (N + 1,) offsets of the polygons into the rings; the first ring of each is its shell.
        circle: units of a full circle, 360 for degrees.

    Returns:
        (N,) object array of Polygons and MultiPolygons with longitudes within half a circle of 0. A shell around a
        pole includes the pole that is nearer to its mean latitude.
    """
    starts, half = rings[:-1], circle / 2
    # Jumps are counted instead of accumulated, so that a vertex keeps its coordinates to the last bit.
    jumps = np.rint(np.diff(xy[:, 0], prepend=xy[0, 0]) / circle).astype(np.int64)
    jumps[starts] = 0
    circles = np.cumsum(jumps)
    lengths = np.diff(rings)
    circles -= np.repeat(circles[starts], lengths)
    lon = xy[:, 0] - circle * circles
    shift = np.floor((np.minimum.reduceat(lon, starts) + half) / circle)
    lon = lon - circle * np.repeat(shift, lengths)
    xy = paired(lon, np.clip(xy[:, 1], -circle / 4, circle / 4))
    around_pole = circles[rings[1:] - 1] != 0
    across = (np.maximum.reduceat(lon, starts) > half + _SLIVER) | around_pole
    inside = np.clip(xy, (-half, -circle / 4), (half, circle / 4))
    out = np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, inside, (rings, parts)), object)
    split = np.logical_or.reduceat(across, parts[:-1])
    out[~split] = oriented(out[~split])
    for i in np.flatnonzero(split):
        regions = [_ring_region(xy[rings[r] : rings[r + 1]], circle) for r in range(parts[i], parts[i + 1])]
        region = _without_slivers(shapely.difference(regions[0], shapely.union_all(regions[1:])))
        out[i] = out[i] if region.is_empty else region
    for i in np.flatnonzero(~shapely.is_valid(out)):  # near a pole, edges that are straight in degrees may cross
        out[i] = _without_slivers(shapely.make_valid(out[i]))
    return out


def _ring_region(ring: FloatArray, circle: float) -> Any:
    """The region inside a ring with continuous longitudes, with longitudes within half a circle of 0."""
    half = circle / 2
    if abs(ring[-1, 0] - ring[0, 0]) > half:
        # The ring goes around a pole: close it along the pole.
        pole = np.copysign(circle / 4, ring[:, 1].mean())
        ring = np.concatenate([ring, [(ring[-1, 0], pole), (ring[0, 0], pole), ring[0]]])
    region = shapely.make_valid(shapely.polygons(ring))
    first = int(np.floor((ring[:, 0].min() + half) / circle))
    last = int(np.ceil((ring[:, 0].max() + half) / circle))
    parts = []
    for k in range(first, last):
        part = shapely.intersection(region, shapely.box(k * circle - half, -circle / 4, k * circle + half, circle / 4))
        parts.append(shapely.transform(part, lambda xy, k=k: xy - (k * circle, 0.0)))
    return _without_slivers(shapely.union_all(np.asarray(parts, object)))


def _without_slivers(geometry: Any) -> Any:
    """The polygons of a geometry that are wide enough, as one geometry."""
    polygons, _ = polygon_parts(geometry)
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    kept = oriented(polygons[bounds[:, 2] - bounds[:, 0] > _SLIVER])
    return kept[0] if len(kept) == 1 else shapely.multipolygons(kept)
