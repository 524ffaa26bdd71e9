"""Units of work: neighbouring tiles grouped into units, and units into a tree in which they are merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from geosod.arrays import BoolArray
from geosod.errors import ConfigError
from geosod.scene import Unit, Window
from geosod.tiling.grid import Grid

#: A core extends this many pixels beyond the scene's edge, where there are no tiles: farther than any box.
_BEYOND = 1 << 20


@dataclass(frozen=True, slots=True)
class Group:
    """Units whose pending boxes are merged together: a node of the merge tree.

    Attributes:
        id: unique among the scene's groups and units.
        children: ids of the units (first level) or of the groups of the level below.
        core: the rectangle that no tile outside the group reaches; it extends beyond the scene's edges.
        whole: there are no units outside the group.
    """

    id: str
    children: tuple[str, ...]
    core: Window
    whole: bool = False


def plan_units(
    scene_id: str,
    grid: Grid,
    *,
    shape: tuple[int, int],
    level: float = 1.0,
    keep: BoolArray | None = None,
) -> tuple[Unit, ...]:
    """Group the tiles of a grid into rectangular units, in reading order.

    Args:
        scene_id: the scene the units belong to.
        grid: the tiles.
        shape: (rows, columns) of tiles in a unit; 0 takes all. Units at the right and the bottom may be smaller.
        level: scale the tiles are read at.
        keep: (grid.rows, grid.cols) bool, False where a tile is not wanted; None keeps all.

    Returns:
        The units that keep a tile. ``windows`` and ``read_window`` cover kept tiles only. ``core`` is
        computed from the full grid, kept or not, and so depends only on the grid and `shape`; where the
        neighbours reach across the whole unit it is empty, with a width or height of 0.

    Raises:
        ConfigError: `shape` is negative, or `keep` does not have the grid's shape.
    """
    if min(shape) < 0:
        raise ConfigError(f"Unit shape {shape}: rows and columns of tiles must be at least 1, or 0 for all.")
    if keep is not None and keep.shape != (grid.rows, grid.cols):
        raise ConfigError(f"keep has shape {keep.shape}, expected {(grid.rows, grid.cols)}, one value per tile.")
    unit_rows = _spans(grid.y_starts, grid.tile_height, grid.height, shape[0])
    unit_cols = _spans(grid.x_starts, grid.tile_width, grid.width, shape[1])
    units = []
    for r, (rows, top, bottom) in enumerate(unit_rows):
        for c, (cols, left, right) in enumerate(unit_cols):
            windows = tuple(grid.window(i, j) for i in rows for j in cols if keep is None or keep[i, j])
            if windows:
                uid = f"{level!r}x-r{r:05d}-c{c:05d}"
                core = Window(left, top, right - left, bottom - top)
                units.append(Unit(uid, scene_id, (r, c), level, windows, _hull(windows), core))
    return tuple(units)


def merge_tree(units: Sequence[Unit], grid: Grid, *, fan_in: int = 4) -> tuple[tuple[Group, ...], ...]:
    """Plan in which order the pending boxes of units are merged.

    Up to `fan_in` neighbours are joined at a time, first along the columns of each row of units, then full
    rows with the rows below. Every unit or group has one parent in the next level. A group's core is
    bounded by the tiles of the other units given here, so units left out by `plan_units` do not narrow it.

    Args:
        units: units of one scene and one grid.
        grid: the grid they were planned on.
        fan_in: how many neighbours are merged at a time, at least 2.

    Returns:
        Levels of groups in reading order. The last level is one group whose core holds the whole scene; a
        single unit has that level alone. No units, no levels.

    Raises:
        ConfigError: `fan_in` is less than 2.
    """
    if fan_in < 2:
        raise ConfigError(f"fan_in={fan_in}: a merge tree needs to join at least 2 neighbours at a time.")
    if not units:
        return ()
    rows = _reach([(u.index[0], w.row, w.bottom) for u in units for w in u.windows], grid.height)
    cols = _reach([(u.index[1], w.col, w.right) for u in units for w in u.windows], grid.width)
    level = {u.index: u.id for u in units}
    n_rows, n_cols = 1 + max(r for r, _ in level), 1 + max(c for _, c in level)
    tree: list[tuple[Group, ...]] = []
    row_span, col_span = 1, 1
    while not tree or row_span < n_rows or col_span < n_cols:
        step = (1, fan_in) if col_span < n_cols else (fan_in, 1)
        row_span, col_span = row_span * step[0], col_span * step[1]
        children: dict[tuple[int, int], list[str]] = {}
        for (r, c), uid in sorted(level.items()):
            children.setdefault((r // step[0], c // step[1]), []).append(uid)
        groups = {}
        for (r, c), ids in children.items():
            core = _core(rows, cols, (r * row_span, (r + 1) * row_span), (c * col_span, (c + 1) * col_span))
            groups[r, c] = Group(
                f"{units[0].level!r}x-g{len(tree) + 1}-r{r:05d}-c{c:05d}", tuple(ids), core, len(children) == 1
            )
        tree.append(tuple(groups.values()))
        level = {index: group.id for index, group in groups.items()}
    return tuple(tree)


def _spans(starts: tuple[int, ...], side: int, length: int, per_unit: int) -> list[tuple[range, int, int]]:
    """Tiles of each unit along one axis, and the closed interval that no other unit's tile reaches into."""
    count = len(starts)
    spans = []
    for first in range(0, count, per_unit or count):
        stop = min(first + (per_unit or count), count)
        low = starts[first - 1] + side if first else -_BEYOND
        high = starts[stop] if stop < count else length + _BEYOND
        spans.append((range(first, stop), low, max(low, high)))
    return spans


def _hull(windows: Iterable[Window]) -> Window:
    corners = np.array([(w.col, w.row, w.right, w.bottom) for w in windows])
    (col, row), (right, bottom) = corners[:, :2].min(0).tolist(), corners[:, 2:].max(0).tolist()
    return Window(col, row, right - col, bottom - row)


def _reach(extents: Iterable[tuple[int, int, int]], length: int) -> tuple[list[int], list[int]]:
    """How far tiles reach along one axis, for each index of a unit.

    Returns:
        ``before[i]``, the last end of a tile of a unit with an index less than i, or far before 0; and ``after[i]``,
        the first start of a tile of a unit with index i or more, or far after `length`.
    """
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for index, start, end in extents:
        starts[index] = min(start, starts.get(index, start))
        ends[index] = max(end, ends.get(index, end))
    before, after = [-_BEYOND], [length + _BEYOND]
    for i in range(max(ends) + 1):
        before.append(max(before[-1], ends.get(i, -_BEYOND)))
    for i in range(max(ends), -1, -1):
        after.append(min(after[-1], starts.get(i, length + _BEYOND)))
    return before, after[::-1]


def _core(
    rows: tuple[list[int], list[int]],
    cols: tuple[list[int], list[int]],
    row_range: tuple[int, int],
    col_range: tuple[int, int],
) -> Window:
    """The rectangle that no unit outside the half-open ranges of unit rows and columns reaches."""
    top, bottom = rows[0][row_range[0]], rows[1][min(row_range[1], len(rows[1]) - 1)]
    left, right = cols[0][col_range[0]], cols[1][min(col_range[1], len(cols[1]) - 1)]
    return Window(left, top, max(0, right - left), max(0, bottom - top))
