"""The detections of a page: the best of all scenes, as columns, with their corners on the map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geosod.arrays import FloatArray
from geosod.deduplication.overlap import from_wkb
from geosod.deduplication.reading import read_batches, reading
from geosod.deduplication.sources import SceneSource
from geosod.exporting.rows import Selection
from geosod.map_page.plane import SceneFrame

_ID = re.compile(r"(.*)-([0-9a-f]{16})(|-[0-9]+)")
#: Columns that are taken as they are, and their types in a page; those of `geosod.deduplicate` may be missing.
PLAIN: dict[str, Any] = {
    "score": np.float32, "width_m": np.float32, "height_m": np.float32, "truncated": np.uint8,
    "n_merged": np.uint32, "n_scenes": np.uint32, "level": np.float32,
}  # fmt: skip
_PIXELS = ("px_xmin", "px_ymin", "px_xmax", "px_ymax")


@dataclass(frozen=True, slots=True, eq=False)
class SceneBoxes:
    """Detections of a scene on the map.

    Attributes:
        corners: (N, 4, 2) float64.
        labels: (N,) names of the classes, as indices into `names`.
        names: the classes.
        ids: (N,) identifiers.
        lonlat: (N, 2) of the centres in degrees; NaN where there are none.
        pixels: (N, 4) ``xmin, ymin, xmax, ymax`` in pixels of the file.
        plain: name in `PLAIN` → (N,).
    """

    corners: FloatArray
    labels: npt.NDArray[np.int64]
    names: list[str]
    ids: list[str]
    lonlat: FloatArray
    pixels: FloatArray
    plain: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Cut:
    """Which detections a page holds.

    Attributes:
        score: all above this score, and of those with exactly this one the first `ties`.
        ties: see `score`.
        total: number of detections that were chosen before.
    """

    score: float
    ties: int
    total: int


def best(scenes: Sequence[SceneSource], chosen: Selection, limit: int) -> Cut:
    """The cut that leaves the detections of the highest scores, at most `limit`.

    Raises:
        UnreadableSceneError: a scene cannot be read.
    """
    parts = [np.empty(0, np.float32)]
    for scene in scenes:
        with reading(scene), pq.ParquetFile(scene.detections, pre_buffer=False) as file:
            tables = (pa.Table.from_batches([one]) for one in file.iter_batches(columns=["score", "label"]))
            parts += [chosen.of(table)["score"].to_numpy() for table in tables]
    scores = np.concatenate(parts)
    if len(scores) <= limit:
        return Cut(-1.0, 0, len(scores))
    lowest = float(np.partition(scores, len(scores) - limit)[len(scores) - limit])
    return Cut(lowest, limit - int((scores > lowest).sum()), len(scores))


def read_boxes(scene: SceneSource, chosen: Selection, cut: Cut, ties: int, frame: SceneFrame) -> SceneBoxes:
    """The detections of a scene.

    Args:
        scene: the scene.
        chosen: which of them.
        cut: likewise.
        ties: how many with the score of the cut are left.
        frame: where it lies on the map.

    Raises:
        UnreadableSceneError: they cannot be read, or lie nowhere on the map.
    """
    tables = []
    for table in read_batches(scene.detections, scene):
        rows = chosen.of(table)
        score = rows["score"].to_numpy()
        kept = score > cut.score
        if ties:
            equal = np.flatnonzero(score == np.float32(cut.score))[:ties]
            kept[equal] = True
            ties -= len(equal)
        tables.append(rows.filter(pa.array(kept)))
    with reading(scene):
        return _boxes(pa.concat_tables(tables) if tables else pq.read_table(scene.detections), frame)


def _boxes(table: pa.Table, frame: SceneFrame) -> SceneBoxes:
    label = table["label"].combine_chunks().dictionary_encode()
    plain = {name: _numbers(table, name, kind) for name, kind in PLAIN.items() if name in table.schema.names}
    return SceneBoxes(
        _corners(from_wkb(table["geometry"].combine_chunks()), frame),
        label.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        label.dictionary.to_pylist(),
        table["detection_id"].to_pylist(),
        np.stack([_numbers(table, name, np.float64) for name in ("lon", "lat")], axis=1),
        np.stack([_numbers(table, name, np.float64) for name in _PIXELS], axis=1),
        plain,
    )


def _numbers(table: pa.Table, name: str, kind: Any) -> npt.NDArray[Any]:
    """A column as numbers; nulls are NaN."""
    return np.asarray(table[name].to_numpy().astype(np.float64).astype(kind))


def _corners(shapes: npt.NDArray[Any], frame: SceneFrame) -> FloatArray:
    """(N, 4, 2) corners on the map; those of polygons that are split, or have more corners, of a rectangle around."""
    corners = np.empty((len(shapes), 4, 2))
    quads = (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON) & (shapely.get_num_coordinates(shapes) == 5)
    corners[quads] = frame.place(shapely.get_coordinates(shapes[quads]), frame.crs).reshape(-1, 5, 2)[:, :4]
    for k in np.flatnonzero(~quads):
        points = shapely.multipoints(frame.place(shapely.get_coordinates(shapes[k]), frame.crs))
        corners[k] = shapely.get_coordinates(shapely.oriented_envelope(points))[:4]
    return corners


def split_ids(ids: Sequence[str], scene_id: str) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Identifiers as the 8 bytes of their hash, and those that are made in another way, by their position."""
    hashes, others = bytearray(), {}
    for k, text in enumerate(ids):
        match = _ID.fullmatch(text)
        regular = match is not None and match[1] == scene_id
        hashes += bytes.fromhex(match[2]) if match is not None and regular else bytes(8)
        if match is None or not regular or match[3]:
            others[k] = text
    return np.frombuffer(bytes(hashes), np.uint8), others
