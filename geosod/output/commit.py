"""Commits the files of a scene to the output folder: all of them or none.

Files are written in a staging folder, then put into place, each whole. The scene's STAC item comes last, and its
presence is the commit. Several processes may commit to one folder at a time: on local folders a lock on ``.lock`` keeps
them apart; on object stores the item is written on the condition that there is none (see `replace` for one that may be
replaced), and the failures file on the condition that nobody has changed it.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from geosod.errors import ConfigError, IdentifierTakenError, OutputError, reason
from geosod.georeference.points import georeferenced
from geosod.output.coverage import area_km2
from geosod.output.dataset_crs import check_dataset_crs
from geosod.output.failures import replace_failures
from geosod.output.folder import (
    OutputFolder,
    SceneFiles,
    StagedFiles,
    asset_paths,
    open_output,
    parse_item,
    read_item,
    unusual_name,
)
from geosod.output.geoparquet import file_metadata, write_geoparquet
from geosod.output.replace import Claim, replace_scene
from geosod.output.scene_outputs import SceneOutputs, scene_result
from geosod.output.stac_item import scene_item, source_href, source_of
from geosod.results import Failure, SceneResult
from geosod.scene import Scene

__all__ = [
    "OutputFolder",
    "SceneFiles",
    "commit_outputs",
    "commit_scene",
    "committed",
    "open_output",
    "unusual_name",
]


@dataclass(frozen=True, slots=True)
class Commit:
    """A scene that was committed.

    Attributes:
        paths: absolute paths of detections, coverage and item, in this order.
        left_over: what of earlier runs could not be removed afterwards, and why.
    """

    paths: tuple[str, ...]
    left_over: tuple[str, ...] = ()


#: Addresses and CRSs of what this process has written: another run finds these scenes, and is refused another CRS.
_our_crs: set[tuple[str, str | None]] = set()


def committed(folder: OutputFolder, scene_id: str) -> dict[str, Any] | None:
    """The item of a scene if it is committed, that is if all files of its assets exist; else None."""
    item = read_item(folder, folder.item(scene_id))
    if item is None or item.get("id") != scene_id:
        return None
    return item if all(folder.place.exists(path) for path in asset_paths(folder, item)) else None


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
    files: SceneFiles | None = None,
    claim: Claim | None = None,
) -> Commit:
    """Write the files of one scene and move them into place; the item comes last and is the commit.

    An earlier commit of the scene is replaced, whatever its date, and so are its failures. Nothing that goes wrong once
    the item is there makes the scene fail.

    Args:
        folder: from `open_output`.
        scene: the scene.
        detections: from `table.detection_rows` or `table.detection_table`, in `crs`.
        coverage: from `coverage.coverage_table`, in `crs`.
        item: from `stac_item.scene_item` with ``hrefs=folder.files(scene).hrefs()``.
        crs: CRS of the dataset.
        metadata: from `geoparquet.file_metadata`.
        failures: failures of this scene.
        files: where the files go; without, `folder.files(scene)`.
        claim: to the scene's identifier: an earlier commit is replaced whatever its source. It is checked just before
            the commit, while others are kept out where the place has locks.

    Raises:
        OutputError: the dataset has another CRS, or a file cannot be written.
    """
    files, file_crs = files or folder.files(scene), crs if georeferenced(scene) else None
    if {name: asset["href"] for name, asset in item["assets"].items()} != files.hrefs():
        raise ConfigError(
            f"scene {scene.id!r}: the item's asset links are not those of the folder; use {files.hrefs()}"
        )
    place, notes = folder.place, None
    left_over: tuple[str, ...] = ()
    try:
        with place.staging() as stage:
            staged = StagedFiles.within(stage)
            write_geoparquet(detections, staged.detections, crs=file_crs, metadata=metadata)
            write_geoparquet(coverage, staged.coverage, crs=file_crs, metadata=metadata)
            staged.item.write_bytes(_text(item))
            place.flush(staged.detections, staged.coverage, staged.item)
            if claim is not None and place.shared:
                _check_crs(folder, scene, file_crs)
                left_over = replace_scene(folder, scene.id, staged, files=files, claim=claim, failures=failures)
                _our_crs.add((place.address, file_crs))
            else:
                notes = _put_scene(folder, scene, staged, files, item, failures, file_crs, claim)
    except OSError as error:
        raise OutputError(f"{place.address}: scene {scene.id!r} cannot be written ({error}); {place.remedy}") from error
    left_over += _clean_up(folder, scene.id, notes, failures)
    return Commit((place.at(files.detections), place.at(files.coverage), place.at(files.item)), left_over)


def _check_crs(folder: OutputFolder, scene: Scene, crs: str | None) -> None:
    if crs is not None and (folder.place.address, crs) not in _our_crs:
        check_dataset_crs(folder, crs, but=scene.id)


def _put_scene(
    folder: OutputFolder,
    scene: Scene,
    staged: StagedFiles,
    files: SceneFiles,
    item: Mapping[str, Any],
    failures: Sequence[Failure],
    crs: str | None,
    claim: Claim | None,
) -> str | None:
    """Put files into place, one after the other; for what is returned see `_withdraw`."""
    place, owned = folder.place, claim is not None
    if failures:  # first, so that no scene is committed in part without them
        _earlier_item(folder, scene, files, owned=owned)
        replace_failures(folder, failures, scenes=(scene.id,))
    # Only the first of a dataset decides on its CRS, and a claim changes the index, which is of all scenes.
    alone = owned or (place.address, crs) not in _our_crs
    with place.locked(None if alone else scene.id):
        _check_crs(folder, scene, crs)
        if claim is not None:
            before = read_item(folder, files.item)
            claim.check(before)
            if before is not None:
                claim.replacing()
        notes = _withdraw(folder, scene, files, owned=owned)
        try:
            place.put(staged.data(files))
            _put_item(folder, files, staged.item, item)
        except OSError:
            # Rows without an item would still be read as part of the dataset.
            place.remove(files.item, files.detections, files.coverage)
            raise
        _our_crs.add((place.address, crs))
    return notes


def _clean_up(folder: OutputFolder, scene_id: str, notes: str | None, failures: Sequence[Failure]) -> tuple[str, ...]:
    """Remove what an earlier commit of a scene has left; what could not be removed, and why."""
    left_over = []
    if notes is not None:
        try:
            folder.place.remove_folder(notes)
        except OSError as error:
            left_over.append(f"{folder.units}: notes of scenes that were replaced cannot be removed: {reason(error)}")
    if not failures:
        try:
            replace_failures(folder, failures, scenes=(scene_id,))
        except (OSError, OutputError) as error:
            left_over.append(f"{folder.failures}: earlier failures of scenes cannot be removed: {reason(error)}")
    return tuple(left_over)


def _earlier_item(folder: OutputFolder, scene: Scene, files: SceneFiles, *, owned: bool) -> dict[str, Any] | None:
    """The item of an earlier commit of a scene; `owned`: whatever its source.

    Raises:
        IdentifierTakenError: a run at the same time has given the identifier to another scene.
    """
    before = read_item(folder, files.item)
    if before is not None and not owned and folder.name is None and source_of(before) != source_href(scene.ref.uri):
        raise IdentifierTakenError(f"{folder.place.address}: holds another scene as {scene.id!r}; run again")
    return before


def _withdraw(folder: OutputFolder, scene: Scene, files: SceneFiles, *, owned: bool) -> str | None:
    """Remove an earlier item of a scene, and its files elsewhere; from now on the scene counts as not committed.

    Returns:
        The folder of a note of what was removed, to be deleted once the scene is committed again; None without.
    """
    place, notes = folder.place, f"{folder.units}/{scene.id}"
    before = _earlier_item(folder, scene, files, owned=owned)
    # What was to be removed when a process was killed just here.
    left = parse_item(place.read(f"{notes}/withdrawn.json"))
    if before is not None:
        place.create(f"{notes}/withdrawn.json", json.dumps(before).encode())
        place.remove(files.item)
    old = [path for item in (before, left) if item is not None for path in asset_paths(folder, item)]
    place.remove(*(path for path in old if path not in (files.detections, files.coverage)))
    return notes if old else None


def _put_item(folder: OutputFolder, files: SceneFiles, staged: Path, item: Mapping[str, Any]) -> None:
    """Put the item of a scene into place whose other files are there: the commit.

    Raises:
        OutputError: another run has committed the scene meanwhile, with another model or other settings; or another
            file is there.
    """
    place = folder.place
    if place.create(files.item, staged):
        return
    there = read_item(folder, files.item)
    if there is None:
        raise OutputError(
            f"{place.at(files.item)}: is in the way, since it is damaged or geosod did not write it; move it away and "
            "run again"
        )
    names = ("geosod:model_digest", "geosod:config_digest", "geosod:execution", "geosod:ingest_key")
    if any(there["properties"].get(name) != item["properties"].get(name) for name in names):
        raise OutputError(
            f"{place.at(files.item)}: another run has just written this scene with other settings; let one run end "
            "before the other begins, and run again"
        )


def _text(item: Mapping[str, Any]) -> bytes:
    # Without an indent, for which Python would use its slow encoder.
    return (json.dumps(item, ensure_ascii=False) + "\n").encode()


def commit_outputs(
    folder: OutputFolder, outputs: SceneOutputs, *, amend: Mapping[str, Any] | None = None, claim: Claim | None = None
) -> SceneResult:
    """Write the files of a scene: whole or not at all.

    Where another run has just given the scene's identifier to another scene, this one gets one that depends on its URI.

    Args:
        folder: from `open_output`.
        outputs: the result of the scene.
        amend: members of the item to be added; those of ``properties`` and ``links`` are added to the item's.
        claim: see `commit_scene`.

    Raises:
        OutputError: a file cannot be written.
        SceneError: the scene has no position in the dataset's CRS.
    """
    try:
        return _commit_outputs(folder, outputs, amend or {}, claim)
    except IdentifierTakenError:
        return _commit_outputs(folder, outputs.renamed(), amend or {}, claim)


def _commit_outputs(
    folder: OutputFolder, outputs: SceneOutputs, amend: Mapping[str, Any], claim: Claim | None
) -> SceneResult:
    scene, counts = outputs.scene, outputs.counts
    # Without locks the files of a scene that may be replaced have a name of their own for each commit.
    part = f".{secrets.token_hex(4)}" if claim is not None and folder.place.shared else ""
    coverage, files = outputs.coverage_table(), folder.files(scene, part=part)
    inspected = area_km2(coverage)
    item = scene_item(
        scene,
        outputs.provenance,
        hrefs=files.hrefs(),
        detections=len(outputs.detections),
        status=outputs.status,
        failures=len(outputs.failures),
        inspected_km2=inspected,
        crs=outputs.crs,
        processed=dt.datetime.now(dt.UTC),
    )
    item["properties"] |= {
        "geosod:capped_tiles": counts.capped_tiles,
        "geosod:reduced_tiles": counts.reduced,
        "geosod:degenerate_detections": counts.degenerate,
        "geosod:unplaced_detections": counts.unplaced,
        "geosod:source_version": scene.ref.version,
        "geosod:execution": asdict(outputs.provenance.execution),
        **amend.get("properties", {}),
    }
    item["links"] += amend.get("links", [])
    item |= {name: value for name, value in amend.items() if name not in ("properties", "links")}
    commit = commit_scene(
        folder,
        scene,
        detections=outputs.detection_rows(),
        coverage=coverage,
        item=item,
        crs=outputs.crs,
        metadata=file_metadata(scene, outputs.provenance),
        failures=outputs.failures,
        files=files,
        claim=claim,
    )
    return scene_result(outputs, paths=commit.paths, inspected_km2=inspected, left_over=commit.left_over)
