"""Arrays in a page: compressed and as text, with what a browser needs to read them."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Pixel type of numpy → name of JavaScript's typed array.
_TYPES = {
    "uint8": "Uint8Array",
    "uint16": "Uint16Array",
    "uint32": "Uint32Array",
    "int32": "Int32Array",
    "float32": "Float32Array",
}


@dataclass(frozen=True, slots=True)
class Column:
    """An array of a page.

    Attributes:
        name: unique in the page.
        kind: name of JavaScript's typed array, little-endian.
        text: base64 of its gzipped bytes, as long as a page needs to hold it.
    """

    name: str
    kind: str
    text: str


def packed(data: bytes) -> str:
    """Base64 of gzipped bytes; the same for the same bytes."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def column(name: str, values: npt.NDArray[Any]) -> Column:
    """A column of an array of a type in `_TYPES`; several dimensions are flattened in C order."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return Column(name, _TYPES[values.dtype.name], packed(little.tobytes()))
