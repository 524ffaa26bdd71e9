"""Several processes give the bytes of one, whatever becomes of them, and none is left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

import geosod
from geosod.config import make_config
from geosod.detectors.find_model import find_model
from geosod.errors import ConfigError, EngineError
from geosod.running import engines, process_engine, scene_process
from geosod.running.engines import check_engine, process_count
from geosod.running.events import DetectorsStarted, Note, Ready, SceneFinished, ScenePlanned, TilesDetected
from geosod.running.job import Job
from geosod.running.scene_process import SceneProcess
from tests.rasters import noise, random_bundle, write_tif
from tests.running.helpers import PLAIN, detect, files, tables

MANY: dict[str, Any] = {"engine": "local", "processes": 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "dense"
    return random_bundle(folder, bands=("red", "green", "blue"), nms_iou=0.95, top_k=100)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small ones; two of several units where units have one tile; and one of another kind that cannot be read."""
    folder = tmp_path_factory.mktemp("scenes")
    small = [write_tif(folder / f"s{i:02}.tif", noise(3, 60, 40 + i, seed=i)) for i in range(24)]
    large = [write_tif(folder / f"l{i}.tif", noise(3, 150, 170, seed=90 + i)) for i in range(2)]
    broken = folder / "broken.tif"
    broken.write_bytes(b"II*\0 but no more")
    return [*small[:5], large[0], broken, *small[5:], large[1]]


@pytest.fixture(scope="module")
def expected(scenes: list[Path], bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("oracle")
    assert detect(scenes, bundle, out, unit=(1, 1)).detections > 100
    return boxes(out)


def boxes(out: Path) -> dict[str, bytes]:
    """The tables of all scenes; the next run removes what a process that was killed has left."""
    return {name: content for name, content in tables(out).items() if not name.startswith(("failures", ".staging"))}


def children() -> list[psutil.Process]:
    """The processes of the engine that this process or its children have started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("scene_process" in word for word in process.cmdline()) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children()


def test_the_bytes_are_those_of_the_serial_engine(scenes, bundle, expected, tmp_path) -> None:
    events: list[Any] = []
    result = detect(scenes, bundle, tmp_path, unit=(1, 1), on_event=events.append, **MANY)
    assert boxes(tmp_path) == expected
    assert [(Path(r.uri).name, r.status) for r in result.scenes if r.status != "done"] == [("broken.tif", "failed")]
    assert [e.workers for e in events if isinstance(e, Ready)] == [2]
    loaded = [(e.ready, e.workers) for e in events if isinstance(e, DetectorsStarted)]
    assert loaded[0] == (0, 2)
    assert (2, 2) in loaded
    planned = {e.scene_id: e.tiles for e in events if isinstance(e, ScenePlanned)}
    found: dict[str, int] = dict.fromkeys(planned, 0)
    for event in events:
        for name, tiles in event.by_scene.items() if isinstance(event, TilesDetected) else ():
            found[name] += tiles
    assert found == planned
    assert len(planned) == 26
    assert not [e.text for e in events if isinstance(e, Note) and e.important]
    assert not [name for name in files(tmp_path) if "staging" in name]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are bound to CPUs on Linux")
def test_each_process_has_cpus_of_its_own(scenes, bundle, tmp_path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2 or len(cpus) != engines.usable_cpus():
        pytest.skip("one CPU, or a quota of some")
    seen: list[list[list[int]]] = []

    def note_cpus(event: object) -> None:
        if isinstance(event, SceneFinished):
            seen.append([sorted(process.cpu_affinity()) for process in children()])

    detect(scenes[7:-1], bundle, tmp_path, on_event=note_cpus, **MANY)
    # On a busy machine the second one may not be bound yet when the first scene is finished.
    both = [each for each in seen if len(each) == 2]
    assert any(sorted(cpu for of_process in each for cpu in of_process) == cpus for each in both)
    assert sorted(os.sched_getaffinity(0)) == cpus


def test_a_run_that_was_done_is_not_done_again(scenes, bundle, tmp_path) -> None:
    detect(scenes[:3], bundle, tmp_path, **MANY)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = detect(scenes[:5], bundle, tmp_path, **MANY)
    assert sorted(r.status for r in again.scenes) == ["done", "done", "skipped", "skipped", "skipped"]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}.items()


@pytest.mark.slow
def test_a_lost_process_does_not_matter(scenes, bundle, expected, tmp_path) -> None:
    notes, ended = [], 0

    def kill(event: object) -> None:
        nonlocal ended
        notes.extend([event.text] if isinstance(event, Note) else [])
        ended += isinstance(event, SceneFinished)
        if isinstance(event, SceneFinished) and ended == 3:
            children()[0].kill()

    result = detect(scenes, bundle, tmp_path, unit=(1, 1), on_event=kill, **MANY)
    assert boxes(tmp_path) == expected
    # One that was committed just before its process was lost is not done again.
    assert sum(r.status in ("done", "skipped") for r in result.scenes) == 26
    assert len([text for text in notes if "was lost (signal SIGKILL)" in text]) == 1


@pytest.mark.slow
def test_a_scene_that_ends_its_process_costs_itself_only(scenes, bundle, tmp_path, monkeypatch) -> None:
    """As a file does at which a library crashes. Its neighbours are tried again without it."""
    begin, victim = SceneProcess.begin, scenes[2].name

    def crash(process: SceneProcess) -> None:
        begin(process)
        if any(plan.scene.ref.uri.endswith(victim) for plan in process.begun.values()):
            process._process.kill()

    monkeypatch.setattr(SceneProcess, "begin", crash)
    result = detect(scenes[:5], bundle, tmp_path, **MANY)
    states = {Path(r.uri).name: r.status for r in result.scenes}
    assert states == {path.name: "failed" if path.name == victim else "done" for path in scenes[:5]}
    (failure,) = result.failures
    assert (failure.error, failure.stage) == ("EngineError", "detect")
    assert "alone was lost (signal SIGKILL)" in failure.message
    assert result.exit_code == 3
    assert pq.read_table(tmp_path / "failures.parquet")["scene_id"].to_pylist() == [failure.scene_id]
    monkeypatch.undo()
    detect(scenes[:5], bundle, tmp_path, **MANY)
    assert not (tmp_path / "failures.parquet").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "message"),
    [
        (False, "3 processes were lost before they had loaded a detector, the last with signal SIGKILL"),
        (True, "3 processes were lost one after the other, the last with signal SIGKILL"),
    ],
)
def test_processes_that_are_lost_one_after_the_other_end_the_run(
    begun, message, scenes, bundle, tmp_path, monkeypatch
) -> None:
    """One that is lost before it has begun with a scene says nothing of that scene."""
    give = SceneProcess.give

    def crash(process: SceneProcess, plan: Any) -> None:
        give(process, plan)
        process._process.kill()

    def crash_later(event: object) -> None:
        if isinstance(event, DetectorsStarted) and event.ready:
            for process in children():
                process.kill()

    if not begun:
        monkeypatch.setattr(SceneProcess, "give", crash)
    monkeypatch.setattr(process_engine, "MAX_LOST", 2)
    with pytest.raises(EngineError, match=message):
        detect(scenes, bundle, tmp_path, on_event=crash_later if begun else None, **MANY)


@pytest.mark.slow
def test_an_error_of_one_process_costs_its_scenes_an_attempt(scenes, bundle, expected, tmp_path, monkeypatch) -> None:
    """As where a detector hangs, of which a process has one only."""
    monkeypatch.setenv("GEOSOD_TEST_FAILS", "s10")
    monkeypatch.setattr(scene_process, "__name__", "tests.running.failing_process")
    result = detect(scenes, bundle, tmp_path, unit=(1, 1), **MANY)
    states = {Path(r.uri).name: r.status for r in result.scenes}
    assert [name for name, status in states.items() if status == "failed"] == ["broken.tif", "s10.tif"]
    failure = next(f for f in result.failures if f.uri.endswith("s10.tif"))
    assert (failure.error, failure.message) == ("EngineError", "a detector hangs")
    assert boxes(tmp_path) == {name: content for name, content in expected.items() if "s10" not in name}


@pytest.mark.parametrize("at", [DetectorsStarted, SceneFinished])
def test_an_interrupted_run_stops_and_a_rerun_completes_it(at, scenes, bundle, tmp_path) -> None:
    small = [path for path in scenes if path.name.startswith("s")]

    def interrupt(event: object) -> None:
        if isinstance(event, at):
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        detect(small, bundle, tmp_path, on_event=interrupt, **MANY)
    assert time.monotonic() - began < 60
    assert not children()
    assert not [name for name in files(tmp_path) if "staging" in name or name.endswith(".tmp")]
    result = detect(small, bundle, tmp_path)
    assert {r.status for r in result.scenes} == ({"skipped", "done"} if at is SceneFinished else {"done"})


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(how, scenes, bundle, tmp_path) -> None:
    settings = [f"--{name}={value}" for name, value in (PLAIN | MANY).items()]
    small = [str(path) for path in scenes if path.name.startswith("s")]
    run = subprocess.Popen(
        [sys.executable, "-m", "geosod", "detect", *small, "-m", str(bundle), "-o", str(tmp_path / "out"), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/items/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children()
    os.killpg(run.pid, how)
    began = time.monotonic()
    run.communicate(timeout=60)
    if how == signal.SIGINT:
        assert time.monotonic() - began < 15
        assert run.returncode == 130
        assert not [name for name in files(tmp_path / "out") if "staging" in name]
    # The other processes' end is waited for by `no_process_is_left`; where this one was killed, they are no children.
    mine = [p for p in psutil.process_iter(["cmdline"]) if "scene_process" in " ".join(p.info["cmdline"] or ())]
    assert not psutil.wait_procs(mine, timeout=30)[1]
    result = detect(small, bundle, tmp_path / "out")
    assert {r.status for r in result.scenes} <= {"done", "skipped"}
    assert len(list(tmp_path.glob("out/items/*.json"))) == len(small)


@pytest.mark.parametrize("noise_before", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_a_process_ends_with_its_input(noise_before, cut, tmp_path) -> None:
    """Also where SIGINT is ignored, as in jobs that a shell has put in the background, and in mid-message."""
    before = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + "print('loading');" * noise_before
    script = f"{before}from geosod.running.scene_process import main; main()"
    run = subprocess.Popen([sys.executable, "-c", script, ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdin is not None
    assert run.stdout is not None
    while run.stdout.readline() != scene_process._BEGIN:
        pass
    run.stdin.write(pickle.dumps(list(range(1000)))[:100] if cut else b"")
    run.stdin.close()
    assert run.wait(20) == 1


def test_an_error_of_a_detector_ends_the_run(scenes, bundle, tmp_path) -> None:
    with pytest.raises(ConfigError, match="int8"):
        detect(scenes[:4], bundle, tmp_path, precision="int8", **MANY)


def test_large_scenes_in_between_wait_for_a_few_others(scenes, bundle, expected, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(process_engine, "MAX_ASIDE", 1)
    events: list[Any] = []
    result = detect(scenes, bundle, tmp_path, unit=(1, 1), on_event=events.append, **MANY)
    assert boxes(tmp_path) == expected
    order = [Path(r.uri).stem for r in result.scenes if r.status == "done"]
    assert (set(order[:5]), order[5]) == ({path.stem for path in scenes[:5]}, "l0")
    assert order[-1] == "l1"
    assert len([e for e in events if isinstance(e, Ready)]) == 1


def test_large_scenes_alone(scenes, bundle, expected, tmp_path) -> None:
    large = [path for path in scenes if path.name.startswith("l")]
    detect(large, bundle, tmp_path, unit=(1, 1), **MANY)
    assert boxes(tmp_path) == {name: content for name, content in expected.items() if Path(name).name.startswith("l")}


def job(bundle: Path, **settings: Any) -> Job:
    return Job(find_model(bundle), make_config(**settings))


def plan(units: int = 1) -> Any:
    return SimpleNamespace(units=range(units))


def test_how_many_processes(bundle, monkeypatch) -> None:
    monkeypatch.setattr(engines, "usable_cpus", lambda: 4)
    monkeypatch.setattr(engines, "available_memory", lambda: 64 << 30)
    monkeypatch.setattr(engines, "gpu_count", lambda: 0)
    count = lambda scenes, units=1, here=False, **settings: process_count(  # noqa: E731
        job(bundle, **settings), plan(units), scenes, in_process=here
    )
    assert count(1000) == 4
    assert count(1000, threads=2) == 2
    assert count(199) == count(1000, units=2) == count(1000, here=True) == count(1000, processes=1) == 1
    assert count(1000, workers=3) == count(1000, engine="serial") == count(1000, device="cuda") == 1
    assert count(3, processes=8) == 3
    monkeypatch.setattr(engines, "available_memory", lambda: 2 << 30)
    assert count(1000) == 2
    monkeypatch.setattr(engines, "gpu_count", lambda: 1)
    assert count(1000) == 1
    assert count(1000, device="cpu") == 2
    monkeypatch.setattr(engines, "usable_cpus", lambda: 32)
    monkeypatch.setattr(engines, "available_memory", lambda: 64 << 30)
    assert count(1000, device="cpu") == engines.MAX_PROCESSES
    monkeypatch.setattr(engines, "interpreter", lambda: None)
    assert count(1000, device="cpu") == 1


def test_processes_that_are_asked_for_are_local(bundle, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert engines.engine_name(job(bundle), in_process=False) == "ray"
    assert engines.engine_name(job(bundle, processes=2), in_process=False) == "local"


@pytest.mark.parametrize(
    ("cpus", "settings", "processes", "workers"),
    [
        (8, {}, 6, [2, 2, 1, 1, 1, 1]),
        (8, {"threads": 2}, 4, [1, 1, 1, 1]),
        (2, {}, 4, [1, 1, 1, 1]),
        (2, {"workers": 5}, 2, [3, 2]),
    ],
)
def test_no_detector_is_lost_where_cores_are_divided(cpus, settings, processes, workers, bundle, monkeypatch) -> None:
    monkeypatch.setattr(process_engine, "usable_cpus", lambda: cpus)
    assert process_engine._workers(job(bundle, **settings), processes) == workers


@pytest.mark.parametrize(
    ("settings", "about"),
    [
        ({"workers": 1}, "leave --workers out"),
        ({"engine": "ray"}, "--engine local"),
        ({"engine": "serial"}, "--engine local"),
        ({"device": "cuda"}, "--device cpu"),
    ],
)
def test_settings_that_contradict_several_processes(settings, about, bundle) -> None:
    with pytest.raises(ConfigError, match=f"processes = 2: .*{about}"):
        check_engine(job(bundle, processes=2, **settings), in_process=False)


def test_several_processes_take_files_only(bundle) -> None:
    with pytest.raises(ConfigError, match=r"processes = 2: .*files"):
        geosod.detect(np.zeros((3, 64, 64), np.uint8), model=bundle, processes=2)


def test_shares_of_the_cpus(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5, 6, 7}, raising=False)
    monkeypatch.setattr(process_engine, "usable_cpus", lambda: 5)
    monkeypatch.setattr(sys, "platform", "linux")
    assert process_engine._shares(2, 1) == [[1, 5, 7], [2, 6]]
    assert process_engine._shares(6, 1) == [[]] * 6
    assert process_engine._shares(2, 3) == [[], []]
    monkeypatch.setattr(process_engine, "usable_cpus", lambda: 2)  # a quota
    assert process_engine._shares(2, 1) == [[], []]
