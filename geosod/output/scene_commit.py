"""From the outputs of a scene to its files: the only step of a run that writes results."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict

from geosod.output.commit import commit_scene
from geosod.output.coverage import area_km2
from geosod.output.folder import OutputFolder
from geosod.output.geoparquet import file_metadata
from geosod.output.scene_outputs import SceneOutputs
from geosod.output.stac_item import scene_item
from geosod.results import SceneResult


def commit_outputs(folder: OutputFolder, outputs: SceneOutputs) -> SceneResult:
    """Write the files of a scene: whole or not at all.

    Raises:
        OutputError: a file cannot be written.
        SceneError: the scene has no place in the dataset's CRS.
    """
    scene, counts = outputs.scene, outputs.counts
    coverage = outputs.coverage_table()
    inspected = area_km2(coverage)
    item = scene_item(
        scene,
        outputs.provenance,
        hrefs=folder.files(scene).hrefs(),
        detections=len(outputs.detections),
        status=outputs.status,
        failures=len(outputs.failures),
        inspected_km2=inspected,
        crs=outputs.crs,
        processed=dt.datetime.now(dt.UTC),
    )
    item["properties"] |= {
        "geosod:capped_tiles": counts.capped_tiles,
        "geosod:degenerate_detections": counts.degenerate,
        "geosod:unplaced_detections": counts.unplaced,
        "geosod:source_version": scene.ref.version,
        "geosod:execution": asdict(outputs.provenance.execution),
    }
    paths = commit_scene(
        folder,
        scene,
        detections=outputs.detection_table(),
        coverage=coverage,
        item=item,
        crs=outputs.crs,
        metadata=file_metadata(scene, outputs.provenance),
        failures=outputs.failures,
    )
    return scene_result(outputs, paths=paths, inspected_km2=inspected)


def scene_result(
    outputs: SceneOutputs, *, paths: tuple[str, ...] = (), inspected_km2: float | None = None
) -> SceneResult:
    """How a scene ended that was worked through.

    Args:
        outputs: what it came to.
        paths: the files it was written to.
        inspected_km2: ground inspected.
    """
    return SceneResult(
        outputs.scene.id,
        outputs.scene.ref.uri,
        outputs.status,
        detections=len(outputs.detections),
        paths=paths,
        failures=outputs.failures,
        megapixels=outputs.scene.megapixels,
        inspected_km2=inspected_km2,
        counts=outputs.counts,
    )
