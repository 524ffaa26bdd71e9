"""The stages of a scene as functions of values. An engine decides only where and when each is called.

plan_scene → read_tiles → detect_tiles → settle_unit → merge_group … → finish_scene (in `finish`)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geosod import __version__
from geosod.config import RunConfig, digest
from geosod.errors import ConfigError, EngineError, GeosodError
from geosod.merging.components import Settled, settle
from geosod.merging.rule import MergeRule
from geosod.scenes.bands import choose_bands, choose_files
from geosod.scenes.locate import georeferenced, parse_crs
from geosod.scenes.measure import check_ground
from geosod.scenes.open import open_files, open_scene
from geosod.scenes.read import ReadAccount, ReadSpec, read_unit
from geosod.scenes.statistics import percentiles
from geosod.scenes.view import at_gsd
from geosod.tiling.grid import Grid, make_grid
from geosod.tiling.units import Group, merge_tree, plan_units
from geosod.types import (
    FAILED,
    Coverage,
    Detections,
    Execution,
    Failure,
    IntArray,
    Provenance,
    Scene,
    SceneRef,
    SceneResult,
    TileBatch,
    Unit,
    Window,
)

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from geosod.detectors.base import Detector
    from geosod.detectors.bundle import Bundle
    from geosod.detectors.card import ModelCard
    from geosod.scenes.aoi import Aoi

#: Side of a coverage cell in pixels.
COVERAGE_CELL = 32


@dataclass(frozen=True, slots=True)
class Job:
    """What every scene of a run shares.

    Attributes:
        bundle: the model.
        config: the settings.
        aoi: the area of interest, if one was given.
        files: digests of the files that settings name (AOI, masks, DEM) by setting, for the record.
    """

    bundle: Bundle
    config: RunConfig
    aoi: Aoi | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def tile(self) -> int:
        """Side of a tile in pixels."""
        return self.config.tile or self.bundle.card.tile

    @property
    def overlap(self) -> int:
        """Overlap of neighbouring tiles in pixels."""
        return self.bundle.card.overlap if self.config.overlap is None else self.config.overlap

    @property
    def threshold(self) -> float:
        """Score below which boxes are dropped."""
        return self.bundle.card.threshold if self.config.threshold is None else self.config.threshold

    @property
    def rule(self) -> MergeRule:
        """How boxes become one."""
        c, card = self.config, self.bundle.card
        metric: Any = c.metric or card.merge_metric
        return MergeRule(c.merge, metric, c.merge_threshold or card.merge_threshold, c.class_agnostic)

    def options(self) -> dict[str, object]:
        """Every setting that can change a result, the model's defaults filled in."""
        filled = {"tile": self.tile, "overlap": self.overlap, "threshold": self.threshold, "aoi": self.files.get("aoi")}
        masks = {
            kind: {**m.model_dump(mode="json", exclude={"path"}), "file": self.files[f"mask {kind}"]}
            for kind, m in self.config.mask.items()
        }
        filled |= {"mask": masks, "dem": self.files.get("dem")}
        rule = {"metric": self.rule.metric, "merge_threshold": self.rule.threshold}
        return self.config.options() | filled | rule

    @property
    def config_digest(self) -> str:
        """sha256 of `options`."""
        return digest(self.options())

    def provenance(self, execution: Execution) -> Provenance:
        """What the outputs record of where they come from."""
        card, options = self.bundle.card, self.options()
        return Provenance(
            card.name, self.bundle.digest, self.config_digest, __version__, card.classes, execution, options
        )


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """What will be done with one scene.

    Attributes:
        scene: the opened scene.
        bands: 1-based bands in the model's order.
        units: pieces of work, in reading order; none where the AOI leaves no tile.
        tree: how their open boxes meet.
        area: the ground to look at in the scene frame, the AOI less what is masked; None for the whole scene.
        caution: something the model card could not check.
        aoi: the AOI in the scene frame, or None.
        masks: masked ground in the scene frame, by kind.
        limits: the pixel values of each band that are 0 and 1 to the network.
    """

    scene: Scene
    bands: tuple[int, ...]
    units: tuple[Unit, ...]
    tree: tuple[tuple[Group, ...], ...]
    area: BaseGeometry | None
    caution: str | None
    aoi: BaseGeometry | None = None
    masks: dict[str, BaseGeometry] = field(default_factory=dict)
    limits: tuple[tuple[float, float], ...] | None = None

    @property
    def tiles(self) -> int:
        """Number of tiles to read."""
        return sum(len(unit.windows) for unit in self.units)


@dataclass(frozen=True, slots=True)
class TileOutcome:
    """What a detector made of some tiles of one unit.

    Attributes:
        detections: raw boxes, scene frame.
        capped: tiles that reached the model's `top_k`.
        failed: windows the detector could not process, each with the error's class and message.
    """

    detections: Detections
    capped: int = 0
    failed: tuple[tuple[Window, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UnitAccount:
    """What became of a unit, without its boxes."""

    tiles: int
    empty: int
    raw: int
    open: int
    capped: int
    coverage: Coverage
    failures: tuple[Failure, ...]


def plan_scene(job: Job, ref: SceneRef) -> ScenePlan:
    """Open a scene, hold it against the model, and cut it into units.

    Raises:
        SceneError: it cannot be opened, lacks a band, or misses the AOI.
        ModelError: the model is not made for it.
    """
    c, card = job.config, job.bundle.card
    scene = open_scene(ref) if not ref.files else open_files(ref, choose_files(ref, card.bands, c.bands))
    if c.tile_gsd is not None:
        scene = at_gsd(scene, _tile_gsd(job))
    bands = choose_bands(scene, card.bands, None if ref.files else c.bands)
    caution = card.check(scene)
    if georeferenced(scene):
        # Raises now, not after hours of work, where the two do not go together.
        caution = "; ".join(filter(None, (caution, check_ground(scene, c.crs)))) or None
    aoi, masks, area = _areas(job, scene)
    grid = make_grid(scene.width, scene.height, tile=job.tile, overlap=job.overlap)
    units = plan_units(scene.id, grid, shape=c.unit, keep=_wanted(area, grid))
    limits = _limits(card, scene, bands) if units else None
    return ScenePlan(scene, bands, units, merge_tree(units, grid), area, caution, aoi, masks, limits)


def _tile_gsd(job: Job) -> float:
    gsd = job.bundle.card.gsd if job.config.tile_gsd == "model" else job.config.tile_gsd
    if gsd is None:
        raise ConfigError(f"tile_gsd = 'model': {job.bundle.card.name} names no GSD; give one in metres")
    return float(gsd)


def _areas(job: Job, scene: Scene) -> tuple[BaseGeometry | None, dict[str, BaseGeometry], BaseGeometry | None]:
    """The AOI, what is masked, and the ground that remains; scene frame."""
    if job.aoi is None and not job.config.mask:
        return None, {}, None
    import shapely

    from geosod.scenes.aoi import aoi_in_scene
    from geosod.scenes.mask import Mask, mask_in_scene

    aoi = None if job.aoi is None else aoi_in_scene(job.aoi, scene)
    settings = job.config.mask.items()
    masks = {kind: mask_in_scene(Mask(kind, m.path, m.values, m.invert), scene) for kind, m in settings}
    whole = shapely.box(0, 0, scene.width, scene.height) if aoi is None else aoi
    return aoi, masks, shapely.difference(whole, shapely.union_all(list(masks.values()))) if masks else whole


def _limits(card: ModelCard, scene: Scene, bands: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    """The pixel values that are 0 and 1 to the network, for each band."""
    if card.scaling == "percentile":
        return percentiles(scene, bands, card.minimum, card.maximum)
    limits = tuple(zip(card.minimum, card.maximum, strict=True))
    if card.scaling == "stored" or not scene.scales:
        return limits
    tags = [(scene.scales[band - 1], scene.offsets[band - 1]) for band in bands]
    return tuple(
        ((low - offset) / scale, (high - offset) / scale)
        for (low, high), (scale, offset) in zip(limits, tags, strict=True)
    )


def resolve_execution(job: Job) -> tuple[Execution, str]:
    """How the detector runs on this machine, and a line saying why. Imports torch.

    Raises:
        ConfigError: the machine cannot do what was asked for.
    """
    from geosod.detectors.execution import resolve, this_machine

    c = job.config
    wish = {"device": c.device, "backend": c.backend, "precision": c.precision}
    return resolve(this_machine(), tile=job.tile, batch=c.batch, threads=c.threads, **wish)


def load_fitting(job: Job, execution: Execution | None = None) -> tuple[Detector, str]:
    """Load the detector and run it once; where memory does not hold a batch, with half the batch, and so on.

    Args:
        job: what the run's scenes share.
        execution: how to run; None resolves it for this machine.

    Returns:
        The detector, and a line that says how it runs and why.

    Raises:
        ConfigError: the machine cannot do what was asked for.
        ModelError: the weights do not fit the network.
        EngineError: memory does not hold one tile, or not the batch of the execution that was given.
    """
    from geosod.detectors import load_detector

    chosen, line = (execution, "") if execution else resolve_execution(job)
    while True:
        detector = load_detector(job.bundle, chosen, threshold=job.threshold)
        try:
            detector.warm_up(job.tile)
        except MemoryError as error:
            if execution or chosen.batch == 1:
                size = f"{chosen.batch} tile(s) of {job.tile} pixels"
                raise EngineError(f"memory does not hold a batch of {size}: {error}; use a smaller --tile") from error
            chosen = replace(chosen, batch=chosen.batch // 2)
            line = f"{line}; {chosen.batch} tiles a batch, as memory holds no more"
            continue
        return detector, line


def read_spec(job: Job, plan: ScenePlan, chunk: int) -> ReadSpec:
    """How to read the units of a scene, in batches of at most `chunk` tiles."""
    c = job.config
    return ReadSpec(plan.bands, job.tile, chunk, COVERAGE_CELL, c.read_threads, c.cache_mb, limits=plan.limits)


def read_tiles(scene: Scene, unit: Unit, spec: ReadSpec) -> Iterator[TileBatch | ReadAccount]:
    """`read_unit`, with a file that fails altogether told in the account instead of raised."""
    handed_on = 0
    try:
        for item in read_unit(scene, unit, spec):
            handed_on += len(item) if isinstance(item, TileBatch) else 0
            yield item
    except GeosodError as error:
        yield lost_unit(scene, unit, error, handed_on)


def lost_unit(scene: Scene, unit: Unit, error: Exception, tiles: int) -> ReadAccount:
    """The account of a unit whose reading broke off after `tiles` tiles: all its ground counts as failed."""
    line = " ".join(str(error).split())
    failure = Failure(scene.id, scene.ref.uri, unit.read_window, "read", type(error).__name__, line)
    coverage = Coverage.of_window(unit.read_window, COVERAGE_CELL)
    for window in unit.windows:
        coverage.update(Coverage.of_window(window, COVERAGE_CELL, FAILED))
    return ReadAccount(tiles, 0, coverage, (failure,))


def detect_tiles(detector: Detector, parts: Sequence[TileBatch]) -> list[TileOutcome]:
    """Detect on several units' tiles in one go; one outcome for each part, in order.

    When a batch fails its tiles are tried one by one, so that one bad tile costs only its own ground.
    """
    try:
        found = detector.detect(TileBatch.concat(parts))
    except Exception:
        return [_one_by_one(detector, part) for part in parts]
    ends = np.cumsum([len(part) for part in parts])
    tiles = [found[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]
    return [TileOutcome(Detections.concat(t), _capped(detector, t)) for t in tiles]


def failed_outcome(windows: IntArray, error: Exception) -> TileOutcome:
    """The outcome of tiles whose detector was lost for good."""
    line = " ".join(str(error).split())[:500]
    lost = tuple((_window(row), type(error).__name__, line) for row in windows)
    return TileOutcome(Detections.empty(), 0, lost)


def settle_unit(
    rule: MergeRule, scene: Scene, unit: Unit, read: ReadAccount, outcomes: Sequence[TileOutcome]
) -> tuple[Settled, UnitAccount]:
    """Merge what no other unit can touch, and add up what became of the unit."""
    raw = Detections.concat(outcome.detections for outcome in outcomes)
    settled = settle(raw, unit.core, rule)
    failures = list(read.failures)
    for outcome in outcomes:
        for window, error, message in outcome.failed:
            failures.append(Failure(scene.id, scene.ref.uri, window, "detect", error, message))
            read.coverage.update(Coverage.of_window(window, read.coverage.cell, FAILED))
    capped = sum(outcome.capped for outcome in outcomes)
    account = UnitAccount(
        len(unit.windows), read.empty, len(raw), len(settled.open), capped, read.coverage, tuple(failures)
    )
    return settled, account


def failed_result(scene: Scene, error: Exception) -> SceneResult:
    """The result of a scene that was worked through, but could not be merged or written."""
    message = " ".join(str(error).split())
    failure = Failure(scene.id, scene.ref.uri, None, "write", type(error).__name__, message)
    return SceneResult(scene.id, scene.ref.uri, "failed", failures=(failure,), megapixels=scene.megapixels)


def scene_coverage(plan: ScenePlan, accounts: Iterable[UnitAccount]) -> Coverage:
    """What became of the ground of a whole scene."""
    coverage = Coverage.of_window(plan.scene.window, COVERAGE_CELL)
    for account in accounts:
        coverage.update(account.coverage)
    return coverage


def inside_area(plan: ScenePlan, detections: Detections) -> Detections:
    """Only the boxes whose centre lies in the AOI, so that AOIs which share an edge share out the boxes."""
    if plan.area is None or not len(detections):
        return detections
    import shapely

    shapely.prepare(plan.area)
    x0, y0, x1, y1 = detections.boxes.T
    return detections[np.flatnonzero(shapely.intersects_xy(plan.area, (x0 + x1) / 2, (y0 + y1) / 2))]


def validate(job: Job) -> None:
    """Refuse settings that do not go together, before any scene is opened.

    Raises:
        ConfigError: tile and overlap do not fit, or PROJ does not know the CRS.
    """
    parse_crs(job.config.crs)
    if job.overlap >= job.tile:
        raise ConfigError(f"overlap {job.overlap} must be below the tile's {job.tile} pixels")


def _wanted(area: BaseGeometry | None, grid: Grid) -> np.ndarray | None:
    if area is None:
        return None
    from geosod.scenes.aoi import windows_in

    return windows_in(area, grid.windows_array()).reshape(grid.rows, grid.cols)


def _one_by_one(detector: Detector, part: TileBatch) -> TileOutcome:
    outcomes = []
    for i in range(len(part)):
        tile = part[i : i + 1]
        try:
            found = detector.detect(tile)
            outcomes.append(TileOutcome(Detections.concat(found), _capped(detector, found)))
        except Exception as error:
            outcomes.append(failed_outcome(tile.windows, error))
    return TileOutcome(
        Detections.concat(o.detections for o in outcomes),
        sum(o.capped for o in outcomes),
        tuple(lost for o in outcomes for lost in o.failed),
    )


def _capped(detector: Detector, tiles: Iterable[Detections]) -> int:
    return sum(len(tile) >= detector.card.top_k for tile in tiles)


def _window(row: IntArray) -> Window:
    col, top, width, height = (int(v) for v in row)
    return Window(col, top, width, height)
