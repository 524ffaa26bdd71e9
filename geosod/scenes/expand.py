"""Which scenes a path, folder, glob, address or bucket prefix stands for, and scenes composed of several files."""

from __future__ import annotations

import datetime as dt
import glob
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from geosod.errors import ConfigError, SceneError
from geosod.scene import BandFile, SceneRef
from geosod.storage.files import listing
from geosod.storage.formats import is_envi_data, is_tile_index
from geosod.storage.uris import (
    LOCAL_SUFFIXES,
    SUFFIXES,
    bucket_and_key,
    is_remote,
    is_s3,
    normalized,
    path_of,
    stem,
    suffix,
)


def is_pattern(text: str) -> bool:
    """Whether `text` looks like a pattern of file names, such as ``*_B04.tif`` or ``B04.jp2``."""
    return any(sign in text for sign in "*?[") or Path(text).suffix.lower() in LOCAL_SUFFIXES


def expand(name: str, patterns: Mapping[str, str]) -> list[SceneRef]:
    """The files that a path, folder, glob, address or bucket prefix stands for, sorted.

    Args:
        name: as the user wrote it.
        patterns: the file name pattern of each band; where given, a folder is one scene.

    Raises:
        ConfigError: there are none, or they cannot be read.
        SceneError: the bucket cannot be listed, or a pattern does not match one file.
    """
    if not name.strip():
        raise ConfigError("a scene's path is empty; check the variable or list that was to hold it")
    uri = normalized(name)
    if is_s3(uri) and (uri.endswith("/") or not bucket_and_key(uri)[1]):
        found = listing(uri)
        if patterns:
            return [_product(uri.rstrip("/"), found, patterns)]
        scenes = [
            SceneRef(one, stem(one), version=version) for one, version in found.items() if suffix(one) in SUFFIXES
        ]
        return _not_empty(scenes, f"{uri}: no scene below this prefix; looked for {', '.join(SUFFIXES)}")
    if is_remote(uri):
        return [SceneRef(uri, stem(uri))]
    path = Path(uri).expanduser()
    if path.exists() and not path.is_dir():
        return [_local_file(path)]
    if path.is_dir() and not patterns:
        files = sorted({str(p.resolve()) for p in _files_below(path) if _is_raster(p)})
        return _not_empty(
            [SceneRef(file, stem(file)) for file in files],
            f"{name}: no scene in this folder; looked for {', '.join(LOCAL_SUFFIXES)} and ENVI files",
        )
    # Path.glob does not accept absolute patterns.
    matches = [path] if path.is_dir() else [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    scenes = [_local_product(p, patterns) for p in matches if p.is_dir()] if patterns else []
    scenes += [_local_file(p) for p in matches if p.is_file()]
    return _not_empty(scenes, f"{name}: no such file or folder; check the path, or quote the glob")


def raster_files(folder: Path) -> Iterator[Path]:
    """The files of a folder and its subfolders that are taken for scenes."""
    return (path for path in _files_below(folder) if _is_raster(path))


def _files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and its subfolders, linked ones too; each folder once, since links may loop."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (path for name in names if (path := Path(root, name)).is_file())


def _is_raster(path: Path) -> bool:
    """Whether a file of a folder is taken for a scene, by its name and for ENVI files by their header."""
    return path.suffix.lower() in LOCAL_SUFFIXES or is_tile_index(path.name) or is_envi_data(path)


def _not_empty(scenes: list[SceneRef], message: str) -> list[SceneRef]:
    if not scenes:
        raise ConfigError(message)
    return scenes


def _local_file(path: Path) -> SceneRef:
    uri = str(path.resolve())
    return SceneRef(uri, stem(uri))


def _local_product(folder: Path, patterns: Mapping[str, str]) -> SceneRef:
    files = sorted(p for p in folder.resolve().rglob("*") if p.is_file())
    return _product(str(folder.resolve()), {str(p): None for p in files}, patterns)


def _product(folder: str, versions: Mapping[str, str | None], patterns: Mapping[str, str]) -> SceneRef:
    """A folder as one scene; each of its bands is the one file that its pattern matches."""
    files = []
    for band, pattern in patterns.items():
        names = {uri[len(folder) + 1 :]: uri for uri in versions}
        matches = [name for name in names if fnmatchcase(f"/{name}", f"*/{pattern}")]
        if len(matches) != 1:
            listed = ", ".join(sorted(matches)[:5]) or "none"
            raise SceneError(
                f"{folder}: the pattern {pattern!r} of band {band} matches {len(matches)} files ({listed}), but must "
                "match one; narrow it, or give one product folder for each scene"
            )
        uri = names[matches[0]]
        # The pattern is an alias, since the user asks for the band by it.
        files.append(BandFile(band, uri, aliases=(pattern,), version=versions[uri]))
    name = path_of(folder).rstrip("/").rsplit("/", 1)[-1].removesuffix(".SAFE")
    return SceneRef(folder, name or "scene", files=tuple(files))


def scene_of_mapping(mapping: Mapping[str, Any]) -> SceneRef:
    """A scene from ``{"id", "datetime", "bands": {name: uri or [uri, number]}}``; only `bands` is required.

    ConfigError where it has another form, or a local file does not exist.
    """
    unknown = set(mapping) - {"id", "datetime", "bands"}
    bands = mapping.get("bands")
    if unknown or not isinstance(bands, Mapping) or not bands:
        raise ConfigError(f"scene {str(mapping)[:200]}: expected id, datetime and bands, which maps names to files")
    files = tuple(_band_file(str(name), value) for name, value in bands.items())
    text, time = mapping.get("datetime"), None
    if text is not None:
        try:
            time = dt.datetime.fromisoformat(str(text))
        except ValueError as error:
            raise ConfigError(
                f"scene {mapping.get('id', '')}: its datetime {text!r} is not ISO 8601; fix it"
            ) from error
        time = time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    return SceneRef(files[0].uri, str(mapping.get("id") or stem(files[0].uri)), time, files=files)


def _band_file(name: str, value: Any) -> BandFile:
    uri, number = value if isinstance(value, list | tuple) and len(value) == 2 else (value, 1)
    if not isinstance(uri, str) or isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigError(f"band {name} = {str(value)[:200]}: expected a file, or a file and a band number")
    uri = normalized(uri)
    if not is_remote(uri):
        path = Path(uri).expanduser()
        if not path.is_file():
            raise ConfigError(f"{uri}: no such file; check the path of band {name}")
        uri = str(path.resolve())
    return BandFile(name, uri, number)
