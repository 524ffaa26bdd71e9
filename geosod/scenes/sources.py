"""From what a user names (paths, globs, folders) to scene references with safe, unique identifiers."""

from __future__ import annotations

import datetime as dt
import glob
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
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
        The scenes, and one failure for each input that names nothing.

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
        except ConfigError as error:
            failures.append(Failure(safe_id(Path(name).stem), name, None, "open", "SceneError", str(error)))
    refs = [SceneRef(uri, safe_id(Path(uri).stem), datetime, _version(uri)) for uri in paths]
    return _with_unique_ids(refs), tuple(failures)


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


def _with_unique_ids(refs: Iterable[SceneRef]) -> tuple[SceneRef, ...]:
    kept = list(refs)
    # Compared without case: on some file systems a.parquet and A.parquet are one file.
    times = Counter(ref.id.lower() for ref in kept)
    return tuple(hashed_id(ref) if times[ref.id.lower()] > 1 else ref for ref in kept)


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
