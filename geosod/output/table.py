"""Detections → the rows of a detections file."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geosod.arrays import FloatArray
from geosod.detections import Detections
from geosod.errors import ModelError
from geosod.georeference.points import georeferenced, on_earth, placed
from geosod.georeference.polygons import lonlat_centres
from geosod.georeference.sizes import ground_size
from geosod.output.box_geometry import box_columns
from geosod.output.geoparquet import BBOX_TYPE
from geosod.output.ids import Repeats, box_hashes, detection_ids, repeated_boxes
from geosod.output.order import row_order
from geosod.output.parts import by_part
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


def utc(moment: dt.datetime) -> dt.datetime:
    """The same instant in UTC; one without a zone is taken to be in UTC already."""
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def with_ground_position(scene: Scene, detections: Detections) -> Detections:
    """Only the boxes that have a position on the ground; all of them for a pixel scene.

    Boxes that lie beyond the limb of the Earth, or on ground without a known height, cannot be written.

    Raises:
        SceneError: no part of the scene has a position on the ground.
    """
    if not georeferenced(scene):
        return detections
    here = placed(scene, detections.boxes)
    return detections if here.all() else detections[np.flatnonzero(here)]


def detection_rows(scene: Scene, detections: Detections, provenance: Provenance, *, crs: str) -> pa.RecordBatchReader:
    """The detections of one scene as rows with `DETECTION_SCHEMA`, made while they are read.

    Rows are in `row_order`, so they depend only on the set of boxes. For a pixel scene (no CRS or
    transform) geometries are in the scene frame, x right and y down, and the columns lon, lat, width_m, height_m and
    area_m2 are null. The columns px_* are pixels of the file, even if the scene was resampled.

    ``lon`` and ``lat`` are WGS 84. They are null for scenes of other bodies, since readers would take them for WGS 84.

    Args:
        scene: the scene; its transform (affine, control points or polynomials) and its CRS locate the boxes.
        detections: its boxes, scene frame, all with a position on the ground (see `with_ground_position`).
        provenance: has the names of the classes.
        crs: CRS of the geometries; not used for a pixel scene.

    Returns:
        N rows in batches of `parts.PART_ROWS`. Reading raises SceneError where boxes cannot be transformed to `crs`.

    Raises:
        ModelError: a label id has no name.
    """
    _check_labels(detections.labels, provenance.classes)
    order = row_order(scene, detections)
    repeats = repeated_boxes(detections, order)
    file_crs = crs if georeferenced(scene) else None

    def batch(part: slice) -> pa.RecordBatch:
        return _batch(scene, detections[order[part]], repeats.of(part), provenance.classes, file_crs)

    return pa.RecordBatchReader.from_batches(DETECTION_SCHEMA, by_part(batch, len(detections)))


def detection_table(scene: Scene, detections: Detections, provenance: Provenance, *, crs: str) -> pa.Table:
    """`detection_rows` as a table."""
    return detection_rows(scene, detections, provenance, crs=crs).read_all().combine_chunks()


def _check_labels(labels: npt.NDArray[np.int32], classes: tuple[str, ...]) -> None:
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise ModelError(
            f"the detector returned label ids {labels.min()}…{labels.max()}, but its card lists {len(classes)} classes;"
            " use the card that belongs to these weights"
        )


def _batch(
    scene: Scene, rows: Detections, repeats: Repeats, classes: tuple[str, ...], crs: str | None
) -> pa.RecordBatch:
    """Consecutive rows of a file, at least one; `crs` is None for a pixel scene."""
    n, boxes = len(rows), rows.boxes
    acquired = None if scene.ref.datetime is None else utc(scene.ref.datetime)
    sides = np.ascontiguousarray((boxes / np.tile(scene.scale, 2)).T)
    geometry, bbox = box_columns(scene, boxes, crs)
    columns: dict[str, Any] = {
        "detection_id": detection_ids(scene.id, box_hashes(boxes, rows.labels), repeats),
        "geometry": geometry,
        "bbox": bbox,
        "label": pa.array(classes, pa.string()).take(pa.array(rows.labels)),
        "label_id": rows.labels,
        "score": rows.scores,
        **dict(zip(("px_xmin", "px_ymin", "px_xmax", "px_ymax"), sides, strict=True)),
        **(_ground(scene, boxes) if crs is not None else {}),
        "truncated": rows.truncated,
        "n_merged": rows.n_merged,
        "level": rows.level * np.float32(np.sqrt(scene.scale[0] * scene.scale[1])),
        "scene_id": pa.repeat(pa.scalar(scene.id, pa.string()), n),
        "datetime": pa.repeat(pa.scalar(acquired, DETECTION_SCHEMA.field("datetime").type), n),
    }
    arrays = [_column(columns.get(field.name), field, n) for field in DETECTION_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=DETECTION_SCHEMA)


def _ground(scene: Scene, boxes: FloatArray) -> dict[str, FloatArray]:
    """The columns of a georeferenced scene's positions and sizes."""
    sizes = dict(zip(("width_m", "height_m", "area_m2"), ground_size(scene, boxes), strict=True))
    if not on_earth(scene):
        return sizes
    lon, lat = np.ascontiguousarray(lonlat_centres(scene, boxes).T)
    return {"lon": lon, "lat": lat, **sizes}


def _column(values: Any, field: pa.Field, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, field.type)
    return values if isinstance(values, pa.Array) else pa.array(values, field.type)
