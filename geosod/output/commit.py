"""Commits the files of a scene to the output folder: all of them or none.

Files are written in a staging folder, then put into place, each whole. The scene's STAC item comes last, and its
presence is the commit. Several processes may commit to one folder at a time: on local folders a lock on ``.lock`` keeps
them apart; on object stores the item is written on the condition that there is none, and the failures file on the
condition that nobody has changed it.
"""

from __future__ import annotations

import datetime as dt
import json
import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from geosod.errors import ConfigError, IdentifierTakenError, OutputError, reason
from geosod.georeference.points import georeferenced
from geosod.output.coverage import area_km2
from geosod.output.dataset_crs import check_dataset_crs
from geosod.output.failures import failure_table, failures_from, failures_to, merged_failures
from geosod.output.folder import (
    OutputFolder,
    SceneFiles,
    open_output,
    parse_item,
    read_item,
    unusual_name,
)
from geosod.output.geoparquet import file_metadata, write_geoparquet
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
    "write_failures",
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


#: Called with the earlier item of a scene, None without, just before the scene is committed, while others are kept out
#: where the place has locks. It raises where the scene must not be committed.
Admit = Callable[[Mapping[str, Any] | None], None]

#: Addresses and CRSs of what this process has written: another run finds these scenes, and is refused another CRS.
_our_crs: set[tuple[str, str | None]] = set()


def committed(folder: OutputFolder, scene_id: str) -> dict[str, Any] | None:
    """The item of a scene if it is committed, that is if all files of its assets exist; else None."""
    item = read_item(folder, folder.item(scene_id))
    if item is None or item.get("id") != scene_id:
        return None
    return item if all(folder.place.exists(path) for path in asset_paths(folder, item)) else None


def asset_paths(folder: OutputFolder, item: Mapping[str, Any]) -> list[str]:
    """Paths of the files that an item links to, below the root of the output."""
    base = posixpath.dirname(folder.item(str(item["id"])))
    paths = [posixpath.normpath(posixpath.join(base, str(asset["href"]))) for asset in item["assets"].values()]
    return [path for path in paths if not path.startswith(("/", ".."))]


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
    admit: Admit | None = None,
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
        admit: asked before the commit; where it is given, the scene's identifier belongs to the caller, and an earlier
            commit is replaced whatever its source.

    Raises:
        OutputError: the dataset has another CRS, or a file cannot be written.
    """
    files, file_crs = folder.files(scene), crs if georeferenced(scene) else None
    if {name: asset["href"] for name, asset in item["assets"].items()} != files.hrefs():
        raise ConfigError(
            f"scene {scene.id!r}: the item's asset links are not those of the folder; use {files.hrefs()}"
        )
    place = folder.place
    try:
        with place.staging() as stage:
            detections_file, coverage_file = stage / "detections.parquet", stage / "coverage.parquet"
            write_geoparquet(detections, detections_file, crs=file_crs, metadata=metadata)
            write_geoparquet(coverage, coverage_file, crs=file_crs, metadata=metadata)
            place.flush(detections_file, coverage_file)
            if failures:  # first, so that no scene is committed in part without them
                _earlier_item(folder, scene, files, owned=admit is not None)
                _replace_failures(folder, failures, scenes=(scene.id,))
            with place.locked():
                ours = (place.address, file_crs)
                if file_crs is not None and ours not in _our_crs:
                    check_dataset_crs(folder, file_crs, but=scene.id)
                if admit is not None:
                    admit(read_item(folder, files.item))
                notes = _withdraw(folder, scene, files, owned=admit is not None)
                try:
                    place.put({detections_file: files.detections, coverage_file: files.coverage})
                    _put_item(folder, files, item)
                except OSError:
                    # Rows without an item would still be read as part of the dataset.
                    place.remove(files.item, files.detections, files.coverage)
                    raise
                _our_crs.add(ours)
    except OSError as error:
        raise OutputError(f"{place.address}: scene {scene.id!r} cannot be written ({error}); {place.remedy}") from error
    left_over = _clean_up(folder, scene.id, notes, failures)
    return Commit((place.at(files.detections), place.at(files.coverage), place.at(files.item)), left_over)


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
            _replace_failures(folder, failures, scenes=(scene_id,))
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


def _put_item(folder: OutputFolder, files: SceneFiles, item: Mapping[str, Any]) -> None:
    """Write the item of a scene whose other files are in place: the commit.

    Raises:
        OutputError: another run has committed the scene meanwhile, with another model or other settings; or another
            file is there.
    """
    place = folder.place
    if place.create(files.item, (json.dumps(item, indent=1, ensure_ascii=False) + "\n").encode()):
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


def write_failures(folder: OutputFolder, failures: Sequence[Failure], *, scenes: Collection[str] = ()) -> str | None:
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
    place = folder.place
    try:
        _replace_failures(folder, failures, scenes=scenes)
        return place.at(folder.failures) if place.exists(folder.failures) else None
    except OSError as error:
        raise OutputError(f"{place.at(folder.failures)}: cannot be written ({error}); {place.remedy}") from error


def _replace_failures(folder: OutputFolder, failures: Sequence[Failure], *, scenes: Collection[str]) -> None:
    place, path = folder.place, folder.failures
    if not failures and not place.exists(path):
        return

    def changed(content: bytes | None) -> bytes | None:
        old = failures_from(None if folder.name is not None else content, where=place.at(path))
        rows = merged_failures(old, failure_table(failures), scenes)
        return failures_to(rows) if len(rows) else None

    place.change(path, changed)


def commit_outputs(
    folder: OutputFolder, outputs: SceneOutputs, *, amend: Mapping[str, Any] | None = None, admit: Admit | None = None
) -> SceneResult:
    """Write the files of a scene: whole or not at all.

    Where another run has just given the scene's identifier to another scene, this one gets one that depends on its URI.

    Args:
        folder: from `open_output`.
        outputs: the result of the scene.
        amend: members of the item to be added; those of ``properties`` and ``links`` are added to the item's.
        admit: see `commit_scene`.

    Raises:
        OutputError: a file cannot be written.
        SceneError: the scene has no position in the dataset's CRS.
    """
    try:
        return _commit_outputs(folder, outputs, amend or {}, admit)
    except IdentifierTakenError:
        return _commit_outputs(folder, outputs.renamed(), amend or {}, admit)


def _commit_outputs(
    folder: OutputFolder, outputs: SceneOutputs, amend: Mapping[str, Any], admit: Admit | None
) -> SceneResult:
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
        admit=admit,
    )
    return scene_result(outputs, paths=commit.paths, inspected_km2=inspected, left_over=commit.left_over)
