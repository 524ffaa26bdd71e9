"""The folder in which geosod keeps what it can make again: packed models, and how fast this machine ran them."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder of one kind of cached files; it need not exist.

    It lies in that of the environment variable GEOSOD_CACHE, or XDG_CACHE_HOME, or in ~/.cache.
    """
    chosen = os.environ.get("GEOSOD_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen).expanduser() / "geosod" / kind
