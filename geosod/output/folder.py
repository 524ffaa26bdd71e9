"""The output folder: where each file goes, and what may be there already."""

from __future__ import annotations

import datetime as dt
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Self

from geosod.errors import OutputError
from geosod.georeference.points import georeferenced
from geosod.output.geoparquet import read_metadata
from geosod.output.table import utc
from geosod.scene import Scene
from geosod.storage.place import Place, is_address, open_place, split_file

#: Suffixes of files that users may expect, which are made as folders.
OTHER_FORMATS = (".geojson", ".json", ".gpkg", ".shp", ".csv", ".kml", ".fgb", ".geoparquet")
_SAFE_ID = re.compile(r"(?!\.)[^/\\\x00]+")
#: Items that are read at once.
_READING = 16


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """Where the files of one scene go.

    Attributes:
        detections, coverage, item: paths below the root of the output.
    """

    detections: str
    coverage: str
    item: str

    def hrefs(self) -> dict[str, str]:
        """Links of the item's assets, relative to the item."""
        folder = posixpath.dirname(f"/{self.item}")
        paths = {"detections": self.detections, "coverage": self.coverage}
        return {name: posixpath.relpath(f"/{path}", folder) for name, path in paths.items()}


@dataclass(frozen=True, slots=True)
class StagedFiles:
    """The files of one scene before they are put into place.

    Attributes:
        detections, coverage, item: paths on this machine.
    """

    detections: Path
    coverage: Path
    item: Path

    @classmethod
    def within(cls, stage: Path) -> Self:
        """Paths in a folder of `Place.staging`."""
        return cls(stage / "detections.parquet", stage / "coverage.parquet", stage / "item.json")

    def data(self, files: SceneFiles) -> dict[Path, str]:
        """What is put into place before the item, and where it goes."""
        return {self.detections: files.detections, self.coverage: files.coverage}


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Where results go: a dataset folder, or one named file with its companion files next to it.

    Attributes:
        place: the folder, local or in an object store.
        name: None for a dataset folder; else the stem of the single file in it.
    """

    place: Place
    name: str | None = None

    @property
    def failures(self) -> str:
        """Path of the failures file."""
        return "failures.parquet" if self.name is None else f"{self.name}.failures.parquet"

    @property
    def units(self) -> str:
        """Path of the folder with the finished units of scenes that are not committed."""
        return ".units" if self.name is None else f".{self.name}.units"

    @property
    def commits(self) -> str:
        """Path of the folder with notes of commits that are going on, in places without locks."""
        return ".commits" if self.name is None else f".{self.name}.commits"

    def item(self, scene_id: str) -> str:
        """Path of the item of a scene."""
        return f"items/{scene_id}.json" if self.name is None else f"{self.name}.json"

    def files(self, scene: Scene, *, part: str = "") -> SceneFiles:
        """Paths of the files of a scene; the subfolder depends on its date and georeference.

        Args:
            scene: the scene.
            part: what names of files have after the scene's identifier, as one commit's own.
        """
        if not _SAFE_ID.fullmatch(scene.id):
            raise OutputError(f"scene id {scene.id!r} cannot name a file; use letters, digits, '-', '_' and '.'")
        if self.name is not None:
            return SceneFiles(f"{self.name}.parquet", f"{self.name}.coverage.parquet", self.item(scene.id))
        return dataset_files(scene.id, scene.ref.datetime, on_map=georeferenced(scene), part=part)

    def metadata(self, path: str, *, key: str = "geosod") -> dict[str, Any] | None:
        """The metadata of a GeoParquet file, see `geosod.output.geoparquet.read_metadata`; None without such a file."""
        try:
            with self.place.open(path) as file:
                return read_metadata(file, key=key)
        except OSError:
            return None


def dataset_files(scene_id: str, moment: dt.datetime | None, *, on_map: bool, part: str = "") -> SceneFiles:
    """Paths of the files of a scene in a dataset folder; `on_map`: whether it is georeferenced; `part`: see `files`."""
    date = "unknown" if moment is None else utc(moment).date().isoformat()
    folder, file = f"detections/acq_date={date}" if on_map else "pixel", f"{scene_id}{part}.parquet"
    return SceneFiles(f"{folder}/{file}", f"coverage/{file}", f"items/{scene_id}.json")


def local_path(path: str | Path) -> Path:
    """The absolute path of a local folder that something is written to.

    Raises:
        OutputError: it is an address. `Path` makes ``s3:/bucket`` of ``s3://bucket``, which would be a folder "s3:".
    """
    if is_address(path):
        raise OutputError(f"{path}: this is written to a local folder; give one, and upload its files afterwards")
    return Path(path).expanduser().absolute()


def output_at(path: str | Path) -> OutputFolder:
    """What a path or an address means as an output, whether it exists or not: a folder, or a ``NAME.parquet``.

    Raises:
        OutputError: the address is of no object store that geosod writes to.
    """
    if not str(path).lower().endswith(".parquet") or (not is_address(path) and Path(path).expanduser().is_dir()):
        return OutputFolder(open_place(path))
    parent, name = split_file(path)
    return OutputFolder(open_place(parent), PurePosixPath(name).stem)


def open_output(path: str | Path, *, scenes: int = 1, overwrite: bool = False) -> OutputFolder:
    """Check that results can be written to a path, before any work is done.

    Files in a dataset folder that geosod did not write are left alone. Staging folders of dead processes are removed.

    Args:
        path: a folder or an address such as ``s3://bucket/prefix``, created if it does not exist, or ``NAME.parquet``
            if the run has one scene.
        scenes: number of scenes of the run.
        overwrite: replace ``NAME.parquet`` even if geosod did not write it.

    Raises:
        OutputError: the path is not writable, is a file, or holds a file that geosod did not write.
    """
    folder = output_at(path)
    single = folder.name is not None
    if single and scenes != 1:
        raise OutputError(f"{path}: one file holds one scene, but there are {scenes}; give a folder instead")
    local = Path(path).expanduser()
    if not single and not is_address(path) and local.exists() and not local.is_dir():
        raise OutputError(f"{path}: is a file; give a folder, or a name that ends in .parquet")
    try:
        folder.place.check()
    except OSError as error:
        fix = f"{folder.place.remedy}, or fix its permissions"
        raise OutputError(f"{folder.place.address}: cannot be written ({error.strerror or error}); {fix}") from error
    if single and not overwrite:
        _check_ours(folder)
    return folder


def unusual_name(folder: OutputFolder) -> str | None:
    """What to say of a folder with the name of a file; None for other names."""
    name = PurePosixPath(folder.place.address).name
    if folder.name is not None or PurePosixPath(name).suffix.lower() not in OTHER_FORMATS:
        return None
    return (
        f"{name} is made as a folder of GeoParquet files; a name that ends in .parquet gives one file, "
        "which geopandas, QGIS and ogr2ogr convert"
    )


def _check_ours(folder: OutputFolder) -> None:
    paths = [f"{folder.name}{suffix}" for suffix in (".parquet", ".coverage.parquet", ".json")]
    foreign = [path for path in paths if folder.place.exists(path) and not _written_by_geosod(folder, path)]
    if foreign:
        where = folder.place.at(foreign[0])
        raise OutputError(f"{where}: exists and was not written by geosod; use --overwrite, or another name")


def _written_by_geosod(folder: OutputFolder, path: str) -> bool:
    """Whether a file is an item or a GeoParquet file that geosod wrote."""
    if path.endswith(".json"):
        return read_item(folder, path) is not None
    return folder.metadata(path) is not None


def read_item(folder: OutputFolder, path: str) -> dict[str, Any] | None:
    """An item that geosod wrote, or None if the file is missing, broken or not written by geosod."""
    try:
        return parse_item(folder.place.read(path))
    except OSError:
        return None


def parse_item(content: bytes | None) -> dict[str, Any] | None:
    """An item that geosod wrote, or None if it is broken or not written by geosod."""
    try:
        item = json.loads((content or b"").decode())
    except (ValueError, RecursionError):
        return None
    properties = item.get("properties") if isinstance(item, dict) else None
    return item if isinstance(properties, dict) and "geosod:status" in properties else None


def item_paths(folder: OutputFolder) -> list[str]:
    """Paths of the files that are items by their name, sorted.

    Raises:
        OSError: they cannot be listed.
    """
    if folder.name is not None:
        path = folder.item("")
        return [path] if folder.place.exists(path) else []
    return sorted(path for path in folder.place.names("items") if path.endswith(".json"))


def read_paths(folder: OutputFolder, paths: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Items by their paths, in order, each with its path; several are read at once where that takes time."""
    if not folder.place.shared:  # threads would only wait for each other
        yield from ((path, read_item(folder, path)) for path in paths)
        return
    rest = iter(paths)
    with ThreadPoolExecutor(_READING) as threads:
        while some := list(islice(rest, 8 * _READING)):
            yield from zip(some, threads.map(lambda path: read_item(folder, path), some), strict=True)


def read_items(folder: OutputFolder) -> Iterator[dict[str, Any]]:
    """The items of a folder, by name."""
    return (item for _, item in read_paths(folder, item_paths(folder)) if item is not None)


def asset_paths(folder: OutputFolder, item: Mapping[str, Any]) -> list[str]:
    """Paths of the files that an item links to, below the root of the output."""
    base = posixpath.dirname(folder.item(str(item["id"])))
    paths = [posixpath.normpath(posixpath.join(base, str(asset["href"]))) for asset in item["assets"].values()]
    return [path for path in paths if not path.startswith(("/", ".."))]
