"""Features as Mapbox Vector Tiles (specification 2.1), which are protocol buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geosod.arrays import IntArray
from geosod.exporting.tiles.features import EXTENT, KEY, LAST_ZOOM, TILE_X, TILE_Y, rings_of
from geosod.exporting.tiles.kernel import encode

#: Sides of squares in units that features become which are smaller: two pixels of 512, so that they are seen.
_VISIBLE = 16
#: Bytes that a feature takes besides its points and values, a point, and an attribute, at most.
_FEATURE, _POINT, _TAG, _HEAD = 80, 12, 10, 16


def encoded(placed: pa.Table, names: Sequence[str], layer: str, zoom: int) -> tuple[IntArray, list[bytes]]:
    """Tiles of one layer.

    Args:
        placed: features of whole tiles from `in_tiles`, sorted by `KEY`.
        names: the columns that become attributes; null is left out.
        layer: name of the layer.
        zoom: the level.

    Returns:
        (T,) numbers of the tiles in which something is, and their contents.
    """
    keys = placed[KEY].to_numpy()
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    rings = rings_of(placed, zoom)
    values = _values([placed[name] for name in names])
    origins = np.stack([placed[name].to_numpy()[starts] for name in (TILE_X, TILE_Y)], axis=1) * EXTENT
    head = np.frombuffer(_head(layer, names), np.uint8)
    per_row = np.diff(values.offsets)[values.codes].sum(axis=0) + _TAG * len(names)
    size = per_row[rings.row].sum() + _FEATURE * len(rings.row) + _POINT * len(rings.xy)
    out = np.empty(size + len(starts) * (len(head) + _HEAD), np.uint8)
    first = np.searchsorted(rings.row, np.append(starts, len(placed)))
    shift, least = LAST_ZOOM - zoom, 1 if zoom == LAST_ZOOM else _VISIBLE
    spans = encode(
        first, origins, rings.row, rings.offsets, rings.xy, values.codes, values.content, values.offsets,
        head, shift, least, out,
    )  # fmt: skip
    filled = np.flatnonzero(np.diff(spans, axis=1)[:, 0])
    return keys[starts][filled], [out[start:stop].tobytes() for start, stop in spans[filled].tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """The distinct values of columns.

    Attributes:
        codes: (K, N) int64, which value each of N rows has in K columns; 0 for null.
        offsets: (V + 1,) int64, where each begins; the first is empty.
        content: their messages one after the other, as they are in a layer.
    """

    codes: IntArray
    offsets: IntArray
    content: npt.NDArray[np.uint8]


def _values(columns: Sequence[pa.ChunkedArray]) -> _Values:
    codes, parts, sizes, known = [], [b""], [np.zeros(1, np.int64)], 1
    for column in columns:
        encoded = pc.dictionary_encode(column.combine_chunks())
        code = pc.fill_null(pc.add(encoded.indices.cast(pa.int64()), known), 0)
        content, size = _messages(encoded.dictionary)
        codes.append(code.to_numpy())
        parts.append(content)
        sizes.append(size)
        known += len(size)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    return _Values(np.stack(codes), offsets, np.frombuffer(b"".join(parts), np.uint8))


def _messages(values: pa.Array) -> tuple[bytes, IntArray]:
    """Values as messages one after the other, and the length of each."""
    if pa.types.is_floating(values.type):
        wide = values.type == pa.float64()
        kind: Any = np.dtype([("head", "u1", (3,)), ("value", "<f8" if wide else "<f4")])
        records = np.empty(len(values), kind)
        records["head"] = (0x22, 9, 0x19) if wide else (0x22, 5, 0x15)
        records["value"] = values.to_numpy(zero_copy_only=False)
        return records.tobytes(), np.full(len(values), kind.itemsize, np.int64)
    messages = [b"\x22" + varint(len(value)) + value for value in map(_value, values.to_pylist())]
    return b"".join(messages), np.array([len(message) for message in messages], np.int64)


def _value(value: object) -> bytes:
    if isinstance(value, bool):
        return b"\x38" + varint(value)
    if isinstance(value, int):
        return b"\x30" + varint(value << 1 ^ value >> 63)
    text = (value.isoformat() if hasattr(value, "isoformat") else str(value)).encode()
    return b"\x0a" + varint(len(text)) + text


def _head(layer: str, names: Sequence[str]) -> bytes:
    """What is the same in all tiles: version, name, extent and names of attributes."""
    texts = [(b"\x0a", layer), *((b"\x1a", name) for name in names)]
    fields = [field + varint(len(text.encode())) + text.encode() for field, text in texts]
    return b"\x78\x02\x28" + varint(EXTENT) + b"".join(fields)


def varint(value: int) -> bytes:
    """A whole number as protocol buffers have it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
