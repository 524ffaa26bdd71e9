"""Ground that a user wants left out: clouds, land, sea; polygons or a raster, in any CRS."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.features import shapes
from rasterio.windows import Window as GdalWindow
from shapely.geometry.base import BaseGeometry

from geosod.errors import SceneError
from geosod.scenes.aoi import Aoi, load_aoi, polygons_in_scene
from geosod.scenes.locate import footprint, georeferenced, to_ground
from geosod.scenes.open import open_scene, opened
from geosod.scenes.sources import SUFFIXES
from geosod.types import BoolArray, Scene, SceneRef

#: A raster mask is read whole where it lies on a scene; one of more pixels there is refused.
MAX_PIXELS = 1 << 28


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
    raster = Path(path.partition("?")[0]).suffix.lower() in SUFFIXES
    covered = _raster(mask, path, scene) if raster else polygons_in_scene(_vector(path), scene)
    frame = shapely.box(0, 0, scene.width, scene.height)
    return shapely.difference(frame, covered) if mask.invert else covered


@lru_cache(maxsize=8)
def _vector(path: str) -> Aoi:
    return load_aoi(path, what="mask")


def _raster(mask: Mask, path: str, scene: Scene) -> BaseGeometry:
    codes = open_scene(SceneRef(path, "mask"))
    if georeferenced(codes) != georeferenced(scene):
        raise SceneError(f"{scene.ref.uri}: the mask {path} and the scene must both have a georeference, or neither")
    if not georeferenced(scene):
        masked = _masked(mask, codes, GdalWindow(0, 0, codes.width, codes.height))
        return _outlines(masked, Affine.scale(scene.width / codes.width, scene.height / codes.height))
    if codes.transform is None or codes.crs is None:
        raise SceneError(f"{path}: has no geotransform, so it cannot serve as a mask; warp it first (gdalwarp)")
    window = _window(codes, footprint(scene, codes.crs), path, scene)
    masked = _masked(mask, codes, window)
    outlines = _outlines(masked, codes.transform @ Affine.translation(window.col_off, window.row_off))
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


def _outlines(masked: BoolArray, transform: Affine) -> BaseGeometry:
    found: Any = shapes(masked.astype(np.uint8), mask=masked, transform=transform)
    return shapely.union_all([shapely.geometry.shape(outline) for outline, _ in found])
