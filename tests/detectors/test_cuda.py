"""On a CUDA GPU: what the CPU finds, in every precision; the same again; and less at once where memory is short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import geosod
from geosod.demo.scene import write_scene
from geosod.detections import Detections
from geosod.detectors import postprocess as module
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.detectors.execution import resolve
from geosod.detectors.postprocess import postprocess
from geosod.detectors.radiometry import scaled_tiles
from geosod.detectors.ways import this_machine
from geosod.errors import ConfigError, EngineError
from geosod.results import Execution
from geosod.running.detect import make_job
from geosod.running.job import load_fitting
from geosod.scene import TileBatch
from geosod.testing import check_detector, fake_card, fake_detector
from tests.detectors.test_postprocess import batch_of, raw_boxes
from tests.rasters import noise, random_bundle, write_tif
from tests.running.helpers import tables

DEVICE: Any = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")

PLAIN: dict[str, Any] = {"precision": "fp32", "backend": "eager"}
#: For each precision, how far boxes may be from those of the CPU in float32, in pixels and in score, and which fraction
#: of them must be so near. In float32 sums are added in another order, which changes the sixth digit. In bfloat16, with
#: eight bits, peaks move by a cell of 4 px where two are equally high, and scores by some hundredths.
NEAR = {"fp32": (0.01, 1e-3, 0.995), "bf16": (1.5, 0.06, 0.95)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn harbour with objects of every class."""
    path = tmp_path_factory.mktemp("scene") / "harbour.tif"
    write_scene(path, size=2048, seed=7)
    return path


@pytest.fixture(scope="module")
def tiles(scene: Path) -> np.ndarray:
    """(9, 3, 512, 512) of the scene; numbers of objects differ."""
    import rasterio

    with rasterio.open(scene) as dataset:
        pixels = dataset.read([1, 2, 3])
    corners = [(r, c) for r in (0, 700, 1400) for c in (0, 700, 1400)]
    return np.stack([pixels[:, r : r + 512, c : c + 512] for r, c in corners])


def harbour(device: str, precision: str = "fp32", backend: str = "eager", **settings: Any) -> Detector:
    options: dict[str, Any] = {"precision": precision, "backend": backend, "batch": 4, "tile": 512} | settings
    return geosod.load_model("demo-harbour", device=device, **options)


def agreement(a: Detections, b: Detections, *, px: float, score: float) -> float:
    """The fraction of boxes that the other side has, too: same class, corners and score as near as that."""
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    corner = np.abs(a.boxes[:, None] - b.boxes[None]).max(axis=2) <= px
    near = corner & (np.abs(a.scores[:, None] - b.scores[None]) <= score) & (a.labels[:, None] == b.labels[None])
    return float((near.any(axis=0).sum() + near.any(axis=1).sum()) / (len(a) + len(b)))


def same(a: Detections, b: Detections) -> bool:
    return bool(a.to_arrow().equals(b.to_arrow()))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_the_network_sees_the_same_pixels(dtype, gamma) -> None:
    """Without gamma to the last bit: each step is one correctly rounded operation."""
    card = fake_card(bands=("a", "b"), dtype=dtype, minimum=(3.0, 0.01), maximum=(117.0, 99.0), gamma=gamma)
    pixels = np.stack([noise(2, 40, 64, dtype=dtype, seed=i) for i in range(3)])
    rng = np.random.default_rng(0)
    windows = np.array([[0, 0, 64, 40]] * 3)
    limits = rng.uniform([[[0, 50]]], [[[20, 90]]], (3, 2, 2)).astype(np.float32)
    batch = TileBatch(pixels, windows, rng.random((3, 40, 64)) < 0.8, windows[:, 2:], limits)
    here, there = (scaled_tiles(batch, card, size=4, device=torch.device(d)) for d in ("cpu", DEVICE))
    assert there.device.type == DEVICE and there.shape == (4, 2, 40, 64)
    if gamma == 1:
        assert torch.equal(here, there.cpu())
    torch.testing.assert_close(here, there.cpu(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["demo-harbour", "trees-naip-60cm"])
def test_float32_means_float32(name) -> None:
    """Logits are those of the CPU to five digits, which they are not where convolutions round to TF32."""
    loaded = [geosod.load_model(name, device=d, batch=2, tile=256, **PLAIN) for d in ("cpu", DEVICE)]
    card = loaded[0].card
    pixels = np.stack([noise(len(card.bands), 256, 256, seed=i) for i in range(2)])
    windows = np.array([[0, 0, 256, 256]] * 2)
    logits: list[torch.Tensor] = []
    for detector in loaded:
        hook = detector.adapter._model.register_forward_hook(lambda _, __, raw: logits.append(raw.float().cpu()))  # type: ignore[attr-defined]
        detector.detect(TileBatch(pixels, windows, None, windows[:, 2:]))
        hook.remove()
    here, there = logits
    assert here.abs().max() > 1
    assert float((here - there).norm() / here.norm()) < 2e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_the_cpu_finds_is_found(precision, tiles) -> None:
    px, score, share = NEAR[precision]
    here, there = harbour("cpu").detect(tiles), harbour(DEVICE, precision).detect(tiles)
    assert sum(map(len, here)) > 60
    whole = [Detections.concat(found) for found in (here, there)]
    assert agreement(*whole, px=px, score=score) >= share


def test_what_the_cpu_finds_of_dense_small_objects_is_found() -> None:
    """Peaks of the other network are placed to 64ths of a pixel: nearly all positions are equal to the last bit."""
    rng = np.random.default_rng(1)
    rows, cols = np.mgrid[:256, :256]
    image = rng.integers(100, 140, (4, 256, 256))
    for x, y in rng.uniform(8, 248, (90, 2)):
        image[:, (cols - x) ** 2 + (rows - y) ** 2 < 30] = np.array([40, 70, 40, 210])[:, None]
    here, there = (
        geosod.load_model("trees-naip-60cm", device=d, batch=2, tile=256, threshold=0.02, **PLAIN).detect(
            image.astype(np.uint8)
        )
        for d in ("cpu", DEVICE)
    )
    assert len(here) > 20
    assert agreement(here, there, px=0.02, score=1e-3) >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_compiled_code_finds_what_plain_code_finds(precision, tiles) -> None:
    """Fused code rounds less often, so in bfloat16 only what the precision itself allows is equal."""
    px, score, share = NEAR[precision]
    plain, compiled = (harbour(DEVICE, precision, backend) for backend in ("eager", "compile"))
    found = [Detections.concat(detector.detect(tiles)) for detector in (plain, compiled)]
    assert agreement(*found, px=px, score=score) >= share
    assert all(map(same, compiled.detect(tiles), compiled.detect(tiles)))
    alone = [compiled.detect(tile) for tile in tiles[:5]]
    assert all(map(same, alone, compiled.detect(tiles[:5])))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["demo-harbour", "trees-naip-60cm", "random"])
def test_the_contract_holds(model, precision, tiles, tmp_path) -> None:
    """Tiles do not depend on their batch or on their place in it, to the last bit."""
    name = random_bundle(tmp_path / "m", bands=("r", "g", "b")) if model == "random" else model
    images = tiles[:5, :, :256, :256]
    images = np.concatenate([images, images[:, 1:2]], axis=1) if model == "trees-naip-60cm" else images
    options: dict[str, Any] = {"precision": precision, "backend": "eager", "batch": 3, "tile": 256, "threshold": 0.05}
    check_detector(geosod.load_model(name, device=DEVICE, **options), images)


def test_a_detector_of_ones_own_may_answer_with_arrays_of_numpy() -> None:
    there = fake_detector(Execution(DEVICE, "eager", "fp32", 2, 1))
    check_detector(there)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [300, 20_000])
def test_postprocessing_gives_what_the_cpu_gives(seed, most, monkeypatch) -> None:
    """Boxes at the very threshold of NMS aside, since the CPU compares them in float32."""
    monkeypatch.setattr(module, "_MAX_NMS_BOXES", most)
    rng = np.random.default_rng(seed)
    card = fake_card(tile=(64, 96), overlap=0, nms_iou=0.43, top_k=40, classes=("a", "b", "c"))
    raw, batch = raw_boxes(rng, 8, 3000), batch_of(rng, 8, seed % 2 == 0)
    overlap = torchvision.ops.box_iou(raw.boxes.double(), raw.boxes.double())
    if ((overlap - 0.43).abs() < 1e-6).any():
        pytest.skip("this draw has a pair at the threshold")
    there = RawBoxes(*(column.to(DEVICE) for column in (raw.boxes, raw.scores, raw.labels, raw.tile)))
    a, b = (postprocess(r, batch, card, threshold=0.2) for r in (raw, there))
    assert len(a.detections) > 100 and same(a.detections, b.detections)
    for name in ("counts", "capped", "degenerate"):
        assert np.array_equal(getattr(a, name), getattr(b, name))


def test_many_boxes_of_one_tile(monkeypatch) -> None:
    """More than share a call of NMS, and more than the maximum that takes part in it."""
    rng = np.random.default_rng(0)
    card = fake_card(tile=(512, 512), overlap=0, nms_iou=0.43, top_k=300)
    count = 40_000
    low = rng.uniform(0, 500, (count, 2))
    boxes = torch.from_numpy(np.hstack([low, low + rng.uniform(4, 12, (count, 2))]).astype(np.float32))
    scores = torch.from_numpy(rng.permutation(count).astype(np.float32) / count)
    none = torch.zeros(count, dtype=torch.int64)
    window = np.array([[0, 0, 512, 512]])
    batch = TileBatch(np.zeros((1, 1, 512, 512), np.uint8), window, None, window[:, 2:])
    here, there = (
        postprocess(RawBoxes(boxes.to(d), scores.to(d), none.to(d), none.to(d)), batch, card, threshold=0.0)
        for d in ("cpu", DEVICE)
    )
    assert here.capped.all() and there.capped.all() and len(there.detections) == 300
    assert agreement(here.detections, there.detections, px=1e-3, score=0) > 0.98


@pytest.fixture
def little_memory() -> Iterator[int]:
    """2 GiB of the GPU's memory, as on a small one."""
    limit, total = 2 << 30, torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.slow
def test_a_batch_that_memory_does_not_hold_is_halved(little_memory) -> None:
    """A tile of 1024 px takes some 200 MB in the U-Net, whose maps of 16 bands have full resolution."""
    job = make_job("trees-naip-60cm", device=DEVICE, batch=16, threshold=0.02, **PLAIN)
    detector, line = load_fitting(job)
    batch = detector.execution.batch
    assert batch in (1, 2, 4, 8) and line.endswith(
        f"; {batch} tile{'' if batch == 1 else 's'} a batch, as memory holds no more"
    )
    assert torch.cuda.max_memory_reserved() <= little_memory
    pixels = np.stack([noise(4, 1024, 1024, seed=i) for i in range(3)])
    windows = np.array([[0, 0, 1024, 1024]] * 3)
    tiles = TileBatch(pixels, windows, None, windows[:, 2:])
    found = detector.detect(tiles)
    single = geosod.load_model("trees-naip-60cm", device=DEVICE, batch=1, threshold=0.02, **PLAIN).detect(tiles)
    assert all(map(len, found))
    assert all(agreement(a, b, px=0.02, score=1e-3) > 0.97 for a, b in zip(found, single, strict=True))


def test_a_tile_that_memory_does_not_hold_is_an_error_in_one_line(little_memory) -> None:
    job = make_job("trees-naip-60cm", device=DEVICE, batch=2, tile=8192, **PLAIN)
    with pytest.raises(EngineError, match=r"does not hold a batch of 1 tile\(s\) of 8192 x 8192.*smaller --tile"):
        load_fitting(job)


def test_a_run_is_the_same_twice_and_near_the_cpus(scene, tmp_path) -> None:
    """Through the whole pipeline, with units of other sizes; files are equal byte for byte."""
    settings: dict[str, Any] = {"model": "demo-harbour", "engine": "serial", "tile": 512, "batch": 4, **PLAIN}
    runs = {"one": (0, 0), "again": (0, 0), "units": (2, 1)}
    for name, unit in runs.items():
        result = geosod.detect(scene, out=tmp_path / name, device=DEVICE, unit=unit, **settings)
        assert result.exit_code == 0 and result.detections > 60
    assert tables(tmp_path / "one") == tables(tmp_path / "again") == tables(tmp_path / "units")
    here, there = (geosod.detect(scene, device=d, **settings)["harbour"].detections for d in ("cpu", DEVICE))
    px, score, share = NEAR["fp32"]
    assert agreement(here, there, px=px, score=score) >= share


def test_the_run_that_is_chosen_is_near_the_cpus(scene, tmp_path) -> None:
    """What a user gets without a setting."""
    execution, line = resolve(this_machine(), tile=(1024, 1024))
    assert execution.device == DEVICE and line.startswith(DEVICE)
    result = geosod.detect(scene, model="demo-harbour", out=tmp_path / "out", engine="serial")
    assert result.exit_code == 0
    here = geosod.detect(scene, model="demo-harbour", device="cpu", **PLAIN)["harbour"].detections
    there = geosod.detect(scene, model="demo-harbour")["harbour"].detections
    assert len(there) == result.detections
    px, score, share = NEAR[execution.precision]
    assert agreement(here, there, px=px, score=score) >= share


def test_scenes_with_holes_and_wide_pixels(tmp_path) -> None:
    """Nodata, and a pixel type of which torch has only few operations."""
    pixels = noise(3, 300, 400, dtype="uint16")
    pixels[:, :120, :150] = 0
    path = write_tif(tmp_path / "a.tif", pixels, nodata=0)
    bundle = random_bundle(tmp_path / "m", bands=("r", "g", "b"), dtype="uint16", threshold=0.3)
    here, there = (
        geosod.detect(path, model=bundle, device=d, batch=4, **PLAIN)["a"].detections for d in ("cpu", DEVICE)
    )
    assert len(here) > 100
    assert agreement(here, there, px=0.01, score=1e-3) >= 0.97


@pytest.mark.slow
def test_ray_gives_a_detector_the_gpu(scene, tmp_path, monkeypatch) -> None:
    """The same bytes as in this process, and one detector for each GPU."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    settings: dict[str, Any] = {"model": "demo-harbour", "tile": 512, "batch": 4, **PLAIN}
    events: list[object] = []
    for engine in ("serial", "ray"):
        result = geosod.detect(scene, out=tmp_path / engine, engine=engine, on_event=events.append, **settings)  # type: ignore[arg-type]
        assert result.exit_code == 0
    ready = [event for event in events if hasattr(event, "execution")]
    assert [event.execution.device for event in ready] == [DEVICE, DEVICE]
    assert ready[-1].workers == torch.cuda.device_count()
    assert tables(tmp_path / "ray") == tables(tmp_path / "serial")


def test_more_detectors_than_gpus_are_refused(scene, tmp_path) -> None:
    workers = torch.cuda.device_count() + 1
    with pytest.raises(ConfigError, match=f"{workers} detectors need a GPU each, but Ray has"):
        geosod.detect(scene, model="demo-harbour", out=tmp_path / "out", engine="ray", device=DEVICE, workers=workers)


def test_threads_and_precision_are_as_before(tiles) -> None:
    before = torch.backends.cudnn.allow_tf32
    for allowed in (True, False):
        torch.backends.cudnn.allow_tf32 = allowed
        harbour(DEVICE, tile=256).detect(tiles[0, :, :256, :256])
        assert torch.backends.cudnn.allow_tf32 == allowed
    torch.backends.cudnn.allow_tf32 = before


def test_training_runs(tmp_path, monkeypatch) -> None:
    from geosod.training import trees
    from tests.training.test_points import write_split

    monkeypatch.setattr(trees, "_CROP", 64)
    write_split(tmp_path, "train", 16, side=96, seed=1)
    write_split(tmp_path, "val", 3, side=96, seed=2, first=15)
    recipe = replace(trees.Recipe(), width=8, dropout=0.1)
    record = trees.train(tmp_path, tmp_path / "run", minutes=0.15, recipe=recipe, device=DEVICE, workers=2)
    assert record["steps"] > 30 and record["validation"]["f_score"] > 0.6
