"""A run that was interrupted goes on where it was: finished units are not done again, and the bytes are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from geosod.output.folder import open_output
from geosod.running.events import Note, TilesDetected, UnitSettled
from geosod.running.unit_store import unfinished
from geosod.storage.local_place import LocalPlace
from geosod.tiling.grid import make_grid
from tests.cli.commands import geosod as geosod_command
from tests.rasters import noise, write_tif
from tests.running.helpers import PLAIN, detect, tables

SETTINGS: dict[str, Any] = {"unit": (2, 3), "merge_threshold": 0.3}
UNITS = 12
ENGINES = ["serial", "local", "ray"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A scene of 12 units."""
    return write_tif(tmp_path_factory.mktemp("scenes") / "s.tif", noise(3, 640, 850), block=64)


@pytest.fixture(scope="module")
def expected(scene, rgb_bundle, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    assert detect(scene, rgb_bundle, out, **SETTINGS).exit_code == 0
    return tables(out)


class Interrupting:
    """Counts events, and interrupts a run after so many units."""

    def __init__(self, units: int | None = None) -> None:
        self.left, self.tiles, self.notes = units, 0, []
        self.settled: Counter[bool] = Counter()

    def __call__(self, event: object) -> None:
        if isinstance(event, TilesDetected):
            self.tiles += event.tiles
        elif isinstance(event, Note):
            self.notes.append(event.text)
        elif isinstance(event, UnitSettled):
            self.settled[event.before] += 1
            if self.left is not None and self.settled[False] >= self.left:
                raise KeyboardInterrupt


def records(out: Path) -> list[Path]:
    return sorted(out.glob(".units/*/*/*.arrow"))


def interrupted(scene: Path, bundle: Path, out: Path, units: int, **settings: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        detect(scene, bundle, out, on_event=Interrupting(units), **(SETTINGS | settings))


@pytest.mark.parametrize("engine", ENGINES)
def test_finished_units_are_not_done_again(engine, scene, rgb_bundle, expected, tmp_path, request) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    whole = Interrupting()
    detect(scene, rgb_bundle, tmp_path / "whole", engine=engine, on_event=whole, **SETTINGS)
    assert whole.settled == {False: UNITS} and not (tmp_path / "whole/.units").exists()
    out = tmp_path / "out"
    interrupted(scene, rgb_bundle, out, 4, engine=engine)
    kept = len(records(out))
    assert kept >= 4 and not tables(out)
    again = Interrupting()
    assert detect(scene, rgb_bundle, out, engine=engine, on_event=again, **SETTINGS).exit_code == 0
    before = again.settled[True]
    # Ray's tasks may go on for a while when their driver is gone.
    assert before == kept or (engine == "ray" and before > kept)
    assert sum(again.settled.values()) == UNITS and again.tiles < whole.tiles
    assert f"s: {before} of {UNITS} units were finished by an earlier run" in again.notes
    assert tables(out) == expected == tables(tmp_path / "whole")
    assert not (out / ".units").exists(), "a committed scene needs no records"


def test_engines_go_on_with_each_others_units(scene, rgb_bundle, expected, tmp_path) -> None:
    for units, engine in ((2, "serial"), (3, "local"), (2, "serial")):
        interrupted(scene, rgb_bundle, tmp_path, units, engine=engine)
    last = Interrupting()
    detect(scene, rgb_bundle, tmp_path, engine="local", on_event=last, **SETTINGS)
    assert last.settled[False] <= UNITS - 7 and tables(tmp_path) == expected


@pytest.mark.parametrize("engine", ["serial", "local"])
def test_a_run_that_is_killed_goes_on(engine, scene, rgb_bundle, expected, tmp_path) -> None:
    """kill -9 of the whole process, as soon as some records are there."""
    call = {"model": str(rgb_bundle), "out": str(tmp_path), "engine": engine} | PLAIN | SETTINGS
    script = f"import geosod; geosod.detect({str(scene)!r}, **{call!r})"
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ)
    deadline = time.monotonic() + 120
    while len(records(tmp_path)) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept, again = len(records(tmp_path)), Interrupting()
    assert 3 <= kept < UNITS, "it was to be killed in the middle"
    detect(scene, rgb_bundle, tmp_path, engine=engine, on_event=again, **SETTINGS)
    assert again.settled == {True: kept, False: UNITS - kept}
    assert tables(tmp_path) == expected
    assert not list(tmp_path.glob(".staging-*"))


@pytest.mark.parametrize(
    "changed",
    [{"threshold": "0.2"}, {"unit": (2, 2)}, {"precision": "bf16"}, {"batch": 2}, {"tile": 96}, {"read_threads": 1}],
    ids=str,
)
def test_other_settings_begin_anew(changed, scene, rgb_bundle, tmp_path) -> None:
    interrupted(scene, rgb_bundle, tmp_path / "out", 4)
    events, settings = Interrupting(), SETTINGS | changed
    detect(scene, rgb_bundle, tmp_path / "out", on_event=events, **settings)
    detect(scene, rgb_bundle, tmp_path / "undisturbed", **settings)
    assert tables(tmp_path / "out") == tables(tmp_path / "undisturbed")
    # How a file is read changes no pixel of it.
    assert events.settled[True] == (4 if "read_threads" in changed else 0)


def test_another_file_or_model_begins_anew(scene, rgb_bundle, tmp_path) -> None:
    copy = write_tif(tmp_path / "s.tif", noise(3, 640, 850), block=64)
    interrupted(copy, rgb_bundle, tmp_path / "out", 4)
    write_tif(copy, noise(3, 640, 850, seed=1), block=64)
    os.utime(copy, (1, 1))
    events = Interrupting()
    detect(copy, rgb_bundle, tmp_path / "out", on_event=events, **SETTINGS)
    assert events.settled[True] == 0


def test_a_broken_record_is_done_again(scene, rgb_bundle, expected, tmp_path) -> None:
    interrupted(scene, rgb_bundle, tmp_path, 4)
    first, second, third, _ = records(tmp_path)
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-200])
    third.unlink()
    events = Interrupting()
    detect(scene, rgb_bundle, tmp_path, on_event=events, **SETTINGS)
    assert events.settled == {True: 1, False: UNITS - 1} and tables(tmp_path) == expected


def test_scenes_of_one_unit_keep_nothing(rgb_bundle, tmp_path) -> None:
    scenes = [write_tif(tmp_path / f"{i}.tif", noise(3, 200, 200, seed=i)) for i in range(3)]
    kept: list[Path] = []
    watch = lambda _: kept.extend((tmp_path / "out").glob(".units*"))  # noqa: E731
    detect(scenes, rgb_bundle, tmp_path / "out", on_event=watch, unit=(0, 0))
    assert not kept


@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_without_room_for_units_stops_nothing(
    engine, scene, rgb_bundle, expected, tmp_path, monkeypatch, request
) -> None:
    if engine == "ray":
        # The folder of records is a file, for the workers too.
        request.getfixturevalue("cluster")
        (tmp_path / ".units").write_text("in the way")
    else:
        put = LocalPlace.put

        def full(self: LocalPlace, staged: dict[Path, str]) -> None:
            if any(path.startswith(".units") for path in staged.values()):
                raise OSError(28, "No space left on device")
            put(self, staged)

        monkeypatch.setattr(LocalPlace, "put", full)
    events = Interrupting()
    result = detect(scene, rgb_bundle, tmp_path, engine=engine, on_event=events, **SETTINGS)
    assert result.exit_code == 0 and {k: v for k, v in tables(tmp_path).items() if ".units" not in k} == expected
    assert any("finished units cannot be kept" in note for note in events.notes)


def test_units_with_failed_ground_are_tried_again(rgb_bundle, tmp_path) -> None:
    good = write_tif(tmp_path / "s.tif", noise(3, 640, 850), block=64)
    content = good.read_bytes()
    good.write_bytes(content[: len(content) // 2])
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        detect(good, rgb_bundle, out, on_event=Interrupting(UNITS), **SETTINGS)
    assert 0 < len(records(out)) < UNITS, "the units at the end of the file failed"


def test_an_output_knows_its_unfinished_scenes(scene, rgb_bundle, tmp_path) -> None:
    interrupted(scene, rgb_bundle, tmp_path, 4)
    status = geosod_command("status", tmp_path)
    line = "s: in progress, 4 of 12 units finished; the same command goes on with the others"
    assert (status.returncode, status.stdout.splitlines()) == (3, ["0 scenes done, 0 detections", line])
    (one,) = unfinished(open_output(tmp_path))
    grid = make_grid(850, 640, tile=128, overlap=32)
    assert (one.finished, one.about["units"], one.about["tiles"], one.about["scene_id"]) == (
        4,
        UNITS,
        grid.rows * grid.cols,
        "s",
    )
    assert one.about["execution"]["precision"] == "fp32" and json.dumps(one.about)


def test_the_status_of_an_output(rgb_bundle, tmp_path) -> None:
    good, bad, out = write_tif(tmp_path / "a.tif", noise(3, 200, 200)), tmp_path / "b.tif", tmp_path / "out"
    bad.write_bytes(b"II*\0")
    found = detect([good, bad], rgb_bundle, out).detections
    shown = geosod_command("status", out)
    failed = "failures: 1 (open), of 1 scene, see failures.parquet"
    assert (shown.returncode, shown.stdout.splitlines()) == (3, [f"1 scene done, {found} detections", failed])
    bad.unlink()
    (out / "failures.parquet").unlink()
    values = json.loads(geosod_command("status", out, "--json").stdout)
    assert (values["done"], values["exit_code"], values["failures"]) == (1, 0, {})
    detect(good, rgb_bundle, tmp_path / "one.parquet", unit=(0, 0))
    assert geosod_command("status", tmp_path / "one.parquet").returncode == 0
    for path in (tmp_path / "none", tmp_path):
        refused = geosod_command("status", path)
        assert refused.returncode == 2 and str(path) in refused.stderr and not (tmp_path / "none").exists()
