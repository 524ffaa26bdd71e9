"""A finished unit as one Arrow table: what it takes to go on with a scene without doing the unit again.

The table has a row for each final and each pending box. The summary is in the schema's metadata, under ``geosod:unit``.
Nothing of the process or the time goes in: equal units are equal bytes.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import IO, Any

import numpy as np
import pyarrow as pa

from geosod.detections import Detections
from geosod.errors import ConfigError, OutputError
from geosod.merging.components import Settled
from geosod.results import FAILED, Coverage, Failure
from geosod.running.stages import UnitSummary
from geosod.scene import Window

_KEY, _ABOUT = b"geosod:unit", b"geosod:about"
_BROKEN = (AttributeError, ConfigError, KeyError, OverflowError, RecursionError, TypeError, ValueError, zlib.error)
#: Raised when the form changes; records of another form are refused.
_FORM = 1
#: Cells of a coverage grid: those of a unit of half a million pixels a side.
_MAX_CELLS = 1 << 28


def to_arrow(settled: Settled, summary: UnitSummary) -> pa.Table:
    """A unit's boxes and summary as a table: the columns of `Detections.to_arrow`, and ``pending`` bool."""
    parts = (settled.final, settled.pending)
    table = pa.Table.from_batches([part.to_arrow() for part in parts])
    pending = np.repeat([False, True], [len(part) for part in parts])
    table = table.append_column("pending", pa.array(pending)).combine_chunks()
    return table.replace_schema_metadata({_KEY: json.dumps(_values(summary), sort_keys=True)})


def from_arrow(table: pa.Table) -> tuple[Settled, UnitSummary]:
    """The inverse of `to_arrow`.

    Raises:
        OutputError: the table is not the record of a unit, or of another version of geosod.
    """
    try:
        values = json.loads((table.schema.metadata or {})[_KEY])
        if values.pop("form") != _FORM:
            raise ValueError("another form of record")
        pending = table["pending"].to_numpy()
        if pending.dtype != np.bool_ or any(column.null_count for column in table.columns):
            raise ValueError("columns of another type")
        boxes = Detections.from_arrow(table.drop_columns(["pending"]))
        settled = Settled(boxes[np.flatnonzero(~pending)], boxes[np.flatnonzero(pending)])
        return settled, _summary(values)
    except (*_BROKEN, pa.ArrowException) as error:
        raise OutputError(
            f"not the record of a unit of this version: {type(error).__name__}: {error}; delete it and run again"
        ) from error


def to_bytes(settled: Settled, summary: UnitSummary, about: Mapping[str, Any] | None = None) -> bytes:
    """`to_arrow` as an Arrow IPC file, in whose metadata a JSON value is noted under ``geosod:about``."""
    table, buffer = to_arrow(settled, summary), io.BytesIO()
    if about is not None:
        metadata = {**(table.schema.metadata or {}), _ABOUT: json.dumps(about, sort_keys=True)}
        table = table.replace_schema_metadata(metadata)
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def about_of(file: IO[bytes]) -> dict[str, Any] | None:
    """What is noted in the record of a unit; None where the file is no record, or nothing is noted."""
    try:
        noted = json.loads((pa.ipc.open_file(file).schema.metadata or {})[_ABOUT])
    except (OSError, KeyError, ValueError, RecursionError, pa.ArrowException):
        return None
    return noted if isinstance(noted, dict) else None


def from_bytes(content: bytes) -> tuple[Settled, UnitSummary]:
    """The inverse of `to_bytes`; errors as `from_arrow`."""
    try:
        table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"not the record of a unit: {error}; delete it and run again") from error
    return from_arrow(table)


def _values(summary: UnitSummary) -> dict[str, Any]:
    counts = {f.name: getattr(summary, f.name) for f in fields(summary) if f.name not in ("coverage", "failures")}
    c = summary.coverage
    codes = base64.b64encode(zlib.compress(c.codes.tobytes(), 6)).decode()
    coverage = {"cell": c.cell, "col": c.col, "row": c.row, "shape": list(c.codes.shape), "codes": codes}
    failures = [asdict(failure) for failure in summary.failures]
    return {"form": _FORM, **counts, "coverage": coverage, "failures": failures}


def _summary(values: dict[str, Any]) -> UnitSummary:
    coverage, failures = values.pop("coverage"), values.pop("failures")
    rows, cols = (int(side) for side in coverage["shape"])
    if not (rows > 0 and cols > 0 and rows * cols < _MAX_CELLS):
        raise ValueError(f"a coverage of {rows} x {cols} cells")
    unpacking = zlib.decompressobj()
    codes = np.frombuffer(unpacking.decompress(base64.b64decode(coverage["codes"]), rows * cols), np.uint8)
    codes = codes.reshape(rows, cols)
    if not unpacking.eof or codes.max() > FAILED:
        raise ValueError("coverage codes that do not fit")
    grid = Coverage(coverage["cell"], coverage["col"], coverage["row"], codes)
    return UnitSummary(**values, coverage=grid, failures=tuple(_failure(f) for f in failures))


def _failure(values: dict[str, Any]) -> Failure:
    window = values.pop("window")
    return Failure(**values, window=None if window is None else Window(**window))
