"""Where do things stand in the demo scene, and what is the ground truth of its objects?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.compiled import njit
from geosod.demo.proposals import LAND, WATER
from geosod.demo.sites import propose
from geosod.demo.sprites import BUILDING, PIER, TANK, draw, true_boxes
from geosod.demo.terrain import Terrain, make_terrain, sample_terrain
from geosod.errors import ConfigError

#: Classes of the truth, in the order of their labels.
CLASSES = ("vessel", "vehicle", "tank")

#: Side of the buckets that primitives are sorted into, in pixels.
BUCKET = 256

#: Range of the longer side of an object, in pixels.
_MIN_SIDE, _MAX_SIDE = 6.0, 60.0
_THICK_CLOUD = 0.22
#: Maximum intersection of two objects over the smaller one.
_MAX_OVERLAP = 0.2
#: Minimum distance of the centres of two objects, in x or y.
_MIN_DISTANCE = 8.0
_CELL = 64


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Everything that a scene shows, before it is drawn.

    Attributes:
        size: width and height in pixels.
        seed: seed that it was made from.
        terrain: parameters of the ground, the clouds and the swath.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame, tight on each object.
        labels: (N,) int32, index into `CLASSES`.
        shapes: (P, 14) float64, primitives in paint order, columns as in `sprites.SHAPE_COLUMNS`.
        grid: buckets along a side of the scene.
        bucket_starts: (grid * grid + 1,) int64, where each bucket begins in `bucket_members`.
        bucket_members: (M,) int32, rows of `shapes` that may touch a bucket, in paint order.
    """

    size: int
    seed: int
    terrain: Terrain
    boxes: FloatArray
    labels: npt.NDArray[np.int32]
    shapes: FloatArray
    grid: int
    bucket_starts: IntArray
    bucket_members: npt.NDArray[np.int32]


@njit(nogil=True)
def _overlap(p: FloatArray, q: FloatArray, gap: float) -> bool:
    """Whether two oriented rectangles (cx, cy, cos, sin, hl, hw) come closer than `gap` (separating axes)."""
    dx, dy = q[0] - p[0], q[1] - p[1]
    for a, b in ((p, q), (q, p)):
        c = abs(a[2] * b[2] + a[3] * b[3])
        s = abs(a[2] * b[3] - a[3] * b[2])
        if abs(dx * a[2] + dy * a[3]) > a[4] + b[4] * c + b[5] * s + gap:
            return False
        if abs(dy * a[2] - dx * a[3]) > a[5] + b[4] * s + b[5] * c + gap:
            return False
    return True


@njit(nogil=True)
def _too_close(a: FloatArray, b: FloatArray) -> bool:
    """Whether two objects are too close for both to be in the ground truth."""
    distance = max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2
    if distance < _MIN_DISTANCE:
        return True
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0.0 or h <= 0.0:
        return False
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return bool(w * h > _MAX_OVERLAP * smaller)


@njit(nogil=True)
def _accept(
    poses: FloatArray, boxes: FloatArray, group: IntArray, parent: IntArray, kind: IntArray, fit: BoolArray, grid: int
) -> BoolArray:
    """Accept things in order of precedence; reject those that collide with others or whose parent was rejected."""
    n = len(poses)
    cells = np.clip((boxes / _CELL).astype(np.int64), 0, grid - 1)
    entries = int(np.sum((cells[:, 2] - cells[:, 0] + 1) * (cells[:, 3] - cells[:, 1] + 1)))
    head = np.full(grid * grid, -1, np.int64)
    thing, following = np.empty(entries, np.int64), np.empty(entries, np.int64)
    used = 0
    kept = np.zeros(n, np.bool_)
    for i in range(n):
        if not fit[i] or (parent[i] >= 0 and not kept[parent[i]]):
            continue
        free = True
        for r in range(cells[i, 1], cells[i, 3] + 1):
            for c in range(cells[i, 0], cells[i, 2] + 1):
                e = head[r * grid + c]
                while e >= 0 and free:
                    j = thing[e]
                    e = following[e]
                    if kind[i] <= TANK and kind[j] <= TANK:
                        free = not _too_close(boxes[i], boxes[j]) and not _overlap(poses[i], poses[j], 0.8)
                    elif (group[i] != group[j] and parent[i] != j) or (kind[i] == BUILDING and kind[j] == BUILDING):
                        free = not _overlap(poses[i], poses[j], 1.5)
        if not free:
            continue
        kept[i] = True
        for r in range(cells[i, 1], cells[i, 3] + 1):
            for c in range(cells[i, 0], cells[i, 2] + 1):
                thing[used], following[used] = i, head[r * grid + c]
                head[r * grid + c] = used
                used += 1
    return kept


@njit(nogil=True)
def _sort_into_buckets(boxes: FloatArray, grid: int) -> tuple[IntArray, npt.NDArray[np.int32]]:
    spans = np.clip(np.floor(boxes / BUCKET).astype(np.int64), 0, grid - 1)
    starts = np.zeros(grid * grid + 1, np.int64)
    for i in range(len(spans)):
        for r in range(spans[i, 1], spans[i, 3] + 1):
            for c in range(spans[i, 0], spans[i, 2] + 1):
                starts[r * grid + c + 1] += 1
    starts = np.cumsum(starts)
    cursor = starts[:-1].copy()
    members = np.empty(starts[-1], np.int32)
    for i in range(len(spans)):
        for r in range(spans[i, 1], spans[i, 3] + 1):
            for c in range(spans[i, 0], spans[i, 2] + 1):
                members[cursor[r * grid + c]] = i
                cursor[r * grid + c] += 1
    return starts, members


def _corners(things: dict[str, FloatArray]) -> FloatArray:
    """(N, 5, 2) the centre and the corners of each thing."""
    cos, sin = np.cos(things["angle"])[:, None], np.sin(things["angle"])[:, None]
    u = things["half_length"][:, None] * np.array([0, -1, -1, 1, 1])
    v = things["half_width"][:, None] * np.array([0, -1, 1, -1, 1])
    x = things["cx"][:, None] + u * cos - v * sin
    y = things["cy"][:, None] + u * sin + v * cos
    return np.stack([x, y], axis=-1)


def _fits(things: dict[str, FloatArray], boxes: FloatArray, terrain: Terrain, size: int) -> BoolArray:
    """Which things stand on the surface they need; objects must also be in the swath, of valid size and cloud-free."""
    height, cloud, valid = sample_terrain(terrain, _corners(things).reshape(-1, 2))
    height, cloud, valid = height.reshape(-1, 5), cloud.reshape(-1, 5), valid.reshape(-1, 5)
    surface = things["surface"]
    fit = np.where(surface == LAND, (height > 0.012).all(1), True)
    fit &= np.where(surface == WATER, (height < -0.006).all(1), True)
    # A pier must end in water.
    fit &= np.where(things["kind"] == PIER, (height[:, 3:] < -0.01).all(1), True)
    longest = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    inside = (boxes[:, :2] >= 3).all(1) & (boxes[:, 2:] <= size - 3).all(1)
    clear = valid.all(1) & (cloud < _THICK_CLOUD).all(1)
    good = inside & clear & (longest >= _MIN_SIDE) & (longest <= _MAX_SIDE)
    result: BoolArray = fit & (good | (things["kind"] > TANK))
    return result


def _attempt(terrain: Terrain, size: int, rng: np.random.Generator) -> tuple[dict[str, FloatArray], FloatArray]:
    things = propose(terrain, size, rng)
    boxes = true_boxes(things)
    fit = _fits(things, boxes, terrain, size)
    angle = things["angle"]
    columns = (things["cx"], things["cy"], np.cos(angle), np.sin(angle), things["half_length"], things["half_width"])
    group, parent = things["group"].astype(np.int64), things["parent"].astype(np.int64)
    kind = things["kind"].astype(np.int64)
    kept = _accept(np.stack(columns, axis=1), boxes, group, parent, kind, fit, -(-size // _CELL))
    return {name: column[kept] for name, column in things.items()}, boxes[kept]


def _reach(shapes: FloatArray) -> FloatArray:
    """Boxes (P, 4) of the pixels that each primitive may paint."""
    cos, sin = np.abs(shapes[:, 3]), np.abs(shapes[:, 4])
    hl, hw, soft = shapes[:, 5], shapes[:, 6], shapes[:, 13] + 1.0
    ex, ey = hl * cos + hw * sin + soft, hl * sin + hw * cos + soft
    return np.stack([shapes[:, 1] - ex, shapes[:, 2] - ey, shapes[:, 1] + ex, shapes[:, 2] + ey], axis=1)


def make_layout(size: int, seed: int) -> Layout:
    """Lay out a square scene of coast, harbours, towns and fields.

    The density of things does not depend on the size. From 2048 px on every class occurs. No two objects overlap by
    more than a fifth of the smaller box, none lies under thick cloud or across the edge of the swath, and the longer
    side of every box is between 6 and 60 px.

    Args:
        size: width and height in pixels, at least 1024.
        seed: any integer from 0 to 2**31 - 1; the same seed and size give the same scene.

    Raises:
        ConfigError: the size or the seed is out of range.
    """
    if size < 1024 or not 0 <= seed < 2**31:
        raise ConfigError(f"make_layout: size {size} must be at least 1024 and seed {seed} between 0 and 2147483647")
    rng = np.random.default_rng([size, seed])
    for attempt in range(64):
        terrain = make_terrain(size, int((seed * 7919 + attempt * 104729) % 1_000_003))
        things, boxes = _attempt(terrain, size, rng)
        counts = np.bincount(things["kind"].astype(np.int64), minlength=3)[:3]
        if size < 2048 or (counts >= 5).all():
            break
    objects = things["kind"] <= TANK
    shapes = draw(things)
    grid = -(-size // BUCKET)
    starts, members = _sort_into_buckets(_reach(shapes), grid)
    labels = things["kind"][objects].astype(np.int32)
    return Layout(size, seed, terrain, boxes[objects], labels, shapes, grid, starts, members)
