"""How the files of a scene come into the output folder: whole or not at all.

Files are written and flushed in a staging folder, then renamed into place; the scene's STAC item comes
last, and its presence is the commit. Several processes may commit into one folder at a time: the
renames and the failures file are guarded by a lock on ``.lock``. The folder must be on a file system with
atomic renames and, for several processes, working ``flock``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geosod.errors import ConfigError, OutputError
from geosod.georeference.crs import crs_name, parse_crs
from geosod.georeference.points import georeferenced
from geosod.output.failures import FAILURE_SCHEMA, failure_table, merged_failures, read_failures
from geosod.output.folder import OutputFolder, SceneFiles, flush, locked, move, open_output, read_item, staging
from geosod.output.geoparquet import read_metadata, write_geoparquet
from geosod.output.stac_item import source_of
from geosod.results import Failure
from geosod.scene import Scene

__all__ = [
    "OutputFolder",
    "SceneFiles",
    "check_dataset_crs",
    "commit_scene",
    "committed",
    "dataset_crs",
    "known_sources",
    "open_output",
    "write_failures",
]


def committed(folder: OutputFolder, scene_id: str) -> dict[str, Any] | None:
    """The item of a scene that is committed: it and every file it names are there. Else None."""
    path = folder.item(scene_id)
    item = read_item(path)
    if item is None or item.get("id") != scene_id:
        return None
    return item if all((path.parent / a["href"]).is_file() for a in item["assets"].values()) else None


def known_sources(folder: OutputFolder) -> dict[str, str]:
    """Identifier of every committed scene, by the link to its source as `stac_item.source_href` writes it."""
    paths = (folder.root / "items").glob("*.json") if folder.name is None else [folder.item("")]
    items = [item for path in sorted(paths) if (item := read_item(path)) is not None]
    return {source: str(item["id"]) for item in items if (source := source_of(item)) is not None}


def _first_crs(folder: OutputFolder, but: str | None) -> str | None:
    """PROJJSON or name of the CRS of some file of the dataset."""
    if folder.name is not None:
        return None
    for path in (folder.root / "detections").glob("acq_date=*/*.parquet"):
        geo = None if path.stem == but else read_metadata(path, key="geo")
        if geo is not None:
            crs = geo["columns"][geo["primary_column"]].get("crs", "OGC:CRS84")
            return crs if isinstance(crs, str) else json.dumps(crs)
    return None


def dataset_crs(folder: OutputFolder, *, but: str | None = None) -> str | None:
    """Name of the CRS of the dataset in a folder, as one of its files says; None where there is no file yet.

    Args:
        folder: from `open_output`.
        but: a scene whose file does not count.
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
    detections: pa.Table,
    coverage: pa.Table,
    item: Mapping[str, Any],
    crs: str,
    metadata: Mapping[str, object],
    failures: Sequence[Failure] = (),
) -> tuple[str, ...]:
    """Put the files of one scene into place; until the item is there, the scene is not committed.

    An earlier commit of the scene is replaced, wherever its date had put it, and so are its failures.

    Args:
        folder: from `open_output`.
        scene: the scene.
        detections: from `table.detection_table`, in `crs`.
        coverage: from `coverage.coverage_table`, in `crs`.
        item: from `stac_item.scene_item` with ``hrefs=folder.files(scene).hrefs()``.
        crs: CRS of the dataset.
        metadata: from `geoparquet.file_metadata`.
        failures: ground of this scene that failed.

    Returns:
        Absolute paths of detections, coverage and item, in this order.

    Raises:
        OutputError: the dataset has another CRS, or a file cannot be written.
    """
    files, file_crs = folder.files(scene), crs if georeferenced(scene) else None
    if {name: asset["href"] for name, asset in item["assets"].items()} != files.hrefs():
        raise ConfigError(f"scene {scene.id!r}: the item's asset links are not those of the folder, {files.hrefs()}")
    try:
        with staging(folder) as stage:
            staged = SceneFiles(stage / "detections.parquet", stage / "coverage.parquet", stage / "item.json")
            write_geoparquet(detections, staged.detections, crs=file_crs, metadata=metadata)
            write_geoparquet(coverage, staged.coverage, crs=file_crs, metadata=metadata)
            staged.item.write_text(json.dumps(item, indent=1, ensure_ascii=False) + "\n", "utf-8")
            for path in (staged.detections, staged.coverage, staged.item):
                flush(path)
            with locked(folder):
                if file_crs is not None:
                    check_dataset_crs(folder, file_crs, but=scene.id)
                _put(folder, scene.id, staged, files)
                _replace_failures(folder, failures, scenes=(scene.id,), stage=stage)
    except OSError as error:
        raise OutputError(f"{folder.root}: scene {scene.id!r} cannot be written ({error}); free some space") from error
    return str(files.detections), str(files.coverage), str(files.item)


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
        move(staged.detections, files.detections)
        move(staged.coverage, files.coverage)
        move(staged.item, files.item)
    except OSError:
        # Rows without an item would still be read as part of the dataset.
        for path in (files.item, files.detections, files.coverage):
            path.unlink(missing_ok=True)
        raise


def write_failures(folder: OutputFolder, failures: Sequence[Failure], *, scenes: Collection[str] = ()) -> Path | None:
    """Replace the failures of some scenes and keep those of the others.

    Args:
        folder: from `open_output`.
        failures: the new rows; all earlier rows of their scenes go.
        scenes: further scenes whose rows go.

    Returns:
        The failures file, or None where no failure is left and it was removed.

    Raises:
        OutputError: it cannot be written, or the file there is not a failures file.
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
    move(stage / "failures.parquet", folder.failures)
    return folder.failures
