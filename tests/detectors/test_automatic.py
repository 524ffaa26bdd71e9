"""What is chosen where the user leaves it open: the fastest way that was measured, else by rule; and how it is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geosod.detections import Detections
from geosod.detectors import measure
from geosod.detectors.agreement import agreement
from geosod.detectors.execution import resolve
from geosod.detectors.find_model import find_model
from geosod.detectors.ways import Abilities, Machine, Measured, Way, why_not
from geosod.errors import ConfigError
from geosod.running import automatic
from geosod.running.automatic import as_before, measure_before
from geosod.running.detect import detect, make_job
from geosod.running.events import Note
from geosod.running.job import resolve_execution
from geosod.running.planning import plan_scene
from geosod.scene import SceneRef
from tests.rasters import noise, write_tif

ZOO = Abilities(("eager", "compile", "onnxruntime", "openvino"))
GRAPH = Abilities(("onnxruntime", "openvino"))
FAST = Machine(False, False, True, False, True, runtimes=("onnxruntime", "openvino"))
TILE = (512, 512)
CPU = {"device": "cpu", "threads": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder and a memory of this process in which nothing was measured."""
    monkeypatch.setenv("GEOSOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "_here", {})
    return tmp_path / "cache"


def chosen(machine: Machine, abilities: Abilities = ZOO, **wish: object) -> tuple[str, str]:
    execution, _ = resolve(machine, tile=TILE, abilities=abilities, **wish)
    return execution.backend, execution.precision


def test_the_fastest_way_that_was_measured_is_taken() -> None:
    times = [Measured("eager", "fp32", 1.0), Measured("eager", "bf16", 0.5), Measured("openvino", "bf16", 0.3)]
    assert chosen(FAST, measured=times) == ("openvino", "bf16")
    assert chosen(FAST, measured=times, precision="fp32") == ("eager", "fp32")
    assert chosen(FAST, measured=times, backend="eager") == ("eager", "bf16")
    assert "(measured)" in resolve(FAST, tile=TILE, abilities=ZOO, measured=times)[1]
    # What is hardly slower and stands earlier in the model's order is kept.
    assert chosen(FAST, measured=[*times[:1], Measured("eager", "bf16", 0.31), times[2]]) == ("eager", "bf16")
    # fp16 is never chosen unasked, nor what this machine cannot do any more.
    assert chosen(FAST, measured=[*times, Measured("openvino", "fp16", 0.1)]) == ("openvino", "bf16")
    bare = Machine(False, False, True, False, True)
    assert chosen(bare, measured=times) == ("eager", "bf16")


def test_without_a_measurement_there_are_rules() -> None:
    assert chosen(FAST) == ("openvino", "bf16")
    assert "by rule: OpenVINO is installed" in resolve(FAST, tile=TILE, abilities=ZOO)[1]
    amx = Machine(False, False, True, True, True, runtimes=("openvino",))
    assert chosen(amx) == ("openvino", "bf16")
    # Compiled code takes seconds to start.
    assert chosen(replace(amx, runtimes=())) == ("eager", "bf16")
    slow = Machine(False, False, False, False, False, runtimes=("openvino",))
    assert chosen(slow) == ("openvino", "fp32")
    assert chosen(FAST, GRAPH, backend="onnxruntime") == ("onnxruntime", "fp32")
    assert chosen(FAST, Abilities(("onnxruntime", "openvino"), quantized=True)) == ("openvino", "int8")
    assert chosen(FAST, Abilities(("onnxruntime", "openvino"), automatic=("fp32",))) == ("openvino", "fp32")
    gpu = Machine(True, True, True, False, True, runtimes=("openvino",))
    assert chosen(gpu) == ("eager", "bf16")
    assert "measured" not in resolve(FAST, tile=TILE, backend="eager", precision="fp32")[1]


@pytest.mark.parametrize(
    ("machine", "wish", "message"),
    [
        (Machine(False, False, True, False, True), {"backend": "openvino"}, r"pip install 'geosod\[openvino\]'"),
        (Machine(False, False, True, False, True), {"backend": "onnxruntime"}, r"pip install 'geosod\[onnx\]'"),
        (FAST, {"backend": "onnxruntime", "precision": "bf16"}, "'onnxruntime' has no bf16"),
        (FAST, {"precision": "fp16"}, "'fp16' is not fast on this processor"),
        (FAST, {"precision": "int8"}, "geosod model export MODEL"),
    ],
)
def test_what_cannot_be_is_refused(machine, wish, message) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(machine, **wish)


def test_a_gpu_is_no_place_for_openvino() -> None:
    gpu = Machine(True, True, True, False, True, runtimes=("openvino",))
    assert "runs on CPUs" in str(why_not(Way("openvino", "fp32"), gpu, "cuda"))


def test_measurements_are_kept_for_later_processes(rgb_bundle, cache, monkeypatch) -> None:
    model = find_model(rgb_bundle)
    times = (Measured("eager", "fp32", 0.25), Measured("onnxruntime", "fp32", 0.125))
    assert measure.known(model, TILE, **CPU) == ()
    measure.remember(model, TILE, times, **CPU)
    monkeypatch.setattr(measure, "_here", {})  # as in another process
    assert measure.known(model, TILE, **CPU) == times
    assert measure.known(model, (256, 512), **CPU) == () and measure.known(model, TILE, device="cpu", threads=2) == ()
    assert measure.known(find_model("demo-harbour"), TILE, **CPU) == ()
    here = measure._machine()
    monkeypatch.setattr(measure, "_machine", lambda: here | {"versions": {"torch": "0.1"}})
    assert measure.known(model, TILE, **CPU) == (), "times of another torch were taken"


@pytest.mark.parametrize("content", ["", "[", "{}", '{"ways": [{"backend": "eager"}]}', '{"ways": 3}', "[" * 100_000])
def test_a_damaged_cache_is_no_measurement(content, rgb_bundle, cache, monkeypatch) -> None:
    model = find_model(rgb_bundle)
    measure.remember(model, TILE, [Measured("eager", "fp32", 0.25)], **CPU)
    (file,) = cache.rglob("*.json")
    file.write_text(content)
    monkeypatch.setattr(measure, "_here", {})
    assert measure.known(model, TILE, **CPU) == ()


def test_a_cache_that_cannot_be_written_breaks_nothing(rgb_bundle, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOSOD_CACHE", str(tmp_path / "file"))
    model, times = find_model(rgb_bundle), (Measured("eager", "fp32", 0.25),)
    measure.remember(model, TILE, times, **CPU)
    assert measure.known(model, TILE, **CPU) == times, "this process forgot it"
    monkeypatch.setattr(measure, "_here", {})
    assert measure.known(model, TILE, **CPU) == ()


def test_runs_take_what_was_measured(rgb_bundle) -> None:
    job = make_job(rgb_bundle, device="cpu")
    for backend in ("eager", "onnxruntime"):
        pytest.importorskip("onnxruntime")
        measure.remember(job.model, job.tile, [Measured(backend, "fp32", 0.25)], **CPU)
        execution, line = resolve_execution(job)
        assert (execution.backend, execution.precision) == (backend, "fp32") and "(measured)" in line


def scene(folder: Path, name: str = "a", side: int = 400) -> Path:
    folder.mkdir(exist_ok=True)
    return write_tif(folder / f"{name}.tif", noise(3, side, side, seed=1))


def test_a_long_run_measures_first(rgb_bundle, tmp_path, monkeypatch) -> None:
    """… once, and its detectors run in the fastest way."""
    monkeypatch.setattr(automatic, "WORTHWHILE", 0.0)
    monkeypatch.setattr(automatic, "MIN_TILES", 1)
    notes: list[str] = []

    def run(**settings: object) -> object:
        return detect(
            scene(tmp_path / "in"), model=rgb_bundle, engine="serial", device="cpu", precision="fp32",
            on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None, **settings,
        )  # fmt: skip

    result = run()
    measuring = [note for note in notes if "measuring first which of" in note]
    assert len(measuring) == 1, notes
    (record,) = (tmp_path / "cache").rglob("*.json")
    ways = json.loads(record.read_text())["ways"]
    assert len(ways) > 1 and {way["precision"] for way in ways} == {"fp32"}
    best = min(ways, key=lambda way: way["seconds"])["seconds"]
    ran = result.outputs["a"].provenance.execution.backend
    assert next(way["seconds"] for way in ways if way["backend"] == ran) <= best * 1.05
    run()
    run(backend="eager", tile=96)
    assert len([note for note in notes if "measuring first which of" in note]) == 1, "it measured again"


def test_a_short_run_does_not_measure(rgb_bundle, tmp_path, cache) -> None:
    job = make_job(rgb_bundle, device="cpu")
    plan = plan_scene(job, SceneRef(str(scene(tmp_path / "in")), "a"))
    notes: list[object] = []
    measure_before(job, plan, 3, notes.append)
    measure_before(job, plan, 1000, notes.append)  # many tiles, but seconds of work
    assert not notes and not cache.exists()


def test_a_resumed_run_goes_on_as_it_began(rgb_bundle, tmp_path) -> None:
    """A measurement in between does not change what the other scenes of the dataset are computed with."""
    first, folder = scene(tmp_path / "in"), tmp_path / "in"
    plain = {"model": rgb_bundle, "out": tmp_path / "out", "engine": "serial", "device": "cpu"}
    detect(first, backend="eager", precision="fp32", **plain)
    job = make_job(rgb_bundle, device="cpu")
    measure.remember(job.model, job.tile, [Measured("onnxruntime", "fp32", 0.01)], **CPU)
    scene(folder, "b")

    def ran(name: str) -> tuple[str, str]:
        item = json.loads((tmp_path / "out" / "items" / f"{name}.json").read_text())
        return item["properties"]["geosod:execution"]["backend"], item["properties"]["geosod:execution"]["precision"]

    assert detect(folder, **plain).exit_code == 0
    assert ran("a") == ran("b") == ("eager", "fp32")
    pytest.importorskip("onnxruntime")
    detect(folder, overwrite=True, **plain)
    assert ran("a") == ran("b") == ("onnxruntime", "fp32"), "what is redone may run otherwise"


def test_an_execution_that_is_not_possible_here_is_not_taken(rgb_bundle) -> None:
    job, notes = make_job(rgb_bundle, device="cpu"), []
    recorded = {"device": "cpu", "backend": "eager", "precision": "fp16", "batch": 1, "threads": 1}
    if why_not(Way("eager", "fp16"), measure.this_machine(), "cpu") is None:
        pytest.skip("this processor is fast at fp16")
    assert as_before(job, recorded, notes.append) is job
    assert "not possible here" in notes[0].text
    assert as_before(job, None, notes.append) is job and len(notes) == 1


def boxes(*rows: tuple[float, ...]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(boxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].astype(np.int32))


def test_agreement_computed_by_hand() -> None:
    a = boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 0), (50, 50, 60, 60, 0.7, 1))
    b = boxes((0, 0, 10, 11, 0.7, 0), (20, 20, 30, 30, 0.8, 1), (50, 50, 60, 60, 0.7, 1), (50, 50, 60, 61, 0.7, 1))
    same = agreement([a, boxes()], [b, boxes()])
    assert (same.reference, same.found, same.matched) == (3, 4, 2)
    assert same.f1 == pytest.approx(4 / 7) and same.max_px == 1.0
    assert same.mean_px == pytest.approx(1 / 8) and same.max_score == pytest.approx(0.2)
    assert agreement([boxes()], [boxes()]).f1 == 1.0
