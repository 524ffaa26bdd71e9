"""Someone who reads a dataset's catalogue and index all the time, while others write them."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from geosod.ingest.index import COLLECTION, INDEX


class Reader:
    """Looks at a local dataset from a thread, and notes what is wrong.

    The index, the items that it names and their files are not read in one instant. So a look counts only where the
    index is still the same file afterwards: it named those scenes all the while, so that each had to be there.

    Attributes:
        looks: number of looks that counted.
        wrong: what was wrong.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.looks, self.wrong = out, 0, []  # type: ignore[var-annotated]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                self._look()
            except Exception as error:
                self.wrong.append(repr(error))
            time.sleep(0.02)

    def _look(self) -> None:
        before = self._stamp()
        if before is None:
            return
        rows = pq.read_table(io.BytesIO((self.out / INDEX).read_bytes())).to_pylist()
        if (self.out / COLLECTION).exists():
            assert json.loads((self.out / COLLECTION).read_text())["type"] == "Collection"
        problems = [problem for row in rows if (problem := self._problem(row)) is not None]
        if self._stamp() == before:
            self.looks += 1
            self.wrong += problems

    def _problem(self, row: dict[str, Any]) -> str | None:
        """What of a scene that the index names is not there."""
        try:
            item = json.loads((self.out / "items" / f"{row['id']}.json").read_text())
            if item["properties"]["geosod:ingest_key"] != row["geosod:ingest_key"]:
                return f"{row['id']}: the item is of another version"
            for name, asset in row["assets"].items():
                named = (self.out / asset["href"], self.out / "items" / item["assets"][name]["href"])
                if len({path.resolve() for path in named}) != 1 or not pq.read_metadata(named[0]).num_columns:
                    return f"{row['id']}: another {name} file"
        except (OSError, ValueError) as error:
            return f"{row['id']}: {error!r}"
        return None

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = (self.out / INDEX).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
