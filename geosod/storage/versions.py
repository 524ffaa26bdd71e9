"""The version of a file together with the local files that it names."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from geosod.errors import SceneError
from geosod.storage.files import file_stamp
from geosod.storage.files import version as version_of_file
from geosod.storage.retry import ATTEMPTS
from geosod.storage.sandbox import local_parts
from geosod.storage.uris import is_remote


def version(uri: str, *, attempts: int = ATTEMPTS) -> str:
    """As `geosod.storage.files.version`; that of a local VRT or tile index changes with its local files, too."""
    own = version_of_file(uri, attempts=attempts)
    parts = () if is_remote(uri) else _parts(uri, own)
    if not parts:
        return own
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(f"{part} {file_stamp(part)}\n".encode("utf-8", "surrogateescape"))
    return f"{own}+{state.hexdigest()}"


@lru_cache(maxsize=64)
def _parts(uri: str, _: str) -> tuple[str, ...]:
    """The files that a version of a file names; none where it cannot be read, which opening it will tell."""
    try:
        return tuple(sorted(set(local_parts(uri))))
    except SceneError:
        return ()
