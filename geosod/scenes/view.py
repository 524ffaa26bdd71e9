"""Generated VRTs ("views") that present files as a scene.

Views combine several files as bands of one scene, show a palette as colours, or a scene at another scale. GDAL
resamples while it reads, from overviews that are fine enough. The overview depends on the window, so a view is read in
blocks that are the same for every unit; see `pixels.read_window`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.sax.saxutils import escape

import numpy as np
import shapely
from affine import Affine
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from geosod.errors import ConfigError, SceneError
from geosod.scene import Scene, SceneRef
from geosod.storage.sandbox import gdal_source

#: Scales outside this range are refused.
MIN_SCALE, MAX_SCALE = 1 / 256, 16.0
#: Tolerance in pixels for rasters on one grid.
_TOLERANCE = 0.01

_TYPES = {"uint8": "Byte", "int8": "Int8", "float32": "Float32", "float64": "Float64"}
_TYPES |= {f"{kind}int{bits}": f"{kind.upper()}Int{bits}" for kind in ("", "u") for bits in (16, 32, 64)}

#: Side in pixels of the blocks in which views are read.
BLOCK = 512

Rectangle = tuple[float, float, float, float]


#: What GDAL opens, a file name or the text of another view, with its width and height in pixels.
_Source = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class _Band:
    """One band of a view.

    Attributes:
        source: the source.
        number: 1-based number in the source, or "mask,1" for its mask.
        dtype: numpy name of the pixel type.
        rectangle: x, y, width and height of the source in the view's pixels.
        name: the band's description.
        nodata: the nodata value, which resampling ignores.
        colour: 1 to 4, the component of the palette to show; None for the values themselves.
        interpretation: GDAL's colour interpretation, such as "Alpha".
        smooth: whether to interpolate between pixels; not for masks and palettes.
    """

    source: _Source
    number: int | str
    dtype: str
    rectangle: Rectangle
    name: str = ""
    nodata: float | None = None
    colour: int | None = None
    interpretation: str | None = None
    smooth: bool = True

    def xml(self, attribute: str) -> str:
        """The element of the band, with another attribute."""
        (x, y, w, h), (source, width, height) = self.rectangle, self.source
        kind = "SimpleSource" if self.colour is None else "ComplexSource"
        kernel = ' resampling="bilinear"' if self.smooth else ""
        about = _element("Description", escape(self.name) or None) + _element("NoDataValue", self.nodata)
        return (
            f'<VRTRasterBand dataType="{_TYPES[self.dtype]}"{attribute}>{about}'
            f"{_element('ColorInterp', self.interpretation)}<{kind}{kernel}>"
            f'<SourceFilename relativeToVRT="0">{escape(source)}</SourceFilename>'
            f'{_element("SourceBand", self.number)}<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
            f'<DstRect xOff="{x!r}" yOff="{y!r}" xSize="{w!r}" ySize="{h!r}"/>'
            f"{_element('ColorTableComponent', self.colour)}</{kind}></VRTRasterBand>"
        )


def _element(tag: str, value: str | float | None) -> str:
    return "" if value is None else f"<{tag}>{value}</{tag}>"


def _vrt(width: int, height: int, bands: Sequence[_Band], *, mask: _Band | None = None) -> str:
    """The text of a VRT; it has no georeference, which the scene holds."""
    body = "".join(band.xml(f' band="{i}"') for i, band in enumerate(bands, 1))
    body += _element("MaskBand", None if mask is None else mask.xml(""))
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{body}</VRTDataset>'


def _rectangle_on(grid: Scene, other: Scene) -> Rectangle:
    """The rectangle of a raster in the pixels of another one; SceneError where they are not aligned."""
    whole = (0.0, 0.0, float(grid.width), float(grid.height))
    if grid.locator is not None and grid.locator == other.locator and grid.window == other.window:
        return whole
    if grid.crs is None and other.crs is None:
        if abs(grid.width * other.height - other.width * grid.height) > max(grid.width, grid.height):
            size, other_size = f"{grid.width} x {grid.height}", f"{other.width} x {other.height}"
            raise SceneError(
                f"{other.ref.uri}: {other_size} does not fit {size} of {grid.ref.uri}; use files of one shape"
            )
        return whole
    if grid.crs != other.crs or grid.transform is None or other.transform is None:
        raise SceneError(f"{other.ref.uri}: is not in the CRS of {grid.ref.uri}; warp one of them (gdalwarp -t_srs)")
    to_grid = ~grid.transform @ other.transform
    x, y, w, h = to_grid.c, to_grid.f, to_grid.a * other.width, to_grid.e * other.height
    rotated = abs(to_grid.b * other.height) > _TOLERANCE or abs(to_grid.d * other.width) > _TOLERANCE or min(w, h) <= 0
    if rotated or x >= grid.width or y >= grid.height or x + w <= 0 or y + h <= 0:
        raise SceneError(
            f"{other.ref.uri}: does not lie on the ground of {grid.ref.uri}, or is rotated or mirrored against it; "
            "warp one of them (gdalwarp)"
        )
    return x, y, w, h


def at_gsd(scene: Scene, gsd: float) -> Scene:
    """The scene resampled to square pixels of a GSD in metres.

    Raises:
        ConfigError: as `at_scale`.
        SceneError: its own GSD is unknown.
    """
    if scene.pixel is None:
        raise SceneError(
            f"{scene.ref.uri}: its GSD is unknown, so it cannot be resampled to {gsd:g} m; omit --tile-gsd"
        )
    return at_scale(scene, scene.pixel[0] / gsd, scene.pixel[1] / gsd)


def full_scale(scene: Scene, tile: tuple[int, int]) -> float:
    """The largest scale, at most 1, at which a tile shows the whole scene, or the smallest that there is."""
    fits = min(side / length for side, length in zip(tile, (scene.width, scene.height), strict=True))
    return min(1.0, max(MIN_SCALE, fits))


def at_scale(scene: Scene, scale: float, scale_y: float | None = None) -> Scene:
    """The scene with `scale` pixels for each of its own along x, and `scale_y` or as many along y.

    Raises:
        ConfigError: a scale is out of range.
    """
    scales = (scale, scale if scale_y is None else scale_y)
    for one in scales:
        if not MIN_SCALE <= one <= MAX_SCALE:
            raise ConfigError(
                f"{scene.ref.uri}: would be resampled by {one:.4g}, which is not in {MIN_SCALE:.4g} to "
                f"{MAX_SCALE:g}; check --levels, and --tile-gsd against its GSD of {scene.gsd or 0:.3g} m"
            )
    sides = (scene.width, scene.height)
    if all(abs(one - 1) * side < 0.5 for one, side in zip(scales, sides, strict=True)):
        return scene
    # Whole pixels cover the scene exactly, so scales that were one may differ slightly.
    width, height = (max(1, round(side * one)) for side, one in zip(sides, scales, strict=True))
    scale_x, scale_y = width / scene.width, height / scene.height
    rectangle = (0.0, 0.0, float(width), float(height))
    source = _source(scene)
    bands = [
        _Band(source, i, scene.dtype, rectangle, name, nodata)
        for i, (name, nodata) in enumerate(zip(scene.band_names, scene.nodata, strict=True), 1)
    ]
    if (alpha := scene.alpha) is not None:
        bands[alpha - 1] = replace(bands[alpha - 1], nodata=None, interpretation="Alpha", smooth=False)
    mask = _Band(source, "mask,1", "uint8", rectangle, smooth=False) if any(scene.masks) else None
    return replace(
        scene,
        width=width,
        height=height,
        transform=None if scene.transform is None else scene.transform @ Affine.scale(1 / scale_x, 1 / scale_y),
        view=_vrt(width, height, bands, mask=mask),
        scale=(scene.scale[0] * scale_x, scene.scale[1] * scale_y),
        pixel=None if scene.pixel is None else (scene.pixel[0] / scale_x, scene.pixel[1] / scale_y),
        block_shape=(BLOCK, BLOCK),
        overviews=(),
    )


def expand_palette(scene: Scene, components: int) -> Scene:
    """A scene of palette indices as red, green and blue, and alpha where `components` is 4."""
    whole = (0.0, 0.0, float(scene.width), float(scene.height))
    source = _source(scene)
    names = ("Red", "Green", "Blue", "Alpha")[:components]
    bands = [
        _Band(source, 1, "uint8", whole, n.lower(), colour=i, interpretation=n, smooth=False)
        for i, n in enumerate(names, 1)
    ]
    masked = scene.masks[0] or scene.nodata[0] is not None
    mask = _Band(source, "mask,1", "uint8", whole, smooth=False) if masked else None
    return replace(
        scene,
        count=components,
        dtype="uint8",
        nodata=(None,) * components,
        masks=(masked,) * components,
        alpha=4 if components == 4 else None,
        band_names=tuple(n.lower() for n in names),
        block_shape=(BLOCK, BLOCK),
        scales=(),
        offsets=(),
        view=_vrt(scene.width, scene.height, bands, mask=mask),
    )


def stack_bands(parts: Sequence[tuple[Scene, int, str]], *, ref: SceneRef) -> Scene:
    """Bands of several files of the same ground as one scene, on the finest grid.

    Args:
        parts: for each band its file, its 1-based number there, and its name in the scene.
        ref: the scene.

    Raises:
        SceneError: the files do not cover the same ground.
    """
    sizes = [1 / part.width if part.gsd is None else part.gsd for part, _, _ in parts]
    # The GSD is that at the centre of each file, so it may differ slightly between files on one grid.
    fine = [part for (part, _, _), size in zip(parts, sizes, strict=True) if size <= 1.01 * min(sizes)]
    grid = max(fine, key=lambda scene: scene.width * scene.height)
    dtype = np.result_type(*(part.dtype for part, _, _ in parts)).name
    bands = [_stacked(grid, part, band, name=name, dtype=dtype) for part, band, name in parts]
    return replace(
        grid,
        ref=ref,
        count=len(parts),
        dtype=dtype,
        nodata=tuple(part.nodata[band - 1] for part, band, _ in parts),
        masks=tuple(part.masks[band - 1] for part, band, _ in parts),
        alpha=None,
        block_shape=(BLOCK, BLOCK),
        overviews=(),
        band_names=tuple(name for _, _, name in parts),
        scales=tuple(part.scales[band - 1] if part.scales else 1.0 for part, band, _ in parts),
        offsets=tuple(part.offsets[band - 1] if part.offsets else 0.0 for part, band, _ in parts),
        view=_vrt(grid.width, grid.height, bands),
        gaps=_common_gaps(grid, [part for part, _, _ in parts]),
        notes=tuple(dict.fromkeys(note for part, _, _ in parts for note in part.notes)),
    )


def _common_gaps(grid: Scene, parts: Sequence[Scene]) -> BaseGeometry | None:
    """The gaps of all files, in pixels of the grid: a pixel is valid where any band is."""
    moved = []
    for part in parts:
        if part.gaps is None:
            return None
        x, y, w, h = _rectangle_on(grid, part)
        moved.append(affinity.affine_transform(part.gaps, [w / part.width, 0, 0, h / part.height, x, y]))
    common: BaseGeometry = shapely.intersection_all(moved)
    return common


def _check_extent(grid: Scene, part: Scene, rectangle: Rectangle) -> None:
    """Refuse files whose edges differ by more than two pixels, unless nodata fills the gap."""
    x, y, w, h = rectangle
    slack = 2 * max(w / part.width, h / part.height, 1.0)
    beyond = max(-x, -y, x + w - grid.width, y + h - grid.height)
    if beyond > slack:
        raise SceneError(
            f"{part.ref.uri}: reaches {beyond:.0f} pixels beyond {grid.ref.uri}; clip both to one ground (gdalwarp -te)"
        )
    short = max(x, y, grid.width - x - w, grid.height - y - h)
    if short > slack and part.nodata == (None,) * part.count:
        raise SceneError(
            f"{part.ref.uri}: ends {short:.0f} pixels before {grid.ref.uri}, and has no nodata value to fill the gap; "
            "assign one (gdal_translate -a_nodata), or clip the files to the same ground"
        )


def _stacked(grid: Scene, part: Scene, band: int, *, name: str, dtype: str) -> _Band:
    if part.masks[band - 1] or part.alpha not in (None, band):
        raise SceneError(
            f"{part.ref.uri}: has a mask or alpha band, which scenes of several files do not support; assign a nodata "
            "value, or stack the files first (gdalbuildvrt -separate)"
        )
    rectangle = _rectangle_on(grid, part)
    _check_extent(grid, part, rectangle)
    return _Band(_source(part), band, dtype, rectangle, name, part.nodata[band - 1])


def _source(scene: Scene) -> _Source:
    return scene.view or gdal_source(scene.ref.uri, scene.ref.image), scene.width, scene.height
