"""What the C library does with memory that was freed."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Let the C library keep the buffers of a forward pass for the next one.

    By default glibc gives large blocks back to the system and takes the same again for every tile, and each time the
    system clears every page of them: a fifth of the time of a small network on a CPU. So no block is mapped by itself,
    and all threads share the heap of the main one, since those of other threads are given back whatever the threshold
    says. See mallopt(3).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return freed memory that the C library keeps to the system, so that an idle worker keeps no strips."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of glibc; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
