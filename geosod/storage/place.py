"""Where outputs are written: a local folder, or a prefix of an object store, which is treated as a folder.

Files are named by their path below it, with ``/`` between the parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from geosod.errors import OutputError

#: Schemes of object stores.
SCHEMES = ("s3", "gs", "az")
#: A scheme of two letters or more (one is a drive), or one of GDAL's virtual file systems.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|/vsi[a-z0-9_]+/")
_STORE = re.compile(rf"({'|'.join(SCHEMES)})://([^/?#]+)(?:/([^?#]*))?")


class Place(Protocol):
    """A folder that outputs are written to. Methods raise OSError where it cannot be reached, read or written."""

    @property
    def address(self) -> str:
        """Absolute path or URL, without a slash at its end."""
        ...

    @property
    def shared(self) -> bool:
        """Whether every machine reaches it by its address."""
        ...

    @property
    def remedy(self) -> str:
        """What to do where it cannot be written."""
        ...

    def at(self, path: str) -> str:
        """Absolute path or URL of a file."""
        ...

    def names(self, folder: str = "") -> Iterator[str]:
        """Paths of the files below a folder, at any depth and in any order, as they are listed."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        ...

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""
        ...

    def open(self, path: str) -> IO[bytes]:
        """A file to be read in any order; FileNotFoundError where there is none."""
        ...

    def flush(self, *files: Path) -> None:
        """Make files of a staging folder durable, before anything makes way for them."""
        ...

    def put(self, files: Mapping[Path, str]) -> None:
        """Move flushed files of a staging folder into place, in order; each appears at once and whole."""
        ...

    def create(self, path: str, content: bytes | Path) -> bool:
        """Write a new file, whole; False where there is one already, which stays as it is.

        The content may be a flushed file of a staging folder, which may be moved.

        Where the place has locks, the caller holds them.
        """
        ...

    def change(self, path: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the content of a file by a function of it, as if nobody else wrote; None stands for no file."""
        ...

    def remove(self, *paths: str) -> None:
        """Remove files; those that do not exist are ignored."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Remove every file below a folder, whose process is alone in using it."""
        ...

    def locked(self, part: str | None = None) -> AbstractContextManager[None]:
        """Keep other processes and threads from entering the same block, where the place has locks.

        Args:
            part: what the block changes: threads of this process that change other parts are not kept out, since each
                waits for the disk. None for anything.
        """
        ...

    def staging(self) -> AbstractContextManager[Path]:
        """A temporary local folder, removed at the end, from which files are put into place."""
        ...

    def check(self) -> None:
        """Create the folder, and try to write to it."""
        ...

    def remove_empty(self) -> None:
        """Remove the folder where nothing is in it."""
        ...


def open_place(path: str | Path) -> Place:
    """The place at a path or an address.

    Raises:
        OutputError: the address is of no object store that geosod writes to.
    """
    text = str(path)
    if not _ADDRESS.match(text):
        from geosod.storage.local_place import LocalPlace

        return LocalPlace(str(Path(path).expanduser().absolute()))
    match = _STORE.fullmatch(text)
    if match is None:
        known = ", ".join(f"{scheme}://BUCKET/PATH" for scheme in SCHEMES)
        raise OutputError(f"{path}: outputs cannot be written there; give a local folder, or one of {known}")
    from geosod.storage.object_place import ObjectPlace

    scheme, bucket, prefix = match.groups()
    parts = [part for part in (prefix or "").split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise OutputError(f"{path}: has '.' or '..' in it, which object stores do not resolve; give the whole path")
    return ObjectPlace("/".join([f"{scheme}://{bucket}", *parts]))


def split_file(path: str | Path) -> tuple[str, str]:
    """The folder of a file that will be written, and its name."""
    text = str(path)
    if _ADDRESS.match(text):
        folder, _, name = text.rpartition("/")
        return folder, name
    file = Path(path).expanduser().absolute()
    return str(file.parent), file.name


def is_address(path: str | Path) -> bool:
    """Whether a path is the address of something that is not a local file."""
    return _ADDRESS.match(str(path)) is not None
