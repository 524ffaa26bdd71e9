"""The folder of a run: what is kept in it, and what is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from geosod.errors import OutputError
from geosod.training.board import Board
from geosod.training.events import Event, Started, Stepped, Validated
from geosod.training.run_folder import RunFolder


def test_overwrite_removes_all_that_the_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({"steps": 4}, "one", overwrite=False)
    for path in (folder.model, folder.board, folder.ray / "checkpoint_1", folder.trial):
        path.mkdir(parents=True)
        (path / "file").write_text("old")
    for path in (folder.checkpoint, folder.log, folder.validation, folder.curves, tmp_path / "notes.txt"):
        path.write_text("old")
    folder.finish({"steps": 4})
    with pytest.raises(OutputError, match="which --overwrite would empty"):
        folder.begin({"init": str(folder.model)}, "two", overwrite=True)
    folder.begin({"steps": 4}, "one", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "settings.yaml"]


@pytest.mark.parametrize("text", ["lr: 0.1\n", "- 1\n", ""])
def test_settings_of_another_program_are_not_taken_for_those_of_a_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputError, match="is not of a training run"):
        RunFolder(tmp_path).begin({}, "one", overwrite=True)
    assert (tmp_path / "model").is_dir() and (tmp_path / "settings.yaml").read_text() == text


def run_again_from(step: int) -> list[Event]:
    """Events of a run of five steps that was interrupted after the fourth."""
    steps = [Stepped(k, 5, {"total": 1.0 / k}, 0.1, float(k), 8 * k) for k in range(1, 6)]
    return [Started(0, 5), *steps[:2], Validated(2, {"AP50": 0.1}), *steps[2:4], Started(step, 5), *steps[step:]]


@pytest.mark.parametrize("step", [0, 3])
def test_logs_do_not_repeat_steps_that_are_done_again(tmp_path: Path, step: int) -> None:
    folder = RunFolder(tmp_path)
    for event in run_again_from(step):
        folder.record(event)
    rows = folder.log.read_text().splitlines()
    assert rows[0] == "step,seconds,rate,total" and [row[0] for row in rows[1:]] == list("12345")
    assert folder.validation.is_file() == (step == 3)


@pytest.mark.parametrize("step", [0, 3])
def test_tensorboard_hides_steps_that_are_done_again(tmp_path: Path, step: int) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = Board(tmp_path)
    for event in run_again_from(step):
        board.record(event)
    board.close()
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()
    assert [one.step for one in found.Scalars("loss/total")] == [1, 2, 3, 4, 5]
