"""What every scene of a run shares: the model, the settings, and the detector they call for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from geosod import __version__
from geosod.config import RunConfig, digest
from geosod.errors import ConfigError, EngineError
from geosod.georeference.crs import parse_crs
from geosod.merging.rule import MergeRule
from geosod.results import Execution, Provenance

if TYPE_CHECKING:
    from geosod.detectors.base import Detector
    from geosod.detectors.bundle import Bundle
    from geosod.scenes.aoi import Aoi


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
        return MergeRule(
            c.merge_method,
            metric,
            c.merge_threshold or card.merge_threshold,
            c.class_agnostic,
            c.sigma,
            c.min_score,
            tuple((card.classes.index(name), threshold) for name, threshold in sorted(c.per_class.items())),
            c.decay,
            c.borders,
            card.border_px,
            2 * card.border_px if self.overlap <= 2 * card.border_px else 0.0,
        )

    def options(self) -> dict[str, object]:
        """Every setting that can change a result, the model's defaults filled in."""
        masks = {
            kind: {**m.model_dump(mode="json", exclude={"path"}), "file": self.files[f"mask {kind}"]}
            for kind, m in self.config.mask.items()
        }
        filled = {
            "tile": self.tile,
            "overlap": self.overlap,
            "threshold": self.threshold,
            "mask": masks,
            "aoi": self.files.get("aoi"),
            "dem": self.files.get("dem"),
        }
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


def validate(job: Job) -> None:
    """Refuse settings that do not go together, before any scene is opened.

    Raises:
        ConfigError: tile and overlap do not fit, or PROJ does not know the CRS.
    """
    parse_crs(job.config.crs)
    unknown = sorted(set(job.config.per_class) - set(job.bundle.card.classes))
    if unknown:
        known = ", ".join(job.bundle.card.classes)
        raise ConfigError(f"per_class names {', '.join(unknown)}, but the model's classes are {known}")
    if job.overlap >= job.tile:
        raise ConfigError(f"overlap {job.overlap} must be below the tile's {job.tile} pixels")


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
