"""Coordinate reference systems: what they are called, which body they lie on, and the way from one to another."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
from pyproj import CRS, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.exceptions import CRSError, ProjError
from pyproj.transformer import TransformerGroup

from geosod.errors import ConfigError, SceneError

#: Longitude and latitude in degrees on WGS 84, in this order.
LONLAT = "OGC:CRS84"
#: Bodies whose radii differ by less than this share are one; PROJ draws the line there, too.
_SAME_BODY = 0.005
#: Equatorial radii in metres (IAU WGCCRE 2015).
_RADII = {
    "the Earth": 6_375_000.0,
    "the Moon": 1_737_400.0,
    "Mercury": 2_440_000.0,
    "Venus": 6_051_800.0,
    "Mars": 3_396_190.0,
    "Io": 1_829_400.0,
    "Europa": 1_562_600.0,
    "Ganymede": 2_631_200.0,
    "Callisto": 2_410_300.0,
    "Titan": 2_575_150.0,
    "Pluto": 1_188_300.0,
    "Ceres": 487_300.0,
}
#: Words in the name of a projection method on whose maps x comes round again after a full turn.
_ROUND: tuple[str, ...] = ("pseudo mercator", "equidistant cylindrical", "plate carr", "equal area cylindrical")
_ROUND += ("cylindrical equal area", "miller cylindrical", "equirectangular", "gall stereographic")


@lru_cache(maxsize=64)
def parse_crs(text: str) -> CRS:
    """The CRS that `text` stands for; ConfigError where pyproj does not know it."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise ConfigError(f"CRS {text[:80]!r} is not known to PROJ; give an EPSG code such as EPSG:32633") from error


def crs_name(wkt: str) -> str:
    """Short name of a CRS: "AUTHORITY:CODE" where it has one, else its name, else its WKT.

    Args:
        wkt: WKT, PROJJSON, "AUTHORITY:CODE" or anything else that pyproj understands.
    """
    crs = parse_crs(wkt)
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else (crs.name if crs.name not in ("", "unknown") else crs.to_wkt())


@lru_cache(maxsize=64)
def horizontal_crs(text: str) -> CRS:
    """The two-dimensional part of a CRS: heights do not move a pixel.

    Raises:
        SceneError: it has none: it is vertical, geocentric, or a local frame without a datum.
    """
    crs = parse_crs(text)
    while crs.is_compound:
        crs = crs.sub_crs_list[0]
    crs = crs.to_2d() if len(crs.axis_info) == 3 and not crs.is_geocentric else crs
    if len(crs.axis_info) != 2 or crs.geodetic_crs is None or crs.get_geod() is None:
        raise SceneError(
            f"CRS {crs_name(text)[:80]!r} ({crs.type_name}) does not tell where on the ground a pixel lies; assign a "
            "geographic or projected one, or none at all to get pixel coordinates"
        )
    return crs


@lru_cache(maxsize=64)
def geodetic_text(text: str) -> str:
    """WKT of the longitudes and latitudes that a CRS is built on: no change of datum lies between the two.

    Raises:
        SceneError: as `horizontal_crs`.
    """
    crs = horizontal_crs(text)
    geodetic = crs if crs.is_geographic else crs.geodetic_crs
    assert geodetic is not None  # horizontal_crs has seen to it
    return str((geodetic.to_2d() if len(geodetic.axis_info) == 3 else geodetic).to_wkt())


@lru_cache(maxsize=64)
def radius(text: str) -> float:
    """Equatorial radius of a CRS's ellipsoid in metres; SceneError as `horizontal_crs`."""
    geod = horizontal_crs(text).get_geod()
    assert geod is not None  # horizontal_crs has seen to it
    return float(geod.a)


def same_body(first: str, second: str) -> bool:
    """True where two CRSs have ellipsoids of one size, whatever their datums; SceneError as `horizontal_crs`."""
    return abs(radius(first) / radius(second) - 1) < _SAME_BODY


def body_name(text: str) -> str:
    """The body that a CRS lies on, by the size of its ellipsoid; SceneError as `horizontal_crs`."""
    size = radius(text)
    near = [name for name, metres in _RADII.items() if abs(size / metres - 1) < _SAME_BODY]
    return near[0] if near else f"a body of {size / 1000:.0f} km radius"


def is_earth(text: str) -> bool:
    """True where a CRS lies on the Earth; SceneError as `horizontal_crs`."""
    return body_name(text) == "the Earth"


@lru_cache(maxsize=64)
def transformer(source: str, target: str, near: tuple[float, float] | None = None) -> Transformer:
    """The way from one CRS to another, easting or longitude first at both ends.

    Args:
        source, target: the CRSs.
        near: longitude and latitude in degrees. Between two datums PROJ often knows several ways, each for some
            country, and takes another one from point to point; with `near` it is the best one there, everywhere, so
            that nothing is torn apart where two countries meet.

    Raises:
        SceneError: they lie on different bodies, one has no place on the ground, or PROJ knows no way.
    """
    start, goal = horizontal_crs(source), horizontal_crs(target)
    if not same_body(source, target):
        here, there = body_name(source), body_name(target)
        raise SceneError(
            f"{crs_name(source)[:80]!r} is a CRS of {here}, {crs_name(target)[:80]!r} one of {there}: nothing on one "
            f"has a place on the other; give --crs a CRS of {here}, such as {_example(source)}"
        )
    try:
        best = _best_way(start, goal, near) if near is not None else None
        return best or Transformer.from_crs(start, goal, always_xy=True)
    except ProjError as error:
        reason = str(error).splitlines()[0][:200]
        raise SceneError(
            f"CRS {crs_name(source)[:80]!r} cannot be transformed to {crs_name(target)[:80]!r} ({reason}); "
            "assign another CRS to the scene, or none at all to get pixel coordinates"
        ) from error


def _best_way(start: CRS, goal: CRS, near: tuple[float, float]) -> Transformer | None:
    (lon, lat), reach = near, 0.01
    south, north = max(lat - reach, -90.0), min(lat + reach, 90.0)
    area = AreaOfInterest(max(lon - reach, -180.0), south, min(lon + reach, 180.0), north)
    first = None
    for around in (area, None):
        with warnings.catch_warnings():
            # Of a better way that needs a grid which is not here.
            warnings.simplefilter("ignore", UserWarning)
            ways = TransformerGroup(start, goal, always_xy=True, area_of_interest=around).transformers  # type: ignore[arg-type]
        # One that leaves the datums out of account is the last resort, even where it is the only one made for there.
        known = [way for way in ways if "allpark" not in way.description]
        if known:
            return known[0]
        first = first or (ways[0] if ways else None)
    return first


def _example(text: str) -> str:
    """A CRS of the same body that fits on a command line, where there is one."""
    for crs in (parse_crs(text), parse_crs(geodetic_text(text))):
        authority = crs.to_authority(min_confidence=100)
        if authority:
            return ":".join(authority)
    return "the scene's own, as a PROJ string or WKT"


def full_turn(crs: CRS) -> float:
    """How many units of a geographic CRS make a full turn: 360 for degrees, 400 for grads."""
    return float(round(2 * np.pi / crs.axis_info[0].unit_conversion_factor, 6))


@lru_cache(maxsize=64)
def period(text: str) -> float | None:
    """What can be added to x in a CRS without leaving the place: a full turn, or the map's width where it is
    cylindrical about the axis of the body; None elsewhere.

    Raises:
        SceneError: as `horizontal_crs`.
    """
    crs = horizontal_crs(text)
    if crs.is_geographic:
        return full_turn(crs)
    operation = crs.coordinate_operation
    method = operation.method_name.lower() if operation else ""
    if not method.startswith("mercator") and not any(word in method for word in _ROUND):
        return None
    # x grows evenly with the longitude; of three places at most one lies at the edge of the map.
    lon = np.array([-120.0, -119.0, 0.0, 1.0, 120.0, 121.0]) * full_turn(parse_crs(geodetic_text(text))) / 360
    x = transformer(geodetic_text(text), text).transform(lon, np.zeros(6))[0]
    return abs(float(np.median(np.diff(x)[::2]))) * 360
