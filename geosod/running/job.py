"""What every scene of a run shares: the model, the settings, and the detector they ask for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from geosod.config import RunConfig, digest
from geosod.detectors.classes import ClassRules
from geosod.detectors.models import Model, ObjectModel, called
from geosod.device import Device, kind_of, parse_device
from geosod.errors import ConfigError, EngineError
from geosod.georeference.crs import parse_crs
from geosod.merging.rule import MergeRule
from geosod.results import Execution, Provenance
from geosod.tile_size import TileSize, compact, overlap_pixels, parse_overlap
from geosod.version import __version__

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector
    from geosod.scenes.aoi import Aoi

#: Settings that decide how a detector runs.
EXECUTION = ("device", "backend", "precision", "batch")


@dataclass(frozen=True)
class Job:
    """What every scene of a run shares; what follows from it is computed once, since each scene asks for it.

    Attributes:
        model: where detectors come from.
        config: the settings.
        aoi: the area of interest, if one was given.
        files: digests of the files that settings name (AOI, masks, DEM), by setting.
    """

    model: Model
    config: RunConfig
    aoi: Aoi | None = None
    files: dict[str, str] = field(default_factory=dict)

    @cached_property
    def tile(self) -> TileSize:
        """(width, height) of a tile in pixels."""
        return self.config.tile or self.model.card.tile_size

    @cached_property
    def overlap(self) -> tuple[int, int]:
        """Overlap of neighbouring tiles along x and y in pixels."""
        asked = parse_overlap(self.model.card.overlap) if self.config.overlap is None else self.config.overlap
        return overlap_pixels(asked, self.tile)

    @cached_property
    def device(self) -> Device:
        """The device that was asked for."""
        return parse_device(self.config.device)

    @cached_property
    def class_rules(self) -> ClassRules:
        """What is reported of each class of the model.

        Raises:
            ConfigError: a setting names an unknown class.
        """
        c = self.config
        return self.model.rules.changed(threshold=c.threshold, classes=c.classes, rename=c.rename_classes or None)

    @cached_property
    def rule(self) -> MergeRule:
        """How boxes are merged."""
        c, card = self.config, self.model.card
        metric: Any = c.metric or card.merge_metric
        return MergeRule(
            method=c.merge_method,
            metric=metric,
            threshold=c.merge_threshold or card.merge_threshold,
            class_agnostic=card.class_agnostic if c.class_agnostic is None else c.class_agnostic,
            sigma=c.sigma,
            min_score=c.min_score,
            per_class=self._merge_thresholds(),
            decay=c.decay,
            borders=c.borders,
            margin=card.border_px,
            gap=2 * card.border_px if min(self.overlap) <= 2 * card.border_px else 0.0,
        )

    @cached_property
    def level_rule(self) -> MergeRule:
        """How boxes of different levels are merged, each level of which has been merged before."""
        return replace(self.rule, method=self.level_merge, across_levels=True)

    @cached_property
    def level_merge(self) -> str:
        """The method for boxes of different levels."""
        return self.config.level_merge or self.config.merge_method

    @cached_property
    def options(self) -> dict[str, object]:
        """Every setting that can change a result, the model's defaults filled in."""
        masks = {
            kind: {**m.model_dump(mode="json", exclude={"path"}), "file": self.files[f"mask {kind}"]}
            for kind, m in self.config.mask.items()
        }
        filled = {
            "views": self.model.card.parameters.get("views", 1),
            "tile": compact(self.tile),
            "overlap": compact(self.overlap),
            "mask": masks,
            "aoi": self.files.get("aoi"),
            "dem": self.files.get("dem"),
        }
        rule = {
            "class_agnostic": self.rule.class_agnostic,
            "metric": self.rule.metric,
            "merge_threshold": self.rule.threshold,
            "level_merge": self.level_merge,
        }
        found = self.config.options() | filled | rule | self.class_rules.options()
        if found["views"] == 1:
            del found["views"]  # the same as not asking for any, whichever was done
        return found

    @cached_property
    def config_digest(self) -> str:
        """sha256 of `options`."""
        return digest(self.options)

    def provenance(self, execution: Execution) -> Provenance:
        """Model, settings and execution, as the outputs record them."""
        card = self.model.card
        return Provenance(
            card.name,
            self.model.digest,
            self.config_digest,
            __version__,
            self.class_rules.names,
            replace(execution, device=kind_of(execution.device)),
            self.options,
            card.supercategories,
        )

    def _merge_thresholds(self) -> tuple[tuple[int, float], ...]:
        """(label id, merge threshold) of the classes, by the names under which they are reported, that have one."""
        given = self.config.merge_threshold_by_class
        names = self.class_rules.names if given else ()
        return tuple((names.index(name), threshold) for name, threshold in sorted(given.items()))


def validate(job: Job) -> None:
    """Refuse settings that contradict each other, before any scene is opened.

    Raises:
        ConfigError: tile and overlap do not fit, PROJ does not know the CRS, a class is unknown, or the settings ask a
            loaded detector to run otherwise than it was loaded.
    """
    parse_crs(job.config.crs)
    names = job.class_rules.names
    if unknown := sorted(set(job.config.merge_threshold_by_class) - set(names)):
        known = ", ".join(dict.fromkeys(names))
        raise ConfigError(f"merge_threshold_by_class names {', '.join(unknown)}, but the model's classes are {known}")
    _ = job.overlap  # raises where it does not fit the tile
    if job.config.gpus_per_detector is not None and job.device.kind == "cpu":
        raise ConfigError(
            f"gpus_per_detector = {job.config.gpus_per_detector:g}: detectors run on the CPU; leave it out, or use "
            "another --device"
        )
    if isinstance(job.model, ObjectModel):
        _check_object(job, job.model.detector.execution)


def _check_object(job: Job, execution: Execution) -> None:
    if job.config.engine == "ray":
        raise ConfigError(
            "engine 'ray' cannot take a detector object, which runs in this process only; use engine='local', or pass "
            "model='module:function' with trust=True"
        )
    for name in EXECUTION:
        asked, has = getattr(job.config, name), getattr(execution, name)
        if asked not in (None, "auto", has, kind_of(has) if name == "device" else has):
            raise ConfigError(
                f"{name} = {asked!r}: the detector object was loaded with {name} {has!r}; leave "
                f"{name} out, or load the detector with it"
            )


def resolve_execution(job: Job) -> tuple[Execution, str]:
    """How the detector runs on this machine, and a line that says why. Imports torch.

    Raises:
        ConfigError: the machine cannot do what was asked for.
    """
    from geosod.detectors.devices import check_device
    from geosod.detectors.execution import resolve, resolved_device
    from geosod.detectors.measure import known
    from geosod.detectors.ways import abilities_of, this_machine

    c, machine = job.config, this_machine()
    check_device(job.device)
    return resolve(
        machine,
        tile=job.tile,
        device=c.device,
        backend=c.backend,
        precision=c.precision,
        batch=c.batch,
        threads=c.threads,
        abilities=abilities_of(job.model),
        measured=known(job.model, job.tile, device=resolved_device(machine, c.device), threads=c.threads),
    )


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
    from geosod.detectors.detector import same_threads

    with same_threads():
        return _loaded(job, execution)


def _loaded(job: Job, execution: Execution | None) -> tuple[Detector, str]:
    from geosod.detectors.devices import current_device
    from geosod.detectors.execution import tiles_a_batch

    if isinstance(job.model, ObjectModel):
        loaded = job.model.detector
        line = f"{type(loaded.adapter).__name__}, {loaded.execution.device}, {tiles_a_batch(loaded.execution.batch)}"
        return job.model.load(loaded.execution, rules=job.class_rules), line
    chosen, line = (execution, "") if execution else resolve_execution(job)
    while True:
        with current_device(chosen.device):
            detector = job.model.load(chosen, rules=job.class_rules)
        try:
            called(job.model.card.name, detector.warm_up, job.tile)
        except MemoryError as error:
            if execution or chosen.batch == 1:
                size = f"{chosen.batch} tile(s) of {job.tile[0]} x {job.tile[1]} pixels"
                raise EngineError(f"memory does not hold a batch of {size}: {error}; use a smaller --tile") from error
            chosen = replace(chosen, batch=chosen.batch // 2)
            line = f"{line}; {tiles_a_batch(chosen.batch)}, as memory holds no more"
            continue
        return detector, line
