"""Into which parts the ground is divided: H3 cells, or polygons of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import geopandas
import numpy as np
import numpy.typing as npt
import pyogrio
import shapely

from geosod.arrays import FloatArray, IntArray
from geosod.errors import ConfigError, SceneError, one_line
from geosod.georeference.antimeridian import geographic_polygons
from geosod.georeference.crs import LONLAT, body_name, is_earth
from geosod.georeference.outlines import polygon_parts
from geosod.summarizing.ground import lonlat_of, on_plane, points_on_plane

Geometries = npt.NDArray[Any]

#: Cells of ground that is summarized; more would be a map of single objects, and fill the memory.
MAX_CELLS = 2_000_000


class Zones(Protocol):
    """A division of the ground. A zone is an index, which stays what it is when others are added."""

    @property
    def column(self) -> str:
        """Name of the column with the zones' names."""
        ...

    def assign(self, lon: FloatArray, lat: FloatArray) -> tuple[IntArray, IntArray]:
        """The zones of N points: (M,) the index of a point and (M,) that of a zone it lies in."""
        ...

    def areas(self, ground: Geometries) -> FloatArray:
        """(Z,) square kilometres of ground in every zone.

        Args:
            ground: (N,) polygons, longitude and latitude; what several of them cover counts several times.
        """
        ...

    def names(self) -> list[str]:
        """(Z,) names of the zones."""
        ...

    def outlines(self) -> Geometries:
        """(Z,) Polygons and MultiPolygons, longitude and latitude."""
        ...


@dataclass(slots=True)
class H3Zones:
    """Cells of Uber's H3 grid, of one resolution; see `Zones`. Edges are straight on the equal-area map.

    Attributes:
        resolution: 0, cells of continents, to 15, of a square metre.
        cells: H3's number of each zone.
    """

    resolution: int
    cells: dict[int, int] = field(default_factory=dict)
    column: str = "h3"

    def __post_init__(self) -> None:
        if not 0 <= self.resolution <= 15:
            raise ConfigError(f"h3 resolution {self.resolution}: there are those from 0 to 15; 7 has cells of 5 km2")
        _h3()

    def assign(self, lon: FloatArray, lat: FloatArray) -> tuple[IntArray, IntArray]:
        """See `Zones`."""
        cell_of, resolution = _h3().latlng_to_cell, self.resolution
        cells = [cell_of(y, x, resolution) for y, x in zip(lat.tolist(), lon.tolist(), strict=True)]
        return np.arange(len(cells)), self._indices(cells)

    def _indices(self, cells: Sequence[int]) -> IntArray:
        known = self.cells
        return np.array([known.setdefault(cell, len(known)) for cell in cells], np.int64)

    def areas(self, ground: Geometries) -> FloatArray:
        """See `Zones`; ConfigError where the ground has more than `MAX_CELLS` cells."""
        h3, plane = _h3(), on_plane(ground, LONLAT)
        expected = float(shapely.area(plane).sum()) / 1e6 / h3.average_hexagon_area(self.resolution, unit="km^2")
        if expected > MAX_CELLS:
            raise ConfigError(
                f"h3 resolution {self.resolution}: the ground has about {expected:,.0f} cells; take a coarser one, "
                "with a smaller number"
            )
        shared: dict[int, float] = {}
        for polygon, flat in zip(ground, plane, strict=True):
            near = np.array(sorted(self._cells_at(polygon)), np.int64)
            outlines = on_plane(_outlines(near.tolist()), LONLAT)
            shapely.prepare(flat)
            inside = shapely.area(shapely.intersection(outlines, flat)) / 1e6
            for cell, area in zip(near.tolist(), inside.tolist(), strict=True):
                if area > 0:
                    shared[cell] = shared.get(cell, 0.0) + area
        index = self._indices(sorted(shared))
        out = np.zeros(len(self.cells))
        out[index] = [shared[cell] for cell in sorted(shared)]
        return out

    def _cells_at(self, polygon: Any) -> set[int]:
        """The cells that meet a polygon. Those at its vertices are added, since H3's edges are not quite straight."""
        h3 = _h3()
        rings = [shapely.get_coordinates(ring)[:, ::-1].tolist() for ring in (polygon.exterior, *polygon.interiors)]
        found = set(h3.h3shape_to_cells_experimental(h3.LatLngPoly(*rings), self.resolution, contain="bbox_overlap"))
        found |= {h3.latlng_to_cell(lat, lon, self.resolution) for lat, lon in rings[0]}
        return found

    def names(self) -> list[str]:
        """See `Zones`; H3's names of the cells."""
        return [_h3().int_to_str(cell) for cell in self.cells]

    def outlines(self) -> Geometries:
        """See `Zones`."""
        return _outlines(list(self.cells))


def _h3() -> Any:
    try:
        import h3.api.basic_int as h3  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError('cells are those of h3; pip install "geosod[summarize]"') from error
    return h3


def _outlines(cells: Sequence[int]) -> Geometries:
    """(N,) polygons of cells, longitude and latitude, split at the antimeridian."""
    if not cells:
        return np.empty(0, object)
    rings = [np.array(_h3().cell_to_boundary(cell))[:, ::-1] for cell in cells]
    rings = [np.concatenate([ring, ring[:1]]) for ring in rings]
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])])
    return geographic_polygons(np.concatenate(rings), offsets, np.arange(len(rings) + 1), 360.0)


@dataclass(frozen=True, slots=True, eq=False)
class AreaZones:
    """Polygons of a file, such as districts; see `Zones`. They may overlap, and points count in each.

    Attributes:
        labels: (Z,) their names.
        shapes: (Z,) Polygons and MultiPolygons, longitude and latitude.
        plane: (Z,) the same on the equal-area map.
    """

    labels: tuple[str, ...]
    shapes: Geometries
    plane: Geometries
    column: str = "area"

    def assign(self, lon: FloatArray, lat: FloatArray) -> tuple[IntArray, IntArray]:
        """See `Zones`; points on a shared border count in both."""
        points = shapely.points(points_on_plane(lon, lat))
        point, zone = shapely.STRtree(self.plane).query(points, predicate="intersects")
        return point, zone

    def areas(self, ground: Geometries) -> FloatArray:
        """See `Zones`."""
        plane = on_plane(ground, LONLAT)
        piece, zone = shapely.STRtree(self.plane).query(plane, predicate="intersects")
        area = shapely.area(shapely.intersection(plane[piece], self.plane[zone])) / 1e6
        return np.bincount(zone, weights=area, minlength=len(self.labels)).astype(np.float64)

    def names(self) -> list[str]:
        """See `Zones`."""
        return list(self.labels)

    def outlines(self) -> Geometries:
        """See `Zones`."""
        return self.shapes


def read_areas(path: str | Path, layer: str | None = None, column: str | None = None) -> AreaZones:
    """The polygons of a vector file; those of one name are one area.

    Args:
        path: the file.
        layer: its layer; None takes the first.
        column: with the names; None takes the first column of text, or else numbers the features from 1.

    Raises:
        ConfigError: it cannot be read, has no polygons, no CRS, no such column, or is of another planet.
    """
    try:
        if Path(path).suffix.lower() in (".parquet", ".geoparquet"):
            frame = geopandas.read_parquet(path)
        else:
            frame = geopandas.read_file(path, layer=0 if layer is None else layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError, ValueError) as error:
        raise ConfigError(f"areas {path}: cannot be read: {one_line(error)[:200]}") from error
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.crs is None:
        raise ConfigError(f"areas {path}: has no CRS; assign one (a .prj file, or ogr2ogr -a_srs)")
    crs = frame.crs.to_wkt()
    if not is_earth(crs):
        raise ConfigError(f"areas {path}: lie on {body_name(crs)}; give polygons on the Earth")
    names, shapes = _names(frame, path, column), np.asarray(frame.geometry, object)
    parts, feature = polygon_parts(shapely.make_valid(shapely.force_2d(shapes)))
    if not len(parts):
        raise ConfigError(f"areas {path}: holds no polygon; give a file with polygons")
    try:
        parts, origin = polygon_parts(lonlat_of(parts, crs))
    except SceneError as error:
        raise ConfigError(f"areas {path}: {error}") from error
    owner = np.array([names[k] for k in feature[origin]], object)
    labels = tuple(dict.fromkeys(owner.tolist()))
    whole = np.array([shapely.union_all(parts[owner == label]) for label in labels], object)
    return AreaZones(labels, whole, np.asarray(on_plane(whole, LONLAT), object))


def _names(frame: Any, path: str | Path, column: str | None) -> list[str]:
    columns = [name for name in frame.columns if name != frame.geometry.name]
    if column is None:
        text = [name for name in columns if frame[name].map(lambda value: isinstance(value, str)).any()]
        if not text:
            return [str(k) for k in range(1, len(frame) + 1)]
        column = text[0]
    elif column not in columns:
        raise ConfigError(f"areas {path}: has no column {column!r}; it has {', '.join(columns) or 'none'}")
    return ["" if value is None or value != value else str(value) for value in frame[column].tolist()]  # noqa: PLR0124
