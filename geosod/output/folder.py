"""The output folder: where each file goes, and how it gets there safely."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geosod.errors import OutputError
from geosod.georeference.points import georeferenced
from geosod.output.geoparquet import read_metadata
from geosod.output.table import utc
from geosod.scene import Scene

try:
    import fcntl
except ImportError:  # Windows: one process per folder
    fcntl = None  # type: ignore[assignment]

_DAY = 86_400.0
_STAGING = re.compile(r"\.staging-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
#: Suffixes of files that users may expect, which are made as folders.
OTHER_FORMATS = (".geojson", ".json", ".gpkg", ".shp", ".csv", ".kml", ".fgb", ".geoparquet")
#: A scheme of two letters or more (one is a drive), or one of GDAL's virtual file systems.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|/vsi[a-z0-9_]+/")
_SAFE_ID = re.compile(r"(?!\.)[^/\\\x00]+")


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """Where the files of one scene go.

    Attributes:
        detections, coverage, item: absolute paths.
    """

    detections: Path
    coverage: Path
    item: Path

    def hrefs(self) -> dict[str, str]:
        """Links of the item's assets, relative to the item."""
        paths = {"detections": self.detections, "coverage": self.coverage}
        return {name: Path(os.path.relpath(path, self.item.parent)).as_posix() for name, path in paths.items()}


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Where results go: a dataset folder, or one named file with its companion files next to it.

    Attributes:
        root: the folder, absolute.
        name: None for a dataset folder; else the stem of the single file in `root`.
    """

    root: Path
    name: str | None = None

    @property
    def failures(self) -> Path:
        """Path of the failures file."""
        return self.root / ("failures.parquet" if self.name is None else f"{self.name}.failures.parquet")

    def item(self, scene_id: str) -> Path:
        """Path of the item of a scene."""
        return self.root / (f"items/{scene_id}.json" if self.name is None else f"{self.name}.json")

    def files(self, scene: Scene) -> SceneFiles:
        """Paths of the files of a scene; the subfolder depends on its date and georeference."""
        if not _SAFE_ID.fullmatch(scene.id):
            raise OutputError(f"scene id {scene.id!r} cannot name a file; use letters, digits, '-', '_' and '.'")
        if self.name is not None:
            stem = self.root / self.name
            return SceneFiles(Path(f"{stem}.parquet"), Path(f"{stem}.coverage.parquet"), self.item(scene.id))
        return dataset_files(self.root, scene.id, scene.ref.datetime, on_map=georeferenced(scene))


def dataset_files(root: Path, scene_id: str, moment: dt.datetime | None, *, on_map: bool) -> SceneFiles:
    """Paths of the files of a scene in a dataset folder; `on_map`: whether it is georeferenced."""
    date = "unknown" if moment is None else utc(moment).date().isoformat()
    folder, file = f"detections/acq_date={date}" if on_map else "pixel", f"{scene_id}.parquet"
    return SceneFiles(root / folder / file, root / "coverage" / file, OutputFolder(root).item(scene_id))


def local_path(path: str | Path) -> Path:
    """The absolute path of a place for outputs.

    Raises:
        OutputError: it is an address. `Path` makes ``s3:/bucket`` of ``s3://bucket``, which would be a folder "s3:".
    """
    if _ADDRESS.match(str(path)):
        raise OutputError(f"{path}: outputs are written to local folders; give one, and upload its files afterwards")
    return Path(path).expanduser().absolute()


def open_output(path: str | Path, *, scenes: int = 1, overwrite: bool = False) -> OutputFolder:
    """Check that results can be written to a path, before any work is done.

    Files in a dataset folder that geosod did not write are left alone. Staging folders of dead processes are removed.

    Args:
        path: a folder, created if it does not exist, or ``NAME.parquet`` if the run has one scene.
        scenes: number of scenes of the run.
        overwrite: replace ``NAME.parquet`` even if geosod did not write it.

    Raises:
        OutputError: the path is not writable, is a file, or holds a file that geosod did not write.
    """
    target = local_path(path)
    single = target.suffix.lower() == ".parquet" and not target.is_dir()
    if single and scenes != 1:
        raise OutputError(f"{path}: one file holds one scene, but there are {scenes}; give a folder instead")
    if not single and target.exists() and not target.is_dir():
        raise OutputError(f"{path}: is a file; give a folder, or a name that ends in .parquet")
    folder = OutputFolder(target.parent, target.stem) if single else OutputFolder(target)
    _check_writable(folder.root)
    if single and not overwrite:
        _check_ours(folder)
    remove_stale_staging(folder)
    return folder


def unusual_name(folder: OutputFolder) -> str | None:
    """What to say of a folder with the name of a file; None for other names."""
    if folder.name is not None or folder.root.suffix.lower() not in OTHER_FORMATS:
        return None
    return (
        f"{folder.root.name} is made as a folder of GeoParquet files; a name that ends in .parquet gives one file, "
        "which geopandas, QGIS and ogr2ogr convert"
    )


def _check_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        fix = "choose another folder with -o, or fix its permissions"
        raise OutputError(f"{root}: cannot be written ({error.strerror or error}); {fix}") from error


def _check_ours(folder: OutputFolder) -> None:
    paths = [folder.root / f"{folder.name}{suffix}" for suffix in (".parquet", ".coverage.parquet", ".json")]
    foreign = [path for path in paths if path.exists() and not written_by_geosod(path)]
    if foreign:
        raise OutputError(f"{foreign[0]}: exists and was not written by geosod; use --overwrite, or another name")


def written_by_geosod(path: Path) -> bool:
    """Whether a file is an item or a GeoParquet file that geosod wrote."""
    if path.suffix == ".json":
        return read_item(path) is not None
    return path.suffix == ".parquet" and read_metadata(path) is not None


def read_item(path: Path) -> dict[str, Any] | None:
    """An item that geosod wrote, or None if the file is missing, broken or not written by geosod."""
    try:
        item = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(item, dict) and "geosod:status" in item.get("properties", {})
    return item if ours else None


@contextmanager
def locked(folder: OutputFolder) -> Iterator[None]:
    """Hold the folder's lock; a single file has none, since only one process writes it."""
    if folder.name is not None or fcntl is None:
        yield
        return
    with (folder.root / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _host() -> str:
    machine = f"{socket.gethostname()} {uuid.getnode():x}"
    return hashlib.blake2b(machine.encode(), digest_size=4).hexdigest()


@contextmanager
def staging(folder: OutputFolder) -> Iterator[Path]:
    """A temporary folder on the same file system, outside the dataset's folders; removed at the end."""
    path = folder.root / f".staging-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":  # on Windows, signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def remove_stale_staging(folder: OutputFolder) -> None:
    """Remove staging folders of dead processes of this machine, and those of other machines that are a day old."""
    for path in folder.root.glob(".staging-*"):
        match = _STAGING.fullmatch(path.name)
        if match is None or not path.is_dir():
            continue
        try:
            old = time.time() - path.stat().st_mtime > _DAY
        except FileNotFoundError:  # its process has just removed it
            continue
        here = match["host"] == _host()
        if (here and not _alive(int(match["pid"]))) or (not here and old):
            shutil.rmtree(path, ignore_errors=True)


def flush(*paths: Path) -> None:
    """Wait until files and folders are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def move(targets: Mapping[Path, Path]) -> None:
    """Rename files into place, each to its target, and flush their new folders."""
    for source, target in targets.items():
        rename(source, target)
    if os.name == "posix":
        flush(*sorted({target.parent for target in targets.values()}))


def rename(source: Path, target: Path) -> None:
    """Rename a file, and create its new folder if necessary."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
