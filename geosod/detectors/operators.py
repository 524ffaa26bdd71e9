"""torchvision's compiled operators, without the import of all of torchvision, which takes longer than that of torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
    kept: Tensor = _operators().nms(boxes, scores, iou)
    return kept


def roi_align(maps: Tensor, regions: Tensor, size: tuple[int, int], scale: float, samples: int) -> Tensor:
    """Regions of maps, resized, as ``torchvision.ops.roi_align`` with ``aligned=True`` (He et al. 2017, section 3).

    Args:
        maps: (B, C, H, W).
        regions: (M, 5) of the same type: index of the image, left, top, right and bottom.
        size: height and width of the result.
        scale: from the regions' coordinates to those of the maps.
        samples: a value is the mean of ``samples`` x ``samples`` places; -1: as many as there are pixels.

    Returns:
        (M, C, height, width); pixels outside of a map count as 0.
    """
    cut: Tensor = _operators().roi_align(maps, regions, scale, *size, samples, True)
    return cut


@cache
def _operators() -> Any:
    """The namespace of the operators, after the library that registers them was loaded."""
    spec = find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        if any(map(_registers, sorted(Path(folder).glob("_C*")))):
            return torch.ops.torchvision
    import_module("torchvision")
    return torch.ops.torchvision


def _registers(library: Path) -> bool:
    """Load a compiled library; whether the operators are there now."""
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return all(hasattr(torch.ops.torchvision, name) for name in ("nms", "roi_align"))
