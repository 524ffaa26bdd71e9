"""What was found in a GeoTIFF, as GeoJSON or GeoParquet, whichever the client accepts."""

from __future__ import annotations

import io
import json
from typing import Any

from geosod.georeference.points import georeferenced
from geosod.output.geoparquet import file_metadata, write_geoparquet
from geosod.output.scene_outputs import SceneOutputs
from geosod.serving.answers import GEOJSON, PARQUET, as_json
from geosod.serving.refused import RefusedError

#: Media range → what it is answered with.
_TYPES = {
    GEOJSON: GEOJSON,
    PARQUET: PARQUET,
    "application/json": GEOJSON,
    "application/x-parquet": PARQUET,
    "application/*": GEOJSON,
    "*/*": GEOJSON,
}


def media_type(accept: str) -> str:
    """The media type to answer with: the acceptable one of the highest quality, the first of several.

    Raises:
        RefusedError: none of them can be produced (406).
    """
    best, quality = "", 0.0
    for part in (accept or "*/*").split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        wanted = _quality(parameters)
        if name in _TYPES and wanted > quality:
            best, quality = _TYPES[name], wanted
    if not best:
        raise RefusedError(406, f"Accept {accept[:80]!r} names nothing that is produced; accept {GEOJSON} or {PARQUET}")
    return best


def scene_answer(outputs: SceneOutputs, wanted: str) -> bytes:
    """The detections of a scene as a file of a media type."""
    if wanted == GEOJSON:
        return as_json(_geojson(outputs))
    file = io.BytesIO()
    crs = outputs.crs if georeferenced(outputs.scene) else None
    metadata = file_metadata(outputs.scene, outputs.provenance)
    write_geoparquet(outputs.detection_rows(), file, crs=crs, metadata=metadata)
    return file.getvalue()


def _geojson(outputs: SceneOutputs) -> dict[str, Any]:
    """A FeatureCollection (RFC 7946); without a georeference geometries are null, and boxes in pixels."""
    import pandas

    frame = outputs.to_geopandas().drop(columns=["bbox"], errors="ignore")
    frame["datetime"] = [
        None if value is pandas.NaT or value is None else value.isoformat() for value in frame["datetime"]
    ]
    found: dict[str, Any] = json.loads(frame.to_json(drop_id=True, na="null"))
    found.pop("crs", None)
    if not georeferenced(outputs.scene):
        for feature in found["features"]:
            feature["geometry"] = None
    return found


def _quality(parameters: list[str]) -> float:
    given = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
    try:
        return min(1.0, float(given))
    except ValueError:
        return 0.0
