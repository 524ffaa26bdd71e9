"""The progress display: what it says at which width, and that other output never lands inside it."""

from __future__ import annotations

import io
import itertools
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from geosod.cli.display import LINE_EVERY, Lines, Quiet
from geosod.cli.progress import RunProgress, show_run
from geosod.cli.status_line import Moment, Status, clock, percent
from geosod.cli.timing import ESTIMATE_AFTER, Clock
from geosod.results import Execution, Failure, SceneResult
from geosod.running.events import (
    DetectorsStarted,
    Event,
    Failed,
    Note,
    Ready,
    SceneFinished,
    ScenePlanned,
    ScenesFound,
    TilesDetected,
    UnitSettled,
    Writing,
)

EXECUTION = Execution("cpu", "eager", "fp32", 4, 1)
BUSY = Moment(
    Status("detecting", 0.624, (("3 of 10 scenes finished", "3 of 10 scenes", "3/10 scenes"), ("12.3 Mpx/s",))),
    83.0,
    40.0,
)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(moment: Moment, width: int, **options: object) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None, **options).print(moment, soft_wrap=True)
    return file.getvalue()


@pytest.mark.parametrize("phase", ["detecting", "starting detectors"])
@pytest.mark.parametrize("elapsed", [3.0, 83.0, 45296.0])
def test_the_line_fits_every_width(phase, elapsed) -> None:
    moment = Moment(Status(phase, 0.624, BUSY.status.details), elapsed, 40.0)
    for width in range(40, 250):
        line = drawn(moment, width)
        assert "\n" not in line and cell_len(line) < width
        assert phase in line and "62 %" in line and clock(elapsed) in line
    assert cell_len(drawn(moment, 10)) <= 10


def test_less_important_parts_give_way() -> None:
    assert drawn(BUSY, 40) == "⠼ detecting  62 %  1:23  3 of 10 scenes"
    assert drawn(BUSY, 38) == "⠼ detecting  62 %  1:23  3/10 scenes"
    assert drawn(BUSY, 64) == "⠼ detecting  62 %  1:23  0:40 left  3 of 10 scenes finished"
    wide = drawn(BUSY, 120)
    assert re.search(r"detecting  ━{18,}─+  62 %  1:23  0:40 left  3 of 10 scenes finished  12.3 Mpx/s$", wide)


def test_percent_and_clock() -> None:
    assert [percent(f) for f in (0, 0.29, 0.999, 1, 1.1)] == ["0 %", "29 %", "99 %", "100 %", "100 %"]
    assert [clock(s) for s in (0, 59.9, 60, 3599, 3600, 36_000)] == [
        "0:00",
        "0:59",
        "1:00",
        "59:59",
        "1:00:00",
        "10:00:00",
    ]


def events() -> list[Event]:
    """Three scenes, one of them missing; the second is planned while the first is detected."""
    return [
        ScenesFound(3),
        SceneFinished(SceneResult("missing", "missing.tif", "failed")),
        ScenePlanned("a", 1, 10, 100.0),
        DetectorsStarted(0, 2),
        DetectorsStarted(1, 2),
        Ready(EXECUTION, "cpu", 2),
        TilesDetected({"a": 4}, 7),
        ScenePlanned("b", 2, 1000, 9000.0),
        DetectorsStarted(2, 2),
        TilesDetected({"a": 4, "b": 100}, 7),
        UnitSettled("a", 10, 2),
        Writing("a"),
        UnitSettled("b", 400, 300),
        SceneFinished(SceneResult("a", "a.tif", "done", 7)),
        UnitSettled("b", 600, 0),
        TilesDetected({"b": 600}, 7),
        Writing("b"),
        SceneFinished(SceneResult("b", "b.tif", "partial", 8)),
    ]


def test_the_phases_of_a_run_and_a_fraction_that_never_falls() -> None:
    progress, phases, fractions = RunProgress(Time()), [], []
    for event in events():
        progress.add(event)
        status = progress.status()
        phases.append(status.phase)
        fractions += [] if status.fraction is None else [status.fraction]
    assert fractions == sorted(fractions) and len(set(fractions)) > 3 and fractions[-1] < 1
    assert [phase for phase, _ in itertools.groupby(phases)] == [
        *("opening scenes", "starting detectors", "detecting", "merging", "writing", "finishing"),
    ]


def test_a_scene_whose_tiles_are_done_is_merged_before_it_is_written() -> None:
    progress = RunProgress(Time())
    for event in (ScenesFound(1), ScenePlanned("a", 1, 4, 1.0), Ready(EXECUTION, "cpu", 1), TilesDetected({"a": 4}, 1)):
        progress.add(event)
    assert progress.status().phase == "merging"
    progress.add(Writing("a"))
    assert progress.status().phase == "writing"


def test_what_a_run_counts() -> None:
    now = Time()
    progress = RunProgress(now)
    for event in events()[:4]:
        progress.add(event)
    assert progress.status().details[0][0] == "0 of 2 detectors ready"
    for event in events()[4:10]:
        progress.add(event)
    now.now += 10
    assert [forms[0] for forms in progress.status().details] == ["1 of 3 scenes finished", "98.0 Mpx/s", "108 tiles"]


def test_the_time_left() -> None:
    now = Time()
    measured = Clock(now)
    measured.update(Status("detecting", 0.2))
    now.now += ESTIMATE_AFTER / 2
    measured.update(Status("detecting", 0.3))
    assert measured.moment().left is None, "too early"
    now.now = 110.0
    measured.update(Status("detecting", 0.6))
    assert measured.moment().left == pytest.approx(10.0)
    now.now = 118.0
    assert measured.moment().left == pytest.approx(2.0)
    now.now = 125.0
    assert measured.moment().left is None, "the estimate was too short"
    measured.update(Status("writing", 0.1))
    now.now = 130.0
    measured.update(Status("writing", 0.6))
    assert measured.moment().left == pytest.approx(4.0) and measured.moment().elapsed == 30.0


def test_plain_lines(capsys) -> None:
    now = Time()
    shown = Lines(Clock(now))
    emit = show_run(shown, now=now)
    for event in events()[:7]:
        emit(event)
    now.now += LINE_EVERY
    for event in events()[7:]:
        emit(event)
    emit(Note("careful", important=True))
    assert capsys.readouterr().err.splitlines() == [
        "opening scenes",
        "starting detectors",
        "2 detector(s), the first ready after 0 s: cpu",
        "detecting",
        "detecting: 46 %, 0:10 elapsed, 0:40 left, 1 of 3 scenes finished, 4.0 Mpx/s, 4 tiles, 1 of 2 detectors ready",
        "a: done, 7 detections",
        "merging",
        "writing",
        "b: done in part, 8 detections",
        "finishing",
        "note: careful",
    ]


def test_quiet(capsys) -> None:
    emit = show_run(Quiet(), now=Time())
    lost = Failure("s", "s.tif", None, "open", "SceneError", "s.tif: is not there")
    for event in [*events(), Note("all is well"), Note("careful", important=True), Failed(lost)]:
        emit(event)
    assert capsys.readouterr().err == "failed (open): s.tif: is not there\n"


def test_messages_of_one_kind_are_printed_three_times(capsys) -> None:
    def run(verbose: bool) -> list[str]:
        emit = show_run(Lines(Clock(Time())), verbose=verbose, now=Time())
        for i in range(20):
            emit(Note(f"s{i}: band 4 holds {i}00 values", important=True))
            emit(Failed(Failure(f"s{i}", f"s{i}.tif", None, "open", "SceneError", f"s{i}.tif: is not there")))
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith(("note", "failed"))]

    shown = run(verbose=False)
    assert len(shown) == 8
    assert sum(line.startswith("note: s") for line in shown) == 3 and "note: the same of more scenes" in shown[6]
    assert shown[7] == "failed: more scenes, for the same reason (-v shows all)"
    assert len(run(verbose=True)) == 40
