"""The flat map of a page: metres about the middle of all scenes, or pixels of scenes without georeference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geosod.arrays import FloatArray
from geosod.errors import SceneError
from geosod.georeference.crs import ellipsoid, full_circle, geodetic_wkt, horizontal_crs, is_earth, transformer

#: Within this many degrees of the middle an equal-area map distorts shapes and lengths by less than 3 %.
_LOCAL = 20.0
#: Mercator maps end before the poles.
_MERCATOR = 84.0
#: Space between scenes without georeference, as a share of the largest side, and how wide their rows are.
_GAP, _ROW = 0.04, 1.5


@dataclass(frozen=True, slots=True)
class Plane:
    """A flat map, y upwards.

    Attributes:
        crs: its CRS, in metres; None where it has the pixels of scenes without georeference.
        mercator: radius in metres where it is a Mercator map, whose lengths grow with ``cosh(y / radius)``; else None.
    """

    crs: str | None
    mercator: float | None = None

    @property
    def unit(self) -> Literal["m", "px"]:
        """Of its coordinates."""
        return "px" if self.crs is None else "m"

    def of(self, xy: FloatArray, crs: str, near: tuple[float, float] | None = None) -> FloatArray:
        """(N, 2) coordinates in another CRS, easting or longitude first, on this map.

        Args:
            xy: the coordinates.
            crs: their CRS.
            near: see `geosod.georeference.crs.transformer`.

        Returns:
            (N, 2), not finite where the map has no place for them; SceneError as `transformer`.
        """
        assert self.crs is not None  # pixels are moved, not projected
        return np.stack(transformer(crs, self.crs, near).transform(*xy.T), axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class SceneFrame:
    """Where a scene lies on a map.

    Attributes:
        plane: the map.
        crs: CRS of the scene's files; None for pixels.
        near: see `geosod.georeference.crs.transformer`.
        offset: (2,) where its top-left corner lies, on a map of pixels.
        beside: x of a point of it, on a Mercator map, whose edge may run through it; else None.
    """

    plane: Plane
    crs: str | None
    near: tuple[float, float] | None
    offset: FloatArray
    beside: float | None = None

    def place(self, xy: FloatArray, crs: str | None) -> FloatArray:
        """(N, 2) coordinates on the map.

        Args:
            xy: (N, 2) coordinates, easting or longitude first, or pixels, y downwards.
            crs: their CRS; None for pixels.

        Raises:
            SceneError: the map has no place for some of them.
        """
        if crs is None:
            out = np.asarray(xy * (1, -1) + self.offset)
        else:
            out = self.joined(self.plane.of(xy, crs, self.near if crs == self.crs else None))
        if not np.isfinite(out).all():
            raise SceneError("parts of it have no place on a map with the other scenes; view it alone")
        return out

    def joined(self, xy: FloatArray) -> FloatArray:
        """(N, 2) places on the map, those beyond its edge moved by a full circle to the rest of the scene."""
        if self.plane.mercator is None or self.beside is None:
            return xy
        circle = 2 * np.pi * self.plane.mercator
        return np.stack([xy[:, 0] - circle * np.rint((xy[:, 0] - self.beside) / circle), xy[:, 1]], axis=1)


def lonlat(xy: FloatArray, crs: str) -> FloatArray:
    """(N, 2) longitude and latitude in degrees on the CRS's own datum."""
    geodetic = geodetic_wkt(crs)
    return np.stack(transformer(crs, geodetic).transform(*xy.T), axis=1) * 360 / full_circle(horizontal_crs(geodetic))


def choose_plane(places: FloatArray, crs: str) -> Plane:
    """The map for places of a body: equal-area about their middle, or Mercator where they lie far apart.

    Args:
        places: (N, 2) longitude and latitude in degrees; at least one is finite.
        crs: a CRS of the body.

    Raises:
        SceneError: none of the places is finite.
    """
    lon, lat = np.radians(places[np.isfinite(places).all(axis=1)]).T
    if not len(lon):
        raise SceneError("no ground has coordinates; detect the scenes again")
    vectors = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    mean = vectors.mean(axis=0)
    size = float(np.linalg.norm(mean))
    middle = mean / size if size > 1e-6 else np.array([1.0, 0.0, 0.0])
    lon_0 = float(np.degrees(np.arctan2(middle[1], middle[0])))
    lat_0 = float(np.degrees(np.arcsin(np.clip(middle[2], -1, 1))))
    geod = ellipsoid(crs)
    shape = "+datum=WGS84" if is_earth(crs) else f"+a={geod.a!r} +b={geod.b!r}"
    farthest = float(np.degrees(np.arccos(np.clip((vectors @ middle).min(), -1, 1))))
    if farthest > _LOCAL and np.degrees(np.abs(lat)).max() < _MERCATOR:
        return Plane(f"+proj=merc +lon_0={lon_0:.6f} {shape} +units=m +type=crs", float(geod.a))
    return Plane(f"+proj=laea +lat_0={lat_0:.6f} +lon_0={lon_0:.6f} {shape} +units=m +type=crs")


def side_by_side(sizes: FloatArray) -> FloatArray:
    """Where scenes without georeference lie on a map of pixels: in rows from the top, so that none covers another.

    Args:
        sizes: (N, 2) width and height of each.

    Returns:
        (N, 2) x and y of the top-left corner of each; y is upwards, so rows have decreasing y.
    """
    places = np.zeros((len(sizes), 2))
    if not len(sizes):
        return places
    gap = _GAP * float(sizes.max())
    widest = max(_ROW * float(np.sqrt((sizes + gap).prod(axis=1).sum())), float(sizes[:, 0].max()))
    x = y = tallest = 0.0
    for k, (width, height) in enumerate(sizes):
        if x > 0 and x + width > widest:
            x, y, tallest = 0.0, y - tallest - gap, 0.0
        places[k] = x, y
        x, tallest = x + width + gap, max(tallest, height)
    return places
