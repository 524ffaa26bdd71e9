"""Formats of labels. A new one is a module here, and a line in `FORMATS`."""

from __future__ import annotations

from pathlib import Path

from geosod.datasets.contract import Format
from geosod.datasets.formats import citypersons, coco, dota, tinyperson, vector, visdrone, voc, xview, yolo
from geosod.errors import LabelError, did_you_mean

#: Every format by name. A path is of the first that recognises it, so that special ones stand before general ones.
FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        tinyperson.FORMAT,
        coco.FORMAT,
        xview.FORMAT,
        visdrone.FORMAT,
        dota.FORMAT,
        citypersons.FORMAT,
        voc.FORMAT,
        yolo.FORMAT,
        vector.GEOJSON,
        vector.GEOPARQUET,
        vector.GPKG,
    )
}
#: Name without a suffix of its own → suffix of a file that is written.
_SUFFIXES = {
    ".gpkg": "gpkg",
    ".parquet": "geoparquet",
    ".geoparquet": "geoparquet",
    ".geojson": "geojson",
    ".json": "coco",
}


def find_format(path: Path, name: str | None = None) -> Format:
    """The format of labels that are read.

    Args:
        path: a file or folder.
        name: a name in `FORMATS`; None recognises the format from the path and its content.

    Raises:
        LabelError: there is nothing there, or no format is recognised.
    """
    if name is not None:
        return named_format(name)
    if not path.exists():
        raise LabelError(f"{path}: there is no such file or folder")
    found = next((one for one in FORMATS.values() if one.recognises(path)), None)
    if found is None:
        raise LabelError(f"{path}: its format is not recognised; give --format, one of {', '.join(FORMATS)}")
    return found


def output_format(path: Path, name: str | None = None) -> Format:
    """The format of labels that are written; LabelError where neither a name nor the suffix says it."""
    if name is None and path.suffix.lower() not in _SUFFIXES:
        raise LabelError(f"{path}: its suffix names no format; give --to, one of {', '.join(FORMATS)}")
    return named_format(name or _SUFFIXES[path.suffix.lower()])


def named_format(name: str) -> Format:
    """The format of that name; LabelError where there is none."""
    if name not in FORMATS:
        raise LabelError(f"format {name!r} is not known; choose {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return FORMATS[name]
