"""Which scenes do finished outputs hold, and which of them cannot be used?"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geosod.errors import OutputError, SceneError
from geosod.output.coverage import COVERAGE_SCHEMA
from geosod.output.folder import OutputFolder, SceneFiles, dataset_files, parse_item
from geosod.output.geoparquet import BBOX_TYPE, geometry_crs, read_metadata
from geosod.output.stac_item import source_of
from geosod.results import Failure
from geosod.storage.place import open_place

#: Columns that deduplication reads, and the types they must have.
_NEEDED = {
    "detection_id": pa.string(),
    "geometry": pa.binary(),
    "bbox": BBOX_TYPE,
    "label": pa.string(),
    "score": pa.float32(),
    "truncated": pa.bool_(),
    "n_merged": pa.int32(),
}
#: `SceneSource.date` of a scene without a date.
UNDATED = int(np.iinfo(np.int64).min)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class SceneSource:
    """One committed scene of an output.

    Attributes:
        id: identifier of the scene.
        output: the output it is in, as the user gave it.
        item: its STAC item.
        item_path, detections, coverage: absolute paths of its files.
        rows: number of rows of the detections file.
        crs: PROJJSON or name of the CRS of its geometries; None for a pixel scene.
        date: microseconds since 1970, or `UNDATED`.
        near: longitude and latitude of a point in the scene; None if it has no geometry in WGS 84.
        metadata: metadata of its detections file under ``geosod``.
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
        """The source of the scene according to its item, else its detections file."""
        return source_of(self.item) or str(self.detections)

    @property
    def deduplicated(self) -> bool:
        """Whether it is the result of a deduplication."""
        return "geosod:deduplication" in self.item["properties"]

    @property
    def files(self) -> SceneFiles:
        """Paths of its files below a dataset folder."""
        moment = None if self.date == UNDATED else _EPOCH + dt.timedelta(microseconds=self.date)
        return dataset_files(self.id, moment, on_map=self.crs is not None)


@dataclass(frozen=True, slots=True)
class Sources:
    """The scenes of all outputs.

    Attributes:
        scenes: every committed scene, sorted by id.
        failures: paths of the outputs' failure files.
        skipped: scenes that are not committed or cannot be read.
    """

    scenes: tuple[SceneSource, ...]
    failures: tuple[Path, ...]
    skipped: tuple[Failure, ...]

    def without(self, failure: Failure) -> Sources:
        """The same without the scene of a failure, which is added to `skipped`."""
        scenes = tuple(scene for scene in self.scenes if scene.id != failure.scene_id)
        return replace(self, scenes=scenes, skipped=(*self.skipped, failure))


def find_sources(outputs: Sequence[str | Path], *, deduplicated: bool = False) -> Sources:
    """Read the items and file footers of outputs.

    Args:
        outputs: folders, or ``NAME.parquet`` files, that `geosod.detect` wrote.
        deduplicated: whether those of `geosod.deduplicate` are accepted, too.

    Raises:
        OutputError: one is not an output of geosod or is deduplicated already, or two hold a scene with the same id.
    """
    if not outputs:
        raise OutputError("no output is given; name at least one folder that geosod detect wrote")
    scenes: dict[str, SceneSource] = {}
    failures, skipped = [], []
    for output in outputs:
        folder, committed, unusable = _scan(output, deduplicated)
        skipped += unusable
        if folder.place.exists(folder.failures):
            failures.append(Path(folder.place.at(folder.failures)))
        for scene in committed:
            if scene.id in scenes:
                raise _duplicate_scene(scenes[scene.id], scene)
            scenes[scene.id] = scene
    return Sources(tuple(scenes[name] for name in sorted(scenes)), tuple(failures), tuple(skipped))


def _duplicate_scene(first: SceneSource, second: SceneSource) -> OutputError:
    paths = f"{first.item_path} and {second.item_path}"
    digests = {hashlib.sha256(scene.item_path.read_bytes()).digest() for scene in (first, second)}
    if len(digests) == 1:
        return OutputError(f"scene {first.id!r} is given twice, as the same output: {paths}; name it once")
    return OutputError(
        f"scene {first.id!r} is in two outputs, {paths}; a dataset holds one result per scene: leave one output out, "
        "or detect one of the scenes again under another name"
    )


def _scan(output: str | Path, deduplicated: bool) -> tuple[OutputFolder, list[SceneSource], list[Failure]]:
    """The committed scenes of one output, and those that cannot be used."""
    path = Path(output).expanduser().absolute()
    if not path.exists():
        raise OutputError(f"{output}: no such output; name a folder, or a NAME.parquet, that geosod detect wrote")
    folder, items, tables = _files_of(path)
    scenes, skipped = [], []
    for item_path in items:
        try:
            scenes.append(_scene(output, folder, item_path, deduplicated))
        except (SceneError, ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
            scene_id = item_path.stem if folder.name is None else folder.name
            skipped.append(_failure(scene_id, item_path, error))
    known = {scene.detections for scene in scenes}
    reported = {failure.scene_id for failure in skipped}
    skipped += [
        _failure(table.stem, table, SceneError(f"{table}: is not committed; detect the scene again"))
        for table in tables
        if table.resolve() not in known and table.stem not in reported and read_metadata(table) is not None
    ]
    if not scenes and not skipped:
        raise OutputError(f"{output}: holds no scene that geosod detect has committed; name its output folder")
    return folder, scenes, skipped


def _files_of(path: Path) -> tuple[OutputFolder, list[Path], list[Path]]:
    """The items and the detections files of a folder or a ``NAME.parquet``."""
    if not path.is_dir():
        folder = OutputFolder(open_place(path.parent), path.stem)
        item = path.parent / folder.item("")
        return folder, [item] if item.exists() else [], [path]
    dated, pixel = (path / "detections").glob("acq_date=*/*.parquet"), (path / "pixel").glob("*.parquet")
    return OutputFolder(open_place(path)), sorted((path / "items").glob("*.json")), [*sorted(dated), *sorted(pixel)]


def _failure(scene_id: str, path: Path, error: Exception) -> Failure:
    return Failure(scene_id, str(path), None, "deduplicate", type(error).__name__, str(error))


def _scene(output: str | Path, folder: OutputFolder, item_path: Path, deduplicated: bool) -> SceneSource:
    """The scene of an item; SceneError if the item or one of its files is broken."""
    item = parse_item(item_path.read_bytes())
    if item is None:
        raise SceneError(f"{item_path}: is broken, or not an item that geosod wrote; detect the scene again")
    properties, name = item["properties"], str(item.get("id"))
    if "geosod:deduplication" in properties and not deduplicated:
        raise OutputError(f"{output}: is deduplicated already; give the outputs it was made from, all at once")
    if name in ("", ".", "..") or Path(name).name != name or (folder.name is None and name != item_path.stem):
        raise SceneError(f"{item_path}: its id {name!r} is not that of its file; detect the scene again")
    detections, coverage = (_asset(folder, item_path, item, key) for key in ("detections", "coverage"))
    rows, crs = _check_table(detections, _NEEDED)
    _check_table(coverage, {field.name: field.type for field in COVERAGE_SCHEMA})
    date = properties.get("datetime")
    return SceneSource(
        id=name,
        output=str(output),
        item=item,
        item_path=item_path,
        detections=detections,
        coverage=coverage,
        rows=rows,
        crs=crs,
        date=UNDATED if date is None else _microseconds(dt.datetime.fromisoformat(str(date))),
        near=_point_of(item),
        metadata=read_metadata(detections) or {},
    )


def _microseconds(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def _asset(folder: OutputFolder, item_path: Path, item: dict[str, Any], key: str) -> Path:
    href = item.get("assets", {}).get(key, {}).get("href")
    path = (item_path.parent / str(href)).resolve()
    if href is None or not path.is_relative_to(Path(folder.place.address).resolve()) or not path.is_file():
        raise SceneError(f"{item_path}: its {key} file {href} is missing; detect the scene again")
    return path


def _check_table(path: Path, needed: dict[str, pa.DataType]) -> tuple[int, str | None]:
    """Number of rows and CRS of a file; SceneError if geosod did not write it."""
    try:
        footer = pq.read_metadata(path)
        schema = footer.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise SceneError(f"{path}: cannot be read ({error}); detect the scene again") from error
    wrong = [name for name, kind in needed.items() if name not in schema.names or schema.field(name).type != kind]
    geo = read_metadata(path, key="geo")
    if wrong or geo is None:
        problem = f"columns missing or of another type: {', '.join(wrong)}" if wrong else "no geo metadata"
        raise SceneError(f"{path}: was not written by this version of geosod ({problem}); detect the scene again")
    return footer.num_rows, geometry_crs(geo)


def _point_of(item: dict[str, Any]) -> tuple[float, float] | None:
    if item.get("geometry") is None:
        return None
    shape = shapely.from_geojson(json.dumps(item["geometry"]))
    centre = shapely.get_parts(shape)[0].centroid
    return float(centre.x), float(centre.y)
