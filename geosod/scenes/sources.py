"""From what a user names (paths, globs, folders) to scene references with safe, unique identifiers."""

from __future__ import annotations

import datetime as dt
import glob
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from geosod.errors import ConfigError
from geosod.types import Failure, SceneRef

#: What a folder is searched for; a file named outright may have any ending.
SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".jpg", ".jpeg", ".png")


def find_scenes(
    inputs: Sequence[str], *, datetime: dt.datetime | None = None
) -> tuple[tuple[SceneRef, ...], tuple[Failure, ...]]:
    """Expand paths, globs and folders (searched recursively) to scenes, each file once, in sorted order per input.

    Args:
        inputs: local paths or glob patterns.
        datetime: acquisition time given to every scene.

    Returns:
        The scenes, of which several may have one identifier (see `with_own_ids`), and one failure for each input that
        names nothing.

    Raises:
        ConfigError: `inputs` is empty.
    """
    if not inputs:
        raise ConfigError("no scene given: name at least one GeoTIFF or VRT, a folder of them, or a glob")
    paths: dict[str, None] = {}
    failures = []
    for name in inputs:
        try:
            paths.update(dict.fromkeys(_expand(name)))
        except (ConfigError, OSError, RuntimeError) as error:
            # The name of what is not there must not be that of a scene which is.
            ref = hashed_id(SceneRef(name, safe_id(Path(name).stem)))
            message = str(error) if isinstance(error, ConfigError) else f"{name[:200]}: cannot be looked up: {error}"
            failures.append(Failure(ref.id, name, None, "open", "SceneError", message))
    refs = [SceneRef(uri, safe_id(Path(uri).stem), datetime, _version(uri)) for uri in paths]
    return tuple(refs), tuple(failures)


def safe_id(name: str) -> str:
    """`name` as a file name without separators, leading dots or anything a shell or a path could mistake."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")[:120]
    return cleaned or "scene"


def hashed_id(ref: SceneRef) -> SceneRef:
    """The same scene under an identifier that also tells its URI: the stem and 8 hexadecimal digits."""
    digest = hashlib.blake2b(ref.uri.encode(), digest_size=4).hexdigest()
    return replace(ref, id=f"{ref.id}-{digest}")


def _version(uri: str) -> str:
    status = Path(uri).stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def with_own_ids(refs: Iterable[SceneRef], known: Mapping[str, str]) -> tuple[SceneRef, ...]:
    """Scenes with identifiers of their own: the one a scene was known by, else its name, told apart by a hash.

    Args:
        refs: scenes, each URI once.
        known: identifiers that are in use already, by the URI of their scene.
    """
    kept = list(refs)
    # Compared without case: on some file systems a.parquet and A.parquet are one file.
    taken = {name.lower() for name in known.values()}
    times = Counter(ref.id.lower() for ref in kept if ref.uri not in known)

    def own(ref: SceneRef) -> SceneRef:
        if ref.uri in known:
            return replace(ref, id=known[ref.uri])
        clash = times[ref.id.lower()] > 1 or ref.id.lower() in taken
        return hashed_id(ref) if clash else ref

    return tuple(own(ref) for ref in kept)


def _expand(name: str) -> list[str]:
    if "://" in name or name.startswith("/vsi"):
        raise ConfigError(f"{name}: only local files are read; copy the scene here first")
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(str(p.resolve()) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise ConfigError(f"{name}: no scene in this folder; looked for {', '.join(SUFFIXES)}")
        return found
    if path.exists():
        return [str(path.resolve())]
    # Path.glob takes no absolute pattern.
    matches = sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())  # noqa: PTH207
    if not matches:
        raise ConfigError(f"{name}: no such file; check the path, or quote the glob")
    return [str(Path(match).resolve()) for match in matches]
