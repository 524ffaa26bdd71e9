"""A reader of Mapbox Vector Tiles (specification 2.1), as small as its tests allow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import shapely

_LAYERS, _NAME, _FEATURES, _KEYS, _VALUES = 3, 1, 2, 3, 4
_TAGS, _GEOMETRY = 2, 4
_MOVE, _LINE = 1, 2


def features(tile: bytes, layer: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Properties and polygon of each feature of a layer, in units of the tile, y downwards."""
    for number, content in _fields(tile):
        fields = list(_fields(content)) if number == _LAYERS else []
        if (_NAME, layer.encode()) not in fields:
            continue
        keys = [value.decode() for field, value in fields if field == _KEYS]
        values = [_value(value) for field, value in fields if field == _VALUES]
        for message in (dict(_fields(value)) for field, value in fields if field == _FEATURES):
            tags = list(_numbers(message[_TAGS]))
            named = {keys[k]: values[v] for k, v in zip(tags[::2], tags[1::2], strict=True)}
            yield named, shapely.union_all([shapely.Polygon(ring) for ring in _rings(message[_GEOMETRY])])


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the fields of a protocol buffer."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _number(message, at)
            yield key >> 3, value
            continue
        size, at = {1: (8, at), 5: (4, at)}.get(kind) or _number(message, at)
        yield key >> 3, message[at : at + size]
        at += size


def _number(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _numbers(message: bytes) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _number(message, at)
        yield value


def _value(message: bytes) -> Any:
    ((kind, value),) = _fields(message)
    if kind == 1:
        return value.decode()
    if kind in (2, 3):
        return struct.unpack("<f" if kind == 2 else "<d", value)[0]
    return _signed(value) if kind == 6 else value


def _signed(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def _rings(message: bytes) -> list[list[tuple[int, int]]]:
    numbers, x, y = _numbers(message), 0, 0
    rings: list[list[tuple[int, int]]] = []
    for command in numbers:
        for _ in range(command >> 3 if command & 7 in (_MOVE, _LINE) else 0):
            x, y = x + _signed(next(numbers)), y + _signed(next(numbers))
            if command & 7 == _MOVE:
                rings.append([])
            rings[-1].append((x, y))
    return rings
