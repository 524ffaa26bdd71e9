"""torchvision's operator for NMS, without the import of all of torchvision, which takes as long as that of torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Greedy NMS, as ``torchvision.ops.nms``.

    Args:
        boxes: (N, 4) left, top, right and bottom.
        scores: (N,) of the same type.
        iou: a box is dropped if it overlaps a better one by more than this.

    Returns:
        (M,) int64, the rows that remain, the best first.
    """
    return _operator()(boxes, scores, iou)


@cache
def _operator() -> Callable[[Tensor, Tensor, float], Tensor]:
    spec = find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in sorted(Path(folder).glob("_C*")):
            if (found := _in_library(library)) is not None:
                return found
    from torchvision.ops import nms as whole

    found_there: Callable[[Tensor, Tensor, float], Tensor] = whole
    return found_there


def _in_library(library: Path) -> Callable[[Tensor, Tensor, float], Tensor] | None:
    """The operator that a compiled library registers, or None."""
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        found: Callable[[Tensor, Tensor, float], Tensor] = torch.ops.torchvision.nms.default
    except (OSError, AttributeError):
        return None
    return found
