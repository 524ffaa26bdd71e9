"""The rows of ``failures.parquet``: what failed, and where."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geosod.errors import OutputError
from geosod.output.folder import OutputFolder
from geosod.results import Failure
from geosod.scene import Window

#: The columns of a failures file, in order; the window is null if the whole scene failed.
FAILURE_SCHEMA = pa.schema(
    [
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        *(pa.field(name, pa.int64()) for name in ("col", "row", "width", "height")),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)


def failure_table(failures: Sequence[Failure]) -> pa.Table:
    """Failures as rows with `FAILURE_SCHEMA`; URIs and messages hold no credentials."""
    window = ("col", "row", "width", "height")
    rows = [
        {
            "scene_id": f.scene_id,
            "uri": f.uri,
            **{name: None if f.window is None else getattr(f.window, name) for name in window},
            "stage": f.stage,
            "error": f.error,
            "message": f.message,
            "attempts": f.attempts,
        }
        for f in failures
    ]
    return pa.Table.from_pylist(rows, schema=FAILURE_SCHEMA)


def read_failures(path: str | Path) -> pa.Table:
    """The rows of a failures file; none if the file does not exist.

    Raises:
        OutputError: the file exists and is not a failures file.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        content = None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error}); move it away") from error
    return failures_from(content, where=path)


def failures_from(content: bytes | None, *, where: str | Path) -> pa.Table:
    """The rows of a failures file's content; none without content.

    Args:
        content: of the file.
        where: its path, for messages.

    Raises:
        OutputError: it is not that of a failures file.
    """
    if content is None:
        return FAILURE_SCHEMA.empty_table()
    try:
        with pq.ParquetFile(io.BytesIO(content)) as file:  # read_table imports pandas
            return file.read(columns=FAILURE_SCHEMA.names).select(FAILURE_SCHEMA.names).cast(FAILURE_SCHEMA)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise OutputError(f"{where}: not readable as a failures file ({error}); move it away") from error


def failures_to(rows: pa.Table) -> bytes:
    """The content of a failures file."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


def is_failures_file(path: str | Path) -> bool:
    """Whether a path can be read as a failures file."""
    try:
        read_failures(path)
    except OutputError:
        return False
    return True


def failures_of(path: str | Path) -> tuple[Failure, ...]:
    """The rows of a failures file as `Failure` values."""
    return tuple(
        Failure(
            scene_id=r["scene_id"],
            uri=r["uri"],
            window=None if r["col"] is None else Window(r["col"], r["row"], r["width"], r["height"]),
            **{name: r[name] for name in ("stage", "error", "message", "attempts")},
        )
        for r in read_failures(path).to_pylist()
    )


def merged_failures(old: pa.Table, new: pa.Table, scenes: Collection[str]) -> pa.Table:
    """The rows of `new`, and those of `old` whose scene is neither in `new` nor in `scenes`; sorted."""
    replaced = pa.array(sorted({*scenes, *new["scene_id"].to_pylist()}), pa.string())
    kept = old.filter(pc.invert(pc.is_in(old["scene_id"], replaced)))
    rows = pa.concat_tables([kept, new])
    keys = [(name, "ascending") for name in ("scene_id", "stage", "row", "col", "error", "message")]
    return rows.sort_by(keys).combine_chunks()


def write_failures(folder: OutputFolder, failures: Sequence[Failure], *, scenes: Collection[str] = ()) -> str | None:
    """Replace the failures of some scenes; those of other scenes are kept.

    Args:
        folder: from `open_output`.
        failures: the new rows; they replace all earlier rows of their scenes.
        scenes: further scenes whose rows are removed.

    Returns:
        Path of the failures file, or None if no failure is left and the file was removed.

    Raises:
        OutputError: it cannot be written, or the existing file is not a failures file.
    """
    place = folder.place
    try:
        replace_failures(folder, failures, scenes=scenes)
        return place.at(folder.failures) if place.exists(folder.failures) else None
    except OSError as error:
        raise OutputError(f"{place.at(folder.failures)}: cannot be written ({error}); {place.remedy}") from error


def _replaces_any(folder: OutputFolder, scenes: Collection[str]) -> bool:
    """Whether there are failures of some scenes; without the lock, as only who commits a scene records any of it."""
    place, path = folder.place, folder.failures
    if folder.name is not None:
        return place.exists(path)
    content = place.read(path)
    if content is None:
        return False
    rows = failures_from(content, where=place.at(path))["scene_id"]
    return bool(pc.any(pc.is_in(rows, pa.array(list(scenes), pa.string()))).as_py())


def replace_failures(folder: OutputFolder, failures: Sequence[Failure], *, scenes: Collection[str]) -> None:
    """As `write_failures`; raises OSError where the file cannot be written."""
    place, path = folder.place, folder.failures
    if not failures and not _replaces_any(folder, scenes):
        return

    def changed(content: bytes | None) -> bytes | None:
        old = failures_from(None if folder.name is not None else content, where=place.at(path))
        rows = merged_failures(old, failure_table(failures), scenes)
        return failures_to(rows) if len(rows) else None

    place.change(path, changed)
