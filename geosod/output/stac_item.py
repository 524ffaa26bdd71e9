"""The STAC item of a scene: what was detected with which model, and where the files are."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

import shapely

from geosod.errors import identity
from geosod.georeference.crs import crs_name
from geosod.georeference.points import georeferenced, on_earth
from geosod.georeference.polygons import footprint
from geosod.output.table import utc
from geosod.results import Provenance
from geosod.scene import Scene

STAC_VERSION = "1.1.0"
PROCESSING_EXTENSION = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
PARQUET_MEDIA_TYPE = "application/vnd.apache.parquet"
#: Year of the first aerial photograph: no scene is older. Start of the interval of scenes without a date.
EARLIEST_ACQUISITION = "1858-01-01T00:00:00Z"


def timestamp(moment: dt.datetime) -> str:
    """An instant in UTC as RFC 3339 text, such as ``2024-05-01T10:30:00Z``; without a zone it is taken as UTC."""
    aware = utc(moment)
    return aware.isoformat(timespec="microseconds" if aware.microsecond else "seconds").replace("+00:00", "Z")


def _time_properties(acquired: dt.datetime | None, processed: dt.datetime) -> dict[str, Any]:
    """The item's time; without a date, the interval in which the scene must have been acquired."""
    if acquired is not None:
        return {"datetime": timestamp(acquired)}
    return {"datetime": None, "start_datetime": EARLIEST_ACQUISITION, "end_datetime": timestamp(processed)}


def geographic_bbox(geometry: Any) -> list[float]:
    """West, south, east, north; west is greater than east across the antimeridian (RFC 7946, section 5.2).

    Args:
        geometry: a Polygon or MultiPolygon in degrees, split at the antimeridian.
    """
    west, south, east, north = (float(v) for v in shapely.bounds(geometry))
    parts = shapely.bounds(shapely.get_parts(geometry))
    if west == -180 and east == 180 and not ((parts[:, 0] == -180) & (parts[:, 2] == 180)).any():
        west, east = float(parts[parts[:, 2] == 180, 0].min()), float(parts[parts[:, 0] == -180, 2].max())
        west, east = (-180.0, 180.0) if west <= east else (west, east)
    return [west, south, east, north]


def _asset(href: str, title: str, roles: list[str], crs: str | None) -> dict[str, Any]:
    asset: dict[str, Any] = {"href": href, "type": PARQUET_MEDIA_TYPE, "title": title, "roles": roles}
    return asset | ({"geosod:crs": crs_name(crs)} if crs is not None else {})


def source_href(uri: str) -> str:
    """The cleaned URI as a link; GDAL's own syntax is kept, except that spaces are escaped."""
    cleaned = identity(uri)
    return quote(cleaned, safe="/:%{}[]@!$&'()*+,;=~?#\\") if cleaned else "unknown"


def source_of(item: Mapping[str, Any]) -> str | None:
    """The source link of an item that `scene_item` made, as `source_href` writes it."""
    return next((str(link["href"]) for link in item["links"] if link["rel"] == "derived_from"), None)


def scene_item(
    scene: Scene,
    provenance: Provenance,
    *,
    hrefs: Mapping[str, str],
    detections: int,
    status: Literal["done", "partial"],
    failures: int,
    inspected_km2: float | None,
    crs: str,
    processed: dt.datetime,
) -> dict[str, Any]:
    """A STAC 1.1 Item with the processing extension 1.2.0.

    A scene without an acquisition date gets ``datetime: null`` and the interval from the first aerial photograph to
    the time of processing. A pixel scene gets ``geometry: null`` and no bbox.

    Args:
        scene: the scene.
        provenance: model, configuration and execution.
        hrefs: links of "detections" and "coverage", relative to the item.
        detections: number of rows.
        status: "partial" where some ground failed.
        failures: number of rows in the failures file.
        inspected_km2: area that was inspected; None for a pixel scene.
        crs: CRS of the dataset.
        processed: when the scene was finished.

    Returns:
        The item as a JSON value.
    """
    placed = georeferenced(scene)
    # GeoJSON coordinates are always WGS 84, so other bodies have no geometry.
    outline = footprint(scene) if placed and on_earth(scene) else None
    source = source_href(scene.ref.uri)
    asset_crs = crs if placed else None
    properties: dict[str, Any] = {
        **_processing_properties(scene, provenance, processed),
        "geosod:status": status,
        "geosod:detections": detections,
        "geosod:failures": failures,
        "geosod:inspected_km2": inspected_km2,
        "geosod:model": provenance.model,
        "geosod:model_digest": provenance.model_digest,
        "geosod:config_digest": provenance.config_digest,
    }
    if scene.gsd is not None:
        properties["gsd"] = scene.gsd
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [PROCESSING_EXTENSION],
        "id": scene.id,
        "geometry": None if outline is None else json.loads(shapely.to_geojson(outline)),
        "properties": properties,
        "links": [{"rel": "derived_from", "href": source, "title": PurePosixPath(source).name}],
        "assets": {
            "detections": _asset(hrefs["detections"], "Detected objects", ["data"], asset_crs),
            "coverage": _asset(
                hrefs["coverage"], "Inspected, nodata, masked and failed ground", ["metadata"], asset_crs
            ),
        },
    }
    if outline is not None:
        item["bbox"] = geographic_bbox(outline)
    return item


def _processing_properties(scene: Scene, provenance: Provenance, processed: dt.datetime) -> dict[str, Any]:
    return {
        **_time_properties(scene.ref.datetime, processed),
        "created": timestamp(processed),
        "processing:datetime": timestamp(processed),
        "processing:software": {"geosod": provenance.version},
        "processing:lineage": f"Objects detected by geosod {provenance.version} with the model {provenance.model}",
    }
