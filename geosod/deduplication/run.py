"""`deduplicate`: from finished outputs of scenes that overlap to one dataset with every object in it once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geosod.deduplication.links import Links
from geosod.deduplication.match import MosaicRule
from geosod.deduplication.place import check_place, put_in_place
from geosod.deduplication.sources import LostSceneError, Sources, find_sources
from geosod.deduplication.stream import GeoParquetStream
from geosod.deduplication.survey import Layer, survey
from geosod.deduplication.sweep import sweep
from geosod.deduplication.translate import choose_crs, same_crs, translate_file, turn_of
from geosod.deduplication.write import Target, lost_schema, neighbours, write_scene
from geosod.errors import OutputError
from geosod.georeference.crs import crs_name
from geosod.output.failures import FAILURE_SCHEMA, failure_table, merged_failures, read_failures
from geosod.output.folder import flush, open_output, staging
from geosod.results import Failure

#: Boxes that are matched at a time.
ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Step:
    """How far a stage has come: "reproject" counts scenes, "match" and "write" count boxes."""

    stage: Literal["reproject", "match", "write"]
    done: int
    total: int


Emit = Callable[[Step | Failure], None]


@dataclass(frozen=True, slots=True)
class DeduplicationResult:
    """What merging outputs came to.

    Attributes:
        out: the new folder.
        scenes: scenes in it, those without georeference included.
        pixel_scenes: scenes without georeference, which were carried over as they are.
        rows_in, rows_out: detections before and after.
        compared: detections that lie where another scene has some, too.
        crs: name of the CRS of the dataset.
        skipped: scenes that could not be taken in; they are not in the new folder.
        seconds: wall time.
    """

    out: str
    scenes: int
    pixel_scenes: int
    rows_in: int
    rows_out: int
    compared: int
    crs: str
    skipped: tuple[Failure, ...]
    seconds: float

    @property
    def merged(self) -> int:
        """Detections that were merged into another."""
        return self.rows_in - self.rows_out

    @property
    def exit_code(self) -> int:
        """0: all done. 3: some scenes were skipped."""
        return 3 if self.skipped else 0


def deduplicate(
    outputs: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    prefer: Literal["score", "newest"] = "score",
    metric: Literal["iou", "ios"] = "iou",
    threshold: float = 0.5,
    class_agnostic: bool = False,
    crs: str | None = None,
    overwrite: bool = False,
    rows: int = ROWS,
    on_event: Emit | None = None,
) -> DeduplicationResult:
    """Make one dataset of the outputs of scenes that overlap, in which each object is there once.

    The result depends on the outputs alone, not on their order, nor on `rows`. Memory is bounded by `rows`.

    Args:
        outputs: folders, or ``NAME.parquet`` files, that `geosod.detect` left; they stay as they are.
        out: the new folder; it is there whole, or not at all.
        prefer: which of several boxes stays: "score", the surest, or "newest", that of the latest scene. Boxes that
            are cut by their scene's edge come after whole ones.
        metric: "iou" or "ios", of polygons on the ground.
        threshold: boxes of two scenes are one object where the metric reaches it.
        class_agnostic: whether boxes of different class names may be one object.
        crs: CRS of the dataset; by default that of the outputs, or longitude and latitude if they differ.
        overwrite: replace `out` if it holds nothing but what geosod wrote.
        rows: boxes that are matched at a time.
        on_event: called with every `Step`, and with the `Failure` of a scene that is skipped.

    Raises:
        UsageError: an argument is unusable, an output is none, two hold one scene, or `out` cannot be written.
    """
    started = time.monotonic()
    emit: Emit = on_event or (lambda _: None)
    rule = MosaicRule(prefer, metric, threshold, class_agnostic)
    named = [outputs] if isinstance(outputs, str | Path) else list(outputs)
    sources = find_sources(named)
    for failure in sources.skipped:
        emit(failure)
    chosen = choose_crs(sources, crs)
    place = check_place(out, named, overwrite=overwrite)
    parent = open_output(place.parent)
    while True:
        if not sources.scenes:
            raise OutputError(f"no scene can be merged; {sources.skipped[0].message}")
        try:
            with staging(parent) as stage:
                rows_out, compared = _build(stage, place, sources, rule, chosen, rows=max(1, rows), emit=emit)
                put_in_place(stage, place)
            break
        except LostSceneError as error:
            # What a broken scene would have taken is not its own, so all is done again without it.
            lost = next(scene for scene in sources.scenes if scene.id == error.scene_id)
            failure = Failure(lost.id, lost.uri, None, "deduplicate", "SceneError", str(error))
            sources = sources.without(failure)
            emit(failure)
        except OSError as error:
            raise OutputError(
                f"{place}: cannot be written ({error}); free some space or choose another place"
            ) from error
    return DeduplicationResult(
        out=str(place),
        scenes=len(sources.scenes),
        pixel_scenes=sum(scene.crs is None for scene in sources.scenes),
        rows_in=sum(scene.rows for scene in sources.scenes),
        rows_out=rows_out,
        compared=compared,
        crs=crs_name(chosen),
        skipped=sources.skipped,
        seconds=time.monotonic() - started,
    )


def _build(
    stage: Path, place: Path, sources: Sources, rule: MosaicRule, crs: str, *, rows: int, emit: Emit
) -> tuple[int, int]:
    """Write the whole dataset to ``stage/new``; rows in it, and boxes that were compared."""
    target = Target(stage / "new", place, crs, rule, Links(stage / "links"))
    spill = stage / "spill"
    for folder in (target.root, target.links.folder, spill):
        folder.mkdir()
    layers = _layers(sources, crs, stage, emit)
    compared = _match(layers, target, spill, rows=rows, emit=emit)
    written = _write(layers, target, emit)
    tables = [read_failures(path) for path in sources.failures]
    failures = pa.concat_tables([*tables, failure_table(sources.skipped)])
    if len(failures):
        pq.write_table(merged_failures(FAILURE_SCHEMA.empty_table(), failures, ()), target.root / "failures.parquet")
        flush(target.root / "failures.parquet")
    return written, compared


def _layers(sources: Sources, crs: str, stage: Path, emit: Emit) -> list[Layer]:
    """The detections files of all scenes, those in another CRS written anew in that of the dataset."""
    layers = []
    for index, scene in enumerate(sources.scenes):
        path = scene.detections
        if scene.crs is not None and not same_crs(scene.crs, crs):
            path = stage / "translated" / f"{index}.parquet"
            translate_file(scene.detections, path, scene, crs)
            emit(Step("reproject", index + 1, len(sources.scenes)))
        layers.append(Layer(index, scene, path))
    return layers


def _match(layers: Sequence[Layer], target: Target, spill: Path, *, rows: int, emit: Emit) -> int:
    placed = [layer for layer in layers if layer.scene.crs is not None]
    if not placed:
        return 0
    plan, done = survey(placed, rows=rows), 0
    dates = np.array([layer.scene.date for layer in layers], np.int64)
    for merged in sweep(plan, target.rule, dates, rows=rows, turn=turn_of(target.crs), folder=spill):
        target.links.add(merged.dropped, merged.kept)
        done += merged.boxes
        emit(Step("match", done, plan.rows))
    return plan.rows


def _write(layers: Sequence[Layer], target: Target, emit: Emit) -> int:
    total, done, kept = sum(layer.scene.rows for layer in layers), 0, 0

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        emit(Step("write", done, total))

    met = neighbours(layers)
    with ExitStack() as stack:
        lost: Any = None
        if any(target.links.folder.iterdir()):
            path = target.root / "merged.parquet"
            told = {"deduplication": {"metric": target.rule.metric, "threshold": target.rule.threshold}}
            schema = lost_schema([layer for layer in layers if layer.scene.crs is not None])
            lost = stack.enter_context(GeoParquetStream(path, schema, crs=target.crs, metadata=told))
        for layer, scenes in zip(layers, met, strict=True):
            kept += write_scene(target, layer, scenes, lost, progress)
    if lost is not None:
        flush(target.root / "merged.parquet")
    return kept
