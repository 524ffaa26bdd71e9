"""Parts of a scene as GeoTIFFs, and whole scenes at another scale."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.rpc import RPC
from rasterio.windows import Window as GdalWindow

from geosod.arrays import BoolArray, PixelArray
from geosod.datasets.problems import Problems
from geosod.errors import OutputError, ReadError
from geosod.scene import GroundControl, RationalPolynomials, Scene, Unit, Window
from geosod.scenes.read import ReadSpec, ReadSummary, UnitReader
from geosod.tiling.grid import Grid, make_grid
from geosod.tiling.units import plan_units

#: Side of the blocks of a file in pixels.
_BLOCK = 256
#: Tiles that are read at once, and those of a row that are held until all of it could be read, have so many bytes.
_BATCH_BYTES, _UNIT_BYTES = 64 << 20, 256 << 20


def write_tiles(
    scene: Scene, grid: Grid, targets: Mapping[tuple[int, int], Path], problems: Problems
) -> list[tuple[int, int]]:
    """Write tiles of a grid, each with all bands and the georeference of its scene.

    Args:
        scene: the scene.
        grid: its tiles.
        targets: column and row of the top-left pixel of a wanted tile → its file.
        problems: tiles of which a part could not be read are recorded here, and not written.

    Returns:
        Which were written: those with a valid pixel that could be read whole.

    Raises:
        SceneError: the scene cannot be opened.
        OutputError: a file cannot be written.
    """
    keep = np.array([[(x, y) in targets for x in grid.x_starts] for y in grid.y_starts], np.bool_)
    written = []
    for window, pixels, valid in _read(scene, grid, keep, problems):
        start = (window.col, window.row)
        path = targets[start]
        path.parent.mkdir(parents=True, exist_ok=True)
        with _created(path, scene, window) as dataset:
            _write(dataset, scene, pixels, valid, None)
        written.append(start)
    return written


def write_scene(scene: Scene, path: Path, problems: Problems) -> bool:
    """Write all of a scene, which may be a view at another scale, block row by block row; whether all could be read.

    Raises:
        SceneError: the scene cannot be opened.
        OutputError: the file cannot be written.
    """
    grid = make_grid(scene.width, scene.height, tile=(scene.width, 2 * _BLOCK), overlap=0)
    before = problems.count
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with _created(path, scene, scene.window) as dataset:
        for window, pixels, valid in _read(scene, grid, None, problems):
            new = max(window.row, rows)
            part = slice(new - window.row, window.height)
            target = GdalWindow(0, new, window.width, window.bottom - new)
            _write(dataset, scene, pixels[:, part], None if valid is None else valid[part], target)
            rows = window.bottom
    return problems.count == before


def read_pixels(scene: Scene, window: Window) -> PixelArray:
    """(C, H, W) pixels of all bands of a window but the alpha band, invalid ones 0.

    Raises:
        SceneError: the scene cannot be opened.
        ReadError: a part cannot be read.
    """
    reader = UnitReader(scene, ReadSpec(_bands(scene), (window.width, window.height), chunk=1))
    unit = Unit("window", scene.id, (0, 0), 1.0, (window,), window, window)
    pixels = np.zeros((len(_bands(scene)), window.height, window.width), scene.dtype)
    try:
        for part in reader.read(unit):
            if not isinstance(part, ReadSummary):
                pixels = part.pixels[0]
            elif part.failures:
                raise ReadError(f"{scene.ref.uri}: {part.failures[0].message}")
    finally:
        reader.close()
    return pixels


def _read(
    scene: Scene, grid: Grid, keep: BoolArray | None, problems: Problems
) -> Iterator[tuple[Window, PixelArray, BoolArray | None]]:
    """Tiles, in units one row of tiles high and as wide as memory allows."""
    bands = _bands(scene)
    size = max(1, scene.count * grid.tile_width * grid.tile_height * np.dtype(scene.dtype).itemsize)
    spec = ReadSpec(bands, (grid.tile_width, grid.tile_height), chunk=max(1, min(64, _BATCH_BYTES // size)))
    units = plan_units(scene.id, grid, shape=(1, max(1, _UNIT_BYTES // size)), keep=keep)
    reader = UnitReader(scene, spec)
    try:
        # Down each column of units, so that what two rows of tiles share is kept from one to the next.
        for unit in sorted(units, key=lambda unit: (unit.index[1], unit.index[0])):
            tiles: list[tuple[Window, PixelArray, BoolArray | None]] = []
            lost: list[Window] = []
            for part in reader.read(unit):
                if isinstance(part, ReadSummary):
                    for failure in part.failures:
                        problems.add(scene.ref.uri, f"pixels {failure.window}", failure.message)
                        lost.append(failure.window or scene.window)
                    continue
                for k, (col, row, width, height) in enumerate(part.windows.tolist()):
                    valid = None if part.valid is None else part.valid[k, :height, :width]
                    tiles.append((Window(col, row, width, height), part.pixels[k, :, :height, :width], valid))
            for tile in tiles:
                if not any(tile[0].intersection(window) for window in lost):
                    yield tile
    finally:
        reader.close()


def _created(path: Path, scene: Scene, window: Window) -> Any:
    colours = scene.count - (scene.alpha is not None)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": window.width,
        "height": window.height,
        "count": scene.count,
        "dtype": scene.dtype,
        "compress": "DEFLATE",
        "predictor": 2 if np.dtype(scene.dtype).kind in "ui" else 3,
        "interleave": "pixel",
        "bigtiff": "IF_SAFER",
        # By default GDAL calls the fourth band of bytes alpha, which infrared is not.
        "photometric": "RGB" if scene.dtype == "uint8" and colours == 3 else "MINISBLACK",
        "alpha": "UNSPECIFIED",
    }
    if min(window.width, window.height) >= _BLOCK:
        profile |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
    nodata = set(scene.nodata)
    if len(nodata) == 1 and None not in nodata:
        profile["nodata"] = nodata.pop()
    elif np.dtype(scene.dtype).kind == "f" and not _needs_mask(scene):
        profile["nodata"] = math.nan
    profile |= _place(scene, window)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, "w", **profile)
        for band, name in enumerate(scene.band_names, 1):
            if name:
                dataset.set_band_description(band, name)
        if scene.alpha is not None:
            kinds = list(dataset.colorinterp)
            kinds[scene.alpha - 1] = ColorInterp.alpha
            dataset.colorinterp = kinds
        if (scene.scales and set(scene.scales) != {1.0}) or (scene.offsets and set(scene.offsets) != {0.0}):
            dataset.scales, dataset.offsets = scene.scales, scene.offsets
    except (RasterioError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {error}") from error
    return dataset


def _place(scene: Scene, window: Window) -> dict[str, Any]:
    """The georeference of a part of a scene, as arguments of rasterio."""
    if scene.transform is not None:
        return {"crs": scene.crs, "transform": scene.transform @ Affine.translation(window.col, window.row)}
    sx, sy = scene.scale
    if isinstance(scene.locator, GroundControl):
        points = [
            GroundControlPoint(row=y * sy - window.row, col=x * sx - window.col, x=X, y=Y)
            for x, y, X, Y in scene.locator.points
        ]
        return {"crs": scene.crs, "gcps": points}
    if isinstance(scene.locator, RationalPolynomials):
        tags = dict(scene.locator.coefficients)
        for key, scale, start in (("SAMP", sx, window.col), ("LINE", sy, window.row)):
            # Offsets count from the centre of the first pixel.
            tags[f"{key}_OFF"] = repr((float(tags[f"{key}_OFF"]) + 0.5) * scale - start - 0.5)
            tags[f"{key}_SCALE"] = repr(float(tags[f"{key}_SCALE"]) * scale)
        return {"rpcs": RPC.from_gdal(tags)}
    return {}


def _write(dataset: Any, scene: Scene, pixels: PixelArray, valid: BoolArray | None, target: GdalWindow | None) -> None:
    """Write pixels, with invalid ones as nodata, or where the scene has no nodata value, in a mask."""
    try:
        if scene.alpha is not None:
            pixels = _with_alpha(scene, pixels, valid)
        elif valid is not None and dataset.nodata is not None:
            pixels = np.where(valid, pixels, np.array(dataset.nodata).astype(pixels.dtype))
        dataset.write(pixels, window=target)
        if dataset.nodata is None and _needs_mask(scene):
            # Every window, since what is not written in a mask is invalid.
            shown = np.ones(pixels.shape[1:], np.bool_) if valid is None else valid
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                dataset.write_mask(shown, window=target)
    except (RasterioError, ValueError) as error:
        raise OutputError(f"{dataset.name}: cannot be written: {error}") from error


def _bands(scene: Scene) -> tuple[int, ...]:
    """The bands that hold image data; an alpha band that is read as one of them would mark nothing as invalid."""
    return tuple(band for band in range(1, scene.count + 1) if band != scene.alpha)


def _with_alpha(scene: Scene, pixels: PixelArray, valid: BoolArray | None) -> PixelArray:
    """The bands of the file: with the alpha band, where valid pixels are opaque."""
    top = np.iinfo(scene.dtype).max if np.dtype(scene.dtype).kind in "ui" else 1
    shown = np.ones(pixels.shape[1:], np.bool_) if valid is None else valid
    return np.insert(pixels, (scene.alpha or 1) - 1, shown * np.array(top, scene.dtype), axis=0)


def _needs_mask(scene: Scene) -> bool:
    """Whether something other than one nodata value, an alpha band or NaN makes pixels invalid."""
    mixed = len(set(scene.nodata)) > 1
    return scene.alpha is None and (any(scene.masks) or scene.gaps is not None or mixed)
