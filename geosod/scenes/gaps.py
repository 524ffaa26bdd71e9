"""The ground of a mosaic that none of its sources covers; GDAL reads it as 0, or as the nodata value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import shapely
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from geosod.errors import SceneError
from geosod.storage.sandbox import MAX_DEPTH, local_target, read_tile_index

Element = ElementTree.Element
#: Kinds of VRT whose bands are computed, and have no sources with rectangles.
_COMPUTED = ("vrtpansharpeneddataset", "vrtprocesseddataset")
_COMPUTED_BANDS = ("vrtrawrasterband", "vrtderivedrasterband", "vrtwarpedrasterband")


def vrt_gaps(dataset: Any, uri: str) -> tuple[BaseGeometry | None, str | None]:
    """What no source covers, in pixels of the file, and something to report, or None.

    Args:
        dataset: an open rasterio dataset without nodata value, mask or alpha band.
        uri: the file, which sources may be named relative to.
    """
    if dataset.driver == "GTI":
        return _reported(_index_gaps(dataset, uri), dataset)
    text = dataset.tags(ns="xml:VRT").get("xml:VRT") if dataset.driver == "VRT" else None
    if text is None:
        return None, None
    root = ElementTree.fromstring(text)
    if _kind(root) == "vrtwarpeddataset":
        return None, (
            "is a warped VRT without nodata value or alpha band, so ground beyond its source counts as inspected; "
            "make it with gdalwarp -dstalpha"
        )
    return _reported(_gaps(root, uri, 0), dataset)


def _reported(gaps: BaseGeometry, dataset: Any) -> tuple[BaseGeometry | None, str | None]:
    if gaps.is_empty:
        return None, None
    share = gaps.area / (dataset.width * dataset.height)
    return gaps, f"no source covers {100 * share:.3g} % of this mosaic, which counts as nodata"


def _index_gaps(dataset: Any, uri: str) -> BaseGeometry:
    """The gaps of a tile index, whose tiles are polygons in its CRS."""
    tiles = read_tile_index(uri)[1].geometry
    frame = shapely.box(0, 0, dataset.width, dataset.height)
    if tiles.crs != dataset.crs:
        return shapely.Polygon()
    to_pixels = ~dataset.transform
    inside = shapely.transform(tiles.values, lambda xy: np.stack(to_pixels @ xy.T, axis=1).round())
    return shapely.difference(frame, shapely.union_all(inside))


def _gaps(root: Element, uri: str, depth: int) -> BaseGeometry:
    """The gaps of all bands: a pixel is covered where any band is."""
    frame = shapely.box(0, 0, float(root.get("rasterXSize", 0)), float(root.get("rasterYSize", 0)))
    covered = []
    for band in _children(root, "vrtrasterband"):
        sources = [source for source in band if _children(source, "sourcefilename")]
        if _kind(root) in _COMPUTED or (not sources and _kind(band) in _COMPUTED_BANDS):
            return shapely.Polygon()
        covered += [area for source in sources for area in _covered(source, frame, uri, depth)]
    return shapely.difference(frame, shapely.union_all(covered))


def _covered(source: Element, frame: BaseGeometry, uri: str, depth: int) -> Iterator[BaseGeometry]:
    """The ground that a source covers, in pixels of the VRT."""
    into = _rectangle(source, "dstrect")
    if into is None:
        yield frame
        return
    x, y, width, height = into
    left, top, right, bottom = (round(v) for v in (x, y, x + width, y + height))
    area: BaseGeometry = shapely.box(left, top, right, bottom)
    nested = _nested(source, uri) if depth < MAX_DEPTH else None
    if nested is not None:
        root, inside = nested
        from_ = _rectangle(source, "srcrect") or (0.0, 0.0, *(float(root.get(f"raster{a}Size", 1)) for a in "XY"))
        scale_x, scale_y = width / from_[2], height / from_[3]
        matrix = [scale_x, 0, 0, scale_y, x - from_[0] * scale_x, y - from_[1] * scale_y]
        area = shapely.difference(area, affinity.affine_transform(_gaps(root, inside, depth + 1), matrix))
    yield area


def _nested(source: Element, uri: str) -> tuple[Element, str] | None:
    """The VRT that a source of a VRT at `uri` is, and its own address; None for another file."""
    element = _children(source, "sourcefilename")[0]
    name = (element.text or "").strip()
    if name.startswith("<"):
        return ElementTree.fromstring(name), uri
    try:
        path = Path(local_target(uri, element, name))
        with path.open("rb") as file:
            if b"<vrtdataset" not in file.read(4096).lower():
                return None
        return ElementTree.fromstring(path.read_bytes()), str(path)
    except (SceneError, OSError, ValueError, ElementTree.ParseError):
        return None


def _rectangle(source: Element, tag: str) -> tuple[float, float, float, float] | None:
    found = _children(source, tag)
    if not found:
        return None
    keys = {key.lower(): value for key, value in found[0].attrib.items()}
    x, y, width, height = (float(keys.get(name, 0)) for name in ("xoff", "yoff", "xsize", "ysize"))
    return x, y, width, height


def _children(element: Element, tag: str) -> list[Element]:
    """Child elements by tag; GDAL ignores case."""
    return [child for child in element if str(child.tag).lower() == tag]


def _kind(element: Element) -> str:
    return next((value.lower() for key, value in element.attrib.items() if key.lower() == "subclass"), "")
