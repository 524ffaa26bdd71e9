import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.errors import ConfigError
from geosod.scene import Window
from geosod.tiling.grid import make_grid
from geosod.tiling.units import merge_tree, plan_units


@st.composite
def plans(draw):
    tile = draw(st.tuples(st.integers(8, 30), st.integers(8, 30)))
    overlap = tuple(draw(st.integers(0, side // 2) | st.floats(0, 0.5)) for side in tile)
    grid = make_grid(draw(st.integers(1, 130)), draw(st.integers(1, 130)), tile=tile, overlap=overlap)
    shape = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    keep = None
    if draw(st.booleans()):
        seed, share = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.05, 0.3, 0.8]))
        keep = np.random.default_rng(seed).random((grid.rows, grid.cols)) < share
    return grid, shape, keep


def within(core, grid):
    """The part of a core that lies in the scene."""
    return core.intersection(Window(0, 0, grid.width, grid.height))


def overlaps(core, windows):
    return any(core.width > 0 and core.height > 0 and core.intersection(w) for w in windows)


@given(plans())
def test_units_hold_every_kept_tile_once(case):
    grid, shape, keep = case
    units = plan_units("s", grid, shape=shape, keep=keep)
    kept = [grid.window(i, j) for i in range(grid.rows) for j in range(grid.cols) if keep is None or keep[i, j]]
    held = [w for u in units for w in u.windows]
    assert sorted(held, key=lambda w: (w.row, w.col)) == kept
    assert all(u.windows for u in units)
    assert len({u.id for u in units}) == len(units)
    assert [u.id for u in units] == sorted(u.id for u in units)
    for u in units:
        assert list(u.windows) == sorted(u.windows, key=lambda w: (w.row, w.col))
        assert len({w.row for w in u.windows}) <= (shape[0] or grid.rows)
        assert len({w.col for w in u.windows}) <= (shape[1] or grid.cols)
        box = u.read_window
        assert (box.col, box.row) == (min(w.col for w in u.windows), min(w.row for w in u.windows))
        assert (box.right, box.bottom) == (max(w.right for w in u.windows), max(w.bottom for w in u.windows))


@given(plans())
@settings(deadline=None)
def test_no_tile_of_another_unit_reaches_into_a_core_and_the_core_is_as_large_as_that_allows(case):
    grid, shape, keep = case
    full = plan_units("s", grid, shape=shape)
    cores = {u.index: u.core for u in full}
    for unit in full:
        core = unit.core
        assert core.width >= 0
        assert core.height >= 0
        others = [w for u in full if u.index != unit.index for w in u.windows]
        assert not overlaps(core, others)
        if core.width == 0 or core.height == 0:
            continue
        core = within(core, grid)
        for grown in (
            Window(core.col - 1, core.row, core.width + 1, core.height),
            Window(core.col, core.row - 1, core.width, core.height + 1),
            Window(core.col, core.row, core.width + 1, core.height),
            Window(core.col, core.row, core.width, core.height + 1),
        ):
            inside = grown.col >= 0 and grown.row >= 0 and grown.right <= grid.width and grown.bottom <= grid.height
            assert not inside or overlaps(grown, others)
    for unit in plan_units("s", grid, shape=shape, keep=keep):
        assert unit.core == cores[unit.index], "cores do not depend on the kept tiles"


@given(plans(), st.integers(2, 5))
@settings(deadline=None)
def test_tree_joins_everything_and_no_tile_outside_a_group_reaches_into_its_core(case, fan_in):
    grid, shape, keep = case
    units = plan_units("s", grid, shape=shape, keep=keep)
    tree = merge_tree(units, grid, fan_in=fan_in)
    if not units:
        assert tree == ()
        return
    below = {u.id: {u.id} for u in units}
    assert len({g.id for level in tree for g in level} | set(below)) == sum(map(len, tree)) + len(units)
    for level in tree:
        children = [c for g in level for c in g.children]
        assert sorted(children) == sorted(below), "each child has one parent in the next level"
        assert all(1 <= len(g.children) <= fan_in for g in level)
        below = {g.id: set().union(*(below[c] for c in g.children)) for g in level}
        for group in level:
            assert group.core.width >= 0
            assert group.core.height >= 0
            assert not overlaps(group.core, [w for u in units if u.id not in below[group.id] for w in u.windows])
            members = {u.index for u in units if u.id in below[group.id]}
            rows, cols = {r for r, _ in members}, {c for _, c in members}
            hull = {u.index for u in units if min(rows) <= u.index[0] <= max(rows)}
            hull &= {u.index for u in units if min(cols) <= u.index[1] <= max(cols)}
            assert members == hull, "a group is a rectangle of units"
    assert len(tree[-1]) == 1
    assert within(tree[-1][0].core, grid) == Window(0, 0, grid.width, grid.height)
    assert tree[-1][0].core.col < -1000 and tree[-1][0].core.bottom > grid.height + 1000, "no tile is beyond"


def test_rows_are_joined_before_columns():
    grid = make_grid(80, 60, tile=10, overlap=0)
    tree = merge_tree(plan_units("s", grid, shape=(2, 2)), grid, fan_in=2)
    assert [len(level) for level in tree] == [6, 3, 2, 1]
    assert tree[0][0].children == ("1.0x-r00000-c00000", "1.0x-r00000-c00001")
    assert within(tree[1][1].core, grid) == Window(0, 20, 80, 20)


def test_core_of_a_unit_among_shifted_tiles():
    # Starts 0, 80, 160, 181: the third tile reaches to 260, far into the last one.
    grid = make_grid(281, 100, tile=100, overlap=20)
    units = plan_units("s", grid, shape=(1, 1))
    cores = [within(u.core, grid) for u in units]
    assert units[0].core.col < -1000 and units[-1].core.right > 1281, "there are no tiles beyond the scene"
    assert [(c.col, c.right) for c in cores] == [(0, 80), (100, 160), (180, 181), (260, 281)]


def test_a_unit_that_neighbours_cover_has_an_empty_core():
    grid = make_grid(210, 100, tile=100, overlap=60)
    units = plan_units("s", grid, shape=(1, 1))
    assert [u.core.width for u in units[1:3]] == [0, 0]
    assert [within(u.core, grid).width for u in (units[0], units[3])] == [40, 30]


def test_a_group_stops_at_the_next_unit_that_exists():
    grid = make_grid(80, 10, tile=10, overlap=0)
    keep = np.zeros((1, 8), bool)
    keep[0, [1, 6]] = True
    tree = merge_tree(plan_units("s", grid, shape=(1, 1), keep=keep), grid, fan_in=2)
    cores = [[within(g.core, grid) for g in level] for level in tree]
    assert [[(c.col, c.right) for c in level] for level in cores] == [[(0, 60), (20, 80)]] * 2 + [[(0, 80)]]


def test_unusable_arguments_are_refused():
    grid = make_grid(100, 100, tile=50, overlap=10)
    with pytest.raises(ConfigError, match=r"\(-1, 2\)"):
        plan_units("s", grid, shape=(-1, 2))
    with pytest.raises(ConfigError, match=r"\(2, 2\)"):
        plan_units("s", grid, shape=(1, 1), keep=np.ones((2, 2), bool))
    with pytest.raises(ConfigError, match="fan_in=1"):
        merge_tree(plan_units("s", grid, shape=(1, 1)), grid, fan_in=1)
