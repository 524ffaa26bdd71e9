"""Small pictures of scenes, and the meshes that put them on the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray
from geosod.deduplication.sources import SceneSource
from geosod.errors import SceneError, one_line
from geosod.georeference.points import georeferenced, pixel_to_crs, pixel_to_lonlat, transformer_to
from geosod.map_page.plane import SceneFrame
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_files, open_scene, page_of
from geosod.scenes.sources import find_scenes
from geosod.scenes.visible import read_visible, visible_files
from geosod.viewing.webp import webp_bytes

_Mesh = tuple[FloatArray, FloatArray, npt.NDArray[np.uint16]]
#: Cells of a mesh along each side: the map bends straight rows of pixels.
_CELLS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Backdrop:
    """A picture of a scene on the map.

    Attributes:
        webp: the picture, transparent where pixels are invalid.
        positions: (V, 2) vertices on the map.
        texture: (V, 2) where they lie in the picture, 0 to 1 from its top-left corner.
        triangles: (T, 3) indices of vertices.
    """

    webp: bytes
    positions: FloatArray
    texture: FloatArray
    triangles: npt.NDArray[np.uint16]


def draw_backdrop(source: SceneSource, frame: SceneFrame, max_side: int) -> Backdrop:
    """Read the overview of a scene.

    Args:
        source: the scene.
        frame: where it lies on the map.
        max_side: longest side of the picture in pixels.

    Raises:
        GeosodError: it cannot be read any more, or is another one than the scene that was detected.
    """
    scene = _opened(source)
    return Backdrop(webp_bytes(read_visible(scene, max_side)), *_mesh(scene, source, frame))


def _opened(source: SceneSource) -> Scene:
    """The scene, as it was opened for detection; SceneError where it is not there or has another size now."""
    options = dict(source.metadata.get("options") or {})
    uri = str(source.metadata.get("source") or source.uri)
    if uri == "-" or uri.startswith("@"):
        raise SceneError(f"{uri}: names a list of scenes, not one")
    refs, failures = find_scenes([uri], asset=options.get("asset"), bands=options.get("bands"))
    if len(refs) != 1:
        raise SceneError(failures[0].message if failures else f"{uri}: is {len(refs)} scenes now")
    scene = _open(refs[0], options)
    was, now = (source.metadata.get("width"), source.metadata.get("height")), (scene.width, scene.height)
    if None not in was and was != now:
        raise SceneError(f"{uri}: is another scene now, of {now[0]} x {now[1]} pixels instead of {was[0]} x {was[1]}")
    return scene


def _open(ref: SceneRef, options: dict[str, Any]) -> Scene:
    how: dict[str, Any] = {
        "rpc_height": options.get("rpc_height"),
        "dem": options.get("dem"),
        "alpha": options.get("alpha") or "auto",
    }
    if ref.files:
        return open_files(ref, visible_files(ref), **how)
    page = options.get("page") or 1
    return open_scene(ref if page == 1 else page_of(ref, page), **how)


def _mesh(
    scene: Scene, source: SceneSource, frame: SceneFrame
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.uint16]]:
    """Vertices on the map, in the picture, and the triangles between those that have a place on the ground."""
    u, v = np.meshgrid(np.linspace(0, 1, _CELLS + 1), np.linspace(0, 1, _CELLS + 1))
    texture = np.stack([u.ravel(), v.ravel()], axis=1)
    pixels = texture * (scene.width, scene.height)
    if frame.plane.crs is None:
        scale = np.array(source.metadata.get("scale") or (1.0, 1.0), np.float64)
        xy = frame.place(pixels * scale, None)
    elif georeferenced(scene):
        native, _ = pixel_to_crs(scene, pixels)
        xy = np.stack(transformer_to(scene, frame.plane.crs).transform(*native.T), axis=1)
        xy[~np.isfinite(pixel_to_lonlat(scene, pixels)).all(axis=1)] = np.nan
    else:
        raise SceneError(f"{scene.ref.uri}: has no georeference any more")
    seen = np.asarray(np.isfinite(xy).all(axis=1), np.bool_)
    xy = frame.joined(np.nan_to_num(xy, posinf=0, neginf=0))
    row = np.arange(_CELLS)[:, None] * (_CELLS + 1) + np.arange(_CELLS)
    a, b, c, d = (row + k for k in (0, 1, _CELLS + 1, _CELLS + 2))
    triangles = np.stack([a, c, b, b, c, d], axis=-1).reshape(-1, 3)
    triangles = triangles[seen[triangles].all(axis=1)]
    if not len(triangles):
        raise SceneError(f"{scene.ref.uri}: its pixels have no place on the map")
    return xy, texture, triangles.astype(np.uint16)


def drawn(source: SceneSource, frame: SceneFrame, max_side: int) -> tuple[Backdrop | None, str]:
    """As `draw_backdrop`, or None and why there is none."""
    try:
        return draw_backdrop(source, frame, max_side), ""
    except Exception as error:  # whatever is wrong with a picture, the page can do without
        return None, one_line(error)[:300]
