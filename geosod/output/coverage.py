"""Which ground was inspected, as polygons: it distinguishes "nothing found" from "not inspected"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from geosod.georeference.antimeridian import oriented
from geosod.georeference.outlines import code_outlines, polygon_parts
from geosod.georeference.points import georeferenced
from geosod.georeference.polygons import clip_to_ground, ground_geometries
from geosod.georeference.sizes import equal_area
from geosod.output.geoparquet import BBOX_TYPE, geometry_columns
from geosod.results import FAILED, INSPECTED, NODATA, UNSEEN, Coverage, Status
from geosod.scene import Scene

#: The columns of a coverage file, in order.
COVERAGE_SCHEMA = pa.schema(
    [
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field("bbox", BBOX_TYPE, nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("area_km2", pa.float64()),
        pa.field("scene_id", pa.string(), nullable=False),
    ]
)

#: Status and reason of each code in the output; the first four codes are those of `Coverage`.
#: The code of the k-th mask is _MASKED + k.
_OUTSIDE, _MASKED = 4, 5
_MEANING: dict[int, tuple[Status, str | None]] = {
    INSPECTED: ("inspected", None),
    NODATA: ("nodata", "every pixel is nodata"),
    FAILED: ("failed", "reading or detection failed; see the failures file"),
    UNSEEN: ("failed", "no tile reached it"),
    _OUTSIDE: ("outside_aoi", "outside the area of interest"),
}
#: Added to the reason of polygons that lack pixels, since these lie off the Earth or have no known height.
_NO_PLACE = "pixels here that have no place on the ground are left out"
#: Polygons smaller than this, in square pixels, are rounding errors of an intersection and are dropped.
_CRUMB = 1e-6

Parts = tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]


def _cells(scene: Scene, coverage: Coverage) -> Parts:
    """Regions of equal code over the whole scene, clipped to it; polygons in the scene frame and codes."""
    whole = Coverage.of_window(scene.window, coverage.cell)
    whole.update(coverage)
    polygons, codes = code_outlines(whole.codes)
    limit = np.array([scene.width, scene.height], np.float64)
    return np.asarray(shapely.transform(polygons, lambda xy: np.minimum(xy * coverage.cell, limit)), object), codes


def _exploded(geometries: Any, codes: npt.NDArray[np.uint8]) -> Parts:
    """All polygons in geometries of any type, each with its code."""
    parts, origin = polygon_parts(geometries, min_area=_CRUMB)
    return parts, codes[origin]


def _cut(parts: Parts, region: Any) -> tuple[Parts, Parts]:
    """The parts of polygons inside a region, and those outside it."""
    polygons, codes = parts
    shapely.prepare(region)
    inside = shapely.contains_properly(region, polygons)
    outside = shapely.disjoint(region, polygons)
    border = ~inside & ~outside
    on_border, their = polygons[border], codes[border]
    into = _exploded(shapely.intersection(on_border, region), their)
    out_of = _exploded(shapely.difference(on_border, region), their)
    return _joined((polygons[inside], codes[inside]), into), _joined((polygons[outside], codes[outside]), out_of)


def _joined(first: Parts, second: Parts) -> Parts:
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])


def _region(scene: Scene, geometry: Any) -> Any:
    return shapely.intersection(shapely.make_valid(geometry), shapely.box(0, 0, scene.width, scene.height))


def _coded(region: Any, code: int) -> Parts:
    return _exploded([region], np.array([code], np.uint8))


def _partition(scene: Scene, coverage: Coverage, aoi: Any, masks: Iterable[Any]) -> Parts:
    """Polygons that partition the scene among the statuses."""
    parts = _cells(scene, coverage)
    rest: Parts = (np.empty(0, object), np.empty(0, np.uint8))
    if aoi is not None:
        region = _region(scene, aoi)
        parts, _ = _cut(parts, region)
        frame = shapely.box(0, 0, scene.width, scene.height)
        rest = _coded(shapely.difference(frame, region), _OUTSIDE)
    for k, mask in enumerate(masks):
        # Ground under two masks is reported as the first one.
        masked, parts = _cut(parts, _region(scene, mask))
        rest = _joined(rest, _coded(shapely.union_all(masked[0]), _MASKED + k))
    return _joined(parts, rest)


def coverage_table(
    scene: Scene, coverage: Coverage, *, crs: str, aoi: Any = None, masks: Mapping[str, Any] | None = None
) -> pa.Table:
    """The coverage of a scene as a table with `COVERAGE_SCHEMA`.

    The polygons partition the scene's rectangle, except for pixels without a position on the ground; polygons that
    lack such pixels state so in their reason. Connected cells of one code are one row. Ground that no tile reached is
    "failed", with that reason, unless it is outside the area of interest or masked.

    Args:
        scene: the scene.
        coverage: its grid; cells outside the grid are unseen.
        crs: CRS of the geometries; those of a pixel scene stay in the scene frame.
        aoi: polygons of the area of interest, scene frame; None: the whole scene.
        masks: polygons excluded by request, scene frame, by their kind, such as "cloud".

    Returns:
        One row per polygon, ordered by status; ``area_km2`` is the area on the ellipsoid (null for a pixel scene).

    Raises:
        SceneError: the scene cannot be transformed to `crs`.
    """
    polygons, codes = _partition(scene, coverage, aoi, (masks or {}).values())
    order = np.argsort(codes, kind="stable")
    polygons, codes = polygons[order], codes[order]
    area, smaller = None, np.zeros(len(codes), np.bool_)
    if georeferenced(scene):
        dense, origin = clip_to_ground(scene, polygons)
        codes, smaller = codes[origin], shapely.area(dense) < shapely.area(polygons[origin]) - _CRUMB
        flat = shapely.transform(dense, lambda xy: equal_area(scene, xy))
        area = shapely.area(flat) / 1e6
        polygons = ground_geometries(scene, dense, crs)
    else:
        polygons = oriented(polygons)
    geometry, bbox = geometry_columns(polygons)
    n = len(codes)
    meanings = [_MEANING[code] for code in range(len(_MEANING))]
    meanings += [("masked", kind) for kind in masks or {}]
    status, reason = (pa.array([meanings[k][i] for k in codes.tolist()], pa.string()) for i in range(2))
    if smaller.any():
        noted = pc.coalesce(pc.binary_join_element_wise(reason, _NO_PLACE, "; "), _NO_PLACE)
        reason = pc.if_else(pa.array(smaller), noted, reason)
    columns = {
        "geometry": geometry,
        "bbox": bbox,
        "status": status,
        "reason": reason,
        "area_km2": pa.nulls(n, pa.float64()) if area is None else pa.array(area, pa.float64()),
        "scene_id": pa.repeat(pa.scalar(scene.id, pa.string()), n),
    }
    return pa.Table.from_arrays([columns[name] for name in COVERAGE_SCHEMA.names], schema=COVERAGE_SCHEMA)


def area_km2(table: pa.Table, status: Status = "inspected") -> float | None:
    """Square kilometres of one status in a coverage table; None for a pixel scene."""
    if table["area_km2"].null_count:
        return None
    chosen = table["area_km2"].filter(pc.equal(table["status"], status))
    return float(pc.sum(chosen).as_py() or 0.0)
