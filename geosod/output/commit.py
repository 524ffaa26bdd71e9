"""Commits the files of a scene to the output folder: all of them or none.

Files are written and flushed in a staging folder, then renamed into place. The scene's STAC item comes last, and its
presence is the commit. Several processes may commit to one folder at a time: renames and the failures file are
guarded by a lock on ``.lock``. The folder must be on a file system with atomic renames and, for several processes,
working ``flock``.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geosod.errors import ConfigError, IdentifierTakenError, OutputError
from geosod.georeference.crs import crs_name, parse_crs
from geosod.georeference.points import georeferenced
from geosod.output.coverage import area_km2
from geosod.output.failures import FAILURE_SCHEMA, failure_table, merged_failures, read_failures
from geosod.output.folder import (
    OutputFolder,
    SceneFiles,
    flush,
    locked,
    move,
    open_output,
    read_item,
    staging,
    unusual_name,
)
from geosod.output.geoparquet import file_metadata, geometry_crs, read_metadata, write_geoparquet
from geosod.output.scene_outputs import SceneOutputs, scene_result
from geosod.output.stac_item import scene_item, source_href, source_of
from geosod.results import Failure, SceneResult
from geosod.scene import Scene

__all__ = [
    "OutputFolder",
    "SceneFiles",
    "check_dataset_crs",
    "commit_outputs",
    "commit_scene",
    "committed",
    "committed_items",
    "dataset_crs",
    "known_sources",
    "open_output",
    "unusual_name",
    "write_failures",
]


def committed(folder: OutputFolder, scene_id: str) -> dict[str, Any] | None:
    """The item of a scene if it is committed, that is if all files of its assets exist; else None."""
    path = folder.item(scene_id)
    item = read_item(path)
    if item is None or item.get("id") != scene_id:
        return None
    return item if all((path.parent / a["href"]).is_file() for a in item["assets"].values()) else None


def committed_items(folder: OutputFolder) -> Iterator[dict[str, Any]]:
    """The items of all committed scenes, by name."""
    paths = (folder.root / "items").glob("*.json") if folder.name is None else [folder.item("")]
    yield from (item for path in sorted(paths) if (item := read_item(path)) is not None)


def known_sources(folder: OutputFolder) -> dict[str, str]:
    """Identifier of every committed scene, by the link to its source as `stac_item.source_href` writes it."""
    items = committed_items(folder)
    return {source: str(item["id"]) for item in items if (source := source_of(item)) is not None}


def _first_crs(folder: OutputFolder, but: str | None) -> str | None:
    """PROJJSON or name of the CRS of some file of the dataset."""
    if folder.name is not None:
        return None
    for path in _detection_files(folder):
        geo = None if path.stem == but else read_metadata(path, key="geo")
        if geo is not None:
            return geometry_crs(geo)
    return None


def _detection_files(folder: OutputFolder) -> Iterator[Path]:
    """The detections files of a dataset, in any order; `glob` would list all before the first."""
    with suppress(FileNotFoundError), os.scandir(folder.root / "detections") as dates:
        for date in dates:
            if date.name.startswith("acq_date=") and date.is_dir():
                with os.scandir(date) as files:
                    yield from (Path(file.path) for file in files if file.name.endswith(".parquet"))


def dataset_crs(folder: OutputFolder, *, but: str | None = None) -> str | None:
    """Name of the CRS of the dataset in a folder, read from one of its files; None if there is no file yet.

    Args:
        folder: from `open_output`.
        but: id of a scene whose file is ignored.
    """
    crs = _first_crs(folder, but)
    return None if crs is None else crs_name(crs)


def check_dataset_crs(folder: OutputFolder, crs: str, *, but: str | None = None) -> None:
    """Refuse a CRS other than the dataset's; readers would label its rows with the first file's.

    Raises:
        OutputError: the two differ.
        ConfigError: PROJ does not know `crs`.
    """
    parse_crs(crs)
    present = _first_crs(folder, but)
    if present is None or parse_crs(present).equals(parse_crs(crs), ignore_axis_order=True):
        return
    raise OutputError(
        f"{folder.root}: holds detections in {crs_name(present)}, not {crs_name(crs)}; a dataset has one CRS: "
        f"use --crs {crs_name(present)}, or another output folder"
    )


def commit_scene(
    folder: OutputFolder,
    scene: Scene,
    *,
    detections: pa.Table | pa.RecordBatchReader,
    coverage: pa.Table,
    item: Mapping[str, Any],
    crs: str,
    metadata: Mapping[str, object],
    failures: Sequence[Failure] = (),
) -> tuple[str, ...]:
    """Write the files of one scene and move them into place; the item comes last and is the commit.

    An earlier commit of the scene is replaced, whatever its date, and so are its failures.

    Args:
        folder: from `open_output`.
        scene: the scene.
        detections: from `table.detection_rows` or `table.detection_table`, in `crs`.
        coverage: from `coverage.coverage_table`, in `crs`.
        item: from `stac_item.scene_item` with ``hrefs=folder.files(scene).hrefs()``.
        crs: CRS of the dataset.
        metadata: from `geoparquet.file_metadata`.
        failures: failures of this scene.

    Returns:
        Absolute paths of detections, coverage and item, in this order.

    Raises:
        OutputError: the dataset has another CRS, or a file cannot be written.
    """
    files, file_crs = folder.files(scene), crs if georeferenced(scene) else None
    if {name: asset["href"] for name, asset in item["assets"].items()} != files.hrefs():
        raise ConfigError(
            f"scene {scene.id!r}: the item's asset links are not those of the folder; use {files.hrefs()}"
        )
    try:
        with staging(folder) as stage:
            staged = SceneFiles(stage / "detections.parquet", stage / "coverage.parquet", stage / "item.json")
            write_geoparquet(detections, staged.detections, crs=file_crs, metadata=metadata)
            write_geoparquet(coverage, staged.coverage, crs=file_crs, metadata=metadata)
            staged.item.write_text(json.dumps(item, indent=1, ensure_ascii=False) + "\n", "utf-8")
            flush(staged.detections, staged.coverage, staged.item)
            with locked(folder):
                if file_crs is not None:
                    check_dataset_crs(folder, file_crs, but=scene.id)
                _check_identifier(folder, scene)
                _put(folder, scene.id, staged, files)
                _replace_failures(folder, failures, scenes=(scene.id,), stage=stage)
    except OSError as error:
        raise OutputError(f"{folder.root}: scene {scene.id!r} cannot be written ({error}); free some space") from error
    return str(files.detections), str(files.coverage), str(files.item)


def _check_identifier(folder: OutputFolder, scene: Scene) -> None:
    """Refuse an identifier that a run at the same time has given to another scene.

    Raises:
        IdentifierTakenError: it has.
    """
    there = None if folder.name is not None else read_item(folder.item(scene.id))
    if there is not None and source_of(there) != source_href(scene.ref.uri):
        raise IdentifierTakenError(f"{folder.root}: holds another scene as {scene.id!r}; run again")


def _put(folder: OutputFolder, scene_id: str, staged: SceneFiles, files: SceneFiles) -> None:
    # Without its old item the scene counts as not committed, should the process die between the renames.
    files.item.unlink(missing_ok=True)
    if folder.name is None:
        own = f"{scene_id}.parquet"
        partitions = (folder.root / "detections").glob("acq_date=*")
        for path in [*(p / own for p in partitions), folder.root / "pixel" / own]:
            if path != files.detections:
                path.unlink(missing_ok=True)
    try:
        move({staged.detections: files.detections, staged.coverage: files.coverage})
        move({staged.item: files.item})
    except OSError:
        # Rows without an item would still be read as part of the dataset.
        for path in (files.item, files.detections, files.coverage):
            path.unlink(missing_ok=True)
        raise


def write_failures(folder: OutputFolder, failures: Sequence[Failure], *, scenes: Collection[str] = ()) -> Path | None:
    """Replace the failures of some scenes; those of other scenes are kept.

    Args:
        folder: from `open_output`.
        failures: the new rows; they replace all earlier rows of their scenes.
        scenes: further scenes whose rows are removed.

    Returns:
        Path of the failures file, or None if no failure is left and the file was removed.

    Raises:
        OutputError: it cannot be written, or the existing file is not a failures file.
    """
    try:
        with staging(folder) as stage, locked(folder):
            return _replace_failures(folder, failures, scenes=scenes, stage=stage)
    except OSError as error:
        raise OutputError(f"{folder.failures}: cannot be written ({error}); free some space") from error


def _replace_failures(
    folder: OutputFolder, failures: Sequence[Failure], *, scenes: Collection[str], stage: Path
) -> Path | None:
    if not failures and not folder.failures.exists():
        return None
    old = read_failures(folder.failures) if folder.name is None else FAILURE_SCHEMA.empty_table()
    rows = merged_failures(old, failure_table(failures), scenes)
    if len(rows) == 0:
        folder.failures.unlink(missing_ok=True)
        return None
    pq.write_table(rows, stage / "failures.parquet", compression="zstd")
    flush(stage / "failures.parquet")
    move({stage / "failures.parquet": folder.failures})
    return folder.failures


def commit_outputs(folder: OutputFolder, outputs: SceneOutputs) -> SceneResult:
    """Write the files of a scene: whole or not at all.

    Where another run has just given the scene's identifier to another scene, this one gets one that depends on its URI.

    Raises:
        OutputError: a file cannot be written.
        SceneError: the scene has no position in the dataset's CRS.
    """
    try:
        return _commit_outputs(folder, outputs)
    except IdentifierTakenError:
        return _commit_outputs(folder, outputs.renamed())


def _commit_outputs(folder: OutputFolder, outputs: SceneOutputs) -> SceneResult:
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
        detections=outputs.detection_rows(),
        coverage=coverage,
        item=item,
        crs=outputs.crs,
        metadata=file_metadata(scene, outputs.provenance),
        failures=outputs.failures,
    )
    return scene_result(outputs, paths=paths, inspected_km2=inspected)
