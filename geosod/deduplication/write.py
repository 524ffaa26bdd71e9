"""The files of a merged dataset, scene by scene."""

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
import pyarrow.parquet as pq
import shapely

from geosod import __version__
from geosod.deduplication.links import KEPT_ID, MERGED_FIELDS, Links, annotated
from geosod.deduplication.match import MosaicRule
from geosod.deduplication.sources import SceneSource, reading, tables
from geosod.deduplication.stream import GeoParquetStream
from geosod.deduplication.survey import Layer
from geosod.deduplication.translate import same_crs, translate_file
from geosod.georeference.crs import crs_name
from geosod.output.folder import flush
from geosod.output.geoparquet import read_metadata


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how scenes are written.

    Attributes:
        root: the dataset folder that is made.
        final: the place it will have.
        crs: CRS of the dataset.
        rule: how its scenes were merged.
        links: what was merged into what.
    """

    root: Path
    final: Path
    crs: str
    rule: MosaicRule
    links: Links


def neighbours(layers: Sequence[Layer]) -> list[list[str]]:
    """For each layer the ids of the other scenes whose boxes lie where its own do, by their bounds, in order."""
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
    target: Target, layer: Layer, met: Sequence[str], lost: GeoParquetStream | None, progress: Callable[[int], None]
) -> int:
    """Write the detections, the coverage and the item of one scene.

    Args:
        target: where and how.
        layer: the scene, its detections in the CRS of the dataset.
        met: ids of the scenes that it was merged with.
        lost: takes the rows that go; may be None where there are none.
        progress: called with how many rows were written.

    Returns:
        Rows that stay.

    Raises:
        LostSceneError: a file of the scene cannot be read, or its coverage cannot be put in the CRS.
    """
    scene, files = layer.scene, layer.scene.files(target.root)
    for path in (files.detections, files.coverage, files.item):
        path.parent.mkdir(parents=True, exist_ok=True)
    told = _told(target, met)
    crs = None if scene.crs is None else target.crs
    with reading(scene):
        schema = pa.schema([*_plain(pq.read_schema(layer.path)), *MERGED_FIELDS])
    start = 0
    with GeoParquetStream(files.detections, schema, crs=crs, metadata=scene.metadata | {"merge": told}) as stream:
        for table in tables(layer.path, scene):
            kept, gone = _annotate(target.links, layer, start, table)
            stream.write(stream.fitted(kept))
            if lost is not None and len(gone):
                lost.write(lost.fitted(gone))
            start += len(table)
            progress(len(table))
    rows = stream.rows
    _write_coverage(scene, files.coverage, crs)
    item = _item(target, scene, told, rows)
    files.item.write_text(json.dumps(item, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for path in (files.detections, files.coverage, files.item):
        flush(path)
    return rows


def _annotate(links: Links, layer: Layer, start: int, table: pa.Table) -> tuple[pa.Table, pa.Table]:
    stop = start + len(table)
    dropped, kept = (links.read(kind, layer.index, start, stop) for kind in ("dropped", "kept"))
    return annotated(table, start, dropped, kept)


def _plain(schema: pa.Schema) -> list[pa.Field]:
    return [schema.field(i).remove_metadata() for i in range(len(schema))]


def lost_schema(layers: Sequence[Layer]) -> pa.Schema:
    """Columns of the rows that go: those of all files, and the id of the row that each is merged into.

    Raises:
        LostSceneError: a file cannot be read, or has a column of another type than the same column of the others.
    """
    fields: dict[str, pa.Field] = {}
    count: dict[str, int] = {}
    for layer in layers:
        with reading(layer.scene):
            for field in _plain(pq.read_schema(layer.path)):
                known = fields.setdefault(field.name, field)
                if known.type != field.type:
                    raise ValueError(f"column {field.name} is {field.type}, but {known.type} in other scenes")
                fields[field.name] = known.with_nullable(known.nullable or field.nullable)
                count[field.name] = count.get(field.name, 0) + 1
    every = [f if count[name] == len(layers) else f.with_nullable(True) for name, f in fields.items()]
    return pa.schema([*every, KEPT_ID])


def _write_coverage(scene: SceneSource, path: Path, crs: str | None) -> None:
    if scene.crs is None or (crs is not None and same_crs(scene.crs, crs)):
        with reading(scene):
            source = scene.coverage.open("rb")
        with source, path.open("wb") as out:
            shutil.copyfileobj(source, out)
    elif crs is not None:
        translate_file(scene.coverage, path, scene, crs)


def _told(target: Target, met: Sequence[str]) -> dict[str, object]:
    """What the files of a scene say of how it was merged."""
    return asdict(target.rule) | {"version": __version__, "scenes": list(met)}


def _item(target: Target, scene: SceneSource, told: Mapping[str, object], rows: int) -> dict[str, Any]:
    """The scene's item, as it is in the merged dataset."""
    item = json.loads(json.dumps(scene.item))
    files = scene.files(target.final)
    for name, href in files.hrefs().items():
        item["assets"][name]["href"] = href
        if scene.crs is not None:
            item["assets"][name]["geosod:crs"] = crs_name(target.crs)
    source = Path(os.path.relpath(scene.item_path, files.item.parent)).as_posix()
    item["links"].append({"rel": "derived_from", "href": source, "title": "Result before merging"})
    rule, now = target.rule, dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    how = f"{rule.metric} {rule.threshold:g}, {rule.prefer} preferred"
    done = f"objects that several scenes show were made one by geosod {__version__} ({how})"
    item["properties"] |= {
        "updated": now,
        "processing:lineage": "; ".join(filter(None, [item["properties"].get("processing:lineage"), done])),
        "geosod:detections": rows,
        "geosod:merged": scene.rows - rows,
        "geosod:deduplication": dict(told),
    }
    return dict(item)
