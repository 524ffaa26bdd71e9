"""The closing lines of `geosod detect`."""

from __future__ import annotations

from geosod.cli.status_line import counted
from geosod.results import recorded
from geosod.running.result import Result

#: How a scene ended, in words.
ENDINGS = {
    "done": "done",
    "partial": "done in part",
    "skipped": "skipped (done before)",
    "failed": "failed",
}


def summary(result: Result) -> str:
    """The closing lines of a run."""
    lines = [f"{_scenes(result)}: {counted(result.detections, 'detection')} in this run"]
    if result.total is not None:
        lines.append(f"{counted(result.total, 'detection')} in {result.out}")
    if result.megapixels:
        lines.append(f"{result.megapixels:,.3g} megapixels in {result.seconds:.0f} s, starting included")
    unplaced = sum(one.inspected_km2 is None for one in result.scenes if one.status in ("done", "partial"))
    if unplaced and result.total is not None:
        # One file holds all boxes.
        where = "" if str(result.out).endswith(".parquet") else f", in {result.out}/pixel"
        lines.append(f"{counted(unplaced, 'scene')} without georeference: boxes in pixels{where}")
    return "\n".join([*lines, *_warnings(result)])


def _scenes(result: Result) -> str:
    counts = dict.fromkeys(ENDINGS, 0)
    for scene in result.scenes:
        counts[scene.status] += 1
    parts = [f"{n:,} {ENDINGS[status]}" for status, n in counts.items() if n]
    if len(parts) == 1:
        return f"{counted(len(result.scenes), 'scene')} {parts[0].partition(' ')[2]}"
    return f"{counted(len(result.scenes), 'scene')} ({', '.join(parts)})" if parts else "no scenes"


def _warnings(result: Result) -> list[str]:
    of_scenes = [scene.counts for scene in result.scenes]
    capped, degenerate = sum(c.capped_tiles for c in of_scenes), sum(c.degenerate for c in of_scenes)
    lines = []
    if degenerate:
        boxes = "box" if degenerate == 1 else "boxes"
        lines.append(f"{degenerate:,} degenerate {boxes} left out (no area, or values that are not finite)")
    if capped:
        lines.append(
            f"{counted(capped, 'tile')} had as many boxes as the model reports at most; objects there may be missing"
        )
    if result.failures:
        kept = any(recorded(failure.error) for failure in result.failures)
        listed = ", listed in failures.parquet" if kept else ""
        # A request that was wrong would fail again.
        again = "; the same command tries them again" if kept and result.exit_code == 3 else ""
        lines.append(f"{counted(len(result.failures), 'failure')}{listed}{again}")
    return lines
