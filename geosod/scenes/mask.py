"""Ground that a user wants left out: clouds, land, sea; polygons or a raster, in any CRS."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.features import shapes
from rasterio.windows import Window as GdalWindow
from shapely.geometry.base import BaseGeometry

from geosod.arrays import BoolArray
from geosod.errors import ConfigError, SceneError
from geosod.georeference.polygons import footprint, georeferenced, to_ground
from geosod.scene import Scene, SceneRef
from geosod.scenes.aoi import Aoi, load_aoi, polygons_in_scene
from geosod.scenes.open import open_scene, opened
from geosod.storage.uris import SUFFIXES, suffix

#: A raster mask is read whole where it lies on a scene; one of more pixels there is refused.
MAX_PIXELS = 1 << 28
#: Pieces of a raster mask on one scene.
MAX_OUTLINES = 100_000


@dataclass(frozen=True, slots=True)
class Mask:
    """What is left out.

    Attributes:
        kind: what it is, such as "cloud"; coverage gives it as the reason.
        path: a vector file, or a raster of codes; ``{id}`` in it stands for the scene's identifier.
        values: the codes that are masked; None for all but 0 and nodata. Not used for a vector file.
        invert: leave out what the mask does *not* cover.
    """

    kind: str
    path: str
    values: tuple[float, ...] | None = None
    invert: bool = False


def mask_in_scene(mask: Mask, scene: Scene) -> BaseGeometry:
    """The masked part of a scene, as polygons in the scene frame; empty where nothing is masked.

    Raises:
        ConfigError: a vector file cannot be read.
        SceneError: a raster cannot be read or misses the scene, or the two cannot be laid on each other.
    """
    path = mask.path.replace("{id}", scene.id)
    raster = suffix(path) in SUFFIXES
    if mask.values is not None and not raster:
        raise ConfigError(f"mask {path}: is a vector file, which has no codes; leave {mask.values} out")
    covered = _raster(mask, path, scene) if raster else _polygons(path, scene)
    frame = shapely.box(0, 0, scene.width, scene.height)
    return shapely.difference(frame, covered) if mask.invert else covered


def _polygons(path: str, scene: Scene) -> BaseGeometry:
    """Those of a vector file; one without any masks nothing, as a scene without clouds has it."""
    aoi = _vector(path, _stamp(path))
    return aoi.geometry if aoi.geometry.is_empty else polygons_in_scene(aoi, scene)


def _stamp(path: str) -> tuple[int, int] | None:
    """Changes when a local file does."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _vector(path: str, stamp: tuple[int, int] | None) -> Aoi:  # noqa: ARG001
    return load_aoi(path, what="mask", empty=True)


def _raster(mask: Mask, path: str, scene: Scene) -> BaseGeometry:
    codes = open_scene(SceneRef(path, "mask"))
    if georeferenced(codes) != georeferenced(scene):
        raise SceneError(f"{scene.ref.uri}: the mask {path} and the scene must both have a georeference, or neither")
    if not georeferenced(scene):
        masked = _masked(mask, codes, GdalWindow(0, 0, codes.width, codes.height))
        return _outlines(masked, Affine.scale(scene.width / codes.width, scene.height / codes.height), path)
    if codes.transform is None or codes.crs is None:
        raise SceneError(f"{path}: has no geotransform, so it cannot serve as a mask; warp it first (gdalwarp)")
    window = _window(codes, footprint(scene, codes.crs), path, scene)
    masked = _masked(mask, codes, window)
    outlines = _outlines(masked, codes.transform @ Affine.translation(window.col_off, window.row_off), path)
    return outlines if outlines.is_empty else polygons_in_scene(Aoi(outlines, codes.crs), scene)


def _window(codes: Scene, outline: BaseGeometry, path: str, scene: Scene) -> GdalWindow:
    """The pixels of the mask on which the scene lies."""
    assert codes.transform is not None
    x, y = to_ground(~codes.transform, shapely.get_coordinates(outline)).T
    left, right = (int(np.clip(v, 0, codes.width)) for v in (np.floor(x.min()) - 1, np.ceil(x.max()) + 1))
    top, bottom = (int(np.clip(v, 0, codes.height)) for v in (np.floor(y.min()) - 1, np.ceil(y.max()) + 1))
    if right <= left or bottom <= top:
        raise SceneError(f"{scene.ref.uri}: the mask {path} misses this scene; check its CRS and place")
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
        # Not through a view: of a palette, the codes are wanted and not the colours.
        with opened(codes.ref) as dataset:
            values, nodata = dataset.read(1, window=window), dataset.nodatavals[0]
    except RasterioError as error:
        line = " ".join(str(error.__cause__ or error).split())
        raise SceneError(f"{codes.ref.uri}: this mask cannot be read: {line}") from error
    if mask.values is not None:
        return np.isin(values, mask.values)
    empty = np.zeros(values.shape, np.bool_) if nodata is None else values == nodata
    return np.asarray((values != 0) & ~empty & ~np.isnan(values.astype(np.float32)), np.bool_)


def _outlines(masked: BoolArray, transform: Affine, path: str) -> BaseGeometry:
    found: Any = shapes(masked.astype(np.uint8), mask=masked, transform=transform)
    polygons: list[Any] = [shapely.geometry.shape(outline) for outline, _ in islice(found, MAX_OUTLINES + 1)]
    if len(polygons) > MAX_OUTLINES:
        raise SceneError(
            f"{path}: this mask is in over {MAX_OUTLINES:,} pieces on one scene; take out the specks (gdal_sieve), or "
            "make it coarser (gdalwarp -tr)"
        )
    # They share corners at most, which a MultiPolygon may, so there is nothing to dissolve.
    return shapely.MultiPolygon(polygons)
