"""Detections → the rows of a detections file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from geosod.arrays import FloatArray, IntArray
from geosod.detections import Detections
from geosod.errors import ModelError
from geosod.georeference.points import georeferenced, on_earth, placed
from geosod.georeference.polygons import lonlat_centres
from geosod.georeference.sizes import ground_size
from geosod.machine import usable_cpus
from geosod.output.box_geometry import box_columns
from geosod.output.geoparquet import BBOX_TYPE
from geosod.results import Provenance
from geosod.scene import Scene

#: The columns of a detections file, in order; the same for an empty one.
DETECTION_SCHEMA = pa.schema(
    [
        pa.field("detection_id", pa.string(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field("bbox", BBOX_TYPE, nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("label_id", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("px_xmin", "px_ymin", "px_xmax", "px_ymax")),
        *(pa.field(name, pa.float64()) for name in ("lon", "lat")),
        *(pa.field(name, pa.float32()) for name in ("width_m", "height_m", "area_m2")),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("n_merged", pa.int32(), nullable=False),
        pa.field("level", pa.float32(), nullable=False),
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("datetime", pa.timestamp("us", tz="UTC")),
    ]
)

_T = TypeVar("_T")
_HILBERT_LEVEL = 16
#: Rows whose positions are computed at once.
_PART = 1 << 16
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def utc(moment: dt.datetime) -> dt.datetime:
    """The same instant in UTC; one without a zone is taken to be in UTC already."""
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def _hilbert(scene: Scene, boxes: FloatArray) -> IntArray:
    """Distance of each centre along a Hilbert curve over the scene; in pixels, so that no projection interrupts it."""
    import geopandas  # which imports pandas: not while detectors start

    size = np.array([scene.width, scene.height], np.float64)
    centres = np.clip((boxes[:, :2] + boxes[:, 2:]) / 2, 0, size)
    bounds = np.array([0.0, 0.0, *size])

    def distance(part: FloatArray) -> IntArray:
        series = geopandas.GeoSeries(shapely.points(part))
        return np.asarray(series.hilbert_distance(total_bounds=bounds, level=_HILBERT_LEVEL), np.int64)

    return np.concatenate(_by_part(distance, centres))


def row_order(scene: Scene, detections: Detections) -> IntArray:
    """(N,) int64, the order of rows in a file: along a Hilbert curve, ties by `Detections.canonical_order`.

    It depends on the set of boxes, not on their order.
    """
    if len(detections) == 0:
        return np.empty(0, np.int64)
    canonical = detections.canonical_order()
    return canonical[np.argsort(_hilbert(scene, detections.boxes[canonical]), kind="stable")]


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def detection_ids(scene_id: str, boxes: FloatArray, labels: npt.NDArray[np.int32]) -> pa.Array:
    """Identifiers of boxes that are the same in every run.

    An identifier is the scene's id and a hash of the label id and the four pixel coordinates, as 16 hex digits.
    Boxes with equal hashes (in practice, the same box twice) get ``-1``, ``-2``… from the second on.

    Args:
        scene_id: id of the scene.
        boxes: (N, 4) float64, scene frame, in the order of the file.
        labels: (N,) int32.

    Returns:
        (N,) string array without duplicates.
    """
    state = _mix(labels.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    for column in (boxes + 0.0).T:  # adding zero turns -0.0 into 0.0
        state = _mix((state + np.uint64(0x9E3779B97F4A7C15)) ^ np.ascontiguousarray(column).view(np.uint64))
    digits = np.empty((len(state), 16), np.uint8)
    for i in range(16):
        digits[:, i] = _HEX[((state >> np.uint64(60 - 4 * i)) & np.uint64(15)).astype(np.int64)]
    names = pa.array(digits.reshape(-1).view("S16").astype("U16")) if len(state) else pa.array([], pa.string())
    order = np.argsort(state, kind="stable")
    same = np.flatnonzero(state[order][1:] == state[order][:-1]) + 1
    if len(same) == 0:
        return _joined(scene_id, names)
    first = np.arange(len(state))
    first[same] = 0
    repeat = np.empty(len(state), np.int64)
    repeat[order] = np.arange(len(state)) - np.maximum.accumulate(first)
    texts = [name if r == 0 else f"{name}-{r}" for name, r in zip(names.to_pylist(), repeat.tolist(), strict=True)]
    return _joined(scene_id, pa.array(texts, pa.string()))


def _joined(scene_id: str, names: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(scene_id), names, "-")


def _labels(labels: npt.NDArray[np.int32], classes: tuple[str, ...]) -> pa.Array:
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise ModelError(
            f"the detector returned label ids {labels.min()}…{labels.max()}, but its card lists {len(classes)} classes;"
            " use the card that belongs to these weights"
        )
    names = pa.array(classes, pa.string())
    return names.take(pa.array(labels.astype(np.int64)))


def with_ground_position(scene: Scene, detections: Detections) -> Detections:
    """Only the boxes that have a position on the ground; all of them for a pixel scene.

    Boxes that lie beyond the limb of the Earth, or on ground without a known height, cannot be written.

    Raises:
        SceneError: no part of the scene has a position on the ground.
    """
    return detections[np.flatnonzero(placed(scene, detections.boxes))] if georeferenced(scene) else detections


def detection_table(scene: Scene, detections: Detections, provenance: Provenance, *, crs: str) -> pa.Table:
    """The detections of one scene as a table with `DETECTION_SCHEMA`.

    Rows are in `row_order`, so the table depends only on the set of boxes. For a pixel scene (no CRS or
    transform) geometries are in the scene frame, x right and y down, and the columns lon, lat, width_m, height_m and
    area_m2 are null. The columns px_* are pixels of the file, even if the scene was resampled.

    ``lon`` and ``lat`` are WGS 84. They are null for scenes of other bodies, since readers would take them for WGS 84.

    Args:
        scene: the scene; its transform (affine, control points or polynomials) and its CRS locate the boxes.
        detections: its boxes, scene frame, all with a position on the ground (see `with_ground_position`).
        provenance: has the names of the classes.
        crs: CRS of the geometries; not used for a pixel scene.

    Returns:
        N rows.

    Raises:
        SceneError: boxes cannot be transformed to `crs`.
        ModelError: a label id has no name.
    """
    rows = detections[row_order(scene, detections)]
    n, boxes = len(rows), rows.boxes
    on_map = georeferenced(scene)
    acquired = None if scene.ref.datetime is None else utc(scene.ref.datetime)
    pixels = dict(
        zip(
            ("px_xmin", "px_ymin", "px_xmax", "px_ymax"),
            np.ascontiguousarray((boxes / np.tile(scene.scale, 2)).T),
            strict=True,
        )
    )
    columns: dict[str, Any] = {
        "detection_id": detection_ids(scene.id, boxes, rows.labels),
        "label": _labels(rows.labels, provenance.classes),
        "label_id": rows.labels,
        "score": rows.scores,
        **pixels,
        **_ground_columns(scene, boxes, crs if on_map else None),
        "truncated": rows.truncated,
        "n_merged": rows.n_merged,
        "level": rows.level * np.float32(np.sqrt(scene.scale[0] * scene.scale[1])),
        "scene_id": pa.repeat(pa.scalar(scene.id, pa.string()), n),
        "datetime": pa.repeat(pa.scalar(acquired, DETECTION_SCHEMA.field("datetime").type), n),
    }
    return pa.Table.from_arrays([_column(columns[f.name], f, n) for f in DETECTION_SCHEMA], schema=DETECTION_SCHEMA)


def _ground_columns(scene: Scene, boxes: FloatArray, crs: str | None) -> dict[str, Any]:
    """The columns that need the boxes' positions on the ground; `crs` is None without."""
    found = _by_part(lambda part: _ground_part(scene, part, crs), boxes)
    return {name: _joined_parts([part[name] for part in found]) for name in found[0]}


def _by_part(compute: Callable[[FloatArray], _T], rows: FloatArray) -> list[_T]:
    """The results for parts of `_PART` rows, computed on all cores."""
    parts = [rows[i : i + _PART] for i in range(0, len(rows), _PART)] or [rows]
    if len(parts) == 1:
        return [compute(rows)]
    with ThreadPoolExecutor(usable_cpus()) as threads:
        return list(threads.map(compute, parts))


def _ground_part(scene: Scene, boxes: FloatArray, crs: str | None) -> dict[str, Any]:
    geometry, bbox = box_columns(scene, boxes, crs)
    ground: dict[str, Any] = dict.fromkeys(("lon", "lat", "width_m", "height_m", "area_m2"))
    if crs is not None and len(boxes):
        if on_earth(scene):
            ground["lon"], ground["lat"] = np.ascontiguousarray(lonlat_centres(scene, boxes).T)
        sizes = ground_size(scene, boxes)
        ground |= dict(zip(("width_m", "height_m", "area_m2"), (s.astype(np.float32) for s in sizes), strict=True))
    return {"geometry": geometry, "bbox": bbox, **ground}


def _joined_parts(parts: list[Any]) -> Any:
    if parts[0] is None or len(parts) == 1:
        return parts[0]
    return pa.concat_arrays(parts) if isinstance(parts[0], pa.Array) else np.concatenate(parts)


def _column(values: Any, field: pa.Field, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, field.type)
    return values if isinstance(values, pa.Array) else pa.array(values, field.type)
