"""The nouns: frozen values that stages pass to each other.

Frames
    *scene frame*: pixels of level 0 (full resolution). x grows with the column, y with the row, and the
    top-left corner of the top-left pixel is (0, 0), so pixel (row, col) covers
    ``[col, col + 1) x [row, row + 1)``.
    *tile frame*: the same, with the origin at the tile's top-left corner.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from affine import Affine

from geosod.errors import ConfigError, redacted

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PixelArray = npt.NDArray[Any]

MaskKind = Literal["none", "nodata", "mask"]
Status = Literal["inspected", "nodata", "outside_aoi", "masked", "failed"]

#: Sides of a box that touch its tile's edge, and one for a box that is merely near one; see `Detections.fragment`.
LEFT, TOP, RIGHT, BOTTOM, RIM, ASIDE = 1, 2, 4, 8, 16, 32
SIDES = LEFT | TOP | RIGHT | BOTTOM


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
        name: what the scene calls it: the key of a STAC asset, or the name a user gave it.
        uri: the file it is in.
        band: 1-based number in that file.
        aliases: other names it goes by, such as the common name "red" of a band "B04".
        scale, offset: pixel value × scale + offset is the physical one; None where the file's own tags hold.
        version: changes when the file does; None where nothing tells.
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
    """Where a scene is and what it is called, before anything is opened.

    Attributes:
        uri: path or URL of the scene, or of the STAC item that names its files.
        id: file-name safe identifier, unique within a run.
        datetime: acquisition time in UTC, where known.
        version: changes when the file does; None where nothing tells.
        files: its bands, where they do not simply lie in the file at `uri`.
    """

    uri: str
    id: str
    datetime: dt.datetime | None = None
    version: str | None = None
    files: tuple[BandFile, ...] = ()


@dataclass(frozen=True, slots=True)
class GroundControl:
    """A scene located by points whose place is known; between them a thin-plate spline holds.

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
    """What the header of a scene says; no pixel has been read.

    Attributes:
        ref: where it is.
        width, height: pixels of level 0.
        count: number of bands, an alpha band included.
        dtype: numpy name of the pixel type.
        crs: coordinate reference system as WKT2, or None where the scene has none.
        transform: scene frame → CRS coordinates; None where a locator takes its place, or without georeference.
        nodata: the nodata value of each band, in file order; None where a band has none.
        masks: what tells valid from invalid pixels in each band, the alpha band aside: nothing, a nodata value,
            or a mask of its own or of the whole file.
        alpha: 1-based index of the alpha band, or None.
        band_names: description of each band in file order, or its colour interpretation, or "".
        block_shape: (rows, cols) of the native blocks.
        overviews: decimation factors of the stored overviews, ascending.
        gsd: ground sample distance in metres at the scene centre (geometric mean of both axes), or None.
        locator: what tells the place of a pixel where no affine transform does.
        scales, offsets: per band, pixel value × scale + offset is the physical one; empty for 1 and 0.
        view: a VRT that shows the scene as described here, where the file itself would not: several files as
            one, a palette as colours, another scale. None where the file at ``ref.uri`` is read as it is.
        scale: pixels of this scene for one pixel of the file, along x and along y; 1 but for resampled scenes.
    """

    ref: SceneRef
    width: int
    height: int
    count: int
    dtype: str
    crs: str | None
    transform: Affine | None
    nodata: tuple[float | None, ...]
    masks: tuple[MaskKind, ...]
    alpha: int | None
    band_names: tuple[str, ...]
    block_shape: tuple[int, int]
    overviews: tuple[int, ...]
    gsd: float | None
    locator: GroundControl | RationalPolynomials | None = None
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    view: str | None = None
    scale: tuple[float, float] = (1.0, 1.0)

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


@dataclass(frozen=True, slots=True)
class Unit:
    """A rectangular group of neighbouring tiles: the piece of work that is read, detected and settled together.

    Attributes:
        id: unique within the scene; sorts in reading order.
        scene_id: the scene it belongs to.
        index: (row, column) of the unit among the scene's units.
        level: scale it is read at; 1.0 is full resolution.
        windows: its tiles, in reading order, scene frame.
        read_window: hull of the tiles.
        core: the rectangle that no tile of another unit reaches, going on beyond the scene's edges. Boxes inside it
            can only ever meet boxes of this unit.
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
    """Tiles on their way to a detector; they may come from several units and scenes.

    Attributes:
        pixels: (N, C, H, W), the scene's dtype. Invalid pixels, and those beyond the scene, are 0.
        windows: (N, 4) int64 ``[col, row, width, height]``, scene frame; width and height are less than
            W and H only where the scene is smaller than a tile.
        valid: (N, H, W) bool, True where a pixel is valid; None when every pixel of every tile is.
        scene_size: (N, 2) int64 width and height of each tile's scene, to tell its edge from a tile's.
        limits: (N, C, 2) float32, the pixel values of each band that are 0 and 1 to the network; None takes the
            model card's.
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


def _column(name: str, values: Any, dtype: Any, length: int, default: Any) -> npt.NDArray[Any]:
    column = np.full(length, default, dtype) if values is None else np.ascontiguousarray(values, dtype)
    if column.shape != (length,):
        raise ConfigError(f"Detections: {name} has shape {column.shape}, expected ({length},), one value per box")
    return column


def _sides(values: Any, length: int) -> npt.NDArray[np.uint8]:
    sides = None if values is None else np.asarray(values)
    if sides is not None and sides.size and (sides.dtype.kind not in "iu" or sides.min() < 0 or sides.max() > 63):
        raise ConfigError(
            "Detections: fragment tells the sides that touch a tile's edge, as sums of LEFT 1, TOP 2, RIGHT 4, "
            f"BOTTOM 8, RIM 16 and ASIDE 32; got {sides.dtype}, " + ", ".join(map(str, np.unique(sides)[-3:]))
        )
    return _column("fragment", sides, np.uint8, length, 0)


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Detections:
    """Boxes as columns; the empty one is ordinary. Row i of every column describes box i.

    Attributes:
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame.
        scores: (N,) float32.
        labels: (N,) int32, index into the model's classes.
        cut: (N,) bool, the object meets the scene's edge or nodata.
        fragment: (N,) uint8, the sides on which the box touches an edge of its tile that is not an edge of the
            scene, so that a neighbouring tile may show more of the object: a sum of `LEFT`, `TOP`, `RIGHT` and
            `BOTTOM`. 0 for a whole object; `RIM` for one that is whole, but so near to such an edge that a tile
            which shows more of its surroundings is to be preferred; `ASIDE` for one that takes its fragments, but
            otherwise is not to be merged.
        n_merged: (N,) int32, how many raw boxes this one stands for.
        level: (N,) float32, the scale it was found at; 1.0 is full resolution.
    """

    boxes: FloatArray
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    cut: BoolArray
    fragment: npt.NDArray[np.uint8]
    n_merged: npt.NDArray[np.int32]
    level: npt.NDArray[np.float32]

    def __init__(
        self,
        *,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        cut: npt.ArrayLike | None = None,
        fragment: npt.ArrayLike | None = None,
        n_merged: npt.ArrayLike | None = None,
        level: npt.ArrayLike | None = None,
    ) -> None:
        corners = np.ascontiguousarray(boxes, np.float64)
        corners = corners.reshape(0, 4) if corners.size == 0 else corners
        if corners.ndim != 2 or corners.shape[1] != 4:
            raise ConfigError(f"Detections: boxes have shape {corners.shape}, expected (N, 4) as x0, y0, x1, y1")
        n = len(corners)
        columns = {
            "boxes": corners,
            "scores": _column("scores", scores, np.float32, n, 0),
            "labels": _column("labels", labels, np.int32, n, 0),
            "cut": _column("cut", cut, np.bool_, n, False),
            "fragment": _sides(fragment, n),
            "n_merged": _column("n_merged", n_merged, np.int32, n, 1),
            "level": _column("level", level, np.float32, n, 1.0),
        }
        for name, column in columns.items():
            object.__setattr__(self, name, column)

    @classmethod
    def empty(cls) -> Self:
        """No boxes."""
        return cls(boxes=np.empty((0, 4)), scores=(), labels=())

    @classmethod
    def concat(cls, parts: Iterable[Detections]) -> Self:
        """All boxes of `parts`, in their order."""
        kept = list(parts)
        if not kept:
            return cls.empty()
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in kept]) for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: slice | npt.NDArray[Any] | Sequence[int]) -> Detections:
        chosen = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        if not isinstance(chosen, slice) and chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return Detections(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def with_columns(self, **columns: npt.ArrayLike) -> Detections:
        """The same boxes with some columns replaced."""
        return Detections(**{f.name: columns.get(f.name, getattr(self, f.name)) for f in fields(self)})

    def canonical_order(self) -> IntArray:
        """(N,) int64, indices by descending score, then x0, y0, x1, y1, label, whatever the input order.

        Boxes that are the same in all six are told apart by the remaining columns, so that the order of
        two distinguishable rows never depends on where they came from.
        """
        x0, y0, x1, y1 = self.boxes.T
        keys = (self.level, self.n_merged, self.fragment, self.cut, self.labels, y1, x1, y0, x0, -self.scores)
        return np.lexsort(keys)

    def to_arrow(self) -> pa.RecordBatch:
        """One row a box: x0, y0, x1, y1 and the other columns under their names."""
        columns = dict(zip(("x0", "y0", "x1", "y1"), self.boxes.T, strict=True))
        columns |= {f.name: getattr(self, f.name) for f in fields(self) if f.name != "boxes"}
        return pa.RecordBatch.from_pydict({name: pa.array(column) for name, column in columns.items()})

    @classmethod
    def from_arrow(cls, batch: pa.RecordBatch | pa.Table) -> Self:
        """The inverse of `to_arrow`."""
        columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
        boxes = np.stack([columns.pop(name) for name in ("x0", "y0", "x1", "y1")], axis=1)
        return cls(boxes=boxes, **columns)


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that could not be done: the row of ``failures.parquet``.

    Attributes:
        scene_id, uri: the scene; the URI carries no credentials.
        window: the ground concerned, scene frame; None for the whole scene.
        stage: "open", "plan", "read", "detect", "merge" or "write".
        error: class name of the exception.
        message: one line for a person.
        attempts: how often it was tried.
    """

    scene_id: str
    uri: str
    window: Window | None
    stage: str
    error: str
    message: str
    attempts: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", redacted(self.uri))
        object.__setattr__(self, "message", redacted(self.message))


#: Codes of a coverage grid; where two say something of one cell, the greater one holds.
UNSEEN, NODATA, INSPECTED, FAILED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of the ground, on a grid of square cells aligned to the scene's origin.

    A cell with any failed pixel is failed; with any valid pixel, inspected; else it is nodata. Cells
    that no tile touched are unseen.

    Attributes:
        cell: side of a cell in pixels of level 0.
        col, row: cell coordinates of ``codes[0, 0]``.
        codes: (rows, cols) uint8, UNSEEN, NODATA, INSPECTED or FAILED.
    """

    cell: int
    col: int
    row: int
    codes: npt.NDArray[np.uint8]

    @classmethod
    def of_window(cls, window: Window, cell: int, code: int = UNSEEN) -> Self:
        """A grid of one code over every cell that `window` touches."""
        col, row = window.col // cell, window.row // cell
        shape = (-(-window.bottom // cell) - row, -(-window.right // cell) - col)
        return cls(cell, col, row, np.full(shape, code, np.uint8))

    def update(self, other: Coverage) -> None:
        """Raise the cells of this grid, in place, to what `other` says of them."""
        top, left = other.row - self.row, other.col - self.col
        view = self.codes[top : top + other.codes.shape[0], left : left + other.codes.shape[1]]
        np.maximum(view, other.codes, out=view)


@dataclass(frozen=True, slots=True)
class Execution:
    """How the detector runs, once resolved for a machine. Part of what makes two results comparable.

    Attributes:
        device: "cpu" or "cuda".
        backend: "eager" or "compile".
        precision: "fp32" or "bf16".
        batch: tiles in every forward pass; shorter batches are padded.
        threads: CPU threads of one detector.
    """

    device: str
    backend: str
    precision: str
    batch: int
    threads: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result comes from: what the outputs record besides the boxes.

    Attributes:
        model: name of the bundle.
        model_digest: sha256 of the bundle's card and weights.
        config_digest: sha256 of every setting that can change a result.
        version: geosod's version.
        classes: label of each class id.
        execution: how the detector ran.
        options: the settings behind `config_digest`, free of paths and credentials.
    """

    model: str
    model_digest: str
    config_digest: str
    version: str
    classes: tuple[str, ...]
    execution: Execution
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SceneResult:
    """What one scene came to.

    Attributes:
        scene_id, uri: the scene; the URI carries no credentials.
        status: "done", "partial" (some ground failed), "failed", or "skipped" (already committed).
        detections: number of rows written.
        paths: files of the scene, the committing item last.
        failures: what went wrong.
        megapixels: size of the scene; 0 where it could not be opened.
        inspected_km2: ground looked at; None without georeference.
        raw: boxes before merging.
        shipped: boxes whose fate one unit alone could not settle.
        capped_tiles: tiles that reached the model's `top_k`, so that more objects may be there.
        unusable: boxes of the model that had no area, or coordinates or scores that are not finite; left out.
    """

    scene_id: str
    uri: str
    status: Literal["done", "partial", "failed", "skipped"]
    detections: int = 0
    paths: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    megapixels: float = 0.0
    inspected_km2: float | None = None
    raw: int = 0
    shipped: int = 0
    capped_tiles: int = 0
    unusable: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", redacted(self.uri))
