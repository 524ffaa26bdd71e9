"""Sorting of more rows than memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geosod.arrays import IntArray
from geosod.exporting.tiles.features import KEY

#: Rows that are sorted in memory, and about as many that are returned at once.
_ROWS = 100_000
#: One key of so many is kept, to choose where the tables that are returned end.
_SAMPLED = 100


class Sorter:
    """Rows that are sorted by a column `KEY` (int64), as sorted files that are read side by side.

    Args:
        folder: for the files; it is created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._files: list[Path] = []
        self._sample: list[IntArray] = []

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= _ROWS:
            self._write()

    def tables(self) -> Iterator[pa.Table]:
        """All rows in order; those with one key are in one table. The files are gone when the last one was read."""
        self._write()
        sample = np.sort(np.concatenate([np.empty(0, np.int64), *self._sample]))
        ends = np.unique(sample[_ROWS // _SAMPLED :: _ROWS // _SAMPLED])
        limit = np.iinfo(np.int64).max
        for low, high in zip([-1, *ends], [*ends, limit], strict=True):
            parts = [_between(path, int(low), int(high)) for path in self._files]
            table = pa.concat_tables(parts).combine_chunks() if parts else None
            del parts
            if table is not None and len(table):
                yield _sorted(table)
        for path in self._files:
            path.unlink()

    def _write(self) -> None:
        if not self._rows:
            return
        table = _sorted(pa.concat_tables(self._waiting))
        self._waiting, self._rows = [], 0
        path = self._folder / str(len(self._files))
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table.combine_chunks())
        self._files.append(path)
        self._sample.append(table[KEY].to_numpy()[::_SAMPLED].copy())


def _sorted(table: pa.Table) -> pa.Table:
    return table.take(pc.array_sort_indices(table[KEY].combine_chunks()))


def _between(path: Path, low: int, high: int) -> pa.Table:
    """The rows of a file with low < key <= high; only their pages are read, once they are used."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        start, stop = np.searchsorted(table[KEY].to_numpy(), [low, high], side="right")
        return table.slice(start, stop - start)
