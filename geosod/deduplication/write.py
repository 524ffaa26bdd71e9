"""Writes the files of the deduplicated dataset, scene by scene."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from geosod.deduplication.match import MatchRule
from geosod.deduplication.merge_log import KEPT_ID, MERGED_FIELDS, MergeLog, split_rows
from geosod.deduplication.reading import common_schema, fields_of, read_batches, reading
from geosod.deduplication.remote import Copies
from geosod.deduplication.reproject import reproject_file
from geosod.deduplication.row_groups import Layer
from geosod.deduplication.sources import SceneSource
from geosod.deduplication.target_crs import same_crs
from geosod.georeference.crs import crs_name
from geosod.output.geoparquet import GeoParquetWriter, read_metadata
from geosod.output.stac_item import timestamp
from geosod.storage.local_place import flush
from geosod.version import __version__


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how scenes are written.

    Attributes:
        root: the folder that is written, a staging folder.
        final: the path it will be renamed to.
        crs: CRS of the dataset.
        rule: how boxes were matched.
        log: which row was merged into which.
        copies: which temporary folders stand for addresses.
    """

    root: Path
    final: Path
    crs: str
    rule: MatchRule
    log: MergeLog
    copies: Copies


def overlapping_scenes(layers: Sequence[Layer]) -> list[list[str]]:
    """For each layer the sorted ids of the other scenes whose detections have bounds that meet its own."""
    found: list[list[str]] = [[] for _ in layers]
    geo = [read_metadata(layer.path, key="geo") or {} for layer in layers]
    bounds = [g.get("columns", {}).get("geometry", {}).get("bbox") for g in geo]
    known = [i for i, bound in enumerate(bounds) if bound is not None and layers[i].scene.crs is not None]
    if known:
        boxes: Any = shapely.box(*np.array([bounds[i] for i in known], np.float64).T)
        for here, there in sorted(shapely.STRtree(boxes).query(boxes).T.tolist()):
            if here != there:
                found[known[here]].append(layers[known[there]].scene.id)
    return found


def write_scene(
    target: Target,
    layer: Layer,
    overlapping: Sequence[str],
    duplicates: GeoParquetWriter | None,
    on_rows: Callable[[int], None],
) -> int:
    """Write the detections, the coverage and the item of one scene.

    Args:
        target: where and how.
        layer: the scene, its detections in the CRS of the dataset.
        overlapping: ids of the scenes that it was compared with.
        duplicates: where dropped rows are written; None if there are none.
        on_rows: called with the number of rows written.

    Returns:
        The number of rows that are kept.

    Raises:
        UnreadableSceneError: a file of the scene cannot be read, or its coverage cannot be reprojected.
    """
    scene, files = layer.scene, layer.scene.files
    paths = detections, coverage, item_path = [target.root / p for p in (files.detections, files.coverage, files.item)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    record = _record(target, overlapping)
    crs = None if scene.crs is None else target.crs
    with reading(scene):
        schema = pa.schema([*fields_of(layer.path), *MERGED_FIELDS])
    start, metadata = 0, scene.metadata | {"deduplication": record}
    with GeoParquetWriter(detections, schema, crs=crs, metadata=metadata) as writer:
        for table in read_batches(layer.path, scene):
            kept, dropped = _split(target.log, layer, start, table)
            writer.write(writer.conform(kept))
            if duplicates is not None and len(dropped):
                duplicates.write(duplicates.conform(dropped))
            start += len(table)
            on_rows(len(table))
    _write_coverage(scene, coverage, crs)
    item = _item(target, scene, record, writer.rows)
    item_path.write_text(json.dumps(item, indent=1, ensure_ascii=False) + "\n", "utf-8")
    flush(*paths)
    return writer.rows


def _split(log: MergeLog, layer: Layer, start: int, table: pa.Table) -> tuple[pa.Table, pa.Table]:
    stop = start + len(table)
    dropped = log.read("dropped", layer.index, start, stop)
    kept = log.read("kept", layer.index, start, stop)
    return split_rows(table, start, dropped, kept)


def duplicates_schema(layers: Sequence[Layer]) -> pa.Schema:
    """Columns of the dropped rows: those of all files, and the id of the row that each is merged into.

    Raises:
        UnreadableSceneError: as `common_schema`.
    """
    return common_schema([(layer.path, layer.scene) for layer in layers]).append(KEPT_ID)


def _write_coverage(scene: SceneSource, path: Path, crs: str | None) -> None:
    if scene.crs is None or (crs is not None and same_crs(scene.crs, crs)):
        with reading(scene):
            source = scene.coverage.open("rb")
        with source, path.open("wb") as out:
            shutil.copyfileobj(source, out)
    elif crs is not None:
        reproject_file(scene.coverage, path, scene, crs)


def _record(target: Target, overlapping: Sequence[str]) -> dict[str, object]:
    """What the files of a scene record of its deduplication."""
    return asdict(target.rule) | {"version": __version__, "scenes": list(overlapping)}


def _item(target: Target, scene: SceneSource, record: Mapping[str, object], rows: int) -> dict[str, Any]:
    """The scene's item in the deduplicated dataset."""
    item = json.loads(json.dumps(scene.item))
    files = scene.files
    for name, href in files.hrefs().items():
        item["assets"][name]["href"] = href
        if scene.crs is not None:
            item["assets"][name]["geosod:crs"] = crs_name(target.crs)
    source = Path(os.path.relpath(scene.item_path, (target.final / files.item).parent)).as_posix()
    if target.copies.addresses:
        source = target.copies.named(str(scene.item_path))
    item["links"].append({"rel": "derived_from", "href": source, "title": "Result before deduplication"})
    rule = target.rule
    step = (
        f"duplicates of overlapping scenes merged by geosod {__version__} "
        f"({rule.metric} {rule.threshold:g}, {rule.prefer} preferred)"
    )
    item["properties"] |= {
        "updated": timestamp(dt.datetime.now(dt.UTC).replace(microsecond=0)),
        "processing:lineage": "; ".join(filter(None, [item["properties"].get("processing:lineage"), step])),
        "geosod:detections": rows,
        "geosod:merged": scene.rows - rows,
        "geosod:deduplication": dict(record),
    }
    return dict(item)
