"""Tiles of labelled images, with the labels that each shows; and the tiles as GeoTIFFs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import write_coco
from geosod.datasets.image_files import scene_of
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.problems import Problems
from geosod.datasets.tile_files import write_tiles
from geosod.datasets.write import keep_images, staged
from geosod.datasets.write_files import no_progress, safe_path
from geosod.errors import ConfigError, GeosodError
from geosod.tile_size import Overlap
from geosod.tiling.grid import Grid, make_grid


@dataclass(frozen=True, slots=True)
class Slicing:
    """How images are cut into tiles.

    Attributes:
        tile: (width, height) in pixels. Images that are smaller are one tile of their own size.
        overlap: of neighbouring tiles along x and y, in pixels or as a ratio of the tile.
        min_visible: a box of which a tile shows less than this share of its area is ignored there: it counts neither
            way, where to drop it would make background of a part of an object.
        drop_hidden: drop such boxes nevertheless.
        negatives: share of the tiles without objects that is kept, 0 to 1, chosen at random in each image.
        seed: of the random numbers.
    """

    tile: tuple[int, int]
    overlap: Overlap = (0.2, 0.2)
    min_visible: float = 0.25
    drop_hidden: bool = False
    negatives: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_visible", "negatives"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name.replace('_', '-')} {getattr(self, name):g}: give a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What was written.

    Attributes:
        labels: labels of the tiles, whose images are the files.
        empty: tiles that were left out since they have no valid pixel.
        problems: images that could not be read, and tiles of which a part could not.
    """

    labels: Labels
    empty: int
    problems: Problems


def slice_labels(labels: Labels, slicing: Slicing) -> Labels:
    """The labels of the tiles; nothing is read.

    A tile is an image with the identifier ``IMAGE_COLUMN_ROW`` of its top-left pixel, and knows its scene and offset.
    Boxes are clipped to their tile, and `truncated` where that takes something away. The area of the format (`area`) is
    reduced in proportion. Points belong to the tiles that contain them.

    Raises:
        ConfigError: the tile is less than a pixel, or the overlap not below it.
    """
    rng = np.random.default_rng(slicing.seed)
    rows_of = labels.by_image()
    images: list[LabelledImage] = []
    rows, clipped, hidden, owner = list[IntArray](), list[FloatArray](), list[BoolArray](), list[IntArray]()
    for image, mine in zip(labels.images, rows_of, strict=True):
        grid = make_grid(image.width, image.height, tile=slicing.tile, overlap=slicing.overlap)
        found, windows = _shown(labels, mine, grid, slicing), grid.windows_array()
        counts = np.bincount(found.tile[~found.hidden & ~labels.ignore[found.row]], minlength=len(windows)) > 0
        kept = counts | _chosen(~counts, slicing.negatives, rng)
        position = np.cumsum(kept) - 1 + len(images)
        inside = kept[found.tile]
        rows.append(found.row[inside])
        clipped.append(found.box[inside])
        hidden.append(found.hidden[inside])
        owner.append(position[found.tile[inside]])
        images += [_tile(image, window) for window in windows[kept].tolist()]
    return _assembled(labels, images, _joined(rows), _joined(clipped).reshape(-1, 4), _joined(hidden), _joined(owner))


def _joined(parts: list) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _assembled(
    labels: Labels, images: list[LabelledImage], rows: IntArray, box: FloatArray, hidden: BoolArray, owner: IntArray
) -> Labels:
    rows, hidden = rows.astype(np.int64), hidden.astype(np.bool_)
    whole = np.prod(labels.boxes[rows, 2:] - labels.boxes[rows, :2], axis=1)
    share = np.divide(np.prod(box[:, 2:] - box[:, :2], axis=1), whole, out=np.ones(len(rows)), where=whole > 0)
    return labels.with_columns(
        images=[replace(image, number=k) for k, image in enumerate(images, 1)],
        image=owner,
        boxes=box,
        labels=labels.labels[rows],
        crowd=labels.crowd[rows],
        ignore=labels.ignore[rows] | hidden,
        truncated=labels.truncated[rows] | (share < 1 - 1e-9),
        area=labels.area[rows] * share,
        ids=np.arange(1, len(rows) + 1),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """Boxes in tiles: (M,) row of the labels and index of the tile, (M, 4) box in the tile, (M,) too little visible."""

    row: IntArray
    tile: IntArray
    box: FloatArray
    hidden: BoolArray


def _shown(labels: Labels, rows: IntArray, grid: Grid, slicing: Slicing) -> _Shown:
    """Every pair of a tile and a box that it shows; sorted by tile, then row."""
    boxes = labels.boxes[rows]
    first_x, count_x = _range(boxes[:, 0], boxes[:, 2], grid.x_starts, grid.tile_width, points=labels.points)
    first_y, count_y = _range(boxes[:, 1], boxes[:, 3], grid.y_starts, grid.tile_height, points=labels.points)
    counts = count_x * count_y
    index = np.repeat(np.arange(len(rows)), counts)
    nth = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    across = count_x[index]
    tile = (first_y[index] + nth // np.maximum(across, 1)) * grid.cols + first_x[index] + nth % np.maximum(across, 1)
    order = np.lexsort((index, tile))
    tile, index = tile[order], index[order]
    low = np.column_stack([np.array(grid.x_starts)[tile % grid.cols], np.array(grid.y_starts)[tile // grid.cols]])
    whole, size = boxes[index], np.array([grid.tile_width, grid.tile_height])
    box = np.hstack([np.maximum(whole[:, :2], low), np.minimum(whole[:, 2:], low + size)])
    area = np.prod(whole[:, 2:] - whole[:, :2], axis=1)
    share = np.divide(np.prod(box[:, 2:] - box[:, :2], axis=1), area, out=np.ones(len(index)), where=area > 0)
    hidden = share < slicing.min_visible
    kept = ~hidden if slicing.drop_hidden else np.ones(len(index), np.bool_)
    return _Shown(rows[index[kept]], tile[kept], (box - np.tile(low, 2))[kept], hidden[kept])


def _range(
    low: FloatArray, high: FloatArray, starts: tuple[int, ...], side: int, *, points: bool
) -> tuple[IntArray, IntArray]:
    """Along one axis: the first of the tiles that show each box, and their number."""
    begin = np.array(starts, np.float64)
    first = np.searchsorted(begin + side, low, side="right")
    # A point on the left edge of a tile belongs to it, a box that only touches it does not.
    last = np.searchsorted(begin, high, side="right" if points else "left")
    return first.astype(np.int64), np.maximum(last - first, 0).astype(np.int64)


def _chosen(empty: BoolArray, share: float, rng: np.random.Generator) -> BoolArray:
    """(tiles,) bool, a share of the empty ones."""
    candidates = np.flatnonzero(empty)
    out = np.zeros(len(empty), np.bool_)
    out[rng.permutation(candidates)[: round(share * len(candidates))]] = True
    return out


def _tile(image: LabelledImage, window: list[int]) -> LabelledImage:
    col, row, width, height = window
    return LabelledImage(
        f"{image.id}_{col}_{row}",
        image.uri,
        width,
        height,
        metres_per_pixel=image.metres_per_pixel,
        scene=image.scene or image.id,
        offset=(image.offset[0] + col, image.offset[1] + row),
    )


def write_slices(
    labels: Labels,
    out: str | Path,
    slicing: Slicing,
    *,
    overwrite: bool = False,
    on_image: Callable[[int, int], None] = no_progress,
) -> SliceResult:
    """Cut the images of a set into tiles, and write them to a folder with their labels.

    The folder gets ``labels.json`` (COCO) and ``images/`` with a GeoTIFF for each tile: all bands in the type of the
    scene, its nodata and masks, and its georeference. Every block of a scene is decoded once.

    Args:
        labels: labels whose images can be opened.
        out: a new folder.
        slicing: tile size and so on.
        overwrite: whether a folder that geosod wrote is replaced.
        on_image: called after each image with the number of images that are done, and of all.

    Raises:
        ConfigError: as `slice_labels`.
        OutputError: the folder exists, or cannot be written.
    """
    path = Path(out).expanduser()
    problems = Problems()
    tiles = slice_labels(labels, slicing)
    by_scene: dict[str, list[int]] = {}
    for k, tile in enumerate(tiles.images):
        by_scene.setdefault(tile.id.rsplit("_", 2)[0], []).append(k)
    keep_images(path, labels)
    with staged(path, folder=True, overwrite=overwrite) as stage:
        written, empty = np.zeros(len(tiles.images), np.bool_), 0
        for done, image in enumerate(labels.images, 1):
            mine = by_scene.get(image.id, [])
            try:
                empty += _write_image(image, tiles, mine, stage, written, slicing, problems)
            except GeosodError as error:
                problems.add(image.uri, "", str(error).removeprefix(f"{image.uri}: "))
                written[mine] = False
            on_image(done, len(labels.images))
        kept = tiles.of_images(np.flatnonzero(written))
        final = [replace(one, uri=str(_tile_path(path, one)), number=k) for k, one in enumerate(kept.images, 1)]
        kept = kept.with_columns(images=final)
        write_coco(kept, Target(stage / "labels.json", path / "labels.json"))
    return SliceResult(kept, empty, problems)


def _tile_path(folder: Path, tile: LabelledImage) -> Path:
    return safe_path(folder / "images", PurePosixPath(tile.id).as_posix(), ".tif")


def _write_image(
    image: LabelledImage,
    tiles: Labels,
    mine: list[int],
    stage: Path,
    written: BoolArray,
    slicing: Slicing,
    problems: Problems,
) -> int:
    """Write the tiles of one image; the number of those without a valid pixel."""
    if not mine:
        return 0
    scene = scene_of(image)
    if (scene.width, scene.height) != (image.width, image.height):
        raise ConfigError(
            f"has {scene.width} x {scene.height} pixels, but the labels are for {image.width} x {image.height}"
        )
    base = image.offset
    at = {(t.offset[0] - base[0], t.offset[1] - base[1]): k for k in mine for t in [tiles.images[k]]}
    grid = make_grid(scene.width, scene.height, tile=slicing.tile, overlap=slicing.overlap)
    targets = {start: _tile_path(stage, tiles.images[k]) for start, k in at.items()}
    found = write_tiles(scene, grid, targets, problems)
    for start in found:
        written[at[start]] = True
    return len(mine) - len(found)
