"""From raw boxes to detections, a batch at once, against loops over tiles, classes and boxes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detections import BOTTOM, LEFT, RIGHT, TOP
from geosod.detectors import postprocess as module
from geosod.detectors.contract import RawBoxes
from geosod.detectors.postprocess import postprocess
from geosod.scene import TileBatch
from geosod.testing import fake_card

WIDTH, HEIGHT = 64, 96


def raw_boxes(rng: np.random.Generator, tiles: int, count: int) -> RawBoxes:
    low = rng.uniform(-15, [WIDTH, HEIGHT], (count, 2))
    boxes = np.hstack([low, low + rng.uniform(-1, 40, (count, 2))]).astype(np.float32)
    # Ties of scores, and coordinates on whole pixels, are common.
    boxes = np.where(rng.random((count, 1)) < 0.3, boxes.round(), boxes)
    scores = rng.uniform(0, 1, count).round(2).astype(np.float32)
    columns = boxes, scores, rng.integers(0, 3, count), rng.integers(0, tiles + 1, count)
    return RawBoxes(*(torch.from_numpy(np.ascontiguousarray(c)) for c in columns))


def one_tile(raw: RawBoxes, batch: TileBatch, i: int, card, threshold: float) -> list[tuple]:
    """What should come of tile i, one box at a time."""
    col, row, width, height = (int(v) for v in batch.windows[i])
    boxes = []
    for k in range(len(raw.boxes)):
        x0, y0, x1, y1 = raw.boxes[k].tolist()
        if raw.tile[k] != i or raw.scores[k] < threshold or not (x1 > x0 and y1 > y0):
            continue
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if x1 - x0 >= 1 and y1 - y0 >= 1:
            boxes.append((float(raw.scores[k]), k, (x0, y0, x1, y1), int(raw.labels[k])))
    boxes.sort(key=lambda box: (-box[0], box[1]))
    kept: list[tuple] = []
    for box in boxes:
        pair = torch.tensor([b[2] for b in (box, *kept)])
        overlaps = torchvision.ops.box_iou(pair[:1], pair[1:])[0].tolist()
        if all(o <= card.nms_iou or b[3] != box[3] for o, b in zip(overlaps, kept, strict=True)):
            kept.append(box)
    out = []
    for score, _, (x0, y0, x1, y1), label in kept[: card.top_k]:
        valid = np.ones((height, width), bool) if batch.valid is None else batch.valid[i, :height, :width]
        c0, r0, c1, r1 = int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))
        if not valid[r0:r1, c0:c1].any():
            continue
        near = not valid[max(r0 - 1, 0) : r1 + 1, max(c0 - 1, 0) : c1 + 1].all()
        sides = [(x0, LEFT, col == 0), (y0, TOP, row == 0)]
        sides += [(width - x1, RIGHT, col + width == 500), (height - y1, BOTTOM, row + height == 400)]
        flags = sum(bit for gap, bit, outer in sides if gap <= card.border_px and not outer)
        truncated = near or any(gap <= card.border_px and outer for gap, _, outer in sides)
        out.append((x0 + col, y0 + row, x1 + col, y1 + row, np.float32(score), label, truncated, flags))
    return out


def batch_of(rng: np.random.Generator, tiles: int, holes: bool) -> TileBatch:
    places = [(0, 0), (200, 100), (500 - WIDTH, 400 - HEIGHT)]
    windows = np.array([[*places[i % 3], WIDTH, HEIGHT] for i in range(tiles)], np.int64)
    valid = None
    if holes:
        valid = rng.random((tiles, HEIGHT, WIDTH)) < 0.9
        valid[0] = True
        valid[-1, :, :40] = False
    pixels = np.zeros((tiles, 1, HEIGHT, WIDTH), np.uint8)
    return TileBatch(pixels, windows, valid, np.tile(np.array([500, 400]), (tiles, 1)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 5), st.integers(0, 80), st.booleans(), st.sampled_from([0.0, 0.4]))
def test_a_batch_at_once_is_every_tile_by_itself(seed, tiles, count, holes, threshold) -> None:
    rng = np.random.default_rng(seed)
    card = fake_card(tile=(WIDTH, HEIGHT), overlap=0, nms_iou=0.4, top_k=9, classes=("a", "b", "c"))
    raw, batch = raw_boxes(rng, tiles, count), batch_of(rng, tiles, holes)
    found = postprocess(raw, batch, card, threshold=threshold)
    for i, tile in enumerate(found.per_tile()):
        columns = (tile.scores, tile.labels, tile.truncated, tile.fragment)
        rows = [(*box, *rest) for box, *rest in zip(tile.boxes.tolist(), *columns, strict=True)]
        assert rows == one_tile(raw, batch, i, card, threshold)
    alone = [postprocess(_only(raw, i), batch[i : i + 1], card, threshold=threshold).detections for i in range(tiles)]
    assert all(a.to_arrow().equals(b.to_arrow()) for a, b in zip(alone, found.per_tile(), strict=True))


def _only(raw: RawBoxes, i: int) -> RawBoxes:
    mine = raw.tile == i
    return RawBoxes(raw.boxes[mine], raw.scores[mine], raw.labels[mine], raw.tile[mine] - i)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 6), st.integers(1, 300), st.sampled_from([20, 20_000]))
def test_groups_that_share_a_call_do_not_meet(seed, tiles, count, most) -> None:
    """What GPUs do, on the CPU: groups are shifted apart and share a call of NMS."""
    rng = np.random.default_rng(seed)
    raw = raw_boxes(rng, tiles, count)
    order = raw.tile.argsort(stable=True)
    boxes, tile = raw.boxes[order].clamp(min=0), raw.tile[order]
    group = tile * 3 + raw.labels[order]
    kept = module._suppressed(boxes, group, 0.5, tile)
    rank = -torch.arange(count, dtype=torch.float64)
    shared = torch.zeros(count, dtype=torch.bool)
    for rows in module._runs(tile, most):
        some = module._shifted(boxes[rows], group[rows])
        shared[rows[torchvision.ops.nms(some, rank[rows], 0.5)]] = True
    parts = [tile[rows] for rows in module._runs(tile, most)]
    assert sum(map(len, parts)) == count and all(len(p) <= most or len(p.unique()) == 1 for p in parts)
    assert all(a[-1] != b[0] for a, b in pairwise(parts)), "a tile is split"
    # The two round differently: only pairs at the very threshold may differ.
    overlap = torchvision.ops.box_iou(boxes.double(), boxes.double())
    if not ((overlap - 0.5).abs() < 1e-5).any():
        assert torch.equal(kept, shared)


def test_a_flood_of_boxes_is_bounded(monkeypatch) -> None:
    """Only the best of a tile take part in NMS, and the tile counts as capped."""
    monkeypatch.setattr(module, "_MAX_CANDIDATES", 50)
    rng = np.random.default_rng(0)
    card = fake_card(tile=(WIDTH, HEIGHT), overlap=0, nms_iou=1.0, top_k=20, classes=("a", "b", "c"))
    raw, batch = raw_boxes(rng, 2, 400), batch_of(rng, 2, False)
    found = postprocess(raw, batch, card, threshold=0.0)
    assert found.capped.all() and found.counts.tolist() == [20, 20]
    calls = []
    monkeypatch.setattr(
        module, "_suppressed", lambda b, g, i, t: calls.append(len(b)) or torch.ones(len(b), dtype=torch.bool)
    )
    postprocess(raw, batch, card, threshold=0.0)
    assert calls == [100]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    rng = np.random.default_rng(0)
    card = fake_card(tile=(WIDTH, HEIGHT), overlap=0, nms_iou=0.4, classes=("a", "b", "c"))
    raw, batch = raw_boxes(rng, 8, 4000), batch_of(rng, 8, True)
    columns = (raw.boxes, raw.scores, raw.labels, raw.tile)
    there = RawBoxes(*(column.cuda() for column in columns))
    here, other = (postprocess(r, batch, card, threshold=0.2).detections for r in (raw, there))
    assert here.to_arrow().equals(other.to_arrow())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 5), st.integers(0, 80), st.sampled_from([0.0, 0.4]))
def test_boxes_that_are_brought_to_the_cpu_are_those_that_are_left(seed, tiles, count, threshold) -> None:
    rng = np.random.default_rng(seed)
    card = fake_card(tile=(WIDTH, HEIGHT), overlap=0, nms_iou=0.4, top_k=9, classes=("a", "b", "c"))
    raw, batch = raw_boxes(rng, tiles, count), batch_of(rng, tiles, holes=True)
    raw.scores[rng.random(count) < 0.1] = float("nan")
    raw = RawBoxes(raw.boxes, raw.scores, raw.labels, raw.tile, tiles, torch.from_numpy(rng.random(tiles) < 0.5))
    few = raw.wanted(tiles, threshold).on_cpu()
    assert few.broken is not None and torch.equal(few.broken, raw.broken) and few.tiles == tiles
    assert ((few.tile < tiles) & ~(few.scores < threshold)).all()
    whole, part = (postprocess(r, batch, card, threshold=threshold) for r in (raw, few))
    assert whole.detections.to_arrow().equals(part.detections.to_arrow())
    for name in ("counts", "capped", "degenerate"):
        assert np.array_equal(getattr(whole, name), getattr(part, name))
