"""Which parts of images are shown, and what becomes of their labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from geosod.datasets.labels import LabelledImage, Labels
from geosod.detectors.network_input import Fit
from geosod.errors import ConfigError, LabelError
from geosod.scene import Window
from geosod.training.batches import BatchMaker
from geosod.training.config import TrainConfig
from geosod.training.pixels import PixelReader
from geosod.training.prepared import batch_maker, prepare
from geosod.training.pyramid import PyramidSampler, chips_of, frame
from geosod.training.samples import Draw, SliceSampler, window_around
from geosod.training.shown import labels_in, show, targets
from geosod.training.training_set import ImageRows, as_boxes
from tests.training.sets import labelled, opened, squares

#: Samples are the network's input.
SAME = Fit(64, 64, 64, 64, 64, 64)


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return squares(tmp_path, images=3)


def test_a_step_depends_on_seed_and_step_alone(labels: Labels) -> None:
    data, config, _ = opened(labels)
    sampler = SliceSampler(data, config)
    later = sampler.batch(7)
    assert [sampler.batch(k) for k in range(8)][7] == later == SliceSampler(data, config).batch(7)
    assert sampler.batch(8) != later
    other = SliceSampler(data, config.model_copy(update={"seed": 2}))
    assert other.batch(7) != later


def test_slices_lie_inside_and_have_the_size_of_a_tile(labels: Labels) -> None:
    data, config, _ = opened(labels)
    for step in range(30):
        for sample in SliceSampler(data, config).batch(step):
            w, scene = sample.window, data.scenes[sample.image]
            assert w.col >= 0 and w.row >= 0 and w.right <= scene.width and w.bottom <= scene.height
            assert sample.size == (64, 64)
            assert 64 / 1.26 < w.width < 64 * 1.26


def test_slicing_aided_fine_tuning(labels: Labels) -> None:
    """Sides are drawn independently, and the width they are resized to, with whole images beside."""
    data, config, _ = opened(labels, slice=(40, 80), resize_width=(100, 130), whole_images=0.3)
    samples = [sample for step in range(60) for sample in SliceSampler(data, config).batch(step)]
    whole = [s for s in samples if s.scale != 1]
    slices = [s for s in samples if s not in whole]
    assert 0.15 < len(whole) / len(samples) < 0.45
    sides = np.array([(s.window.width, s.window.height) for s in slices])
    assert sides.min() >= 40 and sides.max() <= 80 and abs(np.corrcoef(sides.T)[0, 1]) < 0.25
    for sample in samples:
        assert 100 <= sample.size[0] <= 130
        ratio = sample.window.height / sample.window.width
        assert abs(sample.size[1] - ratio * sample.size[0]) <= 0.5


@given(st.lists(st.tuples(st.floats(-5, 200), st.floats(0, 60)), max_size=30), st.floats(0, 180), st.floats(1, 90))
def test_labels_near_a_window_are_found(spans: list[tuple[float, float]], top: float, height: float) -> None:
    boxes = np.array([[0, y, 1, y + tall] for y, tall in spans]).reshape(-1, 4)
    images = [LabelledImage("a", "a.tif", 10, 300, number=1)]
    none = np.zeros(len(boxes), np.int64)
    labels = Labels(images=images, classes=["x"], image=none, boxes=boxes, labels=none)
    found = ImageRows.of(labels, np.arange(len(boxes))).near(top, top + height)
    reach = (boxes[:, 1] < top + height) & (boxes[:, 3] > top)
    assert set(np.flatnonzero(reach)) <= set(found) and (np.diff(found) > 0).all()
    assert (boxes[found, 1] < top + height).all()


@pytest.mark.parametrize("limits", [None, (40, 60)])
def test_whole_images_are_read_at_the_scale_that_is_shown(tmp_path: Path, limits: tuple[int, int] | None) -> None:
    """Not at their own, at which they may be larger than memory; and a strip is no higher than the widest is wide."""
    data, config, _ = opened(squares(tmp_path, size=(300, 900)), whole_images=1.0, resize_width=limits)
    reader = PixelReader(data, cache_mb=10)
    for sample in SliceSampler(data, config).batch(0):
        scaled = reader.scene(sample.image, sample.scale)
        assert sample.window == scaled.window and sample.size == (scaled.width, scaled.height)
        assert sample.size[1] <= (64 if limits is None else 60) and sample.scale < 0.1
        shown = show(data, reader, sample, min_visible=0.25)
        assert tuple(shown.pixels.values.shape[1:]) == sample.size[::-1]
    assert {image for image, scale in reader._decoded if scale == 1} == set()


def test_tiles_are_enlarged_as_slices_were(tmp_path: Path) -> None:
    """What slices are resized to on average is what detection enlarges tiles to."""
    labels = labelled(tmp_path, size=(256, 256), objects=12, sides=(20, 21))
    options = {"slice": (48, 64), "resize_width": (100, 124), "tile": 64, "batch": 8, "init": "none", "flips": "none"}
    config = TrainConfig(labels=str(labels), network="ssd", parameters={"backbone": "slim", "width": 8}, **options)
    ready = prepare(config)
    assert ready.card.input.upscale == 2.0
    batch = batch_maker(ready, config)(0)
    assert 100 <= batch.images.shape[3] <= 128
    boxes = torch.cat([one.boxes[~one.ignored] for one in batch.targets])
    widths = (boxes[:, 2] - boxes[:, 0])[(boxes[:, 2] - boxes[:, 0] - boxes[:, 3] + boxes[:, 1]).abs() < 0.1]
    assert len(widths) and widths.min() >= 20 * 100 / 64 - 1 and widths.max() <= 20 * 124 / 48 + 1


def test_small_images_are_shown_whole_at_the_same_scale(tmp_path: Path) -> None:
    data, config, _ = opened(squares(tmp_path, size=(50, 40), objects=2), scale_jitter=1.0)
    sample = SliceSampler(data, config).batch(0)[0]
    assert sample.window == Window(0, 0, 50, 40) and sample.size == (50, 40)
    made = BatchMaker(data, PixelReader(data, cache_mb=10), lambda _: [sample], None, min_visible=0.25)(0)
    assert tuple(made.images.shape) == (1, 3, 64, 64)
    assert (made.images[0, :, 40:] == 0).all() and (made.images[0, :, :, 50:] == 0).all()


def test_rare_classes_are_drawn_as_often(tmp_path: Path) -> None:
    made = squares(tmp_path, images=4, objects=10)
    rows = np.r_[np.flatnonzero(made.labels == 0), np.flatnonzero(made.labels == 1)[:1]]
    data, config, _ = opened(made[rows], balance=1.0, negatives=0.0)
    sampler = SliceSampler(data, config)
    drawn = [data.labels.labels[data.objects[sampler._centres._objects(np.random.default_rng(k))]] for k in range(400)]
    assert 0.4 < np.mean(drawn) < 0.6


@given(
    st.lists(st.just(0.0) | st.floats(1e-3, 1), min_size=1, max_size=20).filter(lambda w: sum(w) > 0),
    st.integers(0, 99),
)
def test_nothing_of_weight_zero_is_drawn(weights: list[float], seed: int) -> None:
    drawn = Draw(np.array(weights))(np.random.default_rng(seed))
    assert weights[drawn] > 0


@given(
    st.tuples(st.floats(0, 300), st.floats(0, 200)),
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.integers(0, 1000),
)
def test_a_window_shows_its_point(point: tuple[float, float], sides: tuple[int, int], seed: int) -> None:
    size = np.array([300.0, 200.0])
    w = window_around(np.array(point), sides, size, np.random.default_rng(seed))
    assert w.col >= 0 and w.row >= 0 and w.right <= 300 and w.bottom <= 200
    assert (w.width, w.height) == (min(sides[0], 300), min(sides[1], 200))
    assert w.col - 1e-9 <= point[0] <= w.right + 1e-9 and w.row - 1e-9 <= point[1] <= w.bottom + 1e-9


def test_boxes_follow_the_pixels(labels: Labels) -> None:
    """The objects are brighter than their surroundings: boxes of a resized slice hold bright pixels, and only they."""
    data, config, _ = opened(labels, balance=0, negatives=0)
    reader = PixelReader(data, cache_mb=10)
    checked = 0
    for step in range(10):
        for sample in SliceSampler(data, config).batch(step):
            shown = show(data, reader, sample, min_visible=config.min_visible)
            inside = np.zeros(shown.pixels.values.shape[1:], np.bool_)
            for box in shown.objects.boxes:
                x0, y0, x1, y1 = np.round(box).astype(int)
                inside[y0:y1, x0:x1] = True
                if min(x1 - x0, y1 - y0) > 6:
                    assert shown.pixels.values[0, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].min() > 0.6
                    checked += 1
            assert (shown.pixels.values[0].numpy()[~inside] > 0.6).mean() < 0.02
    assert checked > 30


def test_objects_that_are_mostly_cut_off_are_ignored(tmp_path: Path) -> None:
    made = squares(tmp_path, images=1)
    box = Labels(images=made.images, classes=made.classes, image=[0], boxes=[[30, 30, 50, 50]], labels=[0])
    data, *_ = opened(box)
    cut = labels_in(data, 0, Window(48, 0, 60, 60), np.ones(2), min_visible=0.25)
    assert cut.ignored.tolist() == [True] and cut.boxes.tolist() == [[0, 30, 2, 50]] and cut.sides.tolist() == [20]
    half = labels_in(data, 0, Window(40, 0, 60, 60), np.ones(2), min_visible=0.25)
    assert half.ignored.tolist() == [False]
    assert len(labels_in(data, 0, Window(60, 0, 60, 60), np.ones(2), min_visible=0.25).boxes) == 0


def test_crowds_and_ignored_regions_are_no_examples(tmp_path: Path) -> None:
    made = squares(tmp_path, images=1, objects=3)
    changed = made.with_columns(
        ignore=[True, *[False] * (len(made) - 1)], crowd=[False, True, *[False] * (len(made) - 2)]
    )
    data, *_ = opened(changed)
    found = labels_in(data, 0, Window(0, 0, 200, 160), np.ones(2), min_visible=0.25)
    assert found.ignored.tolist() == [True, True, *[False] * (len(made) - 2)]
    assert found.labels.tolist() == [-1, -1, *made.labels[2:].tolist()]
    assert data.objects.tolist() == list(range(2, len(made)))


class TestPyramid:
    def test_one_scale_a_step_and_ranges(self, labels: Labels) -> None:
        data, config, _ = opened(labels, levels="2:0-12,1:10-")
        sampler, reader = PyramidSampler(data, config), PixelReader(data, cache_mb=10)
        seen = set()
        for step in range(20):
            batch = sampler.batch(step)
            (scale,) = {sample.scale for sample in batch}
            seen.add(scale)
            for sample in batch:
                made = targets(show(data, reader, sample, min_visible=0.25), SAME)
                boxes = made.boxes[~made.ignored]
                # Squares that the window does not cut off.
                whole = (boxes[:, 2] - boxes[:, 0] - (boxes[:, 3] - boxes[:, 1])).abs() < 0.01
                sides = (boxes[:, 2] - boxes[:, 0])[whole] / scale
                low, high = (0, 12) if scale == 2 else (10, np.inf)
                assert (sides >= low - 1e-3).all() and (sides <= high + 1e-3).all()
                assert made.valid_range is not None
                assert made.valid_range.tolist() == pytest.approx([low * scale, high * scale])
        assert seen == {1.0, 2.0}

    def test_every_truth_takes_part(self, labels: Labels) -> None:
        """Objects out of range are ignored, and not left out."""
        data, config, _ = opened(labels, levels="1:100-")
        with pytest.raises(ConfigError, match=r"none of .* objects has a size"):
            PyramidSampler(data, config)
        data, config, _ = opened(labels, levels="1:0-12", chips=False)
        sample = PyramidSampler(data, config).batch(0)[0]
        shown = show(data, PixelReader(data, cache_mb=10), sample, min_visible=0.25)
        assert len(targets(shown, SAME).boxes) == len(shown.objects.boxes)

    def test_objects_at_a_limit_count(self, tmp_path: Path) -> None:
        """Those that are drawn for their size are examples, whatever the roundings of scales."""
        data, config, _ = opened(squares(tmp_path, size=(251, 187), sides=(20, 21)), levels="0.7:0-20", chips=False)
        reader, sampler = PixelReader(data, cache_mb=10), PyramidSampler(data, config)
        for step in range(5):
            for sample in sampler.batch(step):
                shown = show(data, reader, sample, min_visible=0.0)
                assert len(shown.objects.boxes) and not targets(shown, SAME).ignored.any()

    def test_images_without_objects_are_shown_where_all_sizes_count(self, labels: Labels, tmp_path: Path) -> None:
        empty = squares(tmp_path / "empty", images=1, objects=0)
        images = [*labels.images, replace(empty.images[0], id="empty", number=9)]
        data, config, _ = opened(labels.with_columns(images=images), levels="1,0.5", negatives=0.5)
        assert any(s.image == 3 for step in range(20) for s in PyramidSampler(data, config).batch(step))
        data, config, _ = opened(labels.with_columns(images=images), levels="1:0-100,0.5:0-100", negatives=0.5)
        assert not any(s.image == 3 for step in range(20) for s in PyramidSampler(data, config).batch(step))

    @pytest.mark.parametrize("other", [{"slice": (40, 60)}, {"whole_images": 0.1}, {"scale_jitter": 1.5}])
    def test_settings_of_slices_are_refused(self, other: dict) -> None:
        with pytest.raises(ValidationError, match=f"{next(iter(other)).replace('_', '-')} would have no effect"):
            TrainConfig(levels="1,0.5", **other)

    def test_multi_scale_training_has_no_ranges(self, labels: Labels) -> None:
        data, config, _ = opened(labels, levels="1,0.5")
        batch = PyramidSampler(data, config).batch(1)
        assert all(sample.sizes is None for sample in batch)

    @pytest.mark.parametrize("scale", [1.0, 2.0])
    def test_chips_show_every_object_whole(self, labels: Labels, scale: float) -> None:
        data, *_ = opened(labels)
        rows = data.objects
        chips = chips_of(data, rows, scale, (64, 64), 1)
        assert len(chips) <= len(rows)
        for row in rows:
            image = int(data.labels.image[row])
            size, factor = frame(data, image, scale)
            box = data.labels.boxes[row] * np.tile(factor, 2)
            assert any(
                k == image and w.col <= box[0] and w.row <= box[1] and w.right >= box[2] and w.bottom >= box[3]
                for k, w in chips
            )
        for image, w in chips:
            size, _ = frame(data, image, scale)
            assert w.col >= 0 and w.row >= 0 and w.right <= size[0] and w.bottom <= size[1]

    def test_objects_larger_than_a_chip_end_the_search(self, tmp_path: Path) -> None:
        made = squares(tmp_path, images=1)
        big = Labels(images=made.images, classes=made.classes, image=[0], boxes=[[10, 10, 180, 150]], labels=[0])
        data, *_ = opened(big)
        assert len(chips_of(data, data.objects, 1.0, (64, 64), 1)) == 1


class TestBadInput:
    def test_images_that_cannot_be_used_are_reported(self, labels: Labels, tmp_path: Path) -> None:
        Path(labels.images[1].uri).write_bytes(b"no raster")
        data, _, problems = opened(labels)
        assert len(data.scenes) == 2 and problems.count == 1
        assert "image1.tif" in str(problems.found[0])
        with pytest.raises(Exception, match=r"image1\.tif"):
            opened(labels, on_error="stop")

    def test_no_image_at_all(self, labels: Labels) -> None:
        for image in labels.images:
            Path(image.uri).unlink()
        with pytest.raises(LabelError, match="none of the 3 images can be opened"):
            opened(labels)

    def test_pixels_that_are_lost_cost_their_sample(self, labels: Labels) -> None:
        data, config, _ = opened(labels, batch=8)
        for image in labels.images[:2]:
            content = bytearray(Path(image.uri).read_bytes())
            content[400 : len(content) // 2] = bytes(len(content) // 2 - 400)
            Path(image.uri).write_bytes(content)
        sampler = SliceSampler(data, config)
        make = BatchMaker(data, PixelReader(data, cache_mb=10), sampler.batch, None, min_visible=0.25)
        batches = [make(step) for step in range(4)]
        assert sum(len(batch.problems) for batch in batches) > 0
        assert all(len(batch.images) == len(batch.targets) == 8 for batch in batches)
        stopping = BatchMaker(data, PixelReader(data, cache_mb=10), sampler.batch, None, min_visible=0.25, skip=False)
        with pytest.raises(Exception, match="cannot be read"):
            for step in range(4):
                stopping(step)

    def test_points_need_a_size(self, labels: Labels) -> None:
        centres = (labels.boxes[:, :2] + labels.boxes[:, 2:]) / 2
        points = labels.with_columns(boxes=np.hstack([centres, centres]), points=True, area=np.zeros(len(labels)))
        with pytest.raises(ConfigError, match="box-size"):
            as_boxes(points, None)
        data, *_ = opened(as_boxes(points, 12.0))
        assert np.allclose(data.labels.boxes[:, 2:] - data.labels.boxes[:, :2], 12)

    def test_other_pixel_types(self, tmp_path: Path) -> None:
        eight = squares(tmp_path / "a", images=1)
        sixteen = squares(tmp_path / "b", images=1, dtype="uint16")
        renamed = sixteen.with_columns(images=[sixteen.images[0].__class__("other", sixteen.images[0].uri, 200, 160)])
        data, _, problems = opened(Labels.concat([eight, renamed]))
        assert len(data.scenes) == 1 and "uint16" in str(problems.found[0])


def test_a_batch_moves_to_a_device(labels: Labels) -> None:
    data, config, _ = opened(labels)
    make = BatchMaker(data, PixelReader(data, cache_mb=10), SliceSampler(data, config).batch, None, min_visible=0.25)
    moved = make(0).to(torch.device("cpu"))
    assert torch.equal(moved.images, make(0).images)
