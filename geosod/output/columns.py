"""What the columns of the output files mean: ``python -m geosod.output.columns docs/output.md`` writes the page."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from geosod.output.coverage import COVERAGE_SCHEMA
from geosod.output.failures import FAILURE_SCHEMA
from geosod.output.table import DETECTION_SCHEMA

_DETECTIONS = {
    "detection_id": "identifier of the box; the same in every run with the same result",
    "geometry": "WKB polygon in the CRS of the dataset; in scene pixels where the scene has no georeference",
    "bbox": "xmin, ymin, xmax, ymax of the geometry, for filters of readers",
    "label": "name of the class",
    "label_id": "index in the model card of the class, or of the first of those that have this label",
    "score": "confidence of the model, from its threshold to 1. Thresholds differ between models: `geosod model info`",
    "px_xmin": "left edge in pixels of the file, from its left edge",
    "px_ymin": "top edge in pixels of the file, from its top edge",
    "px_xmax": "right edge in pixels of the file",
    "px_ymax": "bottom edge in pixels of the file",
    "lon": "longitude of the centre in degrees (WGS 84); null without georeference and on other planets",
    "lat": "latitude of the centre in degrees (WGS 84)",
    "width_m": "length of the box along its horizontal pixel axis, in metres on the ellipsoid",
    "height_m": "length of the box along its vertical pixel axis, in metres on the ellipsoid",
    "area_m2": "area of the box in square metres on the ellipsoid",
    "truncated": "the object touches the edge of the scene or nodata: it may be larger",
    "n_merged": "number of raw boxes of overlapping tiles that this box represents",
    "level": "scale at which it was found; 1 is full resolution",
    "scene_id": "identifier of the scene, the name of its files",
    "datetime": "acquisition time of the scene (UTC); null where it is not known",
}
_COVERAGE = {
    "geometry": "WKB polygon in the CRS of the dataset; the polygons partition the scene",
    "bbox": "xmin, ymin, xmax, ymax of the geometry",
    "status": "`inspected`, `nodata`, `outside_aoi`, `masked` or `failed`: only on inspected ground does no detection "
    "mean no object",
    "reason": "why ground was not inspected",
    "area_km2": "area in square kilometres on the ellipsoid; null without georeference",
    "scene_id": "identifier of the scene",
}
_FAILURES = {
    "scene_id": "identifier of the scene",
    "uri": "address of the scene, without credentials",
    "col": "first column of the ground that failed, in pixels; null where the whole scene failed",
    "row": "first row of it",
    "width": "columns of it",
    "height": "rows of it",
    "stage": "what failed: `open`, `plan`, `read`, `detect`, `write` or `deduplicate`",
    "error": "class of the error",
    "message": "what was wrong, and how to fix it",
    "attempts": "how often it was tried",
}
#: Title → where the files are, their schema, and the meaning of each column.
FILES: dict[str, tuple[str, pa.Schema, dict[str, str]]] = {
    "Detections": ("detections/acq_date=YYYY-MM-DD/<scene>.parquet", DETECTION_SCHEMA, _DETECTIONS),
    "Coverage": ("coverage/<scene>.parquet", COVERAGE_SCHEMA, _COVERAGE),
    "Failures": ("failures.parquet", FAILURE_SCHEMA, _FAILURES),
}
_HEAD = """# Output files

`geosod detect … -o out` writes the files below into `out`. `acq_date=unknown` holds scenes without an acquisition
date. Scenes without georeference, JPEG and PNG files for example, are in `pixel/<scene>.parquet` instead of
`detections/`: their geometries are pixels. To count both:

```python
both = "read_parquet(['out/detections/*/*.parquet', 'out/pixel/*.parquet'], union_by_name=true)"
duckdb.sql(f"SELECT * EXCLUDE (geometry, bbox) FROM {both}")  # degrees and pixels do not mix
```

Coverage of these scenes has pixels, too: where a folder holds both kinds, take `area_km2 IS NOT NULL` for the ground,
since readers give all rows the CRS of the first file. To filter by time use the column `datetime`, which is null where
no time is known; `acq_date` is text.

With one scene, `-o NAME.parquet` writes `NAME.parquet`, `NAME.coverage.parquet` and `NAME.json` instead of a folder.

The key `geosod` of each file's metadata holds the scene, the model and its digest, the settings, and the version.
`items/<scene>.json` is a STAC item with links to the files; a scene without it is not committed. `.lock` keeps two runs
from writing at once, and may stay. `.units` holds the finished units of scenes in progress ([runs.md](runs.md)).

## Objects per hectare

Only on inspected ground does no detection mean no object, so divide by that ground:

```sql
SELECT count(*) / (SELECT 100 * sum(area_km2) FROM 'out/coverage/*.parquet' WHERE status = 'inspected')
FROM 'out/detections/*/*.parquet'
```

Where scenes overlap, both the objects and the ground of the overlap count twice. `geosod deduplicate` leaves every
object once; the coverage stays that of the scenes, so take its union, here in an equal-area projection:

```python
ground = geopandas.read_parquet("out/coverage", filters=[("status", "==", "inspected")])
hectares = ground.to_crs("+proj=cea +datum=WGS84").union_all().area / 1e4
```

Coverage is exact along an AOI and masks. Along nodata it has cells of 32 × 32 pixels: a cell with any valid pixel
counts as inspected, so small or ragged images come out slightly too large.
"""
#: Title → what follows its table.
_NOTES = {
    "Detections": """
With `--rename-classes car=vehicle,van=vehicle` both classes have the label `vehicle` and the label id of the first of
them, and are one class for NMS and merging. `--classes` leaves label ids as they are. The metadata under `geosod` hold
the label of every label id (`classes`), and the card's supercategories where it has any (`supercategories`, one for
each class of the model).
""",
    "Failures": """
Rows of a scene or input are replaced when it is processed again, and removed when nothing of it fails any more. Those
of inputs that are no longer given stay; delete the file once they are dealt with. Without failures there is no file.
""",
}


def page() -> str:
    """The page docs/output.md."""
    parts = [_HEAD]
    for title, (path, schema, meanings) in FILES.items():
        rows = [f"| `{f.name}` | {_type(f)} | {meanings[f.name]} |" for f in schema]
        parts.append(
            "\n".join([f"## {title}\n\n`{path}`\n\n| column | type | meaning |\n|---|---|---|", *rows])
            + "\n"
            + _NOTES.get(title, "")
        )
    return "\n".join(parts)


def _type(field: pa.Field) -> str:
    name = "struct of float64" if pa.types.is_struct(field.type) else str(field.type)
    return name.replace("timestamp[us, tz=UTC]", "timestamp") + (", may be null" if field.nullable else "")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
