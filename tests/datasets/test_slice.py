"""Tiles against brute force, rasterio, and SAHI's rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geosod.datasets.image_files import scene_of
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.read import read_labels
from geosod.datasets.scale import scale_labels, write_scaled
from geosod.datasets.slice import Slicing, slice_labels, write_slices
from geosod.errors import ConfigError, OutputError
from geosod.georeference.points import pixel_to_lonlat
from tests.datasets.samples import rows, sample_labels
from tests.rasters import NORTH_UP, UTM31, noise, write_tif


@st.composite
def boxed(draw: st.DrawFn, points: bool = False) -> Labels:
    width, height, count = draw(st.integers(1, 150)), draw(st.integers(1, 150)), draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    corner = np.round(rng.uniform(-20, 160, (count, 2)))
    size = np.round(rng.uniform(0, 60, (count, 2))) * (not points)
    return Labels(
        images=[LabelledImage("s", "", width, height)],
        classes=["a"],
        image=np.zeros(count, int),
        boxes=np.hstack([corner, corner + size]),
        labels=np.zeros(count, int),
        ignore=rng.random(count) < 0.2,
        points=points,
    )


def brute(
    some: Labels, tile: tuple[int, int], step: tuple[int, int], least: float
) -> dict[str, list[tuple[object, ...]]]:
    """Every box in every tile, one at a time."""
    image = some.images[0]
    out: dict[str, list[tuple[object, ...]]] = {}
    starts = []
    for side, length, stride in zip(tile, (image.width, image.height), step, strict=True):
        last = max(length - side, 0)
        starts.append([*range(0, last, stride), last])
    for y in starts[1]:
        for x in starts[0]:
            right, bottom = x + min(tile[0], image.width), y + min(tile[1], image.height)
            found = out.setdefault(f"s_{x}_{y}", [])
            for box, skip in zip(some.boxes.tolist(), some.ignore.tolist(), strict=True):
                x0, y0, x1, y1 = max(box[0], x), max(box[1], y), min(box[2], right), min(box[3], bottom)
                if some.points:
                    if x <= box[0] < right and y <= box[1] < bottom:
                        found.append((skip, x0 - x, y0 - y, x1 - x, y1 - y))
                elif box[0] < right and box[1] < bottom and box[2] > x and box[3] > y:
                    whole = (box[2] - box[0]) * (box[3] - box[1])
                    share = (x1 - x0) * (y1 - y0) / whole if whole else 1.0
                    found.append((skip or share < least, x0 - x, y0 - y, x1 - x, y1 - y))
    return {name: sorted(found) for name, found in out.items()}


@pytest.mark.parametrize("points", [False, True])
@given(st.data())
def test_boxes_of_tiles_are_those_of_brute_force(points: bool, data: st.DataObject) -> None:
    some = data.draw(boxed(points=points))
    tile = (data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)))
    overlap = (data.draw(st.integers(0, tile[0] - 1)), data.draw(st.integers(0, tile[1] - 1)))
    if (some.images[0].width // (tile[0] - overlap[0])) * (some.images[0].height // (tile[1] - overlap[1])) > 400:
        return
    tiles = slice_labels(some, Slicing(tile, overlap, min_visible=0.3))
    got = {
        image.id: sorted((bool(tiles.ignore[k]), *tiles.boxes[k].tolist()) for k in mine)
        for image, mine in zip(tiles.images, tiles.by_image(), strict=True)
    }
    assert got == brute(some, tile, (tile[0] - overlap[0], tile[1] - overlap[1]), 0.3)


def test_hidden_boxes_are_ignored_or_dropped_and_areas_shrink() -> None:
    image = [LabelledImage("s", "", 100, 100)]
    some = Labels(images=image, classes=["a"], image=[0], boxes=[[45, 10, 55, 20]], labels=[0], area=[50])
    kept = slice_labels(some, Slicing((50, 100), (0, 0), min_visible=0.6))
    assert kept.ignore.tolist() == [True, True] and kept.truncated.all() and kept.area.tolist() == [25, 25]
    assert len(slice_labels(some, Slicing((50, 100), (0, 0), min_visible=0.6, drop_hidden=True))) == 0
    assert slice_labels(some, Slicing((50, 100), (0, 0), min_visible=0.5)).ignore.tolist() == [False, False]


def test_negatives_are_a_share_and_the_same_each_time() -> None:
    some = Labels(
        images=[LabelledImage("s", "", 1000, 1000)], classes=["a"], image=[0], boxes=[[1, 1, 9, 9]], labels=[0]
    )
    counts = [len(slice_labels(some, Slicing((100, 100), (0, 0), negatives=share)).images) for share in (0, 0.2, 1)]
    assert counts == [1, 1 + round(0.2 * 99), 100]
    one, same, other = (
        [t.id for t in slice_labels(some, Slicing((100, 100), (0, 0), negatives=0.2, seed=seed)).images]
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_overlap_ratios_are_those_of_sahi() -> None:
    """Ratio of the tile, rounded down; the last tile is shifted back inside."""
    some = Labels.empty([LabelledImage("s", "", 1000, 700)], ["a"])
    tiles = slice_labels(some, Slicing((512, 512), (0.2, 0.2)))
    assert [tile.offset for tile in tiles.images] == [(x, y) for y in (0, 188) for x in (0, 410, 488)]


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiles_have_the_pixels_and_the_place_of_their_scene(tmp_path: Path, bands: int, dtype: str) -> None:
    pixels = noise(bands, 150, 210, dtype=dtype)
    path = write_tif(tmp_path / "s.tif", pixels, block=32)
    some = Labels(
        images=[LabelledImage("s", str(path), 210, 150)], classes=["a"], image=[0], boxes=[[60, 60, 70, 70]], labels=[0]
    )
    result = write_slices(some, tmp_path / "out", Slicing((64, 96), (16, 0.25)))
    assert not result.problems.count and not result.empty
    back = read_labels(tmp_path / "out/labels.json").labels
    assert rows(back) == rows(result.labels) and back.images == result.labels.images
    assert len(back.images) == 5 * 2
    for tile in back.images:
        (x, y), shape = tile.offset, (tile.height, tile.width)
        with rasterio.open(tile.uri) as dataset:
            assert (dataset.read() == pixels[:, y : y + shape[0], x : x + shape[1]]).all()
            assert dataset.crs.to_epsg() == 31 + 32600 and dataset.transform == NORTH_UP @ Affine.translation(x, y)
            # GDAL would call the fourth band of bytes alpha.
            assert "alpha" not in {one.name for one in dataset.colorinterp} and dataset.dtypes[0] == dtype
            assert dataset.read_masks().all()


@pytest.mark.parametrize("kind", ["nodata", "mask", "nan", "alpha"])
def test_what_is_invalid_stays_invalid(tmp_path: Path, kind: str) -> None:
    """The left half, so that the first tiles are empty; and a corner of another one."""
    valid = np.ones((64, 128), np.bool_)
    valid[:, :64] = valid[:8, 64:72] = False
    pixels = noise(4 if kind == "alpha" else 1, 64, 128, dtype="float32" if kind == "nan" else "uint8")
    extra: dict[str, object] = {}
    if kind == "nodata":
        pixels, extra = np.where(valid, pixels, 255 - 0 * pixels), {"nodata": 255}
        pixels[:, valid] = np.minimum(pixels[:, valid], 254)
    elif kind == "nan":
        pixels[:, ~valid] = np.nan
    elif kind == "alpha":
        pixels[3] = valid * 255
        extra = {"photometric": "RGB", "alpha": "YES"}
    path = write_tif(tmp_path / "s.tif", pixels, block=32, mask=valid if kind == "mask" else None, **extra)
    some = Labels(
        images=[LabelledImage("s", str(path), 128, 64)], classes=["a"], image=[0], boxes=[[80, 30, 90, 40]], labels=[0]
    )
    result = write_slices(some, tmp_path / "out", Slicing((32, 32), (0, 0)))
    assert result.empty == 4 and len(result.labels.images) == 4
    for tile in result.labels.images:
        x, y = tile.offset
        with rasterio.open(tile.uri) as dataset:
            assert ((dataset.dataset_mask() > 0) == valid[y : y + 32, x : x + 32]).all()


def test_control_points_move_with_their_tile(tmp_path: Path) -> None:
    points = [
        rasterio.control.GroundControlPoint(row, col, 500_000 + 2 * col + 0.1 * row, 5_800_000 - 2 * row)
        for row in (0, 64, 128) for col in (0, 96, 192)
    ]  # fmt: skip
    with rasterio.open(
        tmp_path / "s.tif", "w", driver="GTiff", width=192, height=128, count=1, dtype="uint8", gcps=points, crs=UTM31
    ) as dataset:
        dataset.write(noise(1, 128, 192))
    some = Labels.empty([LabelledImage("s", str(tmp_path / "s.tif"), 192, 128)], ["a"])
    result = write_slices(some, tmp_path / "out", Slicing((64, 64), (0, 0)))
    whole = scene_of(some.images[0])
    for tile in result.labels.images:
        there = pixel_to_lonlat(scene_of(tile), [[10, 20]])
        assert there == pytest.approx(pixel_to_lonlat(whole, [[10 + tile.offset[0], 20 + tile.offset[1]]]), abs=1e-9)


def test_images_that_cannot_be_read_are_named_and_left_out(tmp_path: Path) -> None:
    good = sample_labels(tmp_path / "images")
    Path(good.images[0].uri).write_bytes(b"II*\0broken")
    result = write_slices(good, tmp_path / "out", Slicing((32, 32), (0, 0)))
    assert result.problems.count == 1 and "a.tif" in result.problems.found[0].file
    assert {tile.scene for tile in result.labels.images} == {"b", "sub/c"}
    with pytest.raises(OutputError, match="exists; use --overwrite"):
        write_slices(good, tmp_path / "out", Slicing((32, 32), (0, 0)))
    wrong = good.with_columns(
        images=[LabelledImage("b", good.images[1].uri, 99, 64), *good.images[1:][1:], LabelledImage("z", "", 5, 5)]
    )
    again = write_slices(wrong[[]], tmp_path / "other", Slicing((32, 32), (0, 0)))
    assert "has 64 x 64 pixels, but the labels are for 99 x 64" in str(again.problems.found[0])


def test_blocks_that_cannot_be_read_take_their_tiles_with_them(tmp_path: Path) -> None:
    """Also tiles of which they are only a part, which else would show black ground."""
    path = write_tif(tmp_path / "s.tif", noise(1, 128, 192), block=64)
    content = bytearray(path.read_bytes())
    with rasterio.open(path) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    content[offset : offset + 200] = bytes(200)
    path.write_bytes(content)
    some = Labels.empty([LabelledImage("s", str(path), 192, 128)], ["a"])
    result = write_slices(some, tmp_path / "out", Slicing((96, 128), (48, 0)))
    assert [tile.offset for tile in result.labels.images] == [(0, 0)] and result.empty == 2
    assert result.problems.count == 1 and "pixels" in result.problems.found[0].where


@given(st.sampled_from([0.5, 0.25, 0.3, 2.0]))
def test_scaled_labels_keep_their_share_of_the_image(factor: float) -> None:
    some = Labels(
        images=[LabelledImage("s", "", 333, 127, metres_per_pixel=(0.5, 0.5))],
        classes=["a"], image=[0, 0], boxes=[[0, 0, 333, 127], [10, 20, 30, 50]], labels=[0, 0], area=[100, 600],
    )  # fmt: skip
    half = scale_labels(some, factor)
    image = half.images[0]
    assert (image.width, image.height) == (round(333 * factor), round(127 * factor))
    assert half.boxes[0].tolist() == pytest.approx([0, 0, image.width, image.height])
    assert half.boxes[1, 2] / image.width == pytest.approx(30 / 333)
    metres = image.metres_per_pixel
    assert metres is not None and metres[0] * image.width == pytest.approx(0.5 * 333)
    assert half.area[1] == pytest.approx(np.prod(half.boxes[1, 2:] - half.boxes[1, :2]))


@pytest.mark.parametrize("size", [(96, 160), (1300, 600)])
def test_scaled_images_show_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    """A ramp, whose means are known; several strips high in one case."""
    height, width = size
    ramp = np.add.outer(np.arange(height), np.arange(width))[None].astype("uint16")
    path = write_tif(tmp_path / "s.tif", ramp)
    some = Labels.empty([LabelledImage("s", str(path), width, height)], ["a"])
    half, problems = write_scaled(some, tmp_path / "out", 0.5)
    assert not problems.count and (half.images[0].width, half.images[0].height) == (width // 2, height // 2)
    with rasterio.open(half.images[0].uri) as dataset:
        assert dataset.transform == NORTH_UP @ Affine.scale(2)
        got, mean = dataset.read(1).astype(float), ramp[0].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    assert np.abs(got - mean)[2:-2, 2:-2].max() <= 1
    with pytest.raises(ConfigError, match="scale -1"):
        write_scaled(some, tmp_path / "no", -1)
