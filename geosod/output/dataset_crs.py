"""The CRS of a dataset: all its files have the same one."""

from __future__ import annotations

import posixpath
import re

from geosod.errors import OutputError
from geosod.georeference.crs import crs_name, parse_crs
from geosod.output.folder import OutputFolder
from geosod.output.geoparquet import geometry_crs


def _first_crs(folder: OutputFolder, but: str | None) -> str | None:
    """PROJJSON or name of the CRS of some file of the dataset."""
    if folder.name is not None:
        return None
    own = re.compile(rf"{re.escape(but or '')}(\.[0-9a-f]{{8}})?\.parquet")  # see `OutputFolder.files` for the middle
    for path in folder.place.names("detections"):
        if not path.endswith(".parquet") or (but and own.fullmatch(posixpath.basename(path))):
            continue
        geo = folder.metadata(path, key="geo")
        if geo is not None:
            return geometry_crs(geo)
    return None


def dataset_crs(folder: OutputFolder, *, but: str | None = None) -> str | None:
    """Name of the CRS of the dataset in a folder, read from one of its files; None if there is no file yet.

    Args:
        folder: from `open_output`.
        but: id of a scene whose file is ignored.
    """
    crs = _first_crs(folder, but)
    return None if crs is None else crs_name(crs)


def check_dataset_crs(folder: OutputFolder, crs: str, *, but: str | None = None) -> None:
    """Refuse a CRS other than the dataset's; readers would label its rows with the first file's.

    Raises:
        OutputError: the two differ.
        ConfigError: PROJ does not know `crs`.
    """
    parse_crs(crs)
    present = _first_crs(folder, but)
    if present is None or parse_crs(present).equals(parse_crs(crs), ignore_axis_order=True):
        return
    raise OutputError(
        f"{folder.place.address}: holds detections in {crs_name(present)}, not {crs_name(crs)}; a dataset has one CRS: "
        f"use --crs {crs_name(present)}, or another output folder"
    )
