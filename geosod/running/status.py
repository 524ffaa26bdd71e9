"""How far the runs into an output have come: scenes done, scenes in progress, and what failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from geosod.errors import OutputError
from geosod.output.failures import failures_from
from geosod.output.folder import OutputFolder, output_at, read_items
from geosod.running.unit_store import unfinished
from geosod.storage.place import is_address

#: What an item and the records of units have in common where the item came of these units.
_SAME = ("source_version", "model_digest", "config_digest")


@dataclass(frozen=True, slots=True)
class SceneInProgress:
    """A scene that is not committed, some units of which are finished.

    Attributes:
        scene_id, uri: the scene.
        finished: number of units that a run with the same settings need not do again.
        units: number of all.
    """

    scene_id: str
    uri: str
    finished: int
    units: int


@dataclass(frozen=True, slots=True)
class OutputStatus:
    """What an output holds.

    Attributes:
        out: its path or address.
        done: number of scenes that are committed whole.
        partial: of scenes some ground of which failed.
        detections: number of rows of all committed scenes.
        in_progress: scenes begun and not committed.
        failures: number of recorded failures, by stage.
        failed_scenes: ids of scenes with recorded failures, sorted.
        left_over: ids of scenes that are committed, but whose finished units could not be removed, sorted.
    """

    out: str
    done: int
    partial: int
    detections: int
    in_progress: tuple[SceneInProgress, ...]
    failures: dict[str, int]
    failed_scenes: tuple[str, ...]
    left_over: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 where nothing is left to do, else 3."""
        return 3 if self.partial or self.in_progress or self.failures else 0


def output_status(out: str | Path) -> OutputStatus:
    """Look at an output; nothing is changed, and runs may go on meanwhile.

    Args:
        out: what was given to `geosod.detect`.

    Raises:
        OutputError: there is no such output, or it cannot be read.
    """
    folder = _existing(out)
    try:
        counts: Counter[str] = Counter()
        detections = 0
        kept = list(unfinished(folder))
        names, done = {str(one.about["scene_id"]) for one in kept}, set()
        for item in read_items(folder):
            p = item["properties"]
            counts[p["geosod:status"]] += 1
            detections += int(p["geosod:detections"])
            if item["id"] in names and p["geosod:status"] == "done":
                done.add((item["id"], *(p.get(f"geosod:{name}") for name in _SAME)))
        of = [(one, (one.about["scene_id"], *(one.about.get(name) for name in _SAME))) for one in kept]
        left_over = {str(scene[0]) for _, scene in of if scene in done}
        begun = tuple(
            SceneInProgress(str(scene[0]), str(one.about.get("uri", "")), one.finished, int(one.about["units"]))
            for one, scene in of
            if scene not in done
        )
        path = folder.failures
        rows = failures_from(folder.place.read(path), where=folder.place.at(path))
    except OSError as error:
        raise OutputError(f"{out}: cannot be read ({error}); {folder.place.remedy}") from error
    if not (counts or begun or len(rows)):
        raise OutputError(f"{out}: holds nothing that geosod detect has written; check the path")
    return OutputStatus(
        str(out),
        counts["done"],
        counts["partial"],
        detections,
        begun,
        dict(sorted(Counter(rows["stage"].to_pylist()).items())),
        tuple(sorted(set(rows["scene_id"].to_pylist()))),
        tuple(sorted(left_over)),
    )


def _existing(out: str | Path) -> OutputFolder:
    """The output at a path, which is not created."""
    if not is_address(out) and not Path(out).expanduser().exists():
        raise OutputError(f"{out}: no such output; name what was given to geosod detect with -o")
    return output_at(out)
