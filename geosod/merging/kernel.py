"""Compilation of this package's numba kernels, and the cache of the compiled code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from geosod.compiled import njit

_Scalar = TypeVar("_Scalar", bound=np.generic)


def _digest() -> str:
    """A short hash of this package's source code."""
    state = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        state.update(file.read_bytes())
    return state.hexdigest()[:12]


_STATE = _digest()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function without the GIL, and cache the compiled code on disk where the disk can be written to.

    numba notices a change of the cached function itself, but not of a function that it calls in another file. The
    cache files are named after the function's qualified name, so a hash of the whole package is appended to that.
    """
    return _compiled(function, counts_references=True)


def lean_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `kernel`, for functions that neither create nor return arrays.

    numba counts references each time such a function gets an array or reads one from a tuple. That costs small
    functions more time than their work, and their callers keep the arrays alive anyway. They are therefore compiled
    without numba's runtime; numba refuses to compile them if they create arrays.
    """
    return _compiled(function, counts_references=False)


def _compiled(function: Callable[..., Any], *, counts_references: bool) -> Callable[..., Any]:
    function.__qualname__ += f"_{_STATE}"
    return njit(nogil=True, error_model="numpy", _nrt=counts_references)(function)


def read_only(array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """A read-only view of an array.

    numba compiles a kernel once for writable arrays and once more for read-only ones. Kernels therefore get the
    columns of `Detections` through this function, so that one compiled version serves both.
    """
    view = array.view()
    view.flags.writeable = False
    return view
