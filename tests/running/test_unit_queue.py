"""Units are taken once, down the columns of a grid, and scenes in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geosod.running.unit_queue import UnitQueue
from geosod.scene import Unit, Window


@dataclass(frozen=True)
class Item:
    unit: Unit


def units(scene: str, rows: int, columns: int, *, keep=None, level: float = 1.0) -> list[Item]:
    window = Window(0, 0, 1, 1)
    return [
        Item(Unit(f"{level}-{r}-{c}", scene, (r, c), level, (window,), window, window))
        for r in range(rows)
        for c in range(columns)
        if keep is None or keep[r, c]
    ]


def place(item: Item | None) -> tuple[str, int, int] | None:
    return None if item is None else (item.unit.scene_id, *item.unit.index)


def test_readers_go_down_columns_of_their_own() -> None:
    queue: UnitQueue[Item] = UnitQueue()
    queue.extend(units("a", 4, 2))
    first, second = queue.take(), queue.take()
    assert (place(first), place(second)) == (("a", 0, 0), ("a", 0, 1))
    below = queue.take_below(first)
    assert place(below) == ("a", 1, 0)
    # No column is left that nobody reads: the longest, from its middle.
    third = queue.take()
    assert place(third) == ("a", 2, 1)
    assert place(queue.take_below(third)) == ("a", 3, 1)
    assert place(queue.take_below(second)) == ("a", 1, 1)
    assert place(queue.take_below(below)) == ("a", 2, 0)
    assert queue.take_below(third) is None and len(queue) == 1
    assert place(queue.take()) == ("a", 3, 0) and queue.take() is None


def test_scenes_and_levels_are_columns_of_their_own() -> None:
    queue: UnitQueue[Item] = UnitQueue()
    queue.extend([*units("a", 2, 1), *units("a", 2, 1, level=0.5)])
    queue.extend(units("b", 2, 1))
    first = queue.take()
    assert place(first) == ("a", 0, 0) and first.unit.level == 1.0
    below = queue.take_below(first)
    assert below.unit.level == 1.0 and queue.take_below(below) is None
    assert queue.take().unit.level == 0.5
    # One unit of the first scene is left; it comes before the second scene.
    assert place(queue.take()) == ("a", 1, 0)
    assert place(queue.take()) == ("b", 0, 0)


@given(rows=st.integers(1, 6), columns=st.integers(1, 4), readers=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_unit_is_taken_once(rows: int, columns: int, readers: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queue: UnitQueue[Item] = UnitQueue()
    expected = []
    for scene in ("a", "b"):
        items = units(scene, rows, columns, keep=rng.random((rows, columns)) < 0.8)
        queue.extend(items)
        expected += items
    taken: list[Item] = []
    at: list[Item | None] = [None] * readers
    while len(queue):
        i = int(rng.integers(readers))
        item = queue.take_below(at[i]) if at[i] is not None else None
        if item is not None:
            assert item.unit.index == (at[i].unit.index[0] + 1, at[i].unit.index[1])
        at[i] = item = item or queue.take()
        taken.append(item)
    assert sorted(map(place, taken)) == sorted(map(place, expected))
