"""Where a merged dataset goes: whole, or not at all, and over nothing that is not geosod's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from geosod.errors import OutputError
from geosod.output.failures import read_failures
from geosod.output.folder import flush, read_item
from geosod.output.geoparquet import read_metadata


def check_place(out: str | Path, outputs: Sequence[str | Path], *, overwrite: bool) -> Path:
    """The absolute path of the new folder.

    Args:
        out: what the user named.
        outputs: what is merged.
        overwrite: whether a folder that geosod wrote may be replaced.

    Raises:
        OutputError: it is a file, one of the outputs, in one, or around one; or it is not empty and must stay.
    """
    place = Path(out).expanduser().resolve()
    if place.suffix.lower() == ".parquet" and not place.is_dir():
        raise OutputError(f"{out}: is a file name, and merging makes a folder; give -o a folder")
    if place.exists() and not place.is_dir():
        raise OutputError(f"{out}: is a file; give -o a new folder")
    for output in outputs:
        path = Path(output).expanduser().resolve()
        if place == path or place in path.parents or (path in place.parents and path.is_dir()):
            raise OutputError(
                f"{out}: is one with, in, or around {output}, which stays as it is; give -o another folder"
            )
    if place.exists() and any(place.iterdir()):
        if not overwrite:
            raise OutputError(f"{out}: is not empty; use --overwrite, or give -o another folder")
        foreign = _foreign(place)
        if foreign is not None:
            raise OutputError(f"{foreign}: was not written by geosod and would be lost; give -o another folder")
    return place


def _foreign(folder: Path) -> Path | None:
    """A file in a folder that geosod did not write as part of an output, or None."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or (not path.is_dir() and not _ours(path)):
            return path
    return None


def _ours(path: Path) -> bool:
    if path.name == ".lock":
        return True
    if path.suffix == ".json":
        return read_item(path) is not None
    if path.suffix != ".parquet":
        return False
    if path.name == "failures.parquet":
        try:
            read_failures(path)
        except OutputError:
            return False
        return True
    return read_metadata(path) is not None


def put_in_place(stage: Path, place: Path) -> None:
    """Rename the dataset in ``stage/new`` to its place; what is there goes to ``stage/old`` first.

    Raises:
        OSError: it cannot be done; what was there is there again.
    """
    old = stage / "old"
    if place.exists():
        place.rename(old)
    try:
        (stage / "new").rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    if os.name == "posix":
        flush(place.parent)
