"""The formats of exports, and which of them a file name means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from geosod.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format of exports.

    Attributes:
        name: as users write it.
        about: what it is, in a few words.
        suffixes: of its files; none for folders.
        kind: "gdal": written by GDAL; "arrow": by pyarrow; "tiles": vector tiles; "images": boxes in pixels, image by
            image.
        driver: GDAL's name of it.
        layer_options: of GDAL.
        coverage: whether the coverage is a second layer.
        lonlat: whether its coordinates are always longitude and latitude on WGS 84.
        pixels: whether it can hold scenes without georeference.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    kind: Literal["gdal", "arrow", "tiles", "images"]
    driver: str = ""
    layer_options: Mapping[str, str] = field(default_factory=dict)
    coverage: bool = False
    lonlat: bool = False
    pixels: bool = True

    @property
    def folder(self) -> bool:
        """Whether it is a folder with files, or one file."""
        return not self.suffixes


#: Every format by name.
FORMATS: dict[str, ExportFormat] = {
    one.name: one
    for one in (
        ExportFormat("geoparquet", "GeoParquet, one file", (".parquet", ".geoparquet"), "arrow"),
        ExportFormat("gpkg", "GeoPackage", (".gpkg",), "gdal", "GPKG", {"GEOMETRY_NAME": "geometry"}, coverage=True),
        ExportFormat("flatgeobuf", "FlatGeobuf", (".fgb",), "gdal", "FlatGeobuf"),
        ExportFormat(
            "geojson",
            "GeoJSON (RFC 7946)",
            (".geojson",),
            "gdal",
            "GeoJSON",
            {"RFC7946": "YES", "ID_FIELD": "detection_id", "ID_TYPE": "String"},
            lonlat=True,
            pixels=False,
        ),
        ExportFormat(
            "pmtiles",
            "PMTiles, vector tiles for web maps",
            (".pmtiles",),
            "tiles",
            lonlat=True,
            pixels=False,
        ),
        ExportFormat("csv", "CSV with outlines as WKT", (".csv",), "arrow"),
        ExportFormat("coco", "COCO JSON, with scores", (".json",), "images"),
        ExportFormat("yolo", "YOLO folder with data.yaml", (), "images"),
    )
}


def export_format(out: str, name: str | None = None) -> ExportFormat:
    """The format that is written.

    Args:
        out: path or address of the output.
        name: a name in `FORMATS`; None takes that of the suffix.

    Raises:
        ConfigError: neither says it.
    """
    known = ", ".join(FORMATS)
    if name is not None:
        if name not in FORMATS:
            raise ConfigError(f"format {name!r} is not known; choose --to from {known}{did_you_mean(name, FORMATS)}")
        return FORMATS[name]
    suffix = PurePosixPath(out).suffix.lower()
    found = next((one for one in FORMATS.values() if suffix in one.suffixes), None)
    if found is None:
        suffixes = ", ".join(end for one in FORMATS.values() for end in one.suffixes)
        raise ConfigError(f"{out}: its suffix {suffix!r} names no format; use {suffixes}, or give --to, one of {known}")
    return found
