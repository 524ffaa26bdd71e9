"""Objects with ground coordinates in the frame of a scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import SceneError
from geosod.georeference.crs import body_name, full_circle, horizontal_crs, period, same_body
from geosod.georeference.points import crs_to_pixel, georeferenced, pixel_to_crs, transformer_to
from geosod.georeference.polygons import footprint
from geosod.scene import Scene

Geometries = npt.NDArray[np.object_]

#: Objects are searched this far around a scene, as a ratio of its extent.
_MARGIN = 0.02


def geometries_in_scene(
    geometries: Geometries, tree: shapely.STRtree, crs: str, scene: Scene
) -> tuple[Geometries, IntArray]:
    """Geometries near a scene, vertex by vertex in the scene frame.

    Args:
        geometries: (N,) shapely geometries, finite and without heights.
        tree: an index of them.
        crs: their CRS; x is easting or longitude.
        scene: a georeferenced scene.

    Returns:
        (M,) geometries in pixels, which may lie outside the scene, and (M,) int64, the index of each.

    Raises:
        SceneError: the scene has no georeference, or lies on another body than the geometries.
    """
    if scene.crs is None or not georeferenced(scene):
        raise SceneError(
            f"{scene.ref.uri}: has no georeference, so objects with ground coordinates cannot be placed in it"
        )
    if not same_body(crs, scene.crs):
        there, here = body_name(crs), body_name(scene.crs)
        raise SceneError(f"{scene.ref.uri}: is on {here}, the labels on {there}; give labels in a CRS of {here}")
    near = _near(tree, len(geometries), crs, scene)
    chosen = geometries[near]
    x, y = shapely.get_coordinates(chosen).T
    native = np.stack(transformer_to(scene, crs).transform(x, y, direction="INVERSE"), axis=1)
    native[~np.isfinite(native).all(axis=1)] = np.nan
    if (step := period(scene.crs)) is not None:
        middle = pixel_to_crs(scene, [[scene.width / 2, scene.height / 2]])[0][0, 0]
        native[:, 0] -= step * np.rint((native[:, 0] - middle) / step)
    pixels = crs_to_pixel(scene, native)
    counts = shapely.get_num_coordinates(chosen)
    lost: BoolArray = np.asarray(~np.isfinite(pixels).all(axis=1))
    owner = np.repeat(np.arange(len(chosen)), counts)
    placed = np.bincount(owner[lost], minlength=len(chosen)) == 0
    moved = shapely.set_coordinates(chosen.copy(), np.where(lost[:, None], 0.0, pixels))
    return np.asarray(moved, object)[placed], near[placed]


def _near(tree: shapely.STRtree, count: int, crs: str, scene: Scene) -> IntArray:
    """Indices of the geometries whose bounds are near a scene, ascending."""
    try:
        outline = footprint(scene, crs)
    except SceneError:
        # The scene is larger than the valid area of the CRS.
        return np.arange(count)
    x0, y0, x1, y1 = shapely.bounds(shapely.get_parts(outline)).T
    margin = _MARGIN * np.maximum(x1 - x0, y1 - y0)
    target = horizontal_crs(crs)
    # Longitudes of files may continue beyond 180.
    circle = full_circle(target) if target.is_geographic else 0.0
    shifts = (-circle, 0.0, circle) if circle else (0.0,)
    around = [shapely.box(x0 - margin + s, y0 - margin, x1 + margin + s, y1 + margin) for s in shifts]
    return np.unique(tree.query(np.concatenate(around))[1]).astype(np.int64)


def visible_boxes(geometries: Geometries, scene: Scene) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What a scene shows of areas in its frame.

    Args:
        geometries: (N,) polygons in pixels.
        scene: the scene.

    Returns:
        (N, 4) float64 boxes around the visible part, NaN where nothing is visible; (N,) float64 area of that part in
        square pixels; (N,) float64 its share of the whole.
    """
    frame = shapely.box(0, 0, scene.width, scene.height)
    shapely.prepare(frame)
    whole = shapely.area(geometries)
    inside = shapely.contains(frame, geometries)
    visible = np.array(geometries, object)
    visible[~inside] = shapely.intersection(geometries[~inside], frame)
    area = shapely.area(visible)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(whole > 0, area / whole, 0.0)
    boxes: Any = shapely.bounds(visible)
    return np.asarray(boxes, np.float64).reshape(-1, 4), area, share
