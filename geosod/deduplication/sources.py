"""What finished outputs hold: the scenes to be merged, and those that cannot be."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geosod.errors import OutputError, SceneError
from geosod.georeference.crs import LONLAT
from geosod.output.coverage import COVERAGE_SCHEMA
from geosod.output.folder import OutputFolder, SceneFiles, dataset_files, read_item
from geosod.output.geoparquet import BBOX_TYPE, read_metadata
from geosod.output.stac_item import source_of
from geosod.results import Failure

#: Columns that merging reads, and the types they must have.
_NEEDED = {
    "detection_id": pa.string(),
    "geometry": pa.binary(),
    "bbox": BBOX_TYPE,
    "label": pa.string(),
    "score": pa.float32(),
    "truncated": pa.bool_(),
    "n_merged": pa.int32(),
}
#: Rows that are read at a time.
_BATCH = 50_000
UNDATED = int(np.iinfo(np.int64).min)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class SceneSource:
    """One committed scene of an output.

    Attributes:
        id: the scene.
        output: the output it is in, as the user named it.
        item: its STAC item.
        item_path, detections, coverage: its files, absolute.
        rows: rows of the detections file.
        crs: PROJJSON or name of the CRS of its geometries; None for a pixel scene.
        date: microseconds since 1970, or `UNDATED`.
        near: longitude and latitude of a point of it, where it lies on the Earth.
        metadata: what its detections file holds under ``geosod``.
    """

    id: str
    output: str
    item: dict[str, Any]
    item_path: Path
    detections: Path
    coverage: Path
    rows: int
    crs: str | None
    date: int
    near: tuple[float, float] | None
    metadata: dict[str, Any]

    @property
    def uri(self) -> str:
        """Where the scene itself came from, as far as its item tells."""
        return source_of(self.item) or str(self.detections)

    def files(self, root: Path) -> SceneFiles:
        """Where its files go in a dataset folder."""
        moment = None if self.date == UNDATED else _EPOCH + dt.timedelta(microseconds=self.date)
        return dataset_files(root, self.id, moment, on_map=self.crs is not None)


class LostSceneError(SceneError):
    """A scene turned out to be unreadable. It never leaves this room: the others are merged without it."""

    def __init__(self, scene_id: str, message: str) -> None:
        super().__init__(message)
        self.scene_id = scene_id


@contextmanager
def reading(scene: SceneSource) -> Iterator[None]:
    """Whatever goes wrong with a scene's files inside is the loss of that scene.

    Raises:
        LostSceneError: a file of the scene is broken or cannot be read, or it cannot be put in the CRS.
    """
    try:
        yield
    except LostSceneError:
        raise
    except (OSError, pa.ArrowException, shapely.errors.ShapelyError, SceneError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())[:300]
        raise LostSceneError(scene.id, f"scene {scene.id!r} in {scene.output}: {line}") from error


def tables(path: Path, scene: SceneSource) -> Iterator[pa.Table]:
    """The rows of a file of a scene, some at a time.

    Raises:
        LostSceneError: they cannot be read.
    """
    # What goes wrong with those who take the rows is raised there, not in here.
    with reading(scene), pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_BATCH):
            yield pa.Table.from_batches([batch])


@dataclass(frozen=True, slots=True)
class Sources:
    """What some outputs hold together.

    Attributes:
        scenes: every committed scene, by id.
        failures: places of the outputs' failure files.
        skipped: scenes that are not committed or cannot be read.
    """

    scenes: tuple[SceneSource, ...]
    failures: tuple[Path, ...]
    skipped: tuple[Failure, ...]

    def without(self, failure: Failure) -> Sources:
        """The same without a scene, for the reason given."""
        scenes = tuple(scene for scene in self.scenes if scene.id != failure.scene_id)
        return replace(self, scenes=scenes, skipped=(*self.skipped, failure))


def find_sources(outputs: Sequence[str | Path]) -> Sources:
    """Look at the items and file footers of outputs.

    Args:
        outputs: folders, or ``NAME.parquet`` files, that `geosod.detect` left.

    Raises:
        OutputError: one is no output of geosod or was merged before, or two hold a scene of one id.
    """
    if not outputs:
        raise OutputError("no output is given to merge; name at least one folder that geosod detect left")
    scenes: dict[str, SceneSource] = {}
    failures, skipped = [], []
    for output in outputs:
        folder, committed, lost = _look_into(output)
        skipped += lost
        failures += [folder.failures] if folder.failures.exists() else []
        for scene in committed:
            if scene.id in scenes:
                raise _twice(scenes[scene.id], scene)
            scenes[scene.id] = scene
    return Sources(tuple(scenes[name] for name in sorted(scenes)), tuple(failures), tuple(skipped))


def _twice(first: SceneSource, second: SceneSource) -> OutputError:
    places = f"{first.item_path} and {second.item_path}"
    digests = {hashlib.sha256(scene.item_path.read_bytes()).digest() for scene in (first, second)}
    if len(digests) == 1:
        return OutputError(f"scene {first.id!r} is given twice, as the same output: {places}; name it once")
    return OutputError(
        f"scene {first.id!r} is in two outputs, {places}: two results for one scene cannot stand beside each other; "
        "leave one output out, or detect one of the scenes again under another name"
    )


def _look_into(output: str | Path) -> tuple[OutputFolder, list[SceneSource], list[Failure]]:
    path = Path(output).expanduser().absolute()
    if not path.exists():
        raise OutputError(f"{output}: no such output; name a folder, or a NAME.parquet, that geosod detect left")
    if path.is_dir():
        folder = OutputFolder(path)
        items = sorted((path / "items").glob("*.json"))
        tables = [
            *sorted((path / "detections").glob("acq_date=*/*.parquet")),
            *sorted((path / "pixel").glob("*.parquet")),
        ]
    else:
        folder, tables = OutputFolder(path.parent, path.stem), [path]
        items = [folder.item("")] if folder.item("").exists() else []
    scenes, skipped = [], []
    for item_path in items:
        try:
            scenes.append(_scene(output, folder, item_path))
        except (SceneError, ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
            skipped.append(_lost(_id_of(folder, item_path), item_path, error))
    known = {scene.detections for scene in scenes} | {Path(failure.uri) for failure in skipped}
    said = {failure.scene_id for failure in skipped}
    skipped += [
        _lost(table.stem, table, SceneError(f"{table}: is not committed; detect the scene again"))
        for table in tables
        if table.resolve() not in known and table.stem not in said and read_metadata(table) is not None
    ]
    if not scenes and not skipped:
        raise OutputError(f"{output}: holds no scene that geosod detect has committed; name its output folder")
    return folder, scenes, skipped


def _id_of(folder: OutputFolder, item_path: Path) -> str:
    return item_path.stem if folder.name is None else folder.name


def _lost(scene_id: str, path: Path, error: Exception) -> Failure:
    return Failure(scene_id, str(path), None, "merge", type(error).__name__, str(error))


def _scene(output: str | Path, folder: OutputFolder, item_path: Path) -> SceneSource:
    """The scene of an item; SceneError where it or one of its files is broken."""
    item = read_item(item_path)
    if item is None:
        raise SceneError(f"{item_path}: is no item of geosod, or broken; detect the scene again")
    properties, name = item["properties"], str(item.get("id"))
    if "geosod:deduplication" in properties:
        raise OutputError(f"{output}: was merged already; give the outputs it was merged from, all at once")
    if name in ("", ".", "..") or Path(name).name != name or (folder.name is None and name != item_path.stem):
        raise SceneError(f"{item_path}: its id {name!r} is not that of its file; detect the scene again")
    detections, coverage = (_asset(folder, item_path, item, key) for key in ("detections", "coverage"))
    rows, crs = _check_table(detections, _NEEDED)
    _check_table(coverage, {field.name: field.type for field in COVERAGE_SCHEMA})
    date = properties.get("datetime")
    moment = (
        UNDATED if date is None else (dt.datetime.fromisoformat(str(date)) - _EPOCH) // dt.timedelta(microseconds=1)
    )
    return SceneSource(
        id=name,
        output=str(output),
        item=item,
        item_path=item_path,
        detections=detections,
        coverage=coverage,
        rows=rows,
        crs=crs,
        date=moment,
        near=_near(item),
        metadata=read_metadata(detections) or {},
    )


def _asset(folder: OutputFolder, item_path: Path, item: dict[str, Any], key: str) -> Path:
    href = item.get("assets", {}).get(key, {}).get("href")
    path = (item_path.parent / str(href)).resolve()
    if href is None or not path.is_relative_to(folder.root.resolve()) or not path.is_file():
        raise SceneError(f"{item_path}: its {key} file {href} is not there; detect the scene again")
    return path


def _check_table(path: Path, needed: dict[str, pa.DataType]) -> tuple[int, str | None]:
    """Rows and CRS of a file of geosod; SceneError where it is none."""
    try:
        footer = pq.read_metadata(path)
        schema = footer.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise SceneError(f"{path}: cannot be read ({error}); detect the scene again") from error
    wrong = [name for name, kind in needed.items() if name not in schema.names or schema.field(name).type != kind]
    geo = read_metadata(path, key="geo")
    if wrong or geo is None:
        raise SceneError(f"{path}: is not a file as geosod writes it ({', '.join(wrong) or 'no geo metadata'})")
    crs = geo["columns"][geo["primary_column"]].get("crs", LONLAT)
    return footer.num_rows, crs if crs is None or isinstance(crs, str) else json.dumps(crs)


def _near(item: dict[str, Any]) -> tuple[float, float] | None:
    if item.get("geometry") is None:
        return None
    shape = shapely.from_geojson(json.dumps(item["geometry"]))
    centre = shapely.get_parts(shape)[0].centroid
    return float(centre.x), float(centre.y)
