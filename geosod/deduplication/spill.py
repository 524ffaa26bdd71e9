"""Arrow tables that are appended to files on disk, since there may be more of them than memory holds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa


def append_table(path: Path, table: pa.Table) -> None:
    """Append a table to a file; the file is created if it does not exist."""
    with path.open("ab") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)


def read_tables(path: Path) -> list[pa.Table]:
    """The tables of a file, in the order in which they were appended; none if there is no file."""
    if not path.exists():
        return []
    tables = []
    with path.open("rb") as file:
        size = path.stat().st_size
        while file.tell() < size:
            with pa.ipc.open_stream(file) as stream:
                tables.append(stream.read_all())
    return tables
