"""`deduplicate`: outputs of overlapping scenes → one dataset in which each object occurs once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geosod.deduplication.destination import check_destination, move_into_place
from geosod.deduplication.match import MatchRule
from geosod.deduplication.merge_log import MergeLog
from geosod.deduplication.reading import UnreadableSceneError
from geosod.deduplication.remote import Copies, copied
from geosod.deduplication.reproject import layers_in
from geosod.deduplication.row_groups import Layer, plan_sweep
from geosod.deduplication.sources import Sources, find_sources
from geosod.deduplication.sweep import sweep
from geosod.deduplication.target_crs import choose_crs, full_circle_of
from geosod.deduplication.write import Target, duplicates_schema, overlapping_scenes, write_scene
from geosod.errors import OutputError
from geosod.georeference.crs import crs_name
from geosod.output.failures import FAILURE_SCHEMA, failure_table, merged_failures, read_failures
from geosod.output.folder import OutputFolder, open_output
from geosod.output.geoparquet import GeoParquetWriter
from geosod.results import Failure
from geosod.storage.local_place import flush

#: Boxes that are matched at a time.
ROWS = 100_000
#: The file that holds the dropped detections.
DUPLICATES = "duplicates.parquet"


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a stage; "reproject" counts scenes, "match" and "write" count detections."""

    stage: Literal["reproject", "match", "write"]
    done: int
    total: int


Emit = Callable[[Step | Failure], None]


@dataclass(frozen=True, slots=True)
class DeduplicationResult:
    """Summary of a deduplication.

    Attributes:
        out: the new folder.
        scenes: number of scenes in it, including those without georeference.
        pixel_scenes: number of scenes without georeference, which are copied unchanged.
        rows_in, rows_out: number of detections before and after.
        compared: number of detections in places where another scene has some, too.
        crs: name of the CRS of the dataset.
        skipped: scenes that could not be used; they are not in the new folder.
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
        """Number of detections that were merged into another."""
        return self.rows_in - self.rows_out

    @property
    def exit_code(self) -> int:
        """0: all scenes were used. 3: some were skipped."""
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
    """Combine the outputs of overlapping scenes into one dataset in which each object occurs once.

    The result depends only on the outputs, not on their order or on `rows`. Memory is bounded by `rows`.

    Args:
        outputs: folders, or ``NAME.parquet`` files, that `geosod.detect` wrote; they are not changed.
        out: the new folder; it appears complete or not at all.
        prefer: which of several boxes is kept: "score", the one with the highest score, or "newest", that of the
            latest scene. Boxes truncated by the edge of their scene come after whole ones.
        metric: "iou", intersection over union, or "ios", intersection over the smaller area; of polygons on the
            ground.
        threshold: boxes of two scenes are one object if the metric reaches this value, in (0, 1].
        class_agnostic: whether boxes with different class names may be one object.
        crs: CRS of the dataset; by default that of the outputs, or longitude and latitude if they differ.
        overwrite: replace `out` if it holds only files that geosod wrote.
        rows: number of detections that are matched at a time.
        on_event: called with every `Step`, and with the `Failure` of every scene that is skipped.

    Raises:
        UsageError: an argument is invalid, a path is not an output, two outputs hold the same scene, or `out` cannot
            be written.
    """
    started = time.monotonic()
    rule = MatchRule(prefer, metric, threshold, class_agnostic)
    named = [outputs] if isinstance(outputs, str | Path) else list(outputs)
    with copied(named, out, overwrite=overwrite) as copies:

        def emit(event: Step | Failure) -> None:
            if on_event is not None:
                on_event(copies.failure(event) if isinstance(event, Failure) else event)

        sources = find_sources(copies.outputs)
        for failure in sources.skipped:
            emit(failure)
        chosen = choose_crs(sources, crs)
        final = check_destination(copies.out, copies.outputs, overwrite=overwrite)
        parent = open_output(final.parent)
        build = partial(_build_readable, parent, final, rule=rule, crs=chosen, copies=copies)
        sources, rows_out, compared = build(sources, rows=max(1, rows), emit=emit)
    return DeduplicationResult(
        out=copies.named(str(final)),
        scenes=len(sources.scenes),
        pixel_scenes=sum(scene.crs is None for scene in sources.scenes),
        rows_in=sum(scene.rows for scene in sources.scenes),
        rows_out=rows_out,
        compared=compared,
        crs=crs_name(chosen),
        skipped=tuple(map(copies.failure, sources.skipped)),
        seconds=time.monotonic() - started,
    )


def _build_readable(
    parent: OutputFolder,
    final: Path,
    sources: Sources,
    *,
    rule: MatchRule,
    crs: str,
    copies: Copies,
    rows: int,
    emit: Emit,
) -> tuple[Sources, int, int]:
    """Build the dataset from all scenes that can be read; these, rows in it, and boxes that were compared."""
    while sources.scenes:
        try:
            with parent.place.staging() as stage:
                target = Target(stage / "new", final, crs, rule, MergeLog(stage / "log"), copies)
                rows_out, compared = _build(stage, target, sources, rows=rows, emit=emit)
                move_into_place(stage, final)
            return sources, rows_out, compared
        except UnreadableSceneError as error:
            # Boxes of the broken scene may already have suppressed others, so everything is done again without it.
            broken = next(scene for scene in sources.scenes if scene.id == error.scene_id)
            failure = Failure(broken.id, broken.uri, None, "deduplicate", "SceneError", str(error))
            sources = sources.without(failure)
            emit(failure)
        except OSError as error:
            raise OutputError(
                f"{final}: cannot be written ({error}); free some space or choose another folder"
            ) from error
    raise OutputError(f"no scene can be used; {sources.skipped[0].message}")


def _build(stage: Path, target: Target, sources: Sources, *, rows: int, emit: Emit) -> tuple[int, int]:
    """Write the whole dataset to ``stage/new``; rows in it, and boxes that were compared."""
    spill = stage / "spill"
    for folder in (target.root, target.log.folder, spill):
        folder.mkdir()
    count = len(sources.scenes)
    layers = layers_in(sources.scenes, target.crs, stage, lambda done: emit(Step("reproject", done, count)))
    compared = _match(layers, target, spill, rows=rows, emit=emit)
    written = _write(layers, target, emit)
    tables = [read_failures(path) for path in sources.failures]
    failures = pa.concat_tables([*tables, failure_table(list(map(target.copies.failure, sources.skipped)))])
    if len(failures):
        path = target.root / "failures.parquet"
        pq.write_table(merged_failures(FAILURE_SCHEMA.empty_table(), failures, ()), path)
        flush(path)
    return written, compared


def _match(layers: Sequence[Layer], target: Target, spill: Path, *, rows: int, emit: Emit) -> int:
    """Record in the log which box is merged into which; number of boxes that were compared."""
    georeferenced = [layer for layer in layers if layer.scene.crs is not None]
    if not georeferenced:
        return 0
    plan, done = plan_sweep(georeferenced, rows=rows), 0
    dates = np.array([layer.scene.date for layer in layers], np.int64)
    full_circle = full_circle_of(target.crs)
    for strip in sweep(plan, target.rule, dates, rows=rows, full_circle=full_circle, folder=spill):
        target.log.add(strip.dropped, strip.kept)
        done += strip.boxes
        emit(Step("match", done, plan.rows))
    return plan.rows


def _write(layers: Sequence[Layer], target: Target, emit: Emit) -> int:
    """Write the files of all scenes and the dropped rows; number of rows that are kept."""
    total, done, kept = sum(layer.scene.rows for layer in layers), 0, 0

    def on_rows(rows: int) -> None:
        nonlocal done
        done += rows
        emit(Step("write", done, total))

    path, duplicates = target.root / DUPLICATES, None
    with ExitStack() as stack:
        if not target.log.is_empty():
            duplicates = stack.enter_context(_duplicates_writer(path, layers, target))
        for layer, overlapping in zip(layers, overlapping_scenes(layers), strict=True):
            kept += write_scene(target, layer, overlapping, duplicates, on_rows)
    if duplicates is not None:
        flush(path)
    return kept


def _duplicates_writer(path: Path, layers: Sequence[Layer], target: Target) -> GeoParquetWriter:
    record = {"deduplication": {"metric": target.rule.metric, "threshold": target.rule.threshold}}
    schema = duplicates_schema([layer for layer in layers if layer.scene.crs is not None])
    return GeoParquetWriter(path, schema, crs=target.crs, metadata=record)
