"""Where may the new dataset go? It must not overwrite anything but earlier results of geosod."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from geosod.errors import OutputError
from geosod.output.failures import is_failures_file
from geosod.output.folder import local_path, parse_item
from geosod.output.geoparquet import read_metadata
from geosod.storage.local_place import flush


def check_destination(out: str | Path, outputs: Sequence[str | Path], *, overwrite: bool) -> Path:
    """The absolute path of the new folder.

    Args:
        out: as the user gave it.
        outputs: the outputs to read.
        overwrite: whether a folder that geosod wrote may be replaced.

    Raises:
        OutputError: it is a file, or one of the outputs, inside one or around one; or it is not empty and may not be
            replaced.
    """
    folder = local_path(out).resolve()
    if folder.suffix.lower() == ".parquet" and not folder.is_dir():
        raise OutputError(f"{out}: is a file name, but the result is a folder; give -o a folder")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{out}: is a file; give -o a new folder")
    for output in outputs:
        path = Path(output).expanduser().resolve()
        if folder == path or folder in path.parents or (path in folder.parents and path.is_dir()):
            raise OutputError(f"{out}: is the same folder as {output}, inside it or around it; give -o another folder")
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise OutputError(f"{out}: is not empty; use --overwrite, or give -o another folder")
        foreign = _foreign_file(folder)
        if foreign is not None:
            raise OutputError(f"{foreign}: was not written by geosod and would be lost; give -o another folder")
    return folder


def _foreign_file(folder: Path) -> Path | None:
    """A file in a folder that geosod did not write as part of an output, or None."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or (not path.is_dir() and not _is_ours(path)):
            return path
    return None


def _is_ours(path: Path) -> bool:
    if path.name == "failures.parquet":
        return is_failures_file(path)
    if path.suffix == ".json":
        return parse_item(path.read_bytes()) is not None
    return path.name == ".lock" or (path.suffix == ".parquet" and read_metadata(path) is not None)


def move_into_place(stage: Path, folder: Path) -> None:
    """Rename the dataset in ``stage/new`` to `folder`; what is there goes to ``stage/old`` first.

    Raises:
        OSError: it cannot be done; the earlier folder is restored.
    """
    old = stage / "old"
    if folder.exists():
        folder.rename(old)
    try:
        (stage / "new").rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    if os.name == "posix":
        flush(folder.parent)
