"""Files that an evaluation writes: whole or not at all, and none is replaced unasked."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from geosod.errors import OutputError


def check_new(paths: Iterable[Path | None], *, overwrite: bool) -> None:
    """Check before any work that files can be written.

    Raises:
        OutputError: one exists and is not to be replaced, is a folder, or lies in no folder.
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give the name of a file")
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists; use --overwrite, or another name")
        if not path.absolute().parent.is_dir():
            raise OutputError(f"{path}: there is no folder {path.absolute().parent}; make it first")


def write_whole(path: Path, text: str) -> None:
    """Write a text file, in one step.

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}; choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def as_config(settings: Mapping[str, Any], comment: str) -> str:
    """Settings as a YAML file for ``geosod detect --config``, under a comment."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
