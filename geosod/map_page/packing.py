"""The content of a page as JSON and columns for its scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from geosod.arrays import FloatArray
from geosod.deduplication.sources import UNDATED, SceneSource
from geosod.map_page.boxes import PLAIN, split_ids
from geosod.map_page.columns import Column, column
from geosod.map_page.content import Content
from geosod.map_page.outlines import rings_of
from geosod.palette import PALETTE, Colour

#: A step of coordinates is a millimetre or a hundredth of a pixel, or larger where the map has more steps than this.
_STEP, _STEPS = {"m": 0.001, "px": 0.01}, 2**29
#: Status of ground → what the page calls it, its colour, and whether it is shown at first.
_GROUND: dict[str, tuple[str, Colour, bool]] = {
    "failed": ("Failed ground", (213, 94, 0), True),
    "masked": ("Masked ground", (230, 159, 0), True),
    "nodata": ("Ground without data", (140, 146, 154), True),
    "outside_aoi": ("Outside the area of interest", (86, 180, 233), True),
    "inspected": ("Inspected ground", (0, 158, 115), False),
}
#: Longitude and latitude are stored in steps of this, in degrees; where there are none, as the smallest int32.
_DEGREES, _NOWHERE = 1e-7, -(2**31)
#: Pixels are stored in steps of this.
_PIXEL = 0.1
#: Makes the link from the page to a scene's file, or None.
Links = Callable[[SceneSource], str | None]


def packed_content(content: Content, classes: list[str], links: Links) -> tuple[dict[str, Any], list[Column]]:
    """What the scripts of a page get.

    Args:
        content: what the page shows.
        classes: names of the models' classes, whose order gives their colours.
        links: for the links.

    Returns:
        JSON values, and columns.
    """
    classes = list(dict.fromkeys([*classes, *(name for scene in content.scenes for name in scene.boxes.names)]))
    bounds = np.array([scene.bounds for scene in content.scenes])
    bounds = np.concatenate([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)])
    step = max(_STEP[content.plane.unit], float(np.abs(bounds).max()) / _STEPS)
    ids, others = _ids(content)
    values = {
        "unit": content.plane.unit,
        "crs": content.plane.crs,
        "mercator": content.plane.mercator,
        "step": step,
        "bounds": _numbers(bounds),
        "threshold": _lowest(content),
        "classes": [{"name": name, "colour": _colour(k)} for k, name in enumerate(classes)],
        "scenes": list(_scenes(content, step, links)),
        "ground": list(_ground(content, step)),
        "layers": _layers(content),
        "ids": others,
    }
    return values, [ids, *_box_columns(content, classes, step), *_picture_columns(content, step)]


def _colour(k: int) -> list[int]:
    return list(PALETTE[k % len(PALETTE)])


def _numbers(array: FloatArray) -> list[float]:
    numbers: list[float] = array.tolist()
    return numbers


def _lowest(content: Content) -> float:
    scores = np.concatenate([scene.boxes.plain["score"] for scene in content.scenes])
    return float(scores.min()) if len(scores) else 0.0


def _scenes(content: Content, step: float, links: Links) -> Iterator[dict[str, Any]]:
    first = 0
    for scene in content.scenes:
        source, count = scene.source, len(scene.boxes.ids)
        yield {
            "id": source.id,
            "first": first,
            "count": count,
            "rows": source.rows,
            "date": None if source.date == UNDATED else source.date / 1000,
            "bounds": _numbers(scene.bounds),
            "footprint": [rings_of(polygon, step) for polygon in scene.footprint],
            "inspected_km2": scene.inspected_km2,
            "no_picture": scene.no_picture,
            "href": links(source),
        }
        first += count


def _ground(content: Content, step: float) -> Iterator[dict[str, Any]]:
    for status, (_, colour, _) in _GROUND.items():
        polygons = [polygon for scene in content.scenes for polygon in scene.ground.get(status, ())]
        yield {"kind": status, "colour": colour, "polygons": [rings_of(polygon, step) for polygon in polygons]}


def _layers(content: Content) -> list[dict[str, Any]]:
    """The rows of the panel with what can be shown and hidden, which is the legend, too."""
    rows: list[dict[str, Any]] = [{"kind": "boxes", "text": "Boxes", "colour": None, "on": True}]
    if any(scene.picture for scene in content.scenes):
        rows.append({"kind": "pictures", "text": "Pictures of scenes", "colour": None, "on": True})
    rows.append({"kind": "footprints", "text": "Footprints of scenes", "colour": [236, 238, 240], "on": True})
    for status, (text, colour, on) in _GROUND.items():
        if any(len(scene.ground.get(status, ())) for scene in content.scenes):
            rows.append({"kind": status, "text": text, "colour": colour, "on": on})
    return rows


def _ids(content: Content) -> tuple[Column, dict[int, str]]:
    hashes, first = [np.empty(0, np.uint8)], 0
    others: dict[int, str] = {}
    for scene in content.scenes:
        found, irregular = split_ids(scene.boxes.ids, scene.source.id)
        hashes.append(found)
        others |= {first + k: text for k, text in irregular.items()}
        first += len(scene.boxes.ids)
    return column("id", np.concatenate(hashes)), others


def _box_columns(content: Content, classes: list[str], step: float) -> Iterator[Column]:
    boxes = [scene.boxes for scene in content.scenes]
    corners = np.concatenate([np.rint(one.corners / step).astype(np.int64) for one in boxes])
    corners[:, 1:] -= corners[:, :1]
    yield column("corners", corners.reshape(-1, 8).T.astype(np.int32))
    number = {name: k for k, name in enumerate(classes)}
    labels = [np.array([number[name] for name in one.names], np.uint16)[one.labels] for one in boxes]
    yield column("label", np.concatenate([np.empty(0, np.uint16), *labels]))
    for name, kind in PLAIN.items():
        if any(name in one.plain for one in boxes):
            filled = [one.plain.get(name, np.ones(len(one.ids), kind)) for one in boxes]
            yield column(name, np.concatenate(filled).astype(kind))
    degrees = np.concatenate([one.lonlat for one in boxes])
    yield column("lonlat", np.where(np.isnan(degrees), _NOWHERE, np.rint(degrees / _DEGREES)).astype(np.int32))
    pixels = np.rint(np.concatenate([one.pixels for one in boxes]) / _PIXEL).astype(np.int64)
    pixels[:, 2:] -= pixels[:, :2]
    yield column("pixels", pixels.T.astype(np.int32))


def _picture_columns(content: Content, step: float) -> Iterator[Column]:
    for k, scene in enumerate(content.scenes):
        if scene.picture is not None:
            yield column(f"picture-{k}", np.frombuffer(scene.picture.webp, np.uint8))
            yield column(f"positions-{k}", np.rint(scene.picture.positions / step).astype(np.int32))
            yield column(f"texture-{k}", scene.picture.texture.astype(np.float32))
            yield column(f"triangles-{k}", scene.picture.triangles)
