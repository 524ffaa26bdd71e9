"""Which pixels of a file are valid: nodata values, masks, alpha bands, and the ground that a mosaic's sources cover.

A pixel is invalid where the file's mask, or else its nodata value, says so, or its alpha band, or a gap of its mosaic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask
from rasterio.windows import Window as GdalWindow

from geosod.arrays import BoolArray, PixelArray
from geosod.scene import Scene
from geosod.scenes.sampling import patches

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

#: Side in pixels of the overview in which an alpha band is judged; without overviews, of each patch of a 4 x 4 lattice.
_SIDE, _PATCHES, _PATCH = 512, 4, 128
#: An alpha band holds one value on at least this share of the pixels that it does not hide.
_OPAQUE = 0.5
#: GDAL takes numbers for equal that differ by less than this share of their sum, whatever their type.
_EPSILON = 2 * np.finfo(np.float32).eps
#: Integers beyond this are not exact in the float in which nodata values are given.
_EXACT = 2**53


def valid_pixels(
    dataset: Any, scene: Scene, bands: tuple[int, ...], options: Mapping[str, Any], out: PixelArray | None = None
) -> tuple[PixelArray, BoolArray]:
    """Pixels (C, h, w) in the scene's dtype and validity (h, w); invalid pixels are set to 0.

    Args:
        dataset: an open rasterio dataset of the scene.
        scene: the scene.
        bands: 1-based bands.
        options: ``window`` or ``out_shape`` and others of rasterio's `read`.
        out: an array for the pixels, which need not be contiguous; None makes one.

    Raises:
        RasterioError: GDAL cannot read it.
    """
    if scene.alpha is not None and scene.alpha not in bands:
        stack = dataset.read([*bands, scene.alpha], **options)
        pixels, valid = stack[:-1], stack[-1] != 0
        if out is not None:
            out[:] = pixels
            pixels = out
    else:
        pixels = dataset.read(list(bands), out=out, **options)
        valid = np.ones(pixels.shape[1:], np.bool_)
    declared = [scene.masks[band - 1] or scene.nodata[band - 1] is not None for band in bands]
    # A pixel is valid where any band is, as in GDAL, so nodata and masks matter only where every band has one.
    if all(declared) and _share_mask(dataset, scene, bands):
        valid &= dataset.read_masks([bands[0]], **options)[0] != 0
    elif all(declared):
        masked = any(scene.masks[band - 1] for band in bands)
        masks = dataset.read_masks(list(bands), **options) != 0 if masked else None
        valid &= _any_valid(pixels, masks, [(scene.nodata[band - 1], scene.masks[band - 1]) for band in bands])
    if scene.gaps is not None:
        valid &= ~_in_gaps(scene, scene.gaps, options.get("window"), valid.shape)
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
    if not valid.all():
        np.copyto(pixels, 0, where=~valid)
    return pixels, valid


def _share_mask(dataset: Any, scene: Scene, bands: tuple[int, ...]) -> bool:
    """Whether all bands have one mask, that of the file, and nothing else."""
    flags = dataset.mask_flag_enums
    return all(
        scene.masks[b - 1] and scene.nodata[b - 1] is None and MaskFlags.per_dataset in flags[b - 1] for b in bands
    )


def _any_valid(pixels: PixelArray, masks: BoolArray | None, declared: list[tuple[float | None, bool]]) -> BoolArray:
    valid = np.zeros(pixels.shape[1:], np.bool_)
    for i, (nodata, masked) in enumerate(declared):
        band = np.ones_like(valid) if nodata is None else ~is_nodata(pixels[i], nodata)
        valid |= band & masks[i] if masked and masks is not None else band
    return valid


def is_nodata(band: PixelArray, nodata: float) -> BoolArray:
    """Which pixels hold a nodata value, compared as GDAL compares it (``GDALNoDataMaskBand``, ``ARE_REAL_EQUAL``).

    Floats may differ slightly, since tags such as -3.40282e+38 are written short; for integers the fraction of the
    value is dropped.
    """
    if band.dtype.kind != "f":
        return np.asarray(band == int(nodata))
    if np.isnan(nodata):
        return np.asarray(np.isnan(band))
    value = band.dtype.type(nodata)
    with np.errstate(over="ignore", invalid="ignore"):
        close = np.abs(band - value) < np.abs(band + value) * band.dtype.type(_EPSILON)
    return np.asarray((band == value) | close)


def nodata_values(dataset: Any) -> tuple[float | None, ...]:
    """The nodata value of each band; None where it has none, or a mask instead, or only GDAL itself can compare it.

    A file with a mask and a nodata value is masked by the mask alone, as in GDAL.
    """
    flagged = zip(dataset.nodatavals, dataset.dtypes, dataset.mask_flag_enums, strict=True)
    return tuple(
        None if MaskFlags.nodata not in flags or (dtype in ("int64", "uint64") and abs(value or 0) >= _EXACT) else value
        for value, dtype, flags in flagged
    )


def masks(dataset: Any, values: tuple[float | None, ...]) -> tuple[bool, ...]:
    """Which bands have a mask of their own or of the whole file, besides `nodata_values` and an alpha band."""

    def masked(flags: list[MaskFlags], nodata: float | None) -> bool:
        if MaskFlags.nodata in flags:
            # A list of values for all bands together (NODATA_VALUES) is no band's own value.
            return nodata is None
        return MaskFlags.all_valid not in flags and MaskFlags.alpha not in flags

    return tuple(masked(flags, value) for flags, value in zip(dataset.mask_flag_enums, values, strict=True))


def alpha_band(dataset: Any, use: str) -> tuple[int | None, str | None]:
    """The 1-based band that marks invalid pixels by 0, and something to report about it, or None.

    GDAL calls the fourth of four bands alpha even where it is infrared. So pixels of the band are sampled: where it
    hides nothing, an alpha band is opaque, which is one value.

    Args:
        dataset: an open rasterio dataset.
        use: "auto" judges by the pixels, "use" and "ignore" do not.
    """
    band = next((i for i, colour in enumerate(dataset.colorinterp, 1) if colour == ColorInterp.alpha), None)
    if band is None or use == "ignore":
        return None, None
    if use == "use":
        return band, None
    sample = _sample(dataset, band)
    shown = sample[sample != 0]
    if not shown.size:
        hidden = f"band {band}, called alpha, hides every sampled pixel; --alpha ignore if it holds image data"
        return band, hidden if sample.size else None
    counts = np.unique(shown, return_counts=True)[1]
    if counts.max() >= _OPAQUE * shown.size:
        return band, None
    return None, (
        f"{called_alpha(band)} but holds {len(counts):,} different values, as image data such as infrared "
        "does; it hides no pixel. --alpha use takes it for a mask, --alpha ignore for image data without this check"
    )


def called_alpha(band: int) -> str:
    """How notes about a band begin that a file calls alpha."""
    return f"band {band} is called alpha,"


def _sample(dataset: Any, band: int) -> PixelArray:
    """Pixels of a band: of an overview, or of patches; what cannot be read is left out."""
    sides = (dataset.height, dataset.width)
    factor = max((f for f in dataset.overviews(band) if max(sides) / f >= _SIDE), default=1)
    found = []
    try:
        if max(sides) / factor <= 4 * _SIDE:
            return np.asarray(dataset.read(band, out_shape=tuple(-(-side // factor) for side in sides))).ravel()
    except RasterioError:
        pass
    for patch in patches(dataset.width, dataset.height, count=_PATCHES, side=_PATCH):
        window = GdalWindow(patch.col, patch.row, patch.width, patch.height)
        try:
            found.append(np.asarray(dataset.read(band, window=window)).ravel())
        except RasterioError:
            continue
    return np.concatenate(found) if found else np.empty(0, np.uint8)


def _in_gaps(scene: Scene, gaps: BaseGeometry, window: GdalWindow | None, shape: tuple[int, ...]) -> BoolArray:
    """(h, w) bool: the pixels of a window, or of the decimated scene, whose centres lie in gaps."""
    import shapely

    area = window or GdalWindow(0, 0, scene.width, scene.height)
    to_file = (
        Affine.scale(1 / scene.scale[0], 1 / scene.scale[1])
        @ Affine.translation(area.col_off, area.row_off)
        @ Affine.scale(area.width / shape[1], area.height / shape[0])
    )
    (x0, y0), (x1, y1) = to_file @ (0, 0), to_file @ (shape[1], shape[0])
    inside = shapely.intersection(gaps, shapely.box(x0, y0, x1, y1))
    if inside.area == 0:
        return np.zeros(shape, np.bool_)
    return np.asarray(geometry_mask([inside], out_shape=shape, transform=to_file, invert=True))
