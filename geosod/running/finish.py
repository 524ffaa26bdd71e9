"""The last stage of a scene: from settled boxes to committed files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geosod.detections import Detections
from geosod.output.commit import OutputFolder, commit_scene
from geosod.output.coverage import area_km2, coverage_table
from geosod.output.geoparquet import file_metadata
from geosod.output.stac_item import scene_item
from geosod.output.table import detection_table, with_ground_position
from geosod.results import Execution, SceneResult
from geosod.running.job import Job
from geosod.running.planning import ScenePlan
from geosod.running.stages import UnitSummary, inside_area, merge_levels, scene_coverage


def finish_scene(
    job: Job,
    plan: ScenePlan,
    execution: Execution,
    detections: Detections,
    summaries: Sequence[UnitSummary],
    out: OutputFolder,
) -> SceneResult:
    """Georeference the boxes of a scene, summary for its ground, and commit both.

    Args:
        job: what the run's scenes share.
        plan: the scene.
        execution: how the detector ran.
        detections: the settled boxes of all units and groups, in any order, each in the frame of its level.
        summaries: what became of each unit.
        out: where to commit.

    Raises:
        OutputError: a file cannot be written.
        SceneError: the scene has no place in the dataset's CRS.
    """
    scene, crs = plan.scene, job.config.crs
    found = inside_area(plan, merge_levels(plan, detections, job.rule))
    kept = with_ground_position(scene, found)
    provenance = job.provenance(execution)
    coverage = coverage_table(scene, scene_coverage(plan, summaries), crs=crs, aoi=plan.aoi, masks=plan.masks)
    failures = tuple(failure for summary in summaries for failure in summary.failures)
    status: Any = "partial" if failures else "done"
    inspected = area_km2(coverage)
    item = scene_item(
        scene,
        provenance,
        hrefs=out.files(scene).hrefs(),
        detections=len(kept),
        status=status,
        failures=len(failures),
        inspected_km2=inspected,
        crs=crs,
        processed=dt.datetime.now(dt.UTC),
    )
    capped, degenerate = (sum(getattr(a, name) for a in summaries) for name in ("capped", "degenerate"))
    item["properties"] |= {
        "geosod:capped_tiles": capped,
        "geosod:degenerate_detections": degenerate,
        "geosod:unplaced_detections": len(found) - len(kept),
        "geosod:source_version": scene.ref.version,
        "geosod:execution": asdict(execution),
    }
    paths = commit_scene(
        out,
        scene,
        detections=detection_table(scene, kept, provenance, crs=crs),
        coverage=coverage,
        item=item,
        crs=crs,
        metadata=file_metadata(scene, provenance),
        failures=failures,
    )
    return SceneResult(
        scene.id,
        scene.ref.uri,
        status,
        detections=len(kept),
        paths=tuple(str(Path(path)) for path in paths),
        failures=failures,
        megapixels=scene.megapixels,
        inspected_km2=inspected,
        raw=sum(summary.raw for summary in summaries),
        pending=sum(summary.pending for summary in summaries),
        capped_tiles=capped,
        degenerate=degenerate,
    )
