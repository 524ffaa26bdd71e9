"""Open a scene and read its header, which is checked before anything large is allocated."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from geosod.errors import GeosodError, SceneError
from geosod.georeference.sizes import ground_size
from geosod.georeference.transforms import read_georeference
from geosod.scene import BandFile, MaskKind, Scene, SceneRef
from geosod.scenes.view import expand_palette, stack_bands
from geosod.storage.datasets import open_dataset

#: Formats that are opened; some of GDAL's other drivers access the network.
DRIVERS = ["GTiff", "VRT", "JPEG", "PNG", "JP2OpenJPEG"]
#: Files with larger native blocks, decoded, are refused.
MAX_BLOCK_BYTES = 1 << 30
#: Headers that claim more pixels (half a million a side) are refused as damaged.
MAX_PIXELS = 250_000_000_000


@contextmanager
def opened(ref: SceneRef, *, view: str | None = None, threads: int = 1, cache_mb: int = 64) -> Iterator[Any]:
    """A rasterio dataset with its own GDAL handle, decoding threads and block cache in MB; raises as `open_dataset`."""
    # rasterio takes bytes here; GDAL would take small numbers as MB.
    options = {"GDAL_CACHEMAX": cache_mb << 20, "GDAL_NUM_THREADS": threads, "GDAL_VRT_ENABLE_PYTHON": "NO"}
    with open_dataset(ref, view=view, drivers=DRIVERS, options=options) as dataset:
        yield dataset


def open_scene(ref: SceneRef, *, rpc_height: float | None = None, dem: str | None = None) -> Scene:
    """Read the header of a scene in one file.

    Args:
        ref: the scene.
        rpc_height, dem: as `read_georeference`.

    Raises:
        SceneError: the file cannot be opened, has unsupported pixels or impossible sizes, or its georeference cannot
            be used.
        ConfigError: the DEM cannot be used.
    """
    with opened(ref) as dataset:
        _check(dataset, ref.uri)
        try:
            crs, transform, locator = read_georeference(dataset, rpc_height=rpc_height, dem=dem)
        except SceneError as error:
            raise SceneError(f"{ref.uri}: {error}") from error
        scene = Scene(
            ref=ref if ref.datetime else replace(ref, datetime=_acquired(dataset)),
            width=dataset.width,
            height=dataset.height,
            count=dataset.count,
            dtype=dataset.dtypes[0],
            crs=crs,
            transform=transform,
            locator=locator,
            nodata=tuple(dataset.nodatavals),
            masks=tuple(_mask(dataset, band) for band in range(dataset.count)),
            alpha=next((i for i, c in enumerate(dataset.colorinterp, 1) if c == ColorInterp.alpha), None),
            band_names=_band_names(dataset),
            block_shape=tuple(dataset.block_shapes[0]),
            overviews=tuple(dataset.overviews(1)),
            gsd=None,
            scales=tuple(dataset.scales),
            offsets=tuple(dataset.offsets),
        )
        components = _palette(dataset)
    scene = replace(scene, gsd=_gsd(scene))
    return expand_palette(scene, components) if components else scene


def open_files(
    ref: SceneRef, files: Sequence[BandFile], *, rpc_height: float | None = None, dem: str | None = None
) -> Scene:
    """Read the headers of the band files of a scene; at least one, in the order of the bands.

    Raises:
        SceneError: as `open_scene`; or a file lacks the band, or the files do not cover the same ground.
    """
    sources = {file.uri: SceneRef(file.uri, ref.id, ref.datetime, file.version) for file in files}
    opened_files = {uri: open_scene(source, rpc_height=rpc_height, dem=dem) for uri, source in sources.items()}
    parts = []
    for file in files:
        scene = opened_files[file.uri]
        if not 1 <= file.band <= scene.count:
            raise SceneError(f"{file.uri}: has no band {file.band}, it has {scene.count}; fix {ref.uri}")
        if file.scale is not None or file.offset is not None:
            scale = 1.0 if file.scale is None else file.scale
            scene = replace(scene, scales=(scale,) * scene.count, offsets=(file.offset or 0.0,) * scene.count)
        parts.append((scene, file.band, file.name))
    return stack_bands(parts, ref=replace(ref, datetime=ref.datetime or parts[0][0].ref.datetime, files=tuple(files)))


def _check(dataset: Any, uri: str) -> None:
    if dataset.count == 0:
        raise SceneError(f"{uri}: has no raster bands; give one of its subdatasets instead")
    if dataset.width * dataset.height > MAX_PIXELS:
        size = f"{dataset.width} x {dataset.height}"
        raise SceneError(f"{uri}: claims {size} pixels, over {MAX_PIXELS / 1e9:g} billion; split it if that is correct")
    if len(set(dataset.dtypes)) > 1:
        raise SceneError(f"{uri}: bands have different types {sorted(set(dataset.dtypes))}; convert them to one")
    dtype = np.dtype(dataset.dtypes[0]) if dataset.dtypes[0] != "complex_int16" else np.dtype("complex64")
    if dtype.kind not in "uif":
        raise SceneError(f"{uri}: pixels are {dataset.dtypes[0]}; only integers and floats can be read")
    block = int(np.prod(dataset.block_shapes[0], dtype=np.int64)) * dtype.itemsize * dataset.count
    if block > MAX_BLOCK_BYTES:
        raise SceneError(f"{uri}: one block decodes to {block >> 20} MiB, over {MAX_BLOCK_BYTES >> 20}; tile the file")
    if dataset.transform.is_degenerate:
        raise SceneError(f"{uri}: its geotransform {tuple(dataset.transform)[:6]} has no extent; fix it")


def _palette(dataset: Any) -> int:
    """Components of the palette of a file with one band: 3, or 4 with transparency; 0 without a palette."""
    if dataset.colorinterp[0] != ColorInterp.palette or dataset.count > 1:
        return 0
    nodata = dataset.nodatavals[0]
    colours = [colour for index, colour in dataset.colormap(1).items() if index != nodata]
    return 4 if any(alpha < 255 for *_, alpha in colours) else 3


def _mask(dataset: Any, band: int) -> MaskKind:
    flags = dataset.mask_flag_enums[band]
    if dataset.nodatavals[band] is not None:
        return "nodata"
    return "none" if MaskFlags.all_valid in flags or MaskFlags.alpha in flags else "mask"


def _band_names(dataset: Any) -> tuple[str, ...]:
    unnamed = {ColorInterp.gray, ColorInterp.undefined}
    interpretations = ["" if c in unnamed else c.name for c in dataset.colorinterp]
    return tuple(d or name for d, name in zip(dataset.descriptions, interpretations, strict=True))


def _acquired(dataset: Any) -> dt.datetime | None:
    """The time in GDAL's IMAGERY metadata; TIFFTAG_DATETIME is the time of writing, so it is not used."""
    text = dataset.tags(ns="IMAGERY").get("ACQUISITIONDATETIME")
    if not text:
        return None
    try:
        time = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def _gsd(scene: Scene) -> float | None:
    if scene.crs is None:
        return None
    col, row = scene.width // 2, scene.height // 2
    pixel = np.array([[col, row, col + 1, row + 1]], np.float64)
    try:
        width, height, _ = ground_size(scene, pixel)
    except GeosodError:
        return None
    return float(np.sqrt(width[0] * height[0]))
