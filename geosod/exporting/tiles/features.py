"""Polygons as features of tiles: rings in units of the last zoom level, in which tiles they lie, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geosod.arrays import FloatArray, IntArray
from geosod.exporting.tiles.archive import tile_ids

#: The last zoom level; a unit of its tiles is 15 cm on the equator.
LAST_ZOOM = 16
#: Units of the side of a tile.
EXTENT = 4096
#: Units around a tile in which a feature is still in it, so that outlines are not cut off: 8 pixels of 512.
BUFFER = 64
#: Units of the side of a cell of which one feature is kept on levels but the last: 8 pixels of 512.
CELL = 64
#: Columns that are added to those of a table: corners of a ring one after the other, and its bounds.
RING, BOUNDS = "_ring", ("_x0", "_y0", "_x1", "_y1")
#: Number of features that one feature of a level represents.
COUNT = "count"
#: Columns of features in tiles: number of the tile, its column and row, and whether the feature's centre lies in it.
KEY, TILE_X, TILE_Y, HOME = "_key", "_tile_x", "_tile_y", "_home"
_PLACE = (KEY, TILE_X, TILE_Y, HOME)
#: Columns that are no attributes.
PRIVATE = frozenset({RING, *BOUNDS, *_PLACE})
_WORLD = EXTENT << LAST_ZOOM
#: The latitude at which the map of the tiles ends.
LAST_LATITUDE = float(np.degrees(np.arctan(np.sinh(np.pi))))


def features_of(table: pa.Table) -> pa.Table:
    """One row for each part of a row's polygon, without holes; parts beyond 85 degrees of latitude are left out.

    Args:
        table: ``geometry`` has Polygons and MultiPolygons as WKB, longitude and latitude.

    Returns:
        Its other columns, `RING`, `BOUNDS` and `COUNT`.
    """
    parts, row = shapely.get_parts(
        shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False)), return_index=True
    )
    rings = shapely.get_exterior_ring(parts)
    size = shapely.get_num_coordinates(rings) - 1  # the last point is the first
    low, high = shapely.bounds(parts).reshape(-1, 4)[:, [1, 3]].T
    kept = (size > 2) & (low < LAST_LATITUDE) & (high > -LAST_LATITUDE)
    rings, row, size = rings[kept], row[kept], size[kept]
    lonlat = shapely.get_coordinates(rings)
    ends = np.cumsum(size + 1)
    xy = _mercator(np.delete(lonlat, ends - 1, axis=0))
    starts = np.cumsum(size) - size
    out = table.drop_columns(["geometry"]).take(pa.array(row))
    out = out.append_column(RING, _lists(size, xy))
    for k, name in enumerate(BOUNDS):
        extreme = (np.minimum, np.maximum)[k // 2]
        values = extreme.reduceat(xy[:, k % 2], starts) if len(starts) else np.empty(0, np.int32)
        out = out.append_column(name, pa.array(values))
    return out.append_column(COUNT, pa.array(np.ones(len(row), np.int32)))


def _mercator(lonlat: FloatArray) -> npt.NDArray[np.int32]:
    x = lonlat[:, 0] / 360 + 0.5
    y = 0.5 - np.arcsinh(np.tan(np.radians(np.clip(lonlat[:, 1], -LAST_LATITUDE, LAST_LATITUDE)))) / (2 * np.pi)
    return np.clip(np.rint(np.stack([x, y], axis=1) * _WORLD), 0, _WORLD - 1).astype(np.int32)


def bounds_of(features: pa.Table) -> FloatArray:
    """Minimum longitude and latitude, maximum longitude and latitude of features, with a unit around them."""
    low, high = _bounds(features)[:2].min(axis=1) - 1, _bounds(features)[2:].max(axis=1) + 1
    x, y = np.array([low[0], high[0]]) / _WORLD, np.array([high[1], low[1]]) / _WORLD
    lon, lat = x * 360 - 180, np.degrees(np.arctan(np.sinh((0.5 - y) * 2 * np.pi)))
    return np.array([lon[0], lat[0], lon[1], lat[1]])


def _lists(size: IntArray, xy: npt.NDArray[np.int32]) -> pa.Array:
    offsets = np.concatenate([[0], 2 * np.cumsum(size)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(xy.ravel()))


def in_tiles(features: pa.Table, zoom: int) -> pa.Table:
    """The features of a level, one in several tiles as often as it is in tiles.

    Args:
        features: from `features_of`.
        zoom: the level.

    Returns:
        Their columns, `KEY`, `TILE_X`, `TILE_Y` and `HOME`.
    """
    shift = LAST_ZOOM - zoom
    bounds = _bounds(features)
    tiles = (bounds + (np.array([[-1], [-1], [1], [1]]) * BUFFER << shift)) // (EXTENT << shift)
    x0, y0, x1, y1 = np.clip(tiles, 0, (1 << zoom) - 1)
    width, number = x1 - x0 + 1, (x1 - x0 + 1) * (y1 - y0 + 1)
    row = np.repeat(np.arange(len(number)), number)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
    x, y = x0[row] + nth % width[row], y0[row] + nth // width[row]
    home_x, home_y = _centres(bounds) // (EXTENT << shift)
    home = (home_x[row] == x) & (home_y[row] == y)
    out = features.take(pa.array(row))
    for name, values in zip(_PLACE, (tile_ids(zoom, x, y), x, y, home), strict=True):
        out = out.append_column(name, pa.array(values))
    return out


def kept_above(placed: pa.Table, zoom: int) -> pa.Table:
    """The features that the level above keeps: of each of its cells that with the highest score.

    Args:
        placed: whole tiles of a level, from `in_tiles`.
        zoom: that level.

    Returns:
        Features, in the order of their tiles; `COUNT` is that of all in the cell. Of their columns of floating-point
        numbers, which are measures, only ``score`` is left.
    """
    home = np.flatnonzero(placed[HOME].to_numpy())
    x, y = _centres(_bounds(placed))[:, home] // (CELL << LAST_ZOOM - zoom + 1)
    cell = x << 32 | y
    order = np.lexsort((-placed["score"].to_numpy()[home], cell))
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    best = home[order[starts]]
    count = np.add.reduceat(placed[COUNT].to_numpy()[home][order], starts) if len(starts) else np.empty(0, np.int32)
    again = np.argsort(best)
    names = [f.name for f in placed.schema if f.name not in (*_PLACE, COUNT)]
    names = [name for name in names if name == "score" or not pa.types.is_floating(placed.schema.field(name).type)]
    return placed.select(names).take(pa.array(best[again])).append_column(COUNT, pa.array(count[again]))


def _bounds(features: pa.Table) -> IntArray:
    return np.stack([features[name].to_numpy() for name in BOUNDS]).astype(np.int64)


def _centres(bounds: IntArray) -> IntArray:
    """(2, N), of (4, N) bounds."""
    return (bounds[:2] + bounds[2:]) // 2


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """Rings of features, which are parts of them where they are large.

    Attributes:
        row: (R,) int64, ascending, of which row each is.
        offsets: (R + 1,) int64, where its points begin.
        xy: (P, 2) int32, in units of the last zoom level.
    """

    row: IntArray
    offsets: IntArray
    xy: npt.NDArray[np.int32]


def rings_of(placed: pa.Table, zoom: int) -> Rings:
    """The rings of features in tiles; those larger than half a tile are cut off around it, for readers have limits.

    Args:
        placed: from `in_tiles`.
        zoom: its level.
    """
    column = placed[RING].combine_chunks()
    xy = column.flatten().to_numpy().reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy() // 2)]).astype(np.int64)
    side = EXTENT << LAST_ZOOM - zoom
    bounds = _bounds(placed)
    large = (bounds[2:] - bounds[:2]).max(axis=0, initial=0) > side // 2
    if not large.any():
        return Rings(np.arange(len(placed)), offsets, xy)
    x, y = (placed[name].to_numpy() * side for name in (TILE_X, TILE_Y))
    rows, points = [], []
    for row in range(len(placed)):
        ring = xy[offsets[row] : offsets[row + 1]]
        for part in _clipped(ring, x[row], y[row], side) if large[row] else [ring]:
            rows.append(row)
            points.append(part)
    sizes = [len(part) for part in points]
    return Rings(np.array(rows, np.int64), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
                 np.concatenate([np.empty((0, 2), np.int32), *points]))  # fmt: skip


def _clipped(ring: npt.NDArray[np.int32], x: int, y: int, side: int) -> list[Any]:
    """The parts (points, 2) of a polygon in a tile and its buffer."""
    edge = BUFFER * side // EXTENT
    shape = shapely.clip_by_rect(shapely.Polygon(ring), x - edge, y - edge, x + side + edge, y + side + edge)
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    return [np.rint(shapely.get_coordinates(part.exterior)[:-1]).astype(np.int32) for part in parts]
