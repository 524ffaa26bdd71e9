"""The index beside the items: ``index.parquet`` (stac-geoparquet), and ``collection.json``, which points to it.

The index never names a scene that is not there. Where the dataset has a lock, a row is removed before its scene's files
are replaced, and added once the scene is committed; elsewhere it is replaced before the earlier files are removed.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from geosod.errors import OutputError
from geosod.output.commit import committed
from geosod.output.folder import OutputFolder, read_items
from geosod.output.stac_item import EARLIEST_ACQUISITION, PARQUET_MEDIA_TYPE, STAC_VERSION, timestamp

INDEX, COLLECTION = "index.parquet", "collection.json"
_MOMENT, _TEXT, _WHOLE, _REAL = pa.timestamp("us", "UTC"), pa.string(), pa.int64(), pa.float64()
_ASSET = pa.struct(
    [("href", _TEXT), ("type", _TEXT), ("title", _TEXT), ("roles", pa.list_(_TEXT)), ("geosod:crs", _TEXT)]
)
_LINK = pa.struct([("rel", _TEXT), ("href", _TEXT), ("type", _TEXT), ("title", _TEXT)])
_EXECUTION = [("device", _TEXT), ("backend", _TEXT), ("precision", _TEXT), ("batch", _WHOLE), ("threads", _WHOLE)]
_PROPERTIES: list[tuple[str, Any]] = [
    *((name, _MOMENT) for name in ("datetime", "start_datetime", "end_datetime", "created")),
    *(("gsd", _REAL), ("deprecated", pa.bool_()), ("processing:datetime", _TEXT), ("processing:lineage", _TEXT)),
    ("processing:software", pa.struct([("geosod", _TEXT)])),
    *((f"geosod:{name}", _TEXT) for name in ("status", "model", "model_digest", "config_digest", "source_version")),
    *((f"geosod:{name}", _WHOLE) for name in ("detections", "failures", "capped_tiles", "reduced_tiles")),
    *((f"geosod:{name}", _WHOLE) for name in ("degenerate_detections", "unplaced_detections")),
    ("geosod:inspected_km2", _REAL),
    ("geosod:execution", pa.struct(_EXECUTION)),
    *((f"geosod:ingest_{name}", _TEXT) for name in ("key", "collection", "item", "version", "address", "updated")),
    ("geosod:withdrawn", _TEXT),
]
_NAMES = [name for name, _ in _PROPERTIES]
SCHEMA = pa.schema(
    [
        *(("type", _TEXT), ("stac_version", _TEXT), ("stac_extensions", pa.list_(_TEXT)), ("id", _TEXT)),
        ("geometry", pa.binary()),
        ("bbox", pa.struct([(name, _REAL) for name in ("xmin", "ymin", "xmax", "ymax")])),
        *(("links", pa.list_(_LINK)), ("assets", pa.struct([("detections", _ASSET), ("coverage", _ASSET)]))),
        ("collection", _TEXT),
        *_PROPERTIES,
    ]
)


def refresh(folder: OutputFolder, scenes: Collection[str], *, collection: str) -> None:
    """Bring the rows of some scenes to what the dataset has of them, and the collection to the rows.

    Args:
        folder: the dataset.
        scenes: identifiers of scenes; those that are not committed get no row.
        collection: identifier of the collection.

    Raises:
        OutputError: the index cannot be read or written.
    """

    def changed(content: bytes | None) -> bytes:
        # Read here, where nobody else changes the dataset or the index, if its place has locks.
        items = [item for name in sorted(scenes) if (item := committed(folder, name)) is not None]
        before = _without(_table(folder, content), scenes)
        return _bytes(pa.concat_tables([before, _rows(folder, items)]), collection)

    _change(folder, INDEX, changed)
    refresh_collection(folder, collection)


def rebuild(folder: OutputFolder, *, collection: str) -> int:
    """Make the index anew from all items; the number of its rows.

    Raises:
        OutputError: it cannot be written.
    """
    counted = [0]

    def changed(_: bytes | None) -> bytes:
        items = [item for item in read_items(folder) if committed(folder, str(item["id"])) is not None]
        counted[0] = len(items)
        return _bytes(_rows(folder, items), collection)

    _change(folder, INDEX, changed)
    refresh_collection(folder, collection)
    return counted[0]


def drop_row(folder: OutputFolder, scene: str) -> None:
    """Remove the row of a scene that is about to be replaced, by the process that holds the lock of the place."""
    place = folder.place
    before = place.read(INDEX)
    if before is None:
        return
    table = _table(folder, before)
    after = _without(table, [scene])
    if len(after) == len(table):
        return
    with place.staging() as stage:
        (stage / "index").write_bytes(_bytes(after, _collection_of(before)))
        place.flush(stage / "index")
        place.put({stage / "index": INDEX})


def indexed_scenes(folder: OutputFolder) -> set[str] | None:
    """Identifiers of the scenes that the index names; None without an index that can be read."""
    content = folder.place.read(INDEX)
    try:
        return None if content is None else set(_table(folder, content)["id"].to_pylist())
    except OutputError:
        return None


def refresh_collection(folder: OutputFolder, collection: str) -> None:
    """Bring the extents of the collection to the index.

    Raises:
        OutputError: it cannot be written.
    """

    def changed(_: bytes | None) -> bytes:
        content = folder.place.read(INDEX)
        value = _collection(collection, _table(folder, content))
        return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()

    _change(folder, COLLECTION, changed)


def _change(folder: OutputFolder, path: str, change: Callable[[bytes | None], bytes]) -> None:
    try:
        folder.place.change(path, change)
    except OSError as error:
        raise OutputError(f"{folder.place.at(path)}: cannot be written ({error}); {folder.place.remedy}") from error


def _table(folder: OutputFolder, content: bytes | None) -> pa.Table:
    if content is None:
        return SCHEMA.empty_table()
    try:
        table = pq.read_table(io.BytesIO(content))
        return table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, KeyError, ValueError) as error:
        where = folder.place.at(INDEX)
        raise OutputError(f"{where}: is no index that geosod wrote ({error}); delete it, it is made anew") from error


def _without(table: pa.Table, scenes: Collection[str]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["id"], value_set=pa.array(list(scenes), pa.string()))))


def _rows(folder: OutputFolder, items: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([_row(folder, item) for item in items], SCHEMA)


def _row(folder: OutputFolder, item: dict[str, Any]) -> dict[str, Any]:
    """The row of an item; its relative links start at the index."""
    base = posixpath.dirname(folder.item(str(item["id"])))
    box, geometry, properties = item.get("bbox"), item.get("geometry"), item["properties"]
    moments = {name: _moment(properties.get(name)) for name, kind in _PROPERTIES if kind == _MOMENT}
    return {
        **{name: item.get(name) for name in ("type", "stac_version", "stac_extensions", "id", "collection")},
        "geometry": None if geometry is None else shapely.to_wkb(shapely.from_geojson(json.dumps(geometry))),
        "bbox": None if box is None else dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
        "links": [link | {"href": _rebased(base, link["href"])} for link in item["links"]],
        "assets": {k: asset | {"href": _rebased(base, asset["href"])} for k, asset in item["assets"].items()},
        **{name: properties.get(name) for name in _NAMES},
        **moments,
    }


def _rebased(base: str, href: str) -> str:
    relative = href.startswith(("./", "../"))
    return f"./{posixpath.normpath(posixpath.join(base, href))}" if relative else href


def _moment(text: Any) -> Any:
    import datetime as dt

    return None if text is None else dt.datetime.fromisoformat(text)


def _bytes(table: pa.Table, collection: str) -> bytes:
    """The file: GeoParquet with what stac-geoparquet 1.1 adds to it."""
    column = {"encoding": "WKB", "geometry_types": [], "covering": {"bbox": _covering()}}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    stac = {"version": "1.1.0", "collections": {collection: _collection(collection, table)}}
    table = table.sort_by("id").combine_chunks()
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"geo": json.dumps(geo), "stac-geoparquet": json.dumps(stac)}),
        sink,
        compression="zstd",
    )
    return sink.getvalue()


def _covering() -> dict[str, list[str]]:
    return {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}


def _collection_of(content: bytes) -> str:
    metadata = pq.read_schema(io.BytesIO(content)).metadata or {}
    try:
        (name,) = json.loads(metadata[b"stac-geoparquet"])["collections"]
    except (KeyError, ValueError):
        return "detections"
    return str(name)


def _collection(collection: str, table: pa.Table) -> dict[str, Any]:
    """The collection of the rows; it names no item itself, which the index does."""
    starts = pc.coalesce(table["datetime"], table["start_datetime"])
    ends = pc.coalesce(table["datetime"], table["end_datetime"])
    interval = [_text(pc.min(starts)) or EARLIEST_ACQUISITION, _text(pc.max(ends))]
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": collection,
        "title": "Objects detected by geosod",
        "description": "One item for each scene, with its detections and the ground that was inspected.",
        "license": "other",
        "extent": {"spatial": {"bbox": [_bounds(table)]}, "temporal": {"interval": [interval]}},
        "links": [],
        "assets": {
            "items": {
                "href": f"./{INDEX}",
                "type": PARQUET_MEDIA_TYPE,
                "title": "All items",
                "roles": ["collection-mirror"],
            }
        },
    }


def _bounds(table: pa.Table) -> list[float]:
    """West, south, east, north of all items; the whole circle where one crosses the antimeridian."""
    boxes = [box for box in table["bbox"].to_pylist() if box is not None]
    if not boxes:
        return [-180.0, -90.0, 180.0, 90.0]
    crosses = any(box["xmin"] > box["xmax"] for box in boxes)
    west, east = (-180.0, 180.0) if crosses else (min(b["xmin"] for b in boxes), max(b["xmax"] for b in boxes))
    return [west, min(box["ymin"] for box in boxes), east, max(box["ymax"] for box in boxes)]


def _text(moment: pa.Scalar) -> str | None:
    value = moment.as_py()
    return None if value is None else timestamp(value)


def missing_scenes(folder: OutputFolder) -> Iterator[str]:
    """Identifiers of items that the index does not name; all of them without an index."""
    known = indexed_scenes(folder) or set()
    for path in folder.place.names("items"):
        name = posixpath.basename(path).removesuffix(".json")
        if path.endswith(".json") and name not in known:
            yield name
