"""Coordinate reference systems: their names, the celestial body they describe, and transformations between them."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pyproj import CRS, Geod, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.exceptions import CRSError, ProjError
from pyproj.transformer import TransformerGroup

from geosod.errors import ConfigError, SceneError

# PROJ warns of better transformations whose grids are not installed. `warnings.catch_warnings` would not do, since
# threads that plan scenes undo each other's.
warnings.filterwarnings("ignore", message="Best transformation is not available", category=UserWarning)

#: Longitude and latitude in degrees on WGS 84, in this order.
LONLAT = "OGC:CRS84"
#: Ellipsoids whose radii differ by a smaller ratio belong to the same body, as in PROJ.
_SAME_BODY = 0.005
#: Equatorial radii in metres (IAU WGCCRE 2015).
_RADII = {
    "the Earth": 6_375_000.0, "the Moon": 1_737_400.0, "Mercury": 2_440_000.0, "Venus": 6_051_800.0,
    "Mars": 3_396_190.0, "Io": 1_829_400.0, "Europa": 1_562_600.0, "Ganymede": 2_631_200.0,
    "Callisto": 2_410_300.0, "Titan": 2_575_150.0, "Pluto": 1_188_300.0, "Ceres": 487_300.0,
}  # fmt: skip
#: Parts of the names of projection methods whose x repeats after a full circle.
_CYLINDRICAL: tuple[str, ...] = ("pseudo mercator", "equidistant cylindrical", "plate carr", "equal area cylindrical")
_CYLINDRICAL += ("cylindrical equal area", "miller cylindrical", "equirectangular", "gall stereographic")


@lru_cache(maxsize=64)
def parse_crs(text: str) -> CRS:
    """The CRS that `text` describes; ConfigError where pyproj does not know it."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise ConfigError(f"CRS {text[:80]!r} is not known to PROJ; give an EPSG code such as EPSG:32633") from error


@lru_cache(maxsize=64)
def crs_name(text: str) -> str:
    """Short name of a CRS in any form that pyproj accepts: "AUTHORITY:CODE", else its name, else its WKT."""
    crs = parse_crs(text)
    return _authority_code(crs) or (crs.name if crs.name not in ("", "unknown") else crs.to_wkt())


def _authority_code(crs: CRS) -> str:
    return ":".join(crs.to_authority(min_confidence=100) or ())


@lru_cache(maxsize=64)
def horizontal_crs(text: str) -> CRS:
    """The two-dimensional part of a CRS; heights do not change the position of a pixel.

    Raises:
        SceneError: there is none: the CRS is vertical, geocentric, or local without a datum.
    """
    crs = parse_crs(text)
    while crs.is_compound:
        crs = crs.sub_crs_list[0]
    crs = crs.to_2d() if len(crs.axis_info) == 3 and not crs.is_geocentric else crs
    if len(crs.axis_info) != 2 or crs.geodetic_crs is None or crs.get_geod() is None:
        raise SceneError(
            f"CRS {crs_name(text)[:80]!r} ({crs.type_name}) gives no position on the ground; assign a geographic or "
            "projected CRS, or none at all to get pixel coordinates"
        )
    return crs


@lru_cache(maxsize=64)
def geodetic_wkt(text: str) -> str:
    """WKT of the geographic CRS that a CRS is based on, with the same datum; SceneError as `horizontal_crs`."""
    crs = horizontal_crs(text)
    geodetic = crs if crs.is_geographic else crs.geodetic_crs
    assert geodetic is not None  # checked by horizontal_crs
    return str((geodetic.to_2d() if len(geodetic.axis_info) == 3 else geodetic).to_wkt())


@lru_cache(maxsize=64)
def ellipsoid(text: str) -> Geod:
    """The ellipsoid of a CRS; SceneError as `horizontal_crs`."""
    geod = horizontal_crs(text).get_geod()
    assert geod is not None  # checked by horizontal_crs
    return geod


@lru_cache(maxsize=64)
def radius(text: str) -> float:
    """Equatorial radius of a CRS's ellipsoid in metres; SceneError as `horizontal_crs`."""
    return float(ellipsoid(text).a)


def same_body(first: str, second: str) -> bool:
    """True where two CRSs have ellipsoids of one size, whatever their datums; SceneError as `horizontal_crs`."""
    return abs(radius(first) / radius(second) - 1) < _SAME_BODY


def body_name(text: str) -> str:
    """The body whose size a CRS's ellipsoid has; SceneError as `horizontal_crs`."""
    size = radius(text)
    names = [name for name, metres in _RADII.items() if abs(size / metres - 1) < _SAME_BODY]
    return names[0] if names else f"a body of {size / 1000:.0f} km radius"


def is_earth(text: str) -> bool:
    """True for a CRS of the Earth; SceneError as `horizontal_crs`."""
    return body_name(text) == "the Earth"


@lru_cache(maxsize=64)
def transformer(source: str, target: str, near: tuple[float, float] | None = None) -> Transformer:
    """The transformation between two CRSs, easting or longitude first at both ends.

    Args:
        source, target: the CRSs.
        near: longitude and latitude in degrees. PROJ often knows several transformations between two datums, each
            for one country, and chooses for each point. With `near`, the best one at that position is used for all
            points, so that objects at the border of two countries stay intact.

    Raises:
        SceneError: the CRSs belong to different bodies, one gives no position on the ground, or PROJ knows no
            transformation.
    """
    start, end = horizontal_crs(source), horizontal_crs(target)
    if not same_body(source, target):
        here, there = body_name(source), body_name(target)
        raise SceneError(
            f"{crs_name(source)[:80]!r} is a CRS of {here}, but {crs_name(target)[:80]!r} is one of {there}; "
            f"give --crs a CRS of {here}, such as {_example(source)}"
        )
    try:
        best = _best_transformer(source, target, near) if near is not None else None
        return best or Transformer.from_crs(start, end, always_xy=True)
    except (ProjError, IndexError) as error:  # a group without members is an IndexError
        reason = str(error).splitlines()[0][:200]
        raise SceneError(
            f"CRS {crs_name(source)[:80]!r} cannot be transformed to {crs_name(target)[:80]!r} ({reason}); "
            "assign another CRS to the scene, or none at all to get pixel coordinates"
        ) from error


def _best_transformer(source: str, target: str, near: tuple[float, float]) -> Transformer | None:
    """The best transformation at a position, or None."""
    only = _only_transformer(source, target)
    if only is not None:
        return only
    (lon, lat), reach = near, 0.01
    south, north = max(lat - reach, -90.0), min(lat + reach, 90.0)
    area = AreaOfInterest(max(lon - reach, -180.0), south, min(lon + reach, 180.0), north)
    fallback = None
    for around in (area, None):
        known = _known_transformers(source, target, around).transformers
        # Ballpark transformations ignore the change of datum; they are the last resort, even if made for the area.
        exact = [one for one in known if "allpark" not in one.description]
        if exact:
            return _shared(exact[0])
        fallback = fallback or (known[0] if known else None)
    return None if fallback is None else _shared(fallback)


@lru_cache(maxsize=64)
def _only_transformer(source: str, target: str) -> Transformer | None:
    """The transformation between two CRSs if PROJ knows just one; else None.

    Searching for one around a position takes PROJ a second where it finds none.
    """
    group = _known_transformers(source, target, None)
    only = len(group.transformers) == 1 and not group.unavailable_operations
    return _shared(group.transformers[0]) if only else None


def _known_transformers(source: str, target: str, around: AreaOfInterest | None) -> TransformerGroup:
    start, end = horizontal_crs(source), horizontal_crs(target)
    return TransformerGroup(start, end, always_xy=True, area_of_interest=around)  # type: ignore[arg-type]


def _shared(member: Transformer) -> Transformer:
    """The same transformation for use in several threads, which would crash with the members of a group."""
    return Transformer.from_pipeline(member.definition)


def _example(text: str) -> str:
    """A CRS of the same body that fits on a command line."""
    codes = (_authority_code(parse_crs(text)), _authority_code(parse_crs(geodetic_wkt(text))))
    return codes[0] or codes[1] or "the scene's own, as a PROJ string or WKT"


def full_circle(crs: CRS) -> float:
    """Units of a geographic CRS in a full circle: 360 for degrees, 400 for grads."""
    return float(round(2 * np.pi / crs.axis_info[0].unit_conversion_factor, 6))


class Geodetic(NamedTuple):
    """How to get from a CRS to the geographic CRS with its datum.

    Attributes:
        degrees: a unit of the geographic CRS in degrees.
        metres: a unit of the CRS in metres, or in radians.
        pole: latitude of a pole in units of a geographic CRS; None for another CRS.
        transformer: to the geographic CRS; None where the CRS is that.
    """

    degrees: float
    metres: float
    pole: float | None
    transformer: Transformer | None


@lru_cache(maxsize=64)
def geodetic(text: str) -> Geodetic:
    """Kept, since asking pyproj takes longer than to transform a few points; raises as `transformer`."""
    crs, base = horizontal_crs(text), horizontal_crs(geodetic_wkt(text))
    metres = float(crs.axis_info[0].unit_conversion_factor)
    if crs.is_geographic:
        return Geodetic(360 / full_circle(base), metres, full_circle(crs) / 4, None)
    return Geodetic(360 / full_circle(base), metres, None, transformer(text, geodetic_wkt(text)))


@lru_cache(maxsize=64)
def period(text: str) -> float | None:
    """The distance in x after which positions of a CRS repeat: a full circle, or the width of a cylindrical map.

    In units of the CRS; None where x does not repeat. SceneError as `horizontal_crs`.
    """
    crs = horizontal_crs(text)
    if crs.is_geographic:
        return full_circle(crs)
    operation = crs.coordinate_operation
    method = operation.method_name.lower() if operation else ""
    if not method.startswith("mercator") and not any(word in method for word in _CYLINDRICAL):
        return None
    # x is linear in the longitude; at most one of three samples straddles the edge of the map.
    lon = np.array([-120.0, -119.0, 0.0, 1.0, 120.0, 121.0]) * full_circle(parse_crs(geodetic_wkt(text))) / 360
    x = transformer(geodetic_wkt(text), text).transform(lon, np.zeros(6))[0]
    return abs(float(np.median(np.diff(x)[::2]))) * 360
