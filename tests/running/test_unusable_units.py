"""Records of units that cannot be listed, read or removed cost their own work at most, and never a run or a scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geosod.output.failures import failures_of
from geosod.running.events import TilesDetected
from geosod.storage.local_place import LocalPlace
from tests.cli.commands import geosod as geosod_command
from tests.rasters import noise, write_tif
from tests.running.helpers import detect, tables
from tests.running.test_resume import ENGINES, SETTINGS, UNITS, Interrupting, interrupted, records


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A scene of 12 units."""
    return write_tif(tmp_path_factory.mktemp("scenes") / "s.tif", noise(3, 640, 850), block=64)


@pytest.fixture(scope="module")
def expected(scene, rgb_bundle, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    assert detect(scene, rgb_bundle, out, **SETTINGS).exit_code == 0
    return tables(out)


def broken(monkeypatch: pytest.MonkeyPatch, name: str, when: Callable[[str], bool]) -> None:
    """Let an operation of folders fail for some paths, as a damaged disk does."""
    operation = getattr(LocalPlace, name)

    def failing(self: LocalPlace, path: str = "") -> Any:
        if when(path):
            raise OSError(5, "Input/output error", path)
        return operation(self, path)

    monkeypatch.setattr(LocalPlace, name, failing)


ALL, OF_SCENE = ".units: units that earlier runs have finished cannot be listed", "s: units that an earlier run has"


@pytest.mark.parametrize(
    ("engine", "name", "when", "says", "taken"),
    [
        ("local", "names", lambda path: path == ".units", ALL, 0),
        ("serial", "names", lambda path: "/s/" in path, OF_SCENE, 0),
        ("local", "read", lambda path: path.endswith(".arrow"), OF_SCENE, 0),
        *((engine, "read", lambda path: path == taken_away[0], OF_SCENE, 3) for engine in ENGINES),
    ],
)
def test_units_that_cannot_be_read_are_done_again(
    engine, name, when, says, taken, scene, rgb_bundle, expected, tmp_path, monkeypatch, request
) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    interrupted(scene, rgb_bundle, tmp_path, 4)
    taken_away[:] = [records(tmp_path)[1].relative_to(tmp_path).as_posix()]
    broken(monkeypatch, name, when)
    events = Interrupting()
    result = detect(scene, rgb_bundle, tmp_path, engine=engine, on_event=events, **SETTINGS)
    assert result.exit_code == 0 and tables(tmp_path) == expected
    assert events.settled == {False: UNITS - taken} | ({True: taken} if taken else {})
    noted = [note for note in events.notes if note.startswith(says)]
    assert len(noted) == 1 and noted[0].endswith("and are done again: Input/output error")
    assert not (tmp_path / ".units").exists()


#: The record that one of the cases above takes away.
taken_away: list[str] = []


@pytest.mark.parametrize("engine", ["serial", "local"])
def test_a_scene_is_done_although_its_units_cannot_be_removed(
    engine, scene, rgb_bundle, expected, tmp_path, monkeypatch
) -> None:
    other = write_tif(tmp_path / "other.tif", noise(3, 300, 400), block=64)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        broken(patch, "remove_folder", lambda _: True)
        events = Interrupting()
        result = detect([scene, other], rgb_bundle, out, engine=engine, on_event=events, **SETTINGS)
        assert result.exit_code == 0 and {one.status for one in result.scenes} == {"done"}
        text = ".units: finished units of scenes that are done cannot be removed: Input/output error"
        assert [note.startswith(text) for note in events.notes].count(True) == 1, "once, and not for every scene"
        assert len(records(out)) > UNITS
        shown = geosod_command("status", out)
        assert shown.returncode == 0 and "in progress" not in shown.stdout
        assert "finished units of 2 scenes that are done are left over; the same command removes them" in shown.stdout
        again = Interrupting()
        result = detect([scene, other], rgb_bundle, out, engine=engine, on_event=again, **SETTINGS)
        assert {one.status for one in result.scenes} == {"skipped"} and result.exit_code == 0
        assert any(note.startswith(text) for note in again.notes)
    assert {name: body for name, body in tables(out).items() if "s.parquet" in name} == expected
    assert detect([scene, other], rgb_bundle, out, engine=engine, **SETTINGS).exit_code == 0
    assert not (out / ".units").exists(), "the next run has removed them"
    assert "left over" not in geosod_command("status", out).stdout


def test_a_replaced_scene_is_done_although_notes_of_it_remain(
    scene, rgb_bundle, expected, tmp_path, monkeypatch
) -> None:
    detect(scene, rgb_bundle, tmp_path, **SETTINGS)
    with monkeypatch.context() as patch:
        broken(patch, "remove_folder", lambda _: True)
        events = Interrupting()
        result = detect(scene, rgb_bundle, tmp_path, overwrite=True, on_event=events, **SETTINGS)
    assert result.exit_code == 0 and tables(tmp_path) == expected
    assert any("notes of scenes that were replaced cannot be removed" in note for note in events.notes)
    detect(scene, rgb_bundle, tmp_path, **SETTINGS)
    assert not (tmp_path / ".units").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_output_that_is_lost_in_mid_run_fails_its_scenes_with_the_cause(
    engine, scene, rgb_bundle, tmp_path, request
) -> None:
    """A file is where the folder was: nothing can be listed, read, kept or written, not even the failures."""
    if engine == "ray":
        request.getfixturevalue("cluster")
    other, out, done = write_tif(tmp_path / "other.tif", noise(3, 300, 400), block=64), tmp_path / "out", []

    class Losing(Interrupting):
        def __call__(self, event: object) -> None:
            super().__call__(event)
            if isinstance(event, TilesDetected) and not done:
                done.append(event)
                out.rename(tmp_path / "elsewhere")
                out.write_text("in the way")

    events = Losing()
    result = detect([scene, other], rgb_bundle, out, engine=engine, on_event=events, **SETTINGS)
    assert result.exit_code == 3 and [one.status for one in result.scenes] == ["failed"] * 2
    assert {(f.scene_id, f.stage) for f in result.failures} == {("s", "write"), ("other", "write")}
    assert all("cannot be written" in f.message and "Not a directory" in f.message for f in result.failures)
    assert any("failures of this run cannot be recorded: Not a directory" in note for note in events.notes)
    out.unlink()
    (tmp_path / "elsewhere").rename(out)
    assert detect([scene, other], rgb_bundle, out, engine="local", **SETTINGS).exit_code == 0
    assert not failures_of(out / "failures.parquet") if (out / "failures.parquet").exists() else True
