"""`mine`: from unlabelled scenes to a folder of crops to label next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geosod.config import RunConfig
from geosod.datasets.labels import Labels
from geosod.datasets.problems import Problem, Problems
from geosod.datasets.read import read_labels
from geosod.datasets.write import staged
from geosod.detectors.classes import ClassRules
from geosod.detectors.detector import Detector
from geosod.errors import ConfigError
from geosod.mining.candidates import Candidates, Labelled
from geosod.mining.choose import choose
from geosod.mining.doubt import lowest_score
from geosod.mining.export import LABELS, LIST, SHEET, Mined, draw_sheet, write_images, write_labels_file, write_list
from geosod.mining.look import Eye
from geosod.results import Failure
from geosod.running.detect import configured, detect_each, make_job
from geosod.running.events import Emit, Note
from geosod.running.job import Job, load_fitting
from geosod.tile_size import TileSize, parse_tile

#: Settings of `geosod.detect` that mean something here.
SETTINGS = (
    *("bands", "asset", "page", "alpha", "aoi", "mask", "threshold", "classes", "rename_classes", "trust"),
    *("tile", "overlap", "levels", "engine", "workers", "device", "backend", "precision", "batch", "threads"),
    *("read_threads", "cache_mb"),
)
#: Crops that may be asked for.
MAX_COUNT = 100_000


@dataclass(frozen=True, slots=True)
class MineResult:
    """What was written.

    Attributes:
        out: the folder.
        labels: of the crops, with the suggested boxes.
        worth: (M,) uncertainty in bits of each crop, or for negatives the confidence of its detections.
        novelty: (M,) distance to the nearest known crop or one chosen before, at most 2.
        scenes: number of scenes that were searched.
        failures: scenes, and parts of them, that could not be searched.
        left_out: what else could not be read.
    """

    out: Path
    labels: Labels
    worth: tuple[float, ...]
    novelty: tuple[float, ...]
    scenes: int
    failures: tuple[Failure, ...]
    left_out: tuple[Problem, ...]

    @property
    def exit_code(self) -> int:
        """0 where all is done; 3 where something could not be read."""
        return 3 if self.failures or self.left_out else 0


def mine(
    scenes: str | Path | Sequence[str | Path],
    *,
    model: str | Path | Detector,
    out: str | Path,
    count: int = 100,
    crop: TileSize | int | str = 512,
    known: str | Path | Labels | None = None,
    negatives: bool = False,
    overwrite: bool = False,
    config: str | Path | RunConfig | None = None,
    on_event: Emit | None = None,
    **settings: Any,
) -> MineResult:
    """Find the crops of unlabelled scenes that are most worth labelling, and write them with suggested boxes.

        geosod.mine("scenes/*.tif", model="runs/ships/model", out="next", count=50, known="train.json")

    The model runs with a low threshold. The uncertainty of a crop is the sum over its ten most doubtful detections of
    the binary entropy of the decision whether each is reported, see `geosod.mining.doubt`. Crops are chosen one by one,
    each time that with the highest product of uncertainty and squared novelty, see `geosod.mining.choose`. Memory holds
    the detections of a few scenes, and of 20 crops for each one that is asked for.

    Args:
        scenes: as for `geosod.detect`, but no arrays.
        model: likewise; a detector must have been loaded with a low threshold.
        out: a new folder: ``images/*.tif``, ``labels.json``, ``mined.csv`` and ``contact-sheet.png``.
        count: number of crops; fewer where no more are worth it.
        crop: size of a crop in pixels, 512 or (width, height).
        known: labels that are known. Crops that look like their images are not new, and what they show is left out.
        negatives: the scenes hold no object: choose the crops with the most confident detections, and write them
            without labels, to be trained on as background.
        overwrite: whether a folder that geosod wrote is replaced.
        config: a YAML file of settings, or settings already made.
        on_event: called with the events of the run.
        **settings: those of `geosod.detect` in `SETTINGS`.

    Raises:
        UsageError: a setting, the model, the known labels or the output is unusable; no scene could be searched, or
            nothing is worth labelling.
    """
    size = _checked(count, crop, settings)
    path, emit = Path(out).expanduser(), on_event or (lambda _: None)
    problems = Problems()
    with staged(path, folder=True, overwrite=overwrite) as stage:
        labels = _known(known, problems)
        job, rules = _job(model, config, settings)
        candidates = Candidates(size, count, rules, negatives, Labelled.in_labels(labels))
        named = [scenes] if isinstance(scenes, str | Path) else list(scenes)
        result = detect_each([str(scene) for scene in named], candidates.take, job=job, on_event=on_event)
        searched = sum(scene.status != "failed" for scene in result.scenes)
        if not searched:
            raise ConfigError(f"no scene could be searched: {result.failures[0].message if result.failures else named}")
        mined = _choose(candidates, Eye(job, load_fitting(job)[0], size), labels, problems)
        mined = write_images(mined, stage / "images", size, problems)
        if not mined:
            raise ConfigError(_nothing(candidates, problems))
        if len(mined) < count:
            emit(Note(f"only {len(mined)} crops are worth it, of {count} that were asked for", important=True))
        worth = "confidence" if negatives else "uncertainty"
        made = write_labels_file(mined, stage, path, rules.names, suggestions=not negatives)
        write_list(mined, stage / LIST, worth=worth)
        draw_sheet(mined, stage / SHEET, rules.names, worth=worth)
    return MineResult(
        path,
        made,
        tuple(one.candidate.worth for one in mined),
        tuple(one.novelty for one in mined),
        searched,
        result.failures,
        tuple(problems.found),
    )


def _checked(count: int, crop: TileSize | int | str, settings: dict[str, Any]) -> TileSize:
    if not 1 <= count <= MAX_COUNT:
        raise ConfigError(f"count {count}: ask for 1 to {MAX_COUNT} crops")
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise ConfigError(f"{unknown[0]}: is no setting of mine; it takes {', '.join(SETTINGS)}")
    try:
        return parse_tile(crop)
    except ConfigError as error:
        raise ConfigError(str(error).replace("tile", "crop", 1)) from None


def _known(known: str | Path | Labels | None, problems: Problems) -> Labels | None:
    if known is None or isinstance(known, Labels):
        return known
    reading = read_labels(known, invalid="skip")
    for problem in reading.problems.found:
        problems.add(problem.file, problem.where, problem.message)
    return reading.labels


def _job(
    model: str | Path | Detector, config: str | Path | RunConfig | None, settings: dict[str, Any]
) -> tuple[Job, ClassRules]:
    """The job of a detector with low thresholds, and the rules with the thresholds that were asked for."""
    base = configured(config, **settings)
    for name in ("tile_gsd", "classifier"):
        if getattr(base, name) is not None:
            raise ConfigError(f"{name}: cannot be used here, since crops are of the scene's own pixels; leave it out")
    rules = make_job(model, base).class_rules
    low = {name: lowest_score(score) for name, score in zip(rules.model_names, rules.thresholds, strict=True)}
    return make_job(model, base.model_copy(update={"threshold": low, "out": None})), rules


def _choose(candidates: Candidates, eye: Eye, labels: Labels | None, problems: Problems) -> list[Mined]:
    best, features = eye.candidates(candidates.best(), problems)
    if not best:
        return []
    known = eye.known(labels, problems) if labels is not None and labels.images else np.empty((0, 0))
    found = choose(np.array([one.worth for one in best]), features, known, candidates.count)
    return [Mined(best[k], novelty) for k, novelty in zip(found.rows.tolist(), found.novelty.tolist(), strict=True)]


def _nothing(candidates: Candidates, problems: Problems) -> str:
    if problems.count:
        return f"no crop could be written: {problems.found[0]}"
    if candidates.left_out:
        return "everything that the model is unsure of is labelled already; give other scenes"
    return "the model finds nothing in these scenes, not even with a low score; give others, or a lower --threshold"


__all__ = ["LABELS", "MineResult", "mine"]
