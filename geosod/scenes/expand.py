"""Where scenes are: folders, globs and buckets expanded, and scenes put together from files."""

from __future__ import annotations

import datetime as dt
import glob
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from geosod.errors import ConfigError, SceneError
from geosod.scene import BandFile, SceneRef
from geosod.storage.files import listing
from geosod.storage.uris import SUFFIXES, bucket_and_key, is_remote, is_s3, path_of, plain, stem, suffix


@dataclass(frozen=True, slots=True)
class Place:
    """A file that may hold a scene, or a folder that is one.

    Attributes:
        uri: path or address.
        version: its version, where a listing told it.
        folder: of a folder that is one scene, its files with their versions.
        scene: the scene, where it is known already.
    """

    uri: str
    version: str | None = None
    folder: Mapping[str, str | None] | None = None
    scene: SceneRef | None = None


def is_pattern(text: str) -> bool:
    """Whether `text` looks like a pattern of file names, such as ``*_B04.tif`` or ``B04.jp2``."""
    return any(sign in text for sign in "*?[") or Path(text).suffix.lower() in SUFFIXES


def places(name: str, *, products: bool) -> list[Place]:
    """The files that a path, folder, glob, address or bucket stands for, sorted.

    Args:
        name: as the user wrote it.
        products: whether a folder is one scene.

    Raises:
        ConfigError: there are none, or they cannot be read.
        SceneError: the bucket cannot be listed.
    """
    uri = plain(name)
    if is_s3(uri) and (uri.endswith("/") or not bucket_and_key(uri)[1]):
        return _in_bucket(uri, products=products)
    if is_remote(uri):
        return [Place(uri)]
    path = Path(uri).expanduser()
    if path.is_dir():
        return [_folder(path)] if products else _in_folder(name, path)
    if path.exists():
        return [Place(str(path.resolve()))]
    # Path.glob takes no absolute pattern.
    matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    found = [_folder(p) for p in matches if p.is_dir()] if products else []
    found += [Place(str(p.resolve())) for p in matches if p.is_file()]
    if not found:
        raise ConfigError(f"{name}: no such file; check the path, or quote the glob")
    return found


def _in_folder(name: str, path: Path) -> list[Place]:
    found = sorted(str(p.resolve()) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ConfigError(f"{name}: no scene in this folder; looked for {', '.join(SUFFIXES)}")
    return [Place(uri) for uri in found]


def _folder(path: Path) -> Place:
    whole = path.resolve()
    return Place(str(whole), folder={str(p): None for p in sorted(whole.rglob("*")) if p.is_file()})


def _in_bucket(uri: str, *, products: bool) -> list[Place]:
    found = list(listing(uri))
    if products:
        return [Place(uri.rstrip("/"), folder={o.uri: o.version for o in found})]
    scenes = [Place(o.uri, o.version) for o in found if suffix(o.uri) in SUFFIXES]
    if not scenes:
        raise ConfigError(f"{uri}: no scene below this prefix; looked for {', '.join(SUFFIXES)}")
    return scenes


def listed_scene(place: Place, patterns: Mapping[str, str]) -> SceneRef:
    """A folder as one scene, each of whose bands is the one file that its pattern matches.

    Raises:
        SceneError: a pattern matches no file, or several.
    """
    assert place.folder is not None
    files = tuple(_matching(place, name, pattern) for name, pattern in patterns.items())
    name = path_of(place.uri).rstrip("/").rsplit("/", 1)[-1]
    return SceneRef(place.uri, name.removesuffix(".SAFE") or "scene", files=files)


def _matching(place: Place, name: str, pattern: str) -> BandFile:
    assert place.folder is not None
    start = len(place.uri) + 1
    inside = [uri for uri in place.folder if fnmatchcase(f"/{uri[start:]}", f"*/{pattern}")]
    if len(inside) != 1:
        told = ", ".join(sorted(uri[start:] for uri in inside)[:5]) or "none"
        raise SceneError(
            f"{place.uri}: the pattern {pattern!r} of band {name} matches {len(inside)} files ({told}), but must match "
            "one; narrow it, or name one product folder a scene"
        )
    # By its pattern, too, since that is what the band was asked for by.
    return BandFile(name, inside[0], aliases=(pattern,), version=place.folder[inside[0]])


def named_scene(told: Mapping[str, Any]) -> SceneRef:
    """A scene from ``{"id", "datetime", "bands": {name: uri or [uri, number]}}``; only `bands` must be there.

    Raises:
        ConfigError: it is of another form, or a local file is not there.
    """
    unknown = set(told) - {"id", "datetime", "bands"}
    bands = told.get("bands")
    if unknown or not isinstance(bands, Mapping) or not bands:
        raise ConfigError(f"scene {str(told)[:200]}: expected id, datetime and bands, which maps names to files")
    files = tuple(_named_band(str(name), value) for name, value in bands.items())
    time = told.get("datetime")
    try:
        when = dt.datetime.fromisoformat(str(time)) if time is not None else None
    except ValueError as error:
        raise ConfigError(f"scene {told.get('id', '')}: its datetime {time!r} is not ISO 8601") from error
    if when is not None:
        when = when.replace(tzinfo=dt.UTC) if when.tzinfo is None else when.astimezone(dt.UTC)
    return SceneRef(files[0].uri, str(told.get("id") or stem(files[0].uri)), when, files=files)


def _named_band(name: str, value: Any) -> BandFile:
    uri, number = value if isinstance(value, list | tuple) and len(value) == 2 else (value, 1)
    if not isinstance(uri, str) or isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigError(
            f"band {name} = {str(value)[:200]}: expected a file, or a file and the number of a band in it"
        )
    uri = plain(uri)
    if not is_remote(uri):
        path = Path(uri).expanduser()
        if not path.is_file():
            raise ConfigError(f"{uri}: no such file; it was named for the band {name}")
        uri = str(path.resolve())
    return BandFile(name, uri, number)
