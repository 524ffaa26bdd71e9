"""Tile, overlap and levels that fit the sizes of objects, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from geosod.arrays import FloatArray

#: Sides that are suggested, in pixels.
_TILES = (512, 640, 768, 1024, 1280, 1536, 2048)
#: Overlap is at most this share of a tile: at a quarter, each pixel is read and detected on 1.8 times.
_MAX_OVERLAP = 0.25
#: This share of the objects fits into the overlap.
_COVERED = 0.99
#: Objects up to this share of the tile's side are for the level; larger ones for a coarser one.
_LARGEST = 0.25
#: Objects below so many pixels are hard for networks with a stride of 4: they cover two cells.
_TINY, _TINY_SHARE = 8.0, 0.1
#: A coarser level is worth its time where so many objects need it.
_LARGE_SHARE = 0.001
#: The ranges of neighbouring levels overlap by this factor, so that an object at their border is reported by both.
_SHARED = 0.75


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A setting of `geosod detect`, and why.

    Attributes:
        setting: its name.
        value: as the command line takes it.
        reason: with the figures that it rests on.
    """

    setting: str
    value: str
    reason: str


def suggest(wh: FloatArray) -> tuple[Suggestion, ...]:
    """Settings for objects of these sizes.

    Args:
        wh: (N, 2) float64 width and height in pixels, positive; at least one.
    """
    longest = wh.max(axis=1)
    side = np.sqrt(wh.prod(axis=1))
    cover = float(np.quantile(longest, _COVERED, method="higher"))
    wanted = max(32, 16 * math.ceil(cover / 16))
    tile = next((t for t in _TILES if wanted <= _MAX_OVERLAP * t), _TILES[-1])
    overlap = min(wanted, int(_MAX_OVERLAP * tile))
    return (
        Suggestion("tile", str(tile), _tile_reason(tile, overlap, wanted)),
        Suggestion("overlap", str(overlap), _overlap_reason(longest, overlap, cover)),
        _levels(side, tile),
    )


def _tile_reason(tile: int, overlap: int, wanted: int) -> str:
    again = (tile / (tile - overlap)) ** 2
    text = f"an overlap of {overlap} px is {overlap / tile:.0%} of it, so that pixels are detected on {again:.2f} times"
    if wanted > overlap:
        return f"{text}; the largest objects would need an overlap of {wanted} px, and are left to coarser levels"
    smaller = [t for t in _TILES if t < tile]
    if not smaller:
        return f"{text}; a smaller tile would give the network less surroundings"
    return f"{text}; with {smaller[-1]} px it would be {(smaller[-1] / (smaller[-1] - overlap)) ** 2:.2f} times"


def _overlap_reason(longest: FloatArray, overlap: int, cover: float) -> str:
    share = float((longest <= overlap).mean())
    return (
        f"{share:.1%} of the objects are not longer than it, so that some tile shows each of them whole; 99 % are not "
        f"longer than {cover:.0f} px, the longest is {longest.max():.0f} px"
    )


def _levels(side: FloatArray, tile: int) -> Suggestion:
    top = _LARGEST * tile
    reasons, parts = [], []
    tiny = float((side < _TINY).mean())
    if tiny >= _TINY_SHARE:
        parts.append(f"2:0-{2 * _TINY:g}")
        reasons.append(f"{tiny:.1%} of the objects are below {_TINY:g} px (√area), which twice the scale makes visible")
    coarser: list[str] = []
    scale = 1.0
    limit = top
    while float((side > limit).mean()) >= _LARGE_SHARE and scale > 1 / 64:
        share = float((side > limit).mean())
        scale /= 2
        # The coarsest level has no upper end; which one that is shows in the next round.
        coarser.append(f"{scale:g}:{_SHARED * limit:g}-")
        reasons.append(f"{share:.1%} are above {limit:g} px, a quarter of the tile at scale {2 * scale:g}")
        limit *= 2
    ends = [f"{top * 2 ** (k + 1):g}" for k in range(len(coarser) - 1)]
    coarser = [text + end for text, end in zip(coarser, [*ends, ""], strict=True)] if coarser else []
    if not parts and not coarser:
        return Suggestion(
            "levels",
            "1",
            f"all but {float((side > top).mean()):.2%} of the objects are between {_TINY:g} px and a quarter of the "
            f"tile, so that one scale shows them; {tiny:.1%} are smaller",
        )
    low = f"{_SHARED * _TINY * 2:g}" if parts else "0"
    own = f"1:{low}-{top:g}" if coarser else f"1:{low}-"
    return Suggestion("levels", ",".join([*parts, own, *coarser]), "; ".join(reasons))
