"""The local engine gives the bytes of the serial one, whatever its threads do and whatever goes wrong in them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import geosod
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.errors import EngineError, ModelError
from geosod.results import Execution
from geosod.running import local_engine, local_finishing, readers, stages
from geosod.running.events import DetectorsStarted, Note, Ready, SceneFinished, ScenePlanned, TilesDetected, Writing
from geosod.running.tile_queue import size_to_fill
from geosod.scene import TileBatch
from geosod.testing import BrightSpots, fake_card
from tests.rasters import noise, random_bundle, write_tif
from tests.running.helpers import detect, files, tables


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose boxes form chains across the borders of units."""
    folder = tmp_path_factory.mktemp("models") / "dense"
    return random_bundle(folder, bands=("red", "green", "blue"), nms_iou=0.95, top_k=100)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    holed = noise(3, 500, 700, seed=2)
    holed[:, :300, :300] = 0
    shapes = enumerate([(400, 700), (130, 90), (300, 900)])
    return [
        write_tif(folder / "holed.tif", holed, nodata=0),
        *(write_tif(folder / f"s{i}.tif", noise(3, *shape, seed=i)) for i, shape in shapes),
    ]


@pytest.fixture(scope="module")
def expected(scenes: list[Path], dense: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("oracle")
    assert detect(scenes, dense, out, merge_threshold=0.3).detections > 500
    return tables(out)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    names = ("read_", "detect_", "other_", "plan_")
    deadline = time.monotonic() + 10
    while any(t.name.startswith(names) for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [t.name for t in threading.enumerate() if t.name.startswith(names)]


@pytest.mark.parametrize(
    ("workers", "batch", "unit"), [(1, 4, (0, 0)), (2, 4, (1, 0)), (3, 4, (2, 3)), (8, 4, (1, 1)), (2, 4, (8, 8))]
)
def test_the_bytes_are_those_of_the_serial_engine(
    workers: int, batch: int, unit: tuple[int, int], scenes, dense, expected, tmp_path
) -> None:
    events: list[Any] = []
    result = detect(
        scenes, dense, tmp_path, engine="local", workers=workers, batch=batch, unit=unit, merge_threshold=0.3,
        on_event=events.append,
    )  # fmt: skip
    assert result.exit_code == 0 and tables(tmp_path) == expected
    sizes = [event.tiles for event in events if isinstance(event, TilesDetected)]
    # Tiles of several scenes share batches, so that only the last one of each of two sizes may be short.
    assert sum(size != batch for size in sizes) <= 2
    kinds = [type(event) for event in events]
    assert kinds.index(DetectorsStarted) < kinds.index(Ready) < kinds.index(TilesDetected)
    assert kinds.count(Writing) == kinds.count(SceneFinished) == len(scenes)


def test_levels_and_methods(scenes, dense, tmp_path) -> None:
    settings = {"levels": "1,0.5,full", "merge_method": "wbf", "unit": (2, 2)}
    for engine in ("serial", "local"):
        assert detect(scenes[:2], dense, tmp_path / engine, engine=engine, workers=2, **settings).exit_code == 0
    assert tables(tmp_path / "local") == tables(tmp_path / "serial")


def test_torch_is_left_as_it_was_and_nothing_slow_is_imported(scenes, dense, tmp_path) -> None:
    threads = torch.get_num_threads()
    detect(scenes[1], dense, tmp_path / "a", engine="local", workers=2)
    assert torch.get_num_threads() == threads
    script = (
        "import sys, geosod; r = geosod.detect(sys.argv[1], model=sys.argv[2], out=sys.argv[3]); "
        "slow = {'ray', 'torchvision', 'torch._dynamo', 'sympy'} & set(sys.modules); "
        "assert r.exit_code == 0 and not slow, slow"
    )
    words = [sys.executable, "-c", script, str(scenes[1]), str(dense), str(tmp_path / "b")]
    subprocess.run(words, check=True)


def test_tiles_that_wait_are_bounded(scenes, dense, tmp_path, monkeypatch) -> None:
    """Readers are far faster than this detector."""
    lock, waiting, most = threading.Lock(), 0, 0
    read, find = stages.read_tiles, Detector.detect_batch

    def counted(*args: Any) -> Iterator[Any]:
        nonlocal waiting, most
        for item in read(*args):
            if isinstance(item, TileBatch):
                with lock:
                    waiting += len(item)
                    most = max(most, waiting)
            yield item

    def slow(self: Detector, batch: TileBatch) -> Any:
        nonlocal waiting
        time.sleep(0.02)
        with lock:
            waiting -= len(batch)
        return find(self, batch)

    monkeypatch.setattr(readers, "read_tiles", counted)
    monkeypatch.setattr(Detector, "detect_batch", slow)
    result = detect(scenes, dense, tmp_path, engine="local", workers=2, batch=2, unit=(2, 2))
    assert result.exit_code == 0
    tiles = sum(scene.counts.tiles for scene in result.scenes)
    # Two batches each that wait and that are being detected on, and one that the reader holds.
    assert 4 <= most <= 2 * (2 + 2) * 2 + 2 < tiles


def test_more_readers_begin_where_detectors_have_nothing_to_do(scenes, dense, expected, tmp_path, monkeypatch) -> None:
    lock, now, most = threading.Lock(), 0, 0
    read = readers.read_tiles

    def slow(*args: Any) -> Iterator[Any]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        for item in read(*args):
            time.sleep(0.05)
            yield item
        with lock:
            now -= 1

    monkeypatch.setattr(readers, "read_tiles", slow)
    monkeypatch.setattr(local_engine, "usable_cpus", lambda: 3)
    settings: dict[str, Any] = {"engine": "local", "unit": (1, 1), "merge_threshold": 0.3}
    assert detect(scenes, dense, tmp_path / "slow", workers=1, **settings).exit_code == 0
    assert most == 3 and tables(tmp_path / "slow") == expected
    # Readers that are fast enough stay alone.
    find, most = Detector.detect_batch, 0
    monkeypatch.setattr(Detector, "detect_batch", lambda self, batch: time.sleep(0.2) or find(self, batch))
    assert detect(scenes[1], dense, tmp_path / "fast", workers=1, **settings).exit_code == 0
    assert most == 1


def test_memory_between_blocks_in_use_is_given_back(scenes, dense, expected, tmp_path, monkeypatch) -> None:
    """Every so many seconds, and before the units of a scene are merged; else a long run would hold ever more."""
    given: list[str] = []
    monkeypatch.setattr(local_engine, "TIDYING", 0.0)
    for module in (local_engine, local_finishing):
        monkeypatch.setattr(module, "give_back_memory", lambda name=module.__name__: given.append(name))
    detect(scenes, dense, tmp_path, engine="local", merge_threshold=0.3)
    assert set(given) == {local_engine.__name__, local_finishing.__name__}
    assert tables(tmp_path) == expected


def test_scenes_in_progress_are_bounded(tmp_path, monkeypatch) -> None:
    """Scenes are written more slowly here than they are planned, read and detected on."""
    image = np.zeros((1, 40, 40), np.uint8)
    image[0, 5:12, 3:14] = 250
    scenes = [write_tif(tmp_path / f"s{i:02}.tif", image) for i in range(40)]
    assemble, events = local_finishing.assemble_scene, []

    def slow(*args: Any) -> Any:
        time.sleep(0.02)
        return assemble(*args)

    monkeypatch.setattr(local_finishing, "assemble_scene", slow)
    monkeypatch.setattr(local_engine, "MAX_SCENES", 4)
    detector = Detector(fake_card(tile=256, overlap=32), Shapes(any_size=True), Execution("cpu", "eager", "fp32", 2, 1))
    result = geosod.detect(scenes, model=detector, engine="local", on_event=events.append)
    assert result.exit_code == 0 and result.detections == len(scenes)
    planned = ended = most = 0
    for event in events:
        planned += isinstance(event, ScenePlanned)
        ended += isinstance(event, SceneFinished)
        most = max(most, planned - ended)
    # Two batches of two tiles beside the four; the next scene is announced before it is asked for.
    assert 4 <= most <= 4 + 2 * 2 + 1


def test_a_reader_that_raises_costs_its_unit(scenes, dense, tmp_path, monkeypatch) -> None:
    read = readers.read_tiles

    def broken(scene: Any, units: Any, spec: Any) -> Iterator[Any]:
        current: list[Any] = []
        for i, item in enumerate(read(scene, (current.append(unit) or unit for unit in units), spec)):
            if current[0].index == (0, 0) and scene.id == "s0" and i == 1:
                raise RuntimeError("the reader broke")
            yield item

    monkeypatch.setattr(readers, "read_tiles", broken)
    result = detect(scenes, dense, tmp_path, engine="local", workers=2, unit=(2, 3))
    assert result.exit_code == 3
    assert {scene.scene_id for scene in result.scenes if scene.status == "partial"} == {"s0"}
    (failure,) = result.failures
    assert "the reader broke" in failure.message and failure.stage == "read"


def test_an_error_between_two_units_ends_the_run(scenes, dense, tmp_path, monkeypatch) -> None:
    """It belongs to neither unit, so that no result would be complete."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("the queue broke")

    monkeypatch.setattr(readers.UnitQueue, "take_below", broken)
    with pytest.raises(RuntimeError, match="the queue broke"):
        detect(scenes[1], dense, tmp_path, engine="local", unit=(2, 3))


def test_a_detector_that_raises_costs_its_tiles(scenes, dense, tmp_path, monkeypatch) -> None:
    find = Detector.detect_batch

    def broken(self: Detector, batch: TileBatch) -> Any:
        if (batch.windows[:, :2] == 0).all(axis=1).any() and batch.pixels.any():
            raise RuntimeError("this tile breaks it")
        return find(self, batch)

    monkeypatch.setattr(Detector, "detect_batch", broken)
    notes: list[Any] = []
    result = detect(scenes[1:3], dense, tmp_path, engine="local", workers=2, on_event=notes.append)
    assert result.exit_code == 3 and len(result.failures) == 2
    assert any("tried one by one" in event.text for event in notes if isinstance(event, Note))


def test_a_unit_or_a_scene_that_cannot_be_finished(scenes, dense, tmp_path, monkeypatch) -> None:
    settle = local_finishing.settle_unit

    def broken(rule: Any, level: Any, unit: Any, *rest: Any) -> Any:
        if level.scene.id == "s0" and unit.index == (1, 0):
            raise RuntimeError("it cannot be settled")
        return settle(rule, level, unit, *rest)

    monkeypatch.setattr(local_finishing, "settle_unit", broken)
    result = detect(scenes, dense, tmp_path, engine="local", workers=2, unit=(1, 0))
    assert {s.scene_id: s.status for s in result.scenes if s.status != "done"} == {"s0": "failed"}
    assert "it cannot be settled" in result.failures[0].message


def test_a_detector_that_cannot_be_loaded_ends_the_run(scenes, dense, tmp_path, monkeypatch) -> None:
    def broken(*_: Any) -> Any:
        raise ModelError("these weights are unusable")

    monkeypatch.setattr(local_engine, "load_fitting", broken)
    with pytest.raises(ModelError, match="unusable"):
        detect(scenes, dense, tmp_path, engine="local")
    assert not (tmp_path / "items").exists()


def test_fewer_detectors_than_asked_for_do_the_work(scenes, dense, expected, tmp_path, monkeypatch) -> None:
    load, loads = local_engine.load_fitting, []

    def second_fails(*args: Any) -> Any:
        loads.append(args)
        if len(loads) == 2:
            raise MemoryError("no memory for a second one")
        return load(*args)

    monkeypatch.setattr(local_engine, "load_fitting", second_fails)
    notes: list[Any] = []
    detect(scenes, dense, tmp_path, engine="local", workers=2, merge_threshold=0.3, on_event=notes.append)
    assert tables(tmp_path) == expected
    assert any("one detector of 2 cannot be loaded" in e.text for e in notes if isinstance(e, Note))


@pytest.mark.parametrize("after", [1, 4, 9])
def test_an_interrupted_run_stops_and_a_rerun_completes_it(after, scenes, dense, expected, tmp_path) -> None:
    seen = 0

    def interrupt(event: object) -> None:
        nonlocal seen
        seen += isinstance(event, TilesDetected)
        if seen == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect(scenes, dense, tmp_path, engine="local", workers=2, merge_threshold=0.3, on_event=interrupt)
    assert not [name for name in files(tmp_path) if "staging" in name or name.endswith(".tmp")]
    detect(scenes, dense, tmp_path, engine="local", workers=2, merge_threshold=0.3)
    assert tables(tmp_path) == expected


def test_a_detector_that_does_not_answer_is_told(scenes, dense, tmp_path, monkeypatch) -> None:
    find, hung = Detector.detect_batch, threading.Event()

    def slow(self: Detector, batch: TileBatch) -> Any:
        if not hung.is_set():
            hung.set()
            time.sleep(1.0)
        return find(self, batch)

    monkeypatch.setattr(Detector, "detect_batch", slow)
    monkeypatch.setattr(local_engine, "PATIENCE", 0.3)
    notes: list[Any] = []
    result = detect(scenes[1], dense, tmp_path, engine="local", workers=1, on_event=notes.append)
    assert result.exit_code == 0
    assert any("nothing has finished for" in event.text for event in notes if isinstance(event, Note))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_detector_that_hangs_is_given_up(workers, scenes, dense, tmp_path, monkeypatch) -> None:
    """Its tiles count as failed; where no other one is left, the run ends, and what is committed stays."""
    find, hung, over = Detector.detect_batch, threading.Event(), threading.Event()

    def hang(self: Detector, batch: TileBatch) -> Any:
        if not hung.is_set() and batch.windows[:, :2].any():
            hung.set()
            over.wait(60)
        return find(self, batch)

    monkeypatch.setattr(Detector, "detect_batch", hang)
    monkeypatch.setattr(local_engine, "CLOSING", 0.5)
    notes: list[Any] = []
    settings: dict[str, Any] = {"engine": "local", "workers": workers, "batch_timeout": 1.0, "on_event": notes.append}
    started = time.monotonic()
    try:
        if workers == 1:
            with pytest.raises(EngineError, match=r"no detector is left.*--batch-timeout"):
                detect(scenes[1], dense, tmp_path, **settings)
            assert not [name for name in files(tmp_path) if name.endswith(".parquet")]
        else:
            result = detect(scenes[1], dense, tmp_path, **settings)
            assert result.exit_code == 3 and result.scenes[0].status == "partial"
            assert {f.stage for f in result.failures} == {"detect"} and len(result.failures) == 4
            assert "has not finished its batch within 1 s" in result.failures[0].message
            assert any("it is given up" in event.text for event in notes if isinstance(event, Note))
    finally:
        assert time.monotonic() - started < 30
        over.set()


@pytest.mark.parametrize("during", ["reading", "detecting", "writing"])
def test_an_interrupt_does_not_wait_for_a_thread_that_hangs(during, scenes, dense, tmp_path, monkeypatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(local_engine, "CLOSING", 0.5)
    monkeypatch.setattr(local_engine, "PATIENCE", 1.0)
    owner, name = {
        "reading": (readers, "read_tiles"),
        "detecting": (local_engine, "detect_tiles"),
        "writing": (local_finishing, "assemble_scene"),
    }[during]
    monkeypatch.setattr(owner, name, lambda *args: over.wait(60))

    def interrupt(event: object) -> None:
        if isinstance(event, Note) and "nothing has finished" in event.text:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        detect(scenes[1], dense, tmp_path, engine="local", on_event=interrupt)
    assert time.monotonic() - started < 20
    over.set()


class Shapes(BrightSpots):
    """Remembers the sizes of the images that it is given."""

    def __init__(self, *, any_size: bool) -> None:
        super().__init__()
        self.any_size, self.seen = any_size, set[tuple[int, ...]]()

    def predict(self, images: torch.Tensor) -> RawBoxes:
        self.seen.add(tuple(images.shape[2:]))
        return super().predict(images)


@pytest.mark.parametrize("engine", ["serial", "local"])
def test_small_scenes_are_filled_up_to_what_the_network_needs(engine, tmp_path) -> None:
    """Scenes of several sizes at once; each batch holds one size, and what is found is the same."""
    pixels = {"a": (40, 70), "b": (300, 20), "c": (500, 400), "d": (33, 70)}
    scenes = []
    for name, shape in pixels.items():
        image = np.zeros((1, *shape), np.uint8)
        image[0, 5:12, 3:14] = 250
        scenes.append(write_tif(tmp_path / f"{name}.tif", image))
    found = {}
    for any_size in (True, False):
        adapter, card = Shapes(any_size=any_size), fake_card(tile=256, overlap=32)
        detector = Detector(card, adapter, Execution("cpu", "eager", "fp32", 3, 1))
        notes: list[Any] = []
        result = geosod.detect(scenes, model=detector, engine=engine, on_event=notes.append)
        assert not [event for event in notes if isinstance(event, Note)], "no batch failed"
        found[any_size] = {name: result[name].detections.to_arrow() for name in pixels}
        assert all(len(table) == 1 for table in found[any_size].values())
        small = {(64, 96), (256, 32), (256, 256)}
        assert adapter.seen == (small if any_size else {(256, 256)})
    assert found[True] == found[False]


@given(st.lists(st.tuples(st.sampled_from([(32, 32), (64, 32), (64, 64)]), st.integers(1, 5)), max_size=9))
@example([((32, 32), 3), ((64, 32), 3), ((64, 64), 3)])
def test_batches_of_one_size_are_filled_first(waiting) -> None:
    counts = {size: sum(n for s, n in waiting if s == size) for size, _ in waiting}
    chosen = size_to_fill(waiting, 4, more=True)
    if any(n >= 4 for n in counts.values()):
        assert chosen is not None and counts[chosen] >= 4
    else:
        # The oldest, once too many wait: readers stop then, so nothing else would ever come.
        assert chosen == (waiting[0][0] if sum(counts.values()) >= 8 else None)
    last = size_to_fill(waiting, 4, more=False)
    assert (last is None) == (not waiting)


def test_a_process_ends_although_a_detector_hangs() -> None:
    script = (
        "import time, numpy as np, geosod\n"
        "from geosod.errors import EngineError\n"
        "from geosod.running import local_engine\n"
        "from geosod.testing import BrightSpots, fake_card\n"
        "class Hangs(BrightSpots):\n"
        "    def predict(self, images):\n"
        "        time.sleep(1000)\n"
        "local_engine.CLOSING = 0.2\n"
        "detector = geosod.Detector(fake_card(), Hangs())\n"
        "try:\n"
        "    geosod.detect(np.zeros((1, 64, 64), np.uint8), model=detector, batch_timeout=0.5)\n"
        "except EngineError:\n"
        "    print('given up')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "given up\n"


def test_arrays_and_results_in_memory(dense) -> None:

    pixels = noise(3, 300, 300)
    plain = {"precision": "fp32", "backend": "eager", "batch": 4, "device": "cpu"}
    local = geosod.detect(pixels, model=dense, workers=2, unit=(1, 1), **plain)
    serial = geosod.detect(pixels, model=dense, engine="serial", **plain)
    (one,), (other,) = local.outputs.values(), serial.outputs.values()
    assert one.detection_table().equals(other.detection_table()) and len(one.detections) > 100
    assert np.array_equal(one.coverage.codes, other.coverage.codes)


def test_scenes_without_tiles_record_how_detectors_run(scenes, dense, tmp_path) -> None:
    """Such a scene could be finished before a detector is loaded."""
    empty = write_tif(tmp_path / "empty.tif", np.zeros((3, 200, 200), "uint8"), nodata=0)
    for engine in ("serial", "local"):
        assert detect([empty, scenes[1]], dense, tmp_path / engine, engine=engine, mask=[]).exit_code == 0
    assert tables(tmp_path / "local") == tables(tmp_path / "serial")
    assert pq.read_table(next((tmp_path / "local" / "detections").rglob("empty.parquet"))).num_rows == 0
