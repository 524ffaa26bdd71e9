"""Open a scene and read its header, which is checked before anything large is allocated."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from geosod.errors import GeosodError, SceneError
from geosod.georeference.crs import full_circle, horizontal_crs
from geosod.georeference.sizes import pixel_on_ground
from geosod.georeference.transforms import read_georeference
from geosod.scene import BandFile, Scene, SceneRef
from geosod.scenes.gaps import vrt_gaps
from geosod.scenes.validity import alpha_band, masks, nodata_values
from geosod.scenes.view import expand_palette, stack_bands
from geosod.storage.datasets import open_dataset
from geosod.storage.formats import images, orientation

#: Files with larger native blocks, decoded, are refused.
MAX_BLOCK_BYTES = 1 << 30
#: Headers that claim more pixels (half a million a side) are refused as damaged.
MAX_PIXELS = 250_000_000_000
#: Sides of a pixel in metres beyond these are mistakes.
MIN_PIXEL, MAX_PIXEL = 1e-4, 1e6
#: Begins the note of an image whose metadata ask viewers to rotate or mirror it.
_TURNED = "is tagged to be shown rotated or mirrored"


@contextmanager
def opened(
    ref: SceneRef, *, view: str | None = None, threads: int = 1, cache_mb: int = 64, placed: bool = True
) -> Iterator[Any]:
    """A rasterio dataset with its own GDAL handle, decoding threads and block cache in MB.

    `placed` and errors are as for `open_dataset`.
    """
    # rasterio takes bytes here; GDAL would take small numbers as MB.
    options = {"GDAL_CACHEMAX": cache_mb << 20, "GDAL_NUM_THREADS": threads, "GDAL_VRT_ENABLE_PYTHON": "NO"}
    with open_dataset(ref, view=view, options=options, placed=placed) as dataset:
        yield dataset


def is_complete(path: str) -> bool:
    """Whether a file opens as a raster, and the last block of its first band can be read."""
    try:
        with opened(SceneRef(path, "scene")) as dataset:
            *_, (_, window) = dataset.block_windows(1)
            dataset.read(1, window=window)
    except (GeosodError, RasterioError, OSError, ValueError):
        return False
    return True


def open_scene(ref: SceneRef, *, rpc_height: float | None = None, dem: str | None = None, alpha: str = "auto") -> Scene:
    """Read the header of a scene in one file.

    Args:
        ref: the scene.
        rpc_height, dem: as `read_georeference`.
        alpha: whether a band that the file calls alpha marks invalid pixels, see `alpha_band`.

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
        alpha_number, about_alpha = alpha_band(dataset, alpha)
        nodata = nodata_values(dataset)
        masked = masks(dataset, nodata)
        marked = alpha_number is not None or any(masked) or any(value is not None for value in nodata)
        gaps, about_gaps = (None, None) if marked else vrt_gaps(dataset, ref.uri)
        about = (about_alpha, about_gaps, *_curiosities(dataset, ref, placed=crs is not None))
        scene = Scene(
            ref=ref if ref.datetime else replace(ref, datetime=_acquired(dataset)),
            width=dataset.width,
            height=dataset.height,
            count=dataset.count,
            dtype=dataset.dtypes[0],
            crs=crs,
            transform=transform,
            locator=locator,
            nodata=nodata,
            masks=masked,
            alpha=alpha_number,
            band_names=_band_names(dataset),
            block_shape=tuple(dataset.block_shapes[0]),
            overviews=tuple(dataset.overviews(1)),
            pixel=None,
            scales=tuple(dataset.scales),
            offsets=tuple(dataset.offsets),
            gaps=gaps,
            notes=tuple(f"{ref.id}: {note}" for note in about if note),
        )
        components = _palette(dataset)
    scene = replace(scene, pixel=_pixel(scene))
    return expand_palette(scene, components) if components else scene


def page_of(ref: SceneRef, page: int) -> SceneRef:
    """A scene that is another image of its file.

    Args:
        ref: the scene.
        page: 1-based; overviews and masks are no images.

    Raises:
        SceneError: as `open_scene`, or the file has no such image.
    """
    with opened(ref) as dataset:
        found = images(dataset)
    if page > len(found):
        held = f"{len(found)} images" if len(found) > 1 else "one image"
        raise SceneError(f"{ref.uri}: has no page {page}, it holds {held}; only TIFF and NITF files may hold several")
    return replace(ref, image=found[page - 1])


def pages_and_grey(ref: SceneRef) -> tuple[int, bool]:
    """How many images the file of a scene holds, and whether the first has one band, of grey, besides alpha.

    Overviews and masks are no images.

    Raises:
        SceneError: it cannot be opened.
    """
    with opened(ref) as dataset:
        kinds = [kind for kind in dataset.colorinterp if kind != ColorInterp.alpha]
        return len(images(dataset)), kinds == [ColorInterp.gray]


def open_files(
    ref: SceneRef,
    files: Sequence[BandFile],
    *,
    rpc_height: float | None = None,
    dem: str | None = None,
    alpha: str = "auto",
) -> Scene:
    """Read the headers of the band files of a scene; at least one, in the order of the bands.

    The other arguments are as for `open_scene`.

    Raises:
        SceneError: as `open_scene`; or a file lacks the band, or the files do not cover the same ground.
    """
    sources = {file.uri: SceneRef(file.uri, ref.id, ref.datetime, file.version) for file in files}
    how = {"rpc_height": rpc_height, "dem": dem, "alpha": alpha}
    opened_files = {uri: open_scene(source, **how) for uri, source in sources.items()}  # type: ignore[arg-type]
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


def _band_names(dataset: Any) -> tuple[str, ...]:
    """Descriptions or colours; what a driver calls every n-th band says nothing."""
    unnamed = {ColorInterp.gray, ColorInterp.undefined}
    pairs = enumerate(zip(dataset.descriptions, dataset.colorinterp, strict=True), 1)
    return tuple(
        text if text and text not in (f"Band {i}", f"Layer_{i}") else "" if kind in unnamed else kind.name
        for i, (text, kind) in pairs
    )


def shown_turned(scene: Scene) -> bool:
    """Whether an image's metadata (EXIF) ask viewers to rotate or mirror it."""
    return any(_TURNED in note for note in scene.notes)


def _curiosities(dataset: Any, ref: SceneRef, *, placed: bool) -> Iterator[str]:
    """What a user should know of a file that can be read, but perhaps not as it was meant."""
    count = len(images(dataset))
    if count > 1 and not ref.image:
        yield f"holds {count} images, of which the first is read; --page N reads another"
    if not placed and dataset.crs is None and not dataset.transform.is_identity:
        yield (
            "has a geotransform but no CRS, so it is taken as an image without georeference; assign its CRS "
            "(gdal_edit.py -a_srs, or rio edit-info --crs)"
        )
    if (turned := orientation(ref.uri, dataset)) != 1:
        yield f"{_TURNED} (orientation {turned}); its pixels are taken as stored"
    if dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == "1":
        yield "holds one bit a pixel, as a mask does and imagery does not; check that it is the file you meant"


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


def _pixel(scene: Scene) -> tuple[float, float] | None:
    """The size of a pixel; SceneError where it cannot be."""
    size = pixel_on_ground(scene)
    if size is not None and not (all(MIN_PIXEL <= side <= MAX_PIXEL for side in size) and _fits_the_globe(scene)):
        raise SceneError(
            f"{scene.ref.uri}: its pixels would be {size[0]:.3g} x {size[1]:.3g} m on the ground, and its sides "
            f"{scene.width} x {scene.height} of them, which cannot be; its geotransform is probably not in the units "
            "of its CRS: assign the right CRS (gdal_edit.py -a_srs)"
        )
    return size


def _fits_the_globe(scene: Scene) -> bool:
    """Whether a scene spans no more latitudes than there are, with a pixel to spare on both sides."""
    if scene.transform is None or scene.crs is None or not (crs := horizontal_crs(scene.crs)).is_geographic:
        return True
    t = scene.transform
    latitudes = abs(t.d) * (scene.width - 2) + abs(t.e) * (scene.height - 2)
    return latitudes <= full_circle(crs) / 2
