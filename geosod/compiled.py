"""Compilation of numba kernels, with the compiled code cached on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def njit(**options: Any) -> Callable[[_Function], _Function]:
    """`numba.njit` with a cache; without one where neither the package's folder nor HOME can be written to.

    Args:
        **options: of `numba.njit`, besides ``cache``.
    """

    def compiled(function: _Function) -> _Function:
        try:
            kernel: _Function = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            kernel = numba.njit(**options)(function)
        return kernel

    return compiled


def cache_folder() -> str | None:
    """Where kernels are cached, which NUMBA_CACHE_DIR sets; None where they are compiled anew in every process."""
    kernel: Any = njit()(_probe)
    path: str | None = kernel.stats.cache_path
    return path


def _probe() -> int:
    return 0
