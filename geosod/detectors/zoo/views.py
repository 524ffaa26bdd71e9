"""Views of an image, flipped and turned, whose heat maps are averaged (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

_ROWS, _COLUMNS = 2, 3
#: Views are the image, its mirror image, both upside down, and all four turned by 90°; the first ones are taken.
_FLIPS: tuple[tuple[int, ...], ...] = ((), (_COLUMNS,), (_ROWS,), (_ROWS, _COLUMNS))


def mean_of_views(maps_of: Callable[[Tensor], Tensor], images: Tensor, views: int) -> Tensor:
    """The mean of a network's maps of some views, each turned back; it computes that many times as long.

    Means of logits, not of probabilities, have no function in them that differs between backends.

    Args:
        maps_of: images (B, C, H, W) → maps (B, K, H / stride, W / stride), none of which is a vector.
        images: (B, C, H, W).
        views: one of `geosod.detectors.zoo.VIEWS`.
    """
    total = maps_of(images)
    for k in range(1, views):
        flips, turned = _FLIPS[k % 4], k >= 4
        seen = images.transpose(_ROWS, _COLUMNS) if turned else images
        maps = maps_of(seen.flip(flips) if flips else seen)
        maps = maps.flip(flips) if flips else maps
        total = total + (maps.transpose(_ROWS, _COLUMNS) if turned else maps)
    return total / views if views > 1 else total
