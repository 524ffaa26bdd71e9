"""Views: VRTs of our own making that show files as the scene they stand for.

Several files become the bands of one scene, a palette becomes colours, a scene appears at another scale.
GDAL resamples while it reads, from overviews where they are coarse enough. Which overview it takes depends on
the window it is asked for, so a view is read in blocks that are the same for every unit, see `pixels.read_window`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.sax.saxutils import escape

import numpy as np
from affine import Affine

from geosod.errors import ConfigError, SceneError
from geosod.scene import Scene, SceneRef
from geosod.storage.vrt_sandbox import gdal_source

#: Scales beyond these are refused: there is nothing to see, or nothing to be gained.
LEAST_SCALE, GREATEST_SCALE = 1 / 256, 16.0
#: Pixels by which rasters that are to lie on one grid may disagree.
_SLACK = 0.01

_TYPES = {"uint8": "Byte", "int8": "Int8", "float32": "Float32", "float64": "Float64"}
_TYPES |= {f"{kind}int{bits}": f"{kind.upper()}Int{bits}" for kind in ("", "u") for bits in (16, 32, 64)}

#: Side of the blocks in which views are read.
BLOCK = 512

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Shown:
    """One band of a view.

    Attributes:
        source: what GDAL opens: a file name, or another view.
        size: width and height of the source in pixels.
        band: 1-based number in the source, or "mask,1" for its mask.
        dtype: numpy name of the pixel type.
        place: where the source comes to lie in the view: x, y, width, height in the view's pixels.
        name: the band's description.
        nodata: value without meaning; GDAL leaves it out of the resampling.
        colour: 1 to 4, the component of the palette that is shown; None for the values themselves.
        interpretation: GDAL's colour interpretation, such as "Alpha".
        smooth: whether values between pixels are interpolated; masks and palettes are not.
    """

    source: str
    size: tuple[int, int]
    band: int | str
    dtype: str
    place: Rectangle
    name: str = ""
    nodata: float | None = None
    colour: int | None = None
    interpretation: str | None = None
    smooth: bool = True


def vrt(width: int, height: int, bands: Sequence[Shown], *, mask: Shown | None = None) -> str:
    """The text of a VRT without georeference, which the scene that it belongs to keeps itself."""
    body = "".join(_band(band, i) for i, band in enumerate(bands, 1))
    if mask is not None:
        body += f"<MaskBand>{_band(mask, None)}</MaskBand>"
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{body}</VRTDataset>'


def _band(shown: Shown, number: int | None) -> str:
    x, y, w, h = shown.place
    kernel = ' resampling="bilinear"' if shown.smooth else ""
    place = f'<DstRect xOff="{x!r}" yOff="{y!r}" xSize="{w!r}" ySize="{h!r}"/>'
    taken = f'<SrcRect xOff="0" yOff="0" xSize="{shown.size[0]}" ySize="{shown.size[1]}"/>'
    name = f'<SourceFilename relativeToVRT="0">{escape(shown.source)}</SourceFilename>'
    colour = "" if shown.colour is None else f"<ColorTableComponent>{shown.colour}</ColorTableComponent>"
    source = f"{name}<SourceBand>{shown.band}</SourceBand>{taken}{place}{colour}"
    kind = "ComplexSource" if colour else "SimpleSource"
    head = "" if number is None else f' band="{number}"'
    about = f"<Description>{escape(shown.name)}</Description>" if shown.name else ""
    about += "" if shown.nodata is None else f"<NoDataValue>{shown.nodata!r}</NoDataValue>"
    about += "" if shown.interpretation is None else f"<ColorInterp>{shown.interpretation}</ColorInterp>"
    return (
        f'<VRTRasterBand dataType="{_TYPES[shown.dtype]}"{head}>{about}'
        f"<{kind}{kernel}>{source}</{kind}></VRTRasterBand>"
    )


def placed_on(grid: Scene, other: Scene) -> Rectangle:
    """Where a raster comes to lie on the grid of another of the same ground.

    Raises:
        SceneError: they do not share a CRS, are turned against each other, or lie apart.
    """
    if grid.locator is not None and (grid.locator, grid.width, grid.height) == (
        other.locator,
        other.width,
        other.height,
    ):
        return 0.0, 0.0, float(grid.width), float(grid.height)
    if grid.crs is None and other.crs is None:
        if abs(grid.width * other.height - other.width * grid.height) > max(grid.width, grid.height):
            raise SceneError(f"{other.ref.uri}: {_size(other)} does not fit {_size(grid)} of {grid.ref.uri}")
        return 0.0, 0.0, float(grid.width), float(grid.height)
    if grid.crs != other.crs or grid.transform is None or other.transform is None:
        raise SceneError(
            f"{other.ref.uri}: is not in the CRS of {grid.ref.uri}, with which it should make one scene; "
            "warp one of them (gdalwarp -t_srs)"
        )
    to_grid = ~grid.transform @ other.transform
    x, y, w, h = to_grid.c, to_grid.f, to_grid.a * other.width, to_grid.e * other.height
    turned = abs(to_grid.b * other.height) > _SLACK or abs(to_grid.d * other.width) > _SLACK or min(w, h) <= 0
    if turned or x >= grid.width or y >= grid.height or x + w <= 0 or y + h <= 0:
        raise SceneError(
            f"{other.ref.uri}: does not lie on the ground of {grid.ref.uri}, with which it should make one scene, or "
            "is turned or mirrored against it; warp one of them (gdalwarp)"
        )
    return x, y, w, h


def at_gsd(scene: Scene, gsd: float) -> Scene:
    """The scene resampled to a ground sample distance in metres.

    Raises:
        ConfigError: it is too far from the scene's own.
        SceneError: the scene has none.
    """
    if scene.gsd is None:
        raise SceneError(
            f"{scene.ref.uri}: its GSD is unknown, so it cannot be brought to {gsd:g} m; leave --tile-gsd out"
        )
    return at_scale(scene, scene.gsd / gsd)


def at_scale(scene: Scene, scale: float) -> Scene:
    """The scene with `scale` pixels for each of its own along both axes.

    Raises:
        ConfigError: `scale` is out of range.
    """
    if not LEAST_SCALE <= scale <= GREATEST_SCALE:
        raise ConfigError(
            f"{scene.ref.uri}: would be resampled by {scale:.4g}, which is not in {LEAST_SCALE:.4g} to "
            f"{GREATEST_SCALE:g}; check --levels, and --tile-gsd against its GSD of {scene.gsd or 0:.3g} m"
        )
    if abs(scale - 1) * max(scene.width, scene.height) < 0.5:
        return scene
    # Whole pixels that cover the scene exactly, so the two axes may differ a little.
    width, height = (max(1, round(side * scale)) for side in (scene.width, scene.height))
    scale_x, scale_y = width / scene.width, height / scene.height
    place = (0.0, 0.0, float(width), float(height))
    source = _source(scene)
    size = scene.width, scene.height

    def shown(band: int) -> Shown:
        alpha = band == scene.alpha
        nodata = None if alpha else scene.nodata[band - 1]
        name = scene.band_names[band - 1]
        colour = "Alpha" if alpha else None
        return Shown(source, size, band, scene.dtype, place, name, nodata, interpretation=colour, smooth=not alpha)

    mask = None
    if "mask" in scene.masks:
        mask = Shown(source, size, "mask,1", "uint8", place, smooth=False)
    return replace(
        scene,
        width=width,
        height=height,
        transform=None if scene.transform is None else scene.transform @ Affine.scale(1 / scale_x, 1 / scale_y),
        view=vrt(width, height, [shown(band) for band in range(1, scene.count + 1)], mask=mask),
        scale=(scene.scale[0] * scale_x, scene.scale[1] * scale_y),
        gsd=None if scene.gsd is None else scene.gsd / math.sqrt(scale_x * scale_y),
        block_shape=(BLOCK, BLOCK),
        overviews=(),
    )


def coloured(scene: Scene, components: int) -> Scene:
    """A scene of palette indices as red, green and blue, and alpha where `components` is 4."""
    whole = (0.0, 0.0, float(scene.width), float(scene.height))
    source, size = _source(scene), (scene.width, scene.height)
    names = ("Red", "Green", "Blue", "Alpha")[:components]
    bands = [
        Shown(source, size, 1, "uint8", whole, n.lower(), colour=i, interpretation=n, smooth=False)
        for i, n in enumerate(names, 1)
    ]
    masked = scene.masks[0] != "none"
    mask = Shown(source, size, "mask,1", "uint8", whole, smooth=False) if masked else None
    return replace(
        scene,
        count=components,
        dtype="uint8",
        nodata=(None,) * components,
        masks=("mask" if masked else "none",) * components,
        alpha=4 if components == 4 else None,
        band_names=tuple(n.lower() for n in names),
        block_shape=(BLOCK, BLOCK),
        scales=(),
        offsets=(),
        view=vrt(scene.width, scene.height, bands, mask=mask),
    )


def stacked(parts: Sequence[tuple[Scene, int, str]], *, ref: SceneRef) -> Scene:
    """Bands of several files of one ground as one scene, on the grid of the finest.

    Args:
        parts: for each band its file, its 1-based number there, and its name here.
        ref: the scene they make.

    Raises:
        SceneError: the files do not lie on one ground.
    """
    finest = min(_pixel(part) for part, _, _ in parts)
    # GSDs are those in the middle of each file, so that those of one grid may differ a little.
    fine = [part for part, _, _ in parts if _pixel(part) <= 1.01 * finest]
    grid = max(fine, key=lambda scene: scene.width * scene.height)
    dtype = np.result_type(*(part.dtype for part, _, _ in parts)).name
    bands = [_part(grid, part, band, name=name, dtype=dtype) for part, band, name in parts]
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
        view=vrt(grid.width, grid.height, bands),
    )


def _pixel(scene: Scene) -> float:
    """A measure of the pixel's size to compare files of one ground by."""
    return scene.gsd if scene.gsd is not None else 1 / scene.width


def _check_extent(grid: Scene, part: Scene, place: Rectangle) -> None:
    """Files of one ground begin and end together, within two pixels of either; what does not is told."""
    x, y, w, h = place
    slack = 2 * max(w / part.width, h / part.height, 1.0)
    beyond = max(-x, -y, x + w - grid.width, y + h - grid.height)
    if beyond > slack:
        raise SceneError(
            f"{part.ref.uri}: reaches {beyond:.0f} pixels beyond {grid.ref.uri}, on whose grid the scene would be; "
            "cut the files to one ground first (gdalwarp -te)"
        )
    short = max(x, y, grid.width - x - w, grid.height - y - h)
    if short > slack and part.nodata == (None,) * part.count:
        raise SceneError(
            f"{part.ref.uri}: ends {short:.0f} pixels before {grid.ref.uri} does, and has no nodata value to stand "
            "there; give it one (gdal_translate -a_nodata), or cut the files to one ground"
        )


def _part(grid: Scene, part: Scene, band: int, *, name: str, dtype: str) -> Shown:
    nodata = part.nodata[band - 1]
    if part.masks[band - 1] == "mask" or part.alpha not in (None, band):
        raise SceneError(
            f"{part.ref.uri}: has a mask or alpha band, which is not read where several files make one scene; "
            "give it a nodata value, or stack the files first (gdalbuildvrt -separate)"
        )
    size = part.width, part.height
    place = placed_on(grid, part)
    _check_extent(grid, part, place)
    return Shown(_source(part), size, band, dtype, place, name, nodata)


def _source(scene: Scene) -> str:
    return scene.view or gdal_source(scene.ref.uri)


def _size(scene: Scene) -> str:
    return f"{scene.width} x {scene.height}"
