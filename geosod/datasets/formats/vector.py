"""Boxes, polygons or points with ground coordinates, in any CRS, against georeferenced scenes.

GeoJSON, GeoParquet and GeoPackage; also detections that geosod wrote. An object belongs to every scene that shows it,
or where there is a column ``scene_id``, to that scene.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geosod.arrays import BoolArray
from geosod.datasets.contract import Format, Source, Target
from geosod.datasets.ground import Geometries, geometries_in_scene, visible_boxes
from geosod.datasets.image_files import is_file, scene_of
from geosod.datasets.labels import ANY_CLASS, IGNORED, LabelledImage, Labels
from geosod.datasets.per_image import by_image, class_name
from geosod.errors import LabelError, SceneError, one_line
from geosod.georeference.crs import LONLAT, parse_crs
from geosod.georeference.points import georeferenced, placed, project
from geosod.georeference.polygons import ground_polygons
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_files, open_scene
from geosod.scenes.sources import find_scenes, safe_id, with_unique_ids
from geosod.storage.uris import is_remote, stem

#: Columns that may hold the names of classes, the first of which is taken.
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "type", "name", "class_id")
_POLYGONS, _POINT = (3, 6), 0
#: An object of which a scene shows less than this share is ignored: it counts neither as found nor as missed.
MIN_VISIBLE = 0.25


def read_vector(source: Source) -> Labels:
    """The labels of a vector file in the scenes of `source`."""
    if not source.scenes:
        raise LabelError(f"{source.path}: has ground coordinates; give the scenes that it labels with --scenes")
    frame, crs = _frame(source)
    names = _names(source, frame)
    geometries, usable = _geometries(source, frame, names)
    kinds = shapely.get_type_id(geometries[usable])
    points = bool(len(kinds)) and bool((kinds == _POINT).all())
    if not points and (kinds == _POINT).any():
        raise LabelError(f"{source.path}: holds points and polygons; put them in two files")
    classes = list(source.classes or sorted(set(names[usable]) - {IGNORED}))
    position = {name: k for k, name in enumerate(classes)} | {IGNORED: ANY_CLASS}
    index = np.flatnonzero(usable)
    tree = shapely.STRtree(geometries[index])
    homes = np.asarray(frame["scene_id"].astype(str)) if "scene_id" in frame.columns else None
    parts, images = list[dict[str, Any]](), list[LabelledImage]()
    for scene in _scenes(source):
        moved, near = geometries_in_scene(geometries[index], tree, crs, scene)
        rows = index[near]
        if homes is not None:
            mine = homes[rows] == scene.id
            moved, rows = moved[mine], rows[mine]
        columns = _points(moved, scene) if points else _areas(moved, scene)
        kept = columns.pop("kept")
        parts.append(columns | {"image": np.full(int(kept.sum()), len(images)), "row": rows[kept]})
        images.append(LabelledImage(scene.id, scene.ref.uri, scene.width, scene.height, metres_per_pixel=scene.pixel))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    row = joined.pop("row").astype(np.int64)
    _note_outside(source, len(index), len(np.unique(row)))
    joined |= _attributes(frame, row, np.array([position[names[k]] for k in row.tolist()], np.int32), joined)
    return Labels(images=images, classes=classes, points=points, **joined)


def _attributes(frame: Any, row: Any, labels: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Columns of `Labels` from those of a file; ignored and truncated are what a file or a scene makes of a box."""
    crowd, ignore, truncated = (_flag(frame, name)[row] for name in ("crowd", "ignore", "truncated"))
    return {
        "labels": labels,
        "crowd": crowd,
        "ignore": found["ignore"] | ignore | (labels == ANY_CLASS),
        "truncated": found["truncated"] | truncated,
        "ids": _ids(frame)[row],
    }


def _frame(source: Source) -> tuple[Any, str]:
    """The rows of a file, and its CRS."""
    import geopandas

    path = source.path
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet") or path.is_dir():
            frame = geopandas.read_parquet(path)
        else:
            frame = geopandas.read_file(path)
        for name in frame.columns[frame.dtypes == "string"]:
            frame[name].to_numpy(object)  # decoded only now, which fails where the text is damaged
    except Exception as error:
        line = one_line(error).partition(".; It might help")[0]
        raise LabelError(f"{path}: cannot be read as a vector file: {line}") from error
    if getattr(frame, "geometry", None) is None or not isinstance(frame, geopandas.GeoDataFrame):
        raise LabelError(f"{path}: has no geometries; give a file with boxes, polygons or points")
    if frame.crs is None and source.crs is None:
        raise LabelError(f"{path}: has no CRS; assign one (ogr2ogr -a_srs), or give --crs")
    return frame.reset_index(drop=True), parse_crs(source.crs).to_wkt() if frame.crs is None else frame.crs.to_wkt()


def _names(source: Source, frame: Any) -> Any:
    """(N,) object, the name of each row's class; None where it has none."""
    if source.label_column is not None and source.label_column not in frame.columns:
        columns = ", ".join(map(str, frame.columns.drop(frame.geometry.name)))
        raise LabelError(f"{source.path}: has no column {source.label_column!r}; its columns are {columns or 'none'}")
    column = source.label_column or next((name for name in _LABEL_COLUMNS if name in frame.columns), None)
    if column is None:
        if source.classes is None or len(source.classes) != 1:
            columns = ", ".join(map(str, frame.columns.drop(frame.geometry.name)))
            raise LabelError(
                f"{source.path}: which column holds the classes? Give --label-column, or the name of the only class "
                f"with --classes; its columns are {columns or 'none'}"
            )
        return np.full(len(frame), source.classes[0], object)
    values = frame[column]
    missing = values.isna()
    return np.array([None if lost else _text(value) for value, lost in zip(values, missing, strict=True)], object)


def _text(value: Any) -> str:
    """The name of a class; numbers without a fraction are written as such."""
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value).strip()


def _geometries(source: Source, frame: Any, names: Any) -> tuple[Geometries, BoolArray]:
    """(N,) geometries without heights, and (N,) bool, which can be used; the others are recorded as problems."""
    geometries = np.asarray(shapely.force_2d(np.asarray(frame.geometry.values, object)), object)
    kinds, empty = shapely.get_type_id(geometries), shapely.is_empty(geometries) | (geometries == None)  # noqa: E711
    finite = np.isfinite(shapely.bounds(geometries)).all(axis=1)
    known = np.isin(kinds, (*_POLYGONS, _POINT))
    allowed = None if source.classes is None else {*source.classes, IGNORED}
    reasons: tuple[tuple[Any, str], ...] = (
        (np.asarray(empty), "has no geometry"),
        (~finite, "has coordinates that are not finite"),
        (~known, "is neither a polygon nor a point"),
        (np.array([not name for name in names], bool), "has no class"),
        (
            np.array([bool(allowed) and name not in (allowed or ()) for name in names], bool),
            "is of a class that is not given",
        ),
    )
    usable = np.ones(len(frame), np.bool_)
    ids = _ids(frame)
    for wrong, message in reasons:
        for k in np.flatnonzero(wrong & usable).tolist():
            source.problems.add(source.path, f"feature {ids[k]}", message)
        usable &= ~wrong
    areas = usable & np.isin(kinds, _POLYGONS)
    geometries[areas] = shapely.make_valid(geometries[areas])
    return geometries, usable


def _ids(frame: Any) -> Any:
    """(N,) int64, the column ``annotation_id``, or ``id`` where it has no two alike, else the position from 1."""
    for name in ("annotation_id", "id"):
        if name in frame.columns and frame[name].dtype.kind in "iu" and (name != "id" or frame[name].is_unique):
            return frame[name].to_numpy(np.int64)
    return np.arange(1, len(frame) + 1)


def _flag(frame: Any, name: str) -> BoolArray:
    if name in frame.columns and frame[name].dtype.kind == "b":
        return np.asarray(frame[name].to_numpy(np.bool_))
    return np.zeros(len(frame), np.bool_)


def _scenes(source: Source) -> list[Scene]:
    refs, failures = find_scenes(list(source.scenes))
    if failures:
        raise LabelError(failures[0].message)
    scenes = []
    for ref in with_unique_ids(refs, {}):
        scene = open_files(ref, ref.files) if ref.files else open_scene(ref)
        if not georeferenced(scene):
            raise SceneError(
                f"{ref.uri}: has no georeference, so objects with ground coordinates cannot be placed in it"
            )
        scenes.append(scene)
    return scenes


def _points(geometries: Geometries, scene: Scene) -> dict[str, Any]:
    xy = shapely.get_coordinates(geometries)
    kept = (xy >= 0).all(axis=1) & (xy < [scene.width, scene.height]).all(axis=1)
    nothing = np.zeros(int(kept.sum()))
    flags = {"ignore": nothing > 0, "truncated": nothing > 0}
    return {"kept": kept, "boxes": np.hstack([xy, xy])[kept], "area": nothing} | flags


def _areas(geometries: Geometries, scene: Scene) -> dict[str, Any]:
    boxes, area, share = visible_boxes(geometries, scene)
    kept = share > 0
    # Rounding in a projection may put an object on the edge of a scene beyond it.
    flags = {"ignore": share[kept] < MIN_VISIBLE, "truncated": share[kept] < 1 - 1e-6}
    return {"kept": kept, "boxes": boxes[kept], "area": area[kept]} | flags


def _note_outside(source: Source, count: int, shown: int) -> None:
    if count and not shown:
        raise LabelError(
            f"{source.path}: none of its {count:,} objects lies in the scenes; check the CRS of both, and that they "
            "show the same ground"
        )
    if shown < count:
        source.notes.append(f"{source.path}: {count - shown:,} of {count:,} objects lie in none of the scenes")


def write_vector(labels: Labels, target: Target, *, driver: str) -> None:
    """Write boxes or points with ground coordinates; every image with objects must be georeferenced."""
    import geopandas

    crs = target.crs or LONLAT
    geometries, kept = [], list[int]()
    for _, image, rows in by_image(labels):
        if not rows:
            continue
        scene = scene_of(image)
        if not georeferenced(scene):
            raise LabelError(f"image {image.id}: has no georeference, so its boxes have no ground coordinates")
        boxes = labels.boxes[rows]
        there = placed(scene, boxes)
        geometries.append(
            shapely.points(project(scene, boxes[there, :2], crs))
            if labels.points
            else ground_polygons(scene, boxes[there], crs)
        )
        kept += [row for row, ok in zip(rows, there.tolist(), strict=True) if ok]
    if len(kept) < len(labels):
        target.notes.append(f"{len(labels) - len(kept):,} boxes left out, which have no position on the ground")
    frame = geopandas.GeoDataFrame(
        _columns(labels, kept), geometry=np.concatenate([np.empty(0, object), *geometries]), crs=crs
    )
    if driver == "Parquet":
        frame.to_parquet(target.path, schema_version="1.1.0", write_covering_bbox=True)
    else:
        frame.to_file(target.path, driver=driver, engine="pyogrio", layer="labels")


def _columns(labels: Labels, rows: list[int]) -> dict[str, Any]:
    above = (*labels.supercategories, "")
    # As scenes are called when they are read: links are followed.
    uris = [image.uri if is_remote(image.uri) else str(Path(image.uri).resolve()) for image in labels.images]
    scenes = with_unique_ids([SceneRef(uri, safe_id(stem(uri))) for uri in uris], {})
    return {
        "label": [class_name(labels, row) for row in rows],
        "supercategory": [above[int(labels.labels[row])] for row in rows],
        "scene_id": [scenes[int(labels.image[row])].id for row in rows],
        "annotation_id": labels.ids[rows],
        "crowd": labels.crowd[rows],
        "ignore": labels.ignore[rows],
        "truncated": labels.truncated[rows],
    }


def _write_geojson(labels: Labels, target: Target) -> None:
    if target.crs is not None and not parse_crs(target.crs).equals(parse_crs(LONLAT), ignore_axis_order=True):
        raise LabelError(
            f"GeoJSON is in longitude and latitude (RFC 7946), not {target.crs}; write a .gpkg or .parquet"
        )
    write_vector(labels, target, driver="GeoJSON")


def _ends(path: Path, *, endings: tuple[str, ...]) -> bool:
    return path.suffix.lower() in endings and is_file(path)


def _format(name: str, about: str, write: Callable[[Labels, Target], None], *endings: str) -> Format:
    recognises = partial(_ends, endings=endings)
    takes = frozenset({"scenes", "classes", "label_column", "crs"})
    return Format(name, about, False, read_vector, write, recognises, suffix=endings[0], takes=takes)


GEOJSON = _format("geojson", "GeoJSON of boxes, polygons or points", _write_geojson, ".geojson")
GEOPARQUET = _format("geoparquet", "GeoParquet", partial(write_vector, driver="Parquet"), ".parquet", ".geoparquet")
GPKG = _format("gpkg", "GeoPackage", partial(write_vector, driver="GPKG"), ".gpkg")
