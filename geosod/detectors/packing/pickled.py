"""Which modules the pickle in a file of ``torch.save`` names, read without unpickling it."""

from __future__ import annotations

import pickletools
import zipfile
import zlib
from pathlib import Path

#: Of the pickle, which holds no tensors.
_MAX_BYTES = 64 << 20
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "BINUNICODE8")


def modules_named(path: Path) -> frozenset[str]:
    """Full names of the modules whose classes or functions unpickling a file would look up; empty for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next((name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]), None)
            if entry is None:
                return frozenset()
            with archive.open(entry) as file:
                content = file.read(_MAX_BYTES)
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return frozenset()
    return frozenset(_modules(content))


def _modules(content: bytes) -> set[str]:
    found: set[str] = set()
    texts: set[str] = set()
    stacked = False
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("GLOBAL", "INST"):
                found.add(str(argument).partition(" ")[0])
            elif opcode.name == "STACK_GLOBAL":
                stacked = True
            elif opcode.name in _TEXTS:
                texts.add(str(argument))
    except (ValueError, UnicodeDecodeError, IndexError):
        pass  # cut off, or no pickle from there on
    # With STACK_GLOBAL the module is a text that was pushed before, from wherever.
    return found | texts if stacked else found
