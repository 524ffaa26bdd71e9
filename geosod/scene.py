"""Scenes, and what is read of them: frozen values that stages pass to each other.

Frames
    *scene frame*: pixels of level 0 (full resolution). x grows with the column, y with the row, and the
    top-left corner of the top-left pixel is (0, 0), so pixel (row, col) covers
    ``[col, col + 1) x [row, row + 1)``.
    *tile frame*: the same, with the origin at the tile's top-left corner.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from affine import Affine

from geosod.arrays import BoolArray, IntArray, PixelArray
from geosod.errors import ModelError, identity
from geosod.html_repr import card, grid

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open rectangle of pixels in the scene frame: columns ``[col, col + width)``, rows likewise."""

    col: int
    row: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column after the window."""
        return self.col + self.width

    @property
    def bottom(self) -> int:
        """First row after the window."""
        return self.row + self.height

    def intersection(self, other: Window) -> Window | None:
        """The common rectangle, or None where the two share no pixel."""
        col, row = max(self.col, other.col), max(self.row, other.row)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Window(col, row, right - col, bottom - row) if right > col and bottom > row else None


@dataclass(frozen=True, slots=True)
class BandFile:
    """One band of a scene whose bands lie in several files.

    Attributes:
        name: its name in the scene: the key of a STAC asset, or the name a user gave it.
        uri: the file it is in.
        band: 1-based number in that file.
        aliases: other names it goes by, such as the common name "red" of a band "B04".
        scale, offset: pixel value × scale + offset is the physical one; None where the file's own tags hold.
        version: changes when the file does; None where that is not known.
    """

    name: str
    uri: str
    band: int = 1
    aliases: tuple[str, ...] = ()
    scale: float | None = None
    offset: float | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class SceneRef:
    """Where a scene is, and its name, before anything is opened.

    Attributes:
        uri: path or URL of the scene, or of the STAC item that names its files.
        id: file-name safe identifier, unique within a run.
        datetime: acquisition time in UTC, where known.
        version: changes when the file does; None where that is not known.
        files: its bands, where they do not simply lie in the file at `uri`.
        image: what GDAL puts in front of the name for another image of the file than the first, such as
            ``GTIFF_DIR:3:``; "" for the first.
    """

    uri: str
    id: str
    datetime: dt.datetime | None = None
    version: str | None = None
    files: tuple[BandFile, ...] = ()
    image: str = ""

    def hashed(self) -> SceneRef:
        """The same scene with an identifier that depends on its URI: the old one and 8 hexadecimal digits."""
        digest = hashlib.blake2b(identity(self.uri).encode(), digest_size=4).hexdigest()
        return replace(self, id=f"{self.id}-{digest}")


@dataclass(frozen=True, slots=True)
class GroundControl:
    """A scene located by points with known coordinates, and a thin-plate spline between them.

    Attributes:
        points: ``(x, y, X, Y)``, scene frame at scale 1 and coordinates of the scene's CRS.
    """

    points: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class RationalPolynomials:
    """A scene located by rational polynomial coefficients, which need the height of the ground.

    Attributes:
        coefficients: GDAL's RPC metadata as ``(name, text)`` pairs.
        height: metres above the ellipsoid, everywhere, or added to the DEM.
        dem: raster of heights that GDAL opens, or None.
    """

    coefficients: tuple[tuple[str, str], ...]
    height: float = 0.0
    dem: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """The header of a scene; no pixel has been read.

    Attributes:
        ref: where it is.
        width, height: pixels of level 0.
        count: number of bands, an alpha band included.
        dtype: numpy name of the pixel type.
        crs: coordinate reference system as WKT2, or None where the scene has none.
        transform: scene frame → CRS coordinates; None where there is a locator, or no georeference.
        nodata: the nodata value of each band, in file order; None where a band has none.
        masks: whether each band has a mask, of its own or of the whole file, besides nodata value and alpha band.
        alpha: 1-based index of the alpha band that marks invalid pixels, or None.
        band_names: description of each band in file order, or its colour interpretation, or "".
        block_shape: (rows, cols) of the native blocks.
        overviews: decimation factors of the stored overviews, ascending.
        pixel: width and height of a pixel on the ground in metres, at the centre of the scene, or where that has no
            position, at the nearest pixel that has one; None without georeference.
        locator: control points or polynomials that locate pixels where there is no affine transform.
        scales, offsets: per band, pixel value × scale + offset is the physical one; empty for 1 and 0.
        view: a VRT that shows the scene as described here, where the file itself would not: several files as
            one, a palette as colours, another scale. None where the file at ``ref.uri`` is read as it is.
        scale: pixels of this scene for one pixel of the file, along x and along y; other than 1 in resampled scenes.
        gaps: what no source of a VRT covers, in pixels of the file, where nothing else marks it invalid; or None.
        notes: what a user should know of the file.
    """

    ref: SceneRef
    width: int
    height: int
    count: int
    dtype: str
    crs: str | None
    transform: Affine | None
    nodata: tuple[float | None, ...]
    masks: tuple[bool, ...]
    alpha: int | None
    band_names: tuple[str, ...]
    block_shape: tuple[int, int]
    overviews: tuple[int, ...]
    pixel: tuple[float, float] | None
    locator: GroundControl | RationalPolynomials | None = None
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    view: str | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    gaps: BaseGeometry | None = None
    notes: tuple[str, ...] = ()

    @property
    def gsd(self) -> float | None:
        """Ground sample distance in metres, the geometric mean of both axes, or None."""
        return None if self.pixel is None else math.sqrt(self.pixel[0] * self.pixel[1])

    @property
    def id(self) -> str:
        """The identifier of the scene."""
        return self.ref.id

    @property
    def window(self) -> Window:
        """The whole scene."""
        return Window(0, 0, self.width, self.height)

    @property
    def megapixels(self) -> float:
        """Size in millions of pixels."""
        return self.width * self.height / 1e6

    def _repr_html_(self) -> str:
        bands = ", ".join(name or str(number) for number, name in enumerate(self.band_names, 1))
        rows = [("size", f"{self.width:,} x {self.height:,} px"), ("bands", f"{bands} ({self.dtype})")]
        rows += [] if self.pixel is None else [("pixel", f"{self.pixel[0]:.3g} x {self.pixel[1]:.3g} m")]
        rows += [] if self.ref.datetime is None else [("date", self.ref.datetime.isoformat())]
        rows.append(("file", identity(self.ref.uri)))
        return card(self.id, grid((), rows))


@dataclass(frozen=True, slots=True)
class Unit:
    """A rectangular group of neighbouring tiles: the unit of work that is read, detected and settled together.

    Attributes:
        id: unique within the scene; sorts in reading order.
        scene_id: the scene it belongs to.
        index: (row, column) of the unit among the scene's units.
        level: scale it is read at; 1.0 is full resolution.
        windows: its tiles, in reading order, scene frame.
        read_window: hull of the tiles.
        core: the rectangle that no tile of another unit reaches; it extends beyond the scene's edges. Boxes inside it
            can overlap boxes of this unit only.
    """

    id: str
    scene_id: str
    index: tuple[int, int]
    level: float
    windows: tuple[Window, ...]
    read_window: Window
    core: Window


@dataclass(frozen=True, slots=True)
class TileBatch:
    """Tiles for a detector; they may come from several units and scenes.

    Attributes:
        pixels: (N, C, H, W), the scene's dtype. Invalid pixels, and those beyond the scene, are 0.
        windows: (N, 4) int64 ``[col, row, width, height]``, scene frame; width and height are less than
            W and H only where the scene is smaller than a tile.
        valid: (N, H, W) bool, True where a pixel is valid; None when every pixel of every tile is.
        scene_size: (N, 2) int64 width and height of each tile's scene, to distinguish its edges from those of tiles.
        limits: (N, C, 2) float32, the pixel values of each band that are scaled to 0 and 1; None takes the model
            card's.
    """

    pixels: PixelArray
    windows: IntArray
    valid: BoolArray | None
    scene_size: IntArray
    limits: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice) -> TileBatch:
        valid = None if self.valid is None else self.valid[index]
        limits = None if self.limits is None else self.limits[index]
        return TileBatch(self.pixels[index], self.windows[index], valid, self.scene_size[index], limits)

    @classmethod
    def concat(cls, parts: Sequence[TileBatch]) -> TileBatch:
        """The tiles of `parts`, which must have one shape, in their order; at least one part."""
        if len(parts) == 1:
            return parts[0]
        shapes = [(len(p), *p.pixels.shape[2:]) for p in parts]
        full = all(p.valid is None for p in parts)
        masks = [
            np.ones(shape, np.bool_) if p.valid is None else p.valid for p, shape in zip(parts, shapes, strict=True)
        ]
        return cls(
            np.concatenate([p.pixels for p in parts]),
            np.concatenate([p.windows for p in parts]),
            None if full else np.concatenate(masks),
            np.concatenate([p.scene_size for p in parts]),
            # The tiles of a run have limits, or none has.
            None if parts[0].limits is None else np.concatenate([p.limits for p in parts if p.limits is not None]),
        )


def channels_first(image: PixelArray, bands: int) -> PixelArray:
    """An image (C, H, W), or (H, W, C) where only that fits the number of bands, as (C, H, W).

    Raises:
        ModelError: neither order has that many bands.
    """
    if image.ndim == 3 and image.shape[0] == bands:
        return image
    if image.ndim == 3 and image.shape[2] == bands:
        return np.moveaxis(image, 2, 0)
    raise ModelError(f"an image of shape {image.shape} does not have the model's {bands} bands; pass (C, H, W)")
