"""How the room's compiled code is compiled and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def _digest() -> str:
    """A short name for the state of the room's source."""
    state = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        state.update(file.read_bytes())
    return state.hexdigest()[:12]


_STATE = _digest()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the GIL and keep the result on disk, where there is a place to keep it.

    numba notices that a cached function changed, but not that one it calls did, in another file. The files
    it caches bear the function's qualified name, so the state of the whole room is made part of that.
    """
    function.__qualname__ += f"_{_STATE}"
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)
