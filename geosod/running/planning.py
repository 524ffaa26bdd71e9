"""From a scene's header to the work to be done on it: levels, tiles, units, and the tree in which units merge."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from geosod.arrays import BoolArray, FloatArray
from geosod.errors import ConfigError
from geosod.georeference.points import georeferenced
from geosod.georeference.sizes import check_ground
from geosod.machine import usable_cpus
from geosod.running.job import Job
from geosod.running.limits import pixel_limits
from geosod.scene import Scene, SceneRef, Unit
from geosod.scenes.bands import choose_bands, choose_files, is_unnamed
from geosod.scenes.open import open_files, open_scene, page_of
from geosod.scenes.validity import called_alpha
from geosod.scenes.view import at_gsd, at_scale, full_scale
from geosod.tiling.grid import Grid, make_grid
from geosod.tiling.units import Group, merge_tree, plan_units

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


#: Minimum tile rows and columns of a unit, and maximum rows and columns.
MIN_UNIT, MAX_UNIT = 4, (8, 16)
#: A unit has fewer columns where a row of its tiles would need more bytes; a reader holds not much more than a row.
MAX_ROW_BYTES = 64 << 20
#: Minimum and maximum √area; None for no maximum.
Sizes = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Level:
    """A scale at which a scene is searched.

    Attributes:
        scale: pixels of the level for one of the scene, before its size is rounded to whole pixels; 1 for the finest
            level, less for the others.
        scene: the scene at that scale.
        sizes: minimum and maximum √area of a box that may be reported, in the level's pixels.
    """

    scale: float
    scene: Scene
    sizes: tuple[float, float] = (0.0, math.inf)


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """What will be done with one scene.

    Attributes:
        scene: the opened scene, at the scale of its finest level.
        bands: 1-based bands in the model's order.
        levels: the scales at which it is searched, the finest first.
        units: units of work, level by level in reading order; none where the AOI leaves no tile. Windows and cores are
            in the frame of the unit's level.
        tree: how their pending boxes are merged; units of different levels have separate trees.
        area: the ground to search in the scene frame, the AOI without what is masked; None for the whole scene.
        notes: what the user should know: oddities of the file, and what could not be checked.
        aoi: the AOI in the scene frame, or None.
        masks: masked ground in the scene frame, by kind.
        limits: the pixel values of each band that are scaled to 0 and 1.
    """

    scene: Scene
    bands: tuple[int, ...]
    levels: tuple[Level, ...]
    units: tuple[Unit, ...]
    tree: tuple[tuple[Group, ...], ...]
    area: BaseGeometry | None
    notes: tuple[str, ...]
    aoi: BaseGeometry | None = None
    masks: dict[str, BaseGeometry] = field(default_factory=dict)
    limits: tuple[tuple[float, float], ...] | None = None

    def frame(self, level: Level) -> FloatArray:
        """(2,) pixels of a level for one of the scene, along x and y."""
        return np.array([level.scene.width / self.scene.width, level.scene.height / self.scene.height])

    @property
    def outside(self) -> bool:
        """Whether the scene lies outside the AOI."""
        return self.aoi is not None and self.aoi.is_empty

    @property
    def tiles(self) -> int:
        """Number of tiles to read."""
        return sum(len(unit.windows) for unit in self.units)

    def level(self, unit: Unit) -> Level:
        """The level of a unit."""
        return next(level for level in self.levels if level.scale == unit.level)


def plan_scene(job: Job, ref: SceneRef) -> ScenePlan:
    """Open a scene, check it against the model, and divide it into units.

    Raises:
        SceneError: it cannot be opened or lacks a band.
        ModelError: the model is not made for it.
    """
    c, card = job.config, job.model.card
    whole = open_whole(job, ref)
    if c.tile_gsd is not None:
        whole = at_gsd(whole, _tile_gsd(job))
    bands = model_bands(job, whole)
    notes = [*_file_notes(whole, bands), card.check(whole), *_band_notes(job, whole, bands)]
    levels = _levels(job, whole)
    scene = levels[0].scene
    if georeferenced(scene):
        # Raises now, not after hours of work, where the scene cannot be put in the CRS.
        notes.append(check_ground(scene, c.crs))
    aoi, masks, area = _areas(job, scene)
    units: list[Unit] = []
    trees = []
    pixel_bytes = len(bands) * np.dtype(scene.dtype).itemsize
    for level in levels:
        grid = make_grid(level.scene.width, level.scene.height, tile=job.tile, overlap=job.overlap)
        shape = c.unit or _unit_shape(grid, pixel_bytes)
        mine = plan_units(scene.id, grid, shape=shape, level=level.scale, keep=_wanted(area, grid, scene))
        trees.append(merge_tree(mine, grid))
        units += mine
    tree = tuple(tuple(group for groups in row for group in groups) for row in zip_longest(*trees, fillvalue=()))
    limits = pixel_limits(card, scene, bands) if units else None
    return ScenePlan(scene, bands, levels, tuple(units), tree, area, tuple(filter(None, notes)), aoi, masks, limits)


def open_whole(job: Job, ref: SceneRef) -> Scene:
    """Read the header of a scene as the settings ask, at the scale of its file.

    Raises:
        SceneError: it cannot be opened.
        ModelError: it lacks a band.
    """
    c = job.config
    if not ref.files:
        return open_scene(
            ref if c.page == 1 else page_of(ref, c.page), rpc_height=c.rpc_height, dem=c.dem, alpha=c.alpha
        )
    files = choose_files(ref, job.model.card.bands, c.bands)
    return open_files(ref, files, rpc_height=c.rpc_height, dem=c.dem, alpha=c.alpha)


def model_bands(job: Job, scene: Scene) -> tuple[int, ...]:
    """The 1-based bands of an opened scene, in the model's order.

    Raises:
        SceneError: a chosen band does not exist.
        ModelError: the bands do not fit the model.
    """
    # Files were opened in the order of the model's bands.
    if scene.ref.files:
        return tuple(range(1, scene.count + 1))
    return choose_bands(scene, job.model.card.bands, job.config.bands)


def _file_notes(scene: Scene, bands: tuple[int, ...]) -> list[str]:
    """What was noticed of the file; that its alpha band holds image data is no news where the band is read."""
    known = [f"{scene.id}: {called_alpha(band)}" for band in bands]
    return [note for note in scene.notes if not note.startswith(tuple(known))]


def _band_notes(job: Job, scene: Scene, bands: tuple[int, ...]) -> list[str]:
    """What was assumed of the bands that are read."""
    card, found = job.model.card, []
    guessed = [i for i, band in enumerate(bands) if is_unnamed(scene.band_names[band - 1])]
    if job.config.bands is None and not scene.ref.files and len(guessed) == 1 < len(bands):
        i = guessed[0]
        name = "which the file calls alpha" if scene.band_names[bands[i] - 1] else "which has no name"
        found.append(f"{scene.id}: band {bands[i]}, {name}, is taken for {card.bands[i]}; --bands chooses another")
    tags = {(scene.scales[band - 1], scene.offsets[band - 1]) for band in bands} if scene.scales else set()
    if card.scaling == "physical" and tags <= {(1.0, 0.0)}:
        found.append(
            f"{scene.id}: its bands carry no scale and offset, so their values are taken for the physical ones that "
            f"{card.name} is made for, {card.minimum[0]:g} to {card.maximum[0]:g}"
        )
    return found


def _tile_gsd(job: Job) -> float:
    gsd = job.model.card.gsd if job.config.tile_gsd == "model" else job.config.tile_gsd
    if gsd is None:
        raise ConfigError(f"tile_gsd = 'model': {job.model.card.name} states no GSD; give one in metres")
    return float(gsd)


#: Asked once, since it is read from files.
_cores = cache(usable_cpus)


def _unit_shape(grid: Grid, pixel_bytes: int) -> tuple[int, int]:
    """Tile rows and columns of a unit: fewer where some cores would have no unit to read, or a row would be large.

    Not too few, since blocks across the borders of units may be decoded once for each; as even as they can be.
    """
    side = math.isqrt(grid.rows * grid.cols // _cores())
    wide = MAX_ROW_BYTES // (grid.tile_width * grid.tile_height * pixel_bytes)
    most = (MAX_UNIT[0], min(MAX_UNIT[1], wide))
    rows, cols = (max(MIN_UNIT, min(limit, side)) for limit in most)
    return _even(grid.rows, rows), _even(grid.cols, cols)


def _even(count: int, most: int) -> int:
    """Size of parts of `count`, as even as they can be, so that no part is larger than `most`."""
    return -(-count // -(-count // most))


def _levels(job: Job, scene: Scene) -> tuple[Level, ...]:
    """The levels of a scene, the finest first, each with the size range of the user or of `_usual_sizes`."""
    full = full_scale(scene, job.tile)
    asked: dict[float, Sizes | None] = {}
    for setting in job.config.levels:
        for scale in _scales(setting.scale, full):
            # Two settings may come to the same scale.
            asked[scale] = _both(asked[scale], setting.sizes) if scale in asked else setting.sizes
    scales = sorted(asked, reverse=True)
    usual = _usual_sizes(scales, max(min(job.overlap), min(job.tile) // 8))
    finest = scales[0]
    levels = []
    for scale in scales:
        low, high = asked[scale] or usual[scale]
        sizes = (low * scale, math.inf if high is None else high * scale)
        levels.append(Level(scale / finest, at_scale(scene, scale), sizes))
    return tuple(levels)


def _scales(scale: float | str, full: float) -> list[float]:
    if scale == "auto":
        return [0.5**k for k in range(math.ceil(-math.log2(full)))] + [full]
    return [full if isinstance(scale, str) else scale]


def _both(first: Sizes | None, second: Sizes | None) -> Sizes | None:
    """The range that holds two; None is the usual one, which is not known yet and holds for both."""
    if first is None or second is None:
        return None
    high = None if first[1] is None or second[1] is None else max(first[1], second[1])
    return min(first[0], second[0]), high


def _usual_sizes(scales: list[float], whole: int) -> dict[float, Sizes]:
    """Sizes in pixels of scale 1 that each level may report: objects it shows whole and finer levels may not.

    An object no larger than the overlap is whole in some tile, and one of an eighth of a tile nearly always. A level
    reports up to that size, and from half of that size of the next finer level, so that the ranges of neighbours
    overlap by a factor of two; the coarsest has no maximum.

    Args:
        scales: descending.
        whole: the size in a level's pixels.
    """
    sizes: dict[float, Sizes] = {}
    for i, scale in enumerate(scales):
        low = 0.0 if i == 0 else whole / scales[i - 1] / 2
        high = None if i == len(scales) - 1 else whole / scale
        sizes[scale] = (low, high)
    return sizes


def _areas(job: Job, scene: Scene) -> tuple[BaseGeometry | None, dict[str, BaseGeometry], BaseGeometry | None]:
    """The AOI, what is masked, and the ground that remains; scene frame."""
    if job.aoi is None and not job.config.mask:
        return None, {}, None
    import shapely

    from geosod.scenes.aoi import polygons_in_scene
    from geosod.scenes.mask import Mask, mask_in_scene

    aoi = None if job.aoi is None else polygons_in_scene(job.aoi, scene)
    # In a fixed order: ground under two masks is reported for the first.
    settings = sorted(job.config.mask.items())
    masks = {kind: mask_in_scene(Mask(kind, m.path, m.values, m.invert), scene) for kind, m in settings}
    whole = shapely.box(0, 0, scene.width, scene.height) if aoi is None else aoi
    return aoi, masks, shapely.difference(whole, shapely.union_all(list(masks.values()))) if masks else whole


def _wanted(area: BaseGeometry | None, grid: Grid, scene: Scene) -> BoolArray | None:
    """Which tiles of a level's grid touch the area, which is in the scene frame."""
    if area is None:
        return None
    from geosod.scenes.aoi import windows_in

    windows = grid.windows_array() * np.tile([scene.width / grid.width, scene.height / grid.height], 2)
    return np.asarray(windows_in(area, windows).reshape(grid.rows, grid.cols))
