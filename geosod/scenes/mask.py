"""Which parts of a scene are masked by request: clouds, land, sea; by polygons or a raster, in any CRS."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.windows import Window as GdalWindow
from shapely.geometry.base import BaseGeometry

from geosod.arrays import BoolArray, FloatArray
from geosod.errors import ConfigError, SceneError
from geosod.georeference.outlines import code_outlines
from geosod.georeference.points import apply_affine, georeferenced
from geosod.georeference.polygons import footprint
from geosod.scene import Scene, SceneRef
from geosod.scenes.aoi import Aoi, load_aoi, polygons_in_scene, split_layer
from geosod.scenes.open import open_scene, opened
from geosod.storage.files import file_stamp
from geosod.storage.uris import LOCAL_SUFFIXES, suffix

#: Maximum number of pixels of a raster mask on one scene; they are read at once.
MAX_PIXELS = 1 << 28
#: Maximum number of polygons of a raster mask on one scene.
MAX_OUTLINES = 100_000


@dataclass(frozen=True, slots=True)
class Mask:
    """Ground to leave out.

    Attributes:
        kind: what is masked, such as "cloud"; coverage gives it as the reason.
        path: a vector file, ``FILE:LAYER`` for one of its layers, or a raster of codes; ``{id}`` in it is replaced by
            the scene's identifier.
        values: the masked codes; None for all but 0 and nodata. Not allowed for a vector file.
        invert: mask everything that the file does *not* cover.
    """

    kind: str
    path: str
    values: tuple[float, ...] | None = None
    invert: bool = False


def mask_in_scene(mask: Mask, scene: Scene) -> BaseGeometry:
    """The masked part of a scene, as polygons in the scene frame; may be empty.

    A mask that lies elsewhere masks nothing, and inverted everything.

    ConfigError where a vector file cannot be read; SceneError where a raster cannot be read, or only one of the two is
    georeferenced.
    """
    path = mask.path.replace("{id}", scene.id)
    file, layer = split_layer(path)
    raster = suffix(file) in LOCAL_SUFFIXES
    if mask.values is not None and not raster:
        raise ConfigError(f"mask {path}: is a vector file, which has no codes; remove {mask.values}")
    if raster and layer is not None:
        raise ConfigError(f"mask {path}: {layer!r} is no list of codes; write {file}:3,8,9 for the codes of a raster")
    covered = _raster(mask, path, scene) if raster else _vector(file, layer, scene)
    frame = shapely.box(0, 0, scene.width, scene.height)
    return shapely.difference(frame, covered) if mask.invert else covered


def _vector(path: str, layer: str | None, scene: Scene) -> BaseGeometry:
    """The polygons of a vector file; a file without polygons, as of a scene without clouds, masks nothing."""
    aoi = _load(path, layer, file_stamp(path))
    return aoi.geometry if aoi.geometry.is_empty else polygons_in_scene(aoi, scene)


@lru_cache(maxsize=8)
def _load(path: str, layer: str | None, stamp: tuple[int, int] | None) -> Aoi:  # noqa: ARG001
    return load_aoi(path, layer, what="mask", empty=True)


def _raster(mask: Mask, path: str, scene: Scene) -> BaseGeometry:
    codes = open_scene(SceneRef(path, "mask"))
    if georeferenced(codes) != georeferenced(scene):
        raise SceneError(f"{scene.ref.uri}: the mask {path} and the scene must both have a georeference, or neither")
    if not georeferenced(scene):
        masked = _masked(mask, codes, GdalWindow(0, 0, codes.width, codes.height))
        return _outlines(masked, Affine.scale(scene.width / codes.width, scene.height / codes.height), path)
    if codes.transform is None or codes.crs is None:
        raise SceneError(f"{path}: has no geotransform, so it cannot be a mask; warp it first (gdalwarp)")
    vertices = shapely.get_coordinates(footprint(scene, codes.crs))
    window = _window(codes, apply_affine(~codes.transform, vertices), path, scene)
    if window is None:
        return shapely.MultiPolygon()
    masked = _masked(mask, codes, window)
    outlines = _outlines(masked, codes.transform @ Affine.translation(window.col_off, window.row_off), path)
    return outlines if outlines.is_empty else polygons_in_scene(Aoi(outlines, codes.crs), scene)


def _window(codes: Scene, xy: FloatArray, path: str, scene: Scene) -> GdalWindow | None:
    """The pixels of the mask around the vertices of the scene's footprint, with a margin of one; None outside it."""
    low, high = np.floor(xy.min(axis=0)) - 1, np.ceil(xy.max(axis=0)) + 1
    size = (codes.width, codes.height)
    (left, top), (right, bottom) = (
        np.clip(low, 0, size).astype(int).tolist(),
        np.clip(high, 0, size).astype(int).tolist(),
    )
    if right <= left or bottom <= top:
        return None
    pixels = (right - left) * (bottom - top)
    if pixels > MAX_PIXELS:
        raise SceneError(
            f"{scene.ref.uri}: the mask {path} has {pixels / 1e6:.0f} million pixels here, over "
            f"{MAX_PIXELS / 1e6:.0f}; make it coarser (gdalwarp -tr), or give polygons"
        )
    return GdalWindow(left, top, right - left, bottom - top)


def _masked(mask: Mask, codes: Scene, window: GdalWindow) -> BoolArray:
    """(h, w) bool: the masked pixels of the raster's first band."""
    try:
        # Without a view, since the codes of a palette are needed and not its colours.
        with opened(codes.ref) as dataset:
            values = dataset.read(1, window=window)
            valid = dataset.read_masks(1, window=window) != 0
    except RasterioError as error:
        line = " ".join(str(error.__cause__ or error).split())
        raise SceneError(f"{codes.ref.uri}: this mask cannot be read: {line}") from error
    if mask.values is not None:
        # As the file has them: 0.1 is another number in a float32 than in a float64.
        listed = np.array(mask.values, values.dtype if values.dtype.kind == "f" else np.float64)
        return np.asarray(np.isin(values, listed) & valid)
    return np.asarray((values != 0) & valid & ~np.isnan(values.astype(np.float32)), np.bool_)


def _outlines(masked: BoolArray, transform: Affine, path: str) -> BaseGeometry:
    polygons, _ = code_outlines(masked.astype(np.uint8), mask=masked, transform=transform, limit=MAX_OUTLINES + 1)
    if len(polygons) > MAX_OUTLINES:
        raise SceneError(
            f"{path}: this mask has over {MAX_OUTLINES:,} polygons on one scene; remove specks (gdal_sieve), or make "
            "it coarser (gdalwarp -tr)"
        )
    # They touch in corners at most, which a MultiPolygon allows, so there is nothing to dissolve.
    return shapely.MultiPolygon(list(polygons))
