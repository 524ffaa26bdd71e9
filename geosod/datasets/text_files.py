"""Read JSON, XML and text of labels, whatever it holds, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from geosod.errors import LabelError, one_line

#: Files of the labels of one image are not larger than this.
MAX_IMAGE_FILE = 64 << 20
#: Nor are those of a whole set, in JSON.
MAX_JSON = 8 << 30


def read_bytes(path: Path, limit: int = MAX_IMAGE_FILE) -> bytes:
    """The content of a file; LabelError where it cannot be read, or is larger than `limit` bytes."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise LabelError(f"{path}: has {size >> 20} MiB, over {limit >> 20}, too large for labels; split it")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise LabelError(f"{path}: cannot be read: {one_line(error)}") from error


def read_lines(path: Path, limit: int = MAX_IMAGE_FILE) -> list[str]:
    """The lines of a text file; LabelError as `read_bytes`, or where it is no text."""
    content = read_bytes(path, limit)
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: is not text in UTF-8: {one_line(error)}") from error


def read_json(path: Path, *, limit: int = MAX_JSON, reduce: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        limit: its maximum size in bytes.
        reduce: called with every object as soon as it has been parsed; what it returns is kept instead. It makes
            files of many outlines fit into memory.

    Raises:
        LabelError: it cannot be read, or is not JSON.
    """
    content = read_bytes(path, limit)
    try:
        return json.loads(content, object_hook=reduce)
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{path}: is not text in UTF-8 ({one_line(error)}); save it as UTF-8, as by iconv -f latin1 -t utf-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise LabelError(
            f"{path}: is not valid JSON: {one_line(error)}; it may be incomplete, copy it again"
        ) from error


def read_xml(path: Path, root: str) -> ElementTree.Element:
    """The root element of an XML file. Entity declarations, which can expand without bounds, are refused.

    Raises:
        LabelError: it cannot be read, is not XML, declares a document type, or has another root than `root`.
    """
    content = read_bytes(path)
    # Declarations in UTF-16 would pass a search for bytes.
    text = content.replace(b"\0", b"").lower()
    if b"<!doctype" in text or b"<!entity" in text:
        raise LabelError(f"{path}: declares a document type; remove that")
    try:
        found = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise LabelError(
            f"{path}: is not well-formed XML: {one_line(error)}; it may be incomplete, copy it again"
        ) from error
    if found.tag != root:
        raise LabelError(f"{path}: is XML with the root {found.tag[:60]!r}, expected {root!r}")
    return found
