"""Reading: the same pixels as rasterio, each block once, and a summary of unreadable blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.windows import Window as GdalWindow

from geosod.errors import SceneError
from geosod.results import FAILED, INSPECTED, NODATA
from geosod.scene import Scene, SceneRef, TileBatch, Unit, Window
from geosod.scenes import read
from geosod.scenes.open import open_scene
from geosod.scenes.read import ReadSpec, ReadSummary, UnitReader
from geosod.scenes.strip import Strip
from geosod.tiling.grid import make_grid
from geosod.tiling.units import plan_units
from tests.rasters import noise, write_tif


def scene_of(path: Path) -> Scene:
    return open_scene(SceneRef(str(path), path.stem))


def read_units(scene: Scene, units: Sequence[Unit], spec: ReadSpec) -> list[list[TileBatch | ReadSummary]]:
    """What one reader yields for each unit."""
    with closing(UnitReader(scene, spec)) as reader:
        return [list(reader.read(unit)) for unit in units]


def read_unit(scene: Scene, unit: Unit, spec: ReadSpec) -> list[TileBatch | ReadSummary]:
    """What a reader of its own yields for a unit."""
    return read_units(scene, [unit], spec)[0]


def read_all(
    scene: Scene, *, tile: int | tuple[int, int], overlap: int, unit=(2, 2), bands=None, chunk=3, keep=None, threads=1
):
    """Every tile as {window: (pixels, valid)}, and the summaries."""
    bands = bands or tuple(i for i in range(1, scene.count + 1) if i != scene.alpha)
    tile = (tile, tile) if isinstance(tile, int) else tile
    grid = make_grid(scene.width, scene.height, tile=tile, overlap=overlap)
    tiles, summaries = {}, []
    for piece in plan_units(scene.id, grid, shape=unit, keep=keep):
        for item in read_unit(scene, piece, ReadSpec(bands, tile, chunk, cell=16, threads=threads)):
            if isinstance(item, ReadSummary):
                summaries.append(item)
                continue
            assert isinstance(item, TileBatch)
            assert len(item) <= chunk
            for i, (col, row, width, height) in enumerate(item.windows.tolist()):
                valid = np.ones(tile[::-1], bool) if item.valid is None else item.valid[i]
                tiles[Window(col, row, width, height)] = (item.pixels[i], valid)
    return tiles, summaries


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tiles_hold_what_rasterio_reads(tmp_path: Path, data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    kind = data.draw(st.sampled_from(["none", "nodata", "mask", "alpha"]))
    block = data.draw(st.sampled_from([16, 64, 0]))
    # An alpha band of a signed or float type has no agreed opaque value.
    dtype = data.draw(
        st.sampled_from(["uint8", "uint16"] if kind == "alpha" else ["uint8", "uint16", "int16", "float32"])
    )
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    hole = np.zeros((height, width), bool)
    hole[: rng.integers(0, height + 1), : rng.integers(0, width + 1)] = True
    pixels = noise(4 if kind == "alpha" else 3, height, width, dtype=dtype, seed=seed)
    options = {}
    if kind == "nodata":
        pixels[:, hole] = 0
        options = {"nodata": 0}
    if kind == "alpha":
        pixels[3] = np.where(hole, 0, np.iinfo(dtype).max)
        options = {"photometric": "RGB", "alpha": "YES"}
    mask = np.where(hole, 0, 255).astype(np.uint8) if kind == "mask" else None
    path = write_tif(tmp_path / "s.tif", pixels, block=block, mask=mask, **options)
    scene = scene_of(path)
    assert scene.masks[0] == (kind == "mask") and (scene.alpha == 4) == (kind == "alpha")
    tile = data.draw(st.tuples(st.sampled_from([32, 64, 96]), st.sampled_from([32, 64, 96])))
    tiles, _ = read_all(
        scene,
        tile=tile,
        overlap=data.draw(st.integers(0, 31)),
        unit=data.draw(st.sampled_from([(1, 0), (2, 2), (0, 0)])),
    )
    with rasterio.open(path) as dataset:
        everything, valid = dataset.read([1, 2, 3]), dataset.dataset_mask() != 0
        for window, (got, got_valid) in tiles.items():
            rows, columns = slice(window.row, window.bottom), slice(window.col, window.right)
            expected = np.where(valid[rows, columns], everything[:, rows, columns], 0)
            assert np.array_equal(got[:, : window.height, : window.width], expected)
            assert np.array_equal(got_valid[: window.height, : window.width], valid[rows, columns])
            assert not got_valid[window.height :].any() and not got_valid[:, window.width :].any()
        for window in make_grid(width, height, tile=tile, overlap=0).windows_array().tolist():
            seen = valid[window[1] : window[1] + window[3], window[0] : window[0] + window[2]].any()
            covered = [w for w in tiles if w.intersection(Window(*window))]
            assert not seen or covered, "valid ground in no tile"


def test_empty_tiles_are_dropped(tmp_path: Path) -> None:
    pixels = noise(1, 128, 256)
    pixels[:, :, 128:] = 0
    scene = scene_of(write_tif(tmp_path / "s.tif", pixels, nodata=0))
    tiles, summaries = read_all(scene, tile=64, overlap=0, unit=(0, 0))
    assert {w.col for w in tiles} == {0, 64}
    assert (summaries[0].tiles, summaries[0].empty) == (4, 4)
    assert (summaries[0].coverage.codes[:, :8] == INSPECTED).all()
    assert (summaries[0].coverage.codes[:, 8:] == NODATA).all()


@pytest.mark.parametrize("block", [64, 0])
def test_each_block_row_is_read_once_in_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """The ranges of rows that are read do not overlap or split a block, except at the ends of the unit."""
    scene = scene_of(write_tif(tmp_path / "s.tif", noise(3, 500, 300), block=block))
    requested: list[Window] = []
    original = read.read_window

    def spy(dataset, scene, bands, window, out):
        requested.append(window)
        return original(dataset, scene, bands, window, out)

    monkeypatch.setattr(read, "read_window", spy)
    read_all(scene, tile=128, overlap=32, unit=(0, 0))
    edges = [(w.row, w.bottom) for w in requested]
    assert edges[0][0] == 0 and edges[-1][1] == 500
    assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
    assert all(stop % scene.block_shape[0] == 0 for _, stop in edges[:-1])


@pytest.mark.parametrize("block", [64, 128, 0])
def test_blocks_across_units_are_read_once_where_a_reader_goes_on(tmp_path: Path, monkeypatch, block: int) -> None:
    """Down a column of units; the tiles and summaries are those of units that are read by themselves."""
    scene = scene_of(write_tif(tmp_path / "s.tif", noise(3, 900, 500), block=block))
    units = plan_units("s", make_grid(500, 900, tile=128, overlap=32), shape=(2, 2))
    column = [unit for unit in units if unit.index[1] == 1]
    spec = ReadSpec((1, 2, 3), (128, 128), 5, cell=16)
    alone = [read_unit(scene, unit, spec) for unit in column]
    seen = np.zeros(900, int)
    original = read.read_window

    def watched(dataset, scene, bands, window, out):
        seen[window.row : window.bottom] += 1
        return original(dataset, scene, bands, window, out)

    monkeypatch.setattr(read, "read_window", watched)
    together = read_units(scene, column, spec)
    assert len(column) > 2 and set(seen) == {1}
    assert_same_items(together, alone)


def test_a_mosaic_that_resamples_is_read_unit_by_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels may depend on the window, so that windows must not depend on where a reader comes from."""
    source = write_tif(tmp_path / "s.tif", noise(1, 300, 170), block=64)
    vrt = tmp_path / "s.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="500" rasterYSize="900"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource resampling="bilinear"><SourceFilename relativeToVRT="1">{source.name}</SourceFilename>'
        '<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="170" ySize="300"/>'
        '<DstRect xOff="0" yOff="0" xSize="500" ySize="900"/></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    scene = scene_of(vrt)
    units = plan_units("s", make_grid(500, 900, tile=128, overlap=32), shape=(2, 2))
    column = [unit for unit in units if unit.index[1] == 0]
    spec = ReadSpec((1,), (128, 128), 5, cell=16)
    requested: list[Window] = []
    original = read.read_window
    monkeypatch.setattr(read, "read_window", lambda *a: requested.append(a[3]) or original(*a))
    alone = [read_unit(scene, unit, spec) for unit in column]
    windows, requested[:] = requested.copy(), []
    assert_same_items(read_units(scene, column, spec), alone)
    assert requested == windows


@pytest.mark.parametrize("seed", range(8))
def test_a_reader_goes_on_with_any_unit(tmp_path: Path, seed: int) -> None:
    """In any order, with an AOI, masked ground and blocks that are lost: as units that are read by themselves."""
    rng = np.random.default_rng(seed)
    pixels = noise(2, 600, 500, seed=seed)
    pixels[:, rng.random((600, 500)) < 0.3] = 0
    path = write_tif(tmp_path / "s.tif", pixels, block=int(rng.choice([16, 64, 128])), nodata=0)
    if seed % 2:
        damage(path, rng)
    scene = scene_of(path)
    grid = make_grid(500, 600, tile=(96, 128), overlap=32)
    keep = rng.random((grid.rows, grid.cols)) < rng.choice([0.4, 0.9, 1.0])
    units = list(plan_units("s", grid, shape=(2, 2), keep=keep))
    if seed >= 4:
        # Down the columns, as a reader of the local engine goes.
        units.sort(key=lambda unit: unit.index[::-1])
    else:
        units = [units[i] for i in rng.permutation(len(units))]
    spec = ReadSpec((2, 1), (96, 128), 3, cell=16)
    alone = [read_unit(scene, unit, spec) for unit in units]
    together = read_units(scene, units, spec)
    assert_same_items(together, alone)
    assert any(unit[-1].failures for unit in alone) == bool(seed % 2)
    for unit, items in zip(units, alone, strict=True):
        # What lies below the unit is the next one's to report.
        assert all(failure.window.intersection(unit.read_window) == failure.window for failure in items[-1].failures)


def damage(path: Path, rng: np.random.Generator) -> None:
    """Overwrite parts of a compressed file behind its header."""
    data = bytearray(path.read_bytes())
    for start in rng.integers(len(data) // 4, len(data) * 3 // 4, 12):
        data[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(data))


def assert_same_items(found: list, expected: list) -> None:
    """The batches and summaries of units, one by one."""
    assert [len(unit) for unit in found] == [len(unit) for unit in expected]
    for ours, theirs in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, ReadSummary):
            assert (ours.tiles, ours.empty, ours.failures) == (theirs.tiles, theirs.empty, theirs.failures)
            np.testing.assert_array_equal(ours.coverage.codes, theirs.coverage.codes)
        else:
            for name in ("pixels", "windows", "valid"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_skipped_tile_rows_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(write_tif(tmp_path / "s.tif", noise(1, 640, 128)))
    rows_read = []
    original = read.read_window
    monkeypatch.setattr(read, "read_window", lambda *a: rows_read.append(a[3].height) or original(*a))
    keep = np.zeros((10, 2), bool)
    keep[[0, 9], 0] = True
    tiles, _ = read_all(scene, tile=64, overlap=0, unit=(0, 0), keep=keep)
    assert len(tiles) == 2 and sum(rows_read) == 128


@pytest.mark.parametrize("seed", range(6))
def test_only_blocks_under_wanted_tiles_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """With scattered tiles; the pixels are the same as without an area of interest."""
    scene = scene_of(write_tif(tmp_path / "s.tif", noise(3, 700, 900, seed=seed), block=32))
    grid = make_grid(900, 700, tile=64, overlap=16)
    keep = np.random.default_rng(seed).random((grid.rows, grid.cols)) < 0.08
    seen = np.zeros((700, 900), int)
    original = read.read_window

    def watched(dataset, scene, bands, window, out):
        seen[window.row : window.bottom, window.col : window.right] += 1
        return original(dataset, scene, bands, window, out)

    monkeypatch.setattr(read, "read_window", watched)
    some, _ = read_all(scene, tile=64, overlap=16, unit=(0, 0), keep=keep)
    needed = np.zeros((-(-700 // 32), -(-900 // 32)), bool)
    for window in some:
        needed[window.row // 32 : -(-window.bottom // 32), window.col // 32 : -(-window.right // 32)] = True
    assert seen.max() == 1, "a block is read once"
    # A strip ends at a block's edge, and its parts hold for all of its rows.
    assert seen.sum() <= 1.5 * needed.sum() * 32 * 32
    monkeypatch.setattr(read, "read_window", original)
    whole, _ = read_all(scene, tile=64, overlap=16, unit=(0, 0))
    assert len(some) == keep.sum()
    for window, (pixels, valid) in some.items():
        np.testing.assert_array_equal(pixels, whole[window][0])
        np.testing.assert_array_equal(valid, whole[window][1])


def test_an_alpha_band_may_be_chosen_as_an_image_band(tmp_path: Path) -> None:
    pixels = noise(4, 64, 64)
    pixels[3] = 255
    pixels[3, :, :32] = 0
    scene = scene_of(write_tif(tmp_path / "s.tif", pixels, photometric="RGB", alpha="YES"))
    tiles, _ = read_all(scene, tile=64, overlap=0, bands=(1, 2, 3, 4))
    got, valid = tiles[Window(0, 0, 64, 64)]
    assert valid.all() and np.array_equal(got, pixels)
    _, valid = read_all(scene, tile=64, overlap=0, bands=(1, 2, 3))[0][Window(0, 0, 64, 64)]
    assert not valid[:, :32].any() and valid[:, 32:].all()


def test_nodata_applies_where_the_alpha_band_is_an_image_band(tmp_path: Path) -> None:
    pixels = noise(4, 64, 64)
    pixels[:, :, :32] = 0
    scene = scene_of(write_tif(tmp_path / "s.tif", pixels, photometric="RGB", alpha="YES", nodata=0))
    _, valid = read_all(scene, tile=64, overlap=0, bands=(1, 2, 3, 4))[0][Window(0, 0, 64, 64)]
    assert not valid[:, :32].any() and valid[:, 32:].all()


def test_validity_is_that_of_the_chosen_bands(tmp_path: Path) -> None:
    pixels = noise(2, 64, 64)
    pixels[1, :, :32] = 0
    tif = write_tif(tmp_path / "s.tif", pixels)
    source = f"<SimpleSource><SourceFilename>{tif}</SourceFilename><SourceBand>%d</SourceBand></SimpleSource>"
    bands = [f'<VRTRasterBand dataType="Byte" band="1">{source % 1}</VRTRasterBand>']
    bands += [f'<VRTRasterBand dataType="Byte" band="2"><NoDataValue>0</NoDataValue>{source % 2}</VRTRasterBand>']
    vrt = tmp_path / "s.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="64" rasterYSize="64">{"".join(bands)}</VRTDataset>')
    scene = scene_of(vrt)
    assert scene.masks == (False, False) and scene.nodata[0] is None
    _, valid = read_all(scene, tile=64, overlap=0, bands=(2,))[0][Window(0, 0, 64, 64)]
    assert not valid[:, :32].any() and valid[:, 32:].all()
    assert read_all(scene, tile=64, overlap=0, bands=(1, 2))[0][Window(0, 0, 64, 64)][1].all()


def test_nan_is_invalid(tmp_path: Path) -> None:
    pixels = noise(2, 64, 64, dtype="float32")
    pixels[1, :10] = np.nan
    scene = scene_of(write_tif(tmp_path / "s.tif", pixels))
    got, valid = read_all(scene, tile=64, overlap=0)[0][Window(0, 0, 64, 64)]
    assert not valid[:10].any() and valid[10:].all() and np.isfinite(got).all()


def truncated(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("threads", [1, 4])
def test_a_truncated_file_loses_only_its_missing_blocks(threads: int, tmp_path: Path) -> None:
    """However many threads decode: GDAL's leave blocks in its cache that hold no pixels."""
    pixels = noise(3, 512, 512)
    path = tmp_path / "s.tif"
    # A COG keeps its directory in front, so a cut file still opens.
    with rasterio.open(write_tif(tmp_path / "whole.tif", pixels)) as source:
        rasterio.shutil.copy(source, path, driver="COG", blocksize=64, overviews="NONE", compress="DEFLATE")
    scene = scene_of(truncated(path, 0.6))
    tiles, summaries = read_all(scene, tile=128, overlap=0, unit=(2, 2), threads=threads)
    lost = [f.window for a in summaries for f in a.failures]
    assert lost and all(f.stage == "read" and f.message for a in summaries for f in a.failures)
    unread = np.zeros((512, 512), bool)
    for window in lost:
        unread[window.row : window.bottom, window.col : window.right] = True
    with rasterio.open(path) as dataset:
        for row in range(0, 512, 64):
            for col in range(0, 512, 64):
                try:
                    dataset.read(window=GdalWindow(col, row, 64, 64))
                    readable = True
                except rasterio.errors.RasterioError:
                    readable = False
                assert unread[row : row + 64, col : col + 64].all() != readable
    for window, (got, valid) in tiles.items():
        there = ~unread[window.row : window.bottom, window.col : window.right]
        assert np.array_equal(valid, there)
        expected = pixels[:, window.row : window.bottom, window.col : window.right]
        assert np.array_equal(got, np.where(there, expected, 0))
    for summary in summaries:
        codes = summary.coverage.codes
        top, left = summary.coverage.row * 16, summary.coverage.col * 16
        cells = unread[top : top + 256, left : left + 256].reshape(16, 16, 16, 16).any(axis=(1, 3))
        assert np.array_equal(codes == FAILED, cells)


def test_a_file_that_is_gone_is_a_scene_error(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "s.tif", noise(1, 64, 64))
    scene = scene_of(path)
    path.unlink()
    with pytest.raises(SceneError, match=r"s\.tif: cannot be opened"):
        read_all(scene, tile=64, overlap=0)


def test_memory_is_bounded_by_the_unit_not_the_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(write_tif(tmp_path / "s.tif", noise(1, 1024, 1024)))
    sizes = []
    original = Strip.cut
    monkeypatch.setattr(Strip, "cut", lambda self, w: sizes.append(self._pixels.nbytes) or original(self, w))
    read_all(scene, tile=128, overlap=32, unit=(4, 4))
    assert max(sizes) <= (128 + 64 + 64) * (4 * 96 + 32)


def test_what_is_beyond_a_small_scene_is_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(write_tif(tmp_path / "a.tif", noise(1, 50, 40)))
    whole = np.empty
    # Memory that is taken again holds what was there before.
    monkeypatch.setattr(read.np, "empty", lambda *args, **settings: whole(*args, **settings) * 0 + 7)
    tiles, _ = read_all(scene, tile=(64, 96), overlap=0)
    monkeypatch.undo()
    ((pixels,), _) = tiles[Window(0, 0, 40, 50)]
    assert pixels.shape == (96, 64) and not pixels[50:].any() and not pixels[:, 40:].any() and pixels[:50, :40].any()


def test_what_a_sidecar_declares_invalid_is_not_read_though_no_georeference_is(tmp_path: Path) -> None:
    pixels = np.maximum(noise(3, 64, 64), 1)
    pixels[:, :, 40:] = 0
    path = write_tif(tmp_path / "s.tif", pixels)
    declared = '<PAMDataset><Metadata><MDI key="NODATA_VALUES">0 0 0</MDI></Metadata></PAMDataset>'
    path.with_name("s.tif.aux.xml").write_text(declared)
    scene = scene_of(path)
    assert scene.masks == (True,) * 3  # only GDAL can compare such values
    _, valid = read_all(scene, tile=64, overlap=0)[0][Window(0, 0, 64, 64)]
    assert valid[:, :40].all() and not valid[:, 40:].any()
