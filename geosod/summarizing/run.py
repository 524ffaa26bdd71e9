"""`summarize`: how many objects there are, and how many per square kilometre of inspected ground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geosod.arrays import FloatArray, IntArray
from geosod.deduplication.reading import read_batches
from geosod.deduplication.remote import copied
from geosod.deduplication.sources import SceneSource, Sources, find_sources
from geosod.errors import ConfigError, OutputError, did_you_mean
from geosod.exporting.rows import Selection, class_names
from geosod.results import Failure
from geosod.summarizing.ground import inspected_km2, inspected_lonlat, on_plane, union
from geosod.summarizing.intervals import poisson_interval
from geosod.summarizing.tally import Tally, check_on_earth, date_of
from geosod.summarizing.zones import Zones

#: What rows can be divided by, besides zones.
BY = ("class", "date")
#: Share of the ground that may be in several scenes before it is noted.
_OVERLAP = 0.001


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The result of `summarize`.

    Attributes:
        table: a row for each combination of what was asked for, also where nothing was found on inspected ground:
            ``date``, ``h3`` or ``area``, and ``class`` as asked for; ``count`` with ``count_low`` and ``count_high``;
            ``inspected_km2``; ``per_km2`` with ``per_km2_low`` and ``per_km2_high``. The last four are null for scenes
            without georeference and where no ground was inspected.
        outlines: (N,) geometry of each row, longitude and latitude; None without zones.
        confidence: rate of the intervals.
        scenes: number of scenes.
        notes: what a user should know.
        skipped: scenes that could not be used.
    """

    table: pa.Table
    outlines: npt.NDArray[Any] | None
    confidence: float
    scenes: int
    notes: tuple[str, ...]
    skipped: tuple[Failure, ...]

    @property
    def exit_code(self) -> int:
        """0: all scenes were used. 3: some were skipped."""
        return 3 if self.skipped else 0


def summarize(
    outputs: str | Path | Sequence[str | Path],
    *,
    by: Sequence[str] = ("class",),
    zones: Zones | None = None,
    threshold: float = 0.0,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
    on_rows: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Summary:
    """Count objects, and divide by the ground that was inspected for them.

    Args:
        outputs: folders, or ``NAME.parquet`` files, that `geosod.detect` or `geosod.deduplicate` wrote.
        by: what to tell apart: "class" and "date", the day of acquisition in UTC.
        zones: `geosod.summarizing.zones.H3Zones` or `read_areas`, to tell places apart, too.
        threshold: minimum score.
        classes: names of the classes that are counted; None for all.
        confidence: rate of the intervals.
        on_rows: called with the number of detections that were read so far, and with that of all outputs.

    Raises:
        UsageError: an argument is invalid, or a path is not an output.
    """
    if unknown := [name for name in by if name not in BY]:
        raise ConfigError(f"by {unknown[0]!r} is not known; choose from {', '.join(BY)}{did_you_mean(unknown[0], BY)}")
    chosen = Selection(threshold, None if classes is None else tuple(classes))
    poisson_interval(np.zeros(0, np.int64), confidence)
    named = [outputs] if isinstance(outputs, str | Path) else list(outputs)
    with copied(named, ".", overwrite=False) as copies:
        sources = find_sources(copies.outputs, deduplicated=True)
        result = _summarize(sources, _Request(tuple(by), zones, chosen, confidence, on_rows))
        return replace(result, skipped=tuple(map(copies.failure, result.skipped)))


@dataclass(frozen=True, slots=True)
class _Request:
    by: tuple[str, ...]
    zones: Zones | None
    chosen: Selection
    confidence: float
    on_rows: Callable[[int, int], None]


def _summarize(sources: Sources, request: _Request) -> Summary:
    if not sources.scenes:
        raise OutputError(f"no scene can be used; {sources.skipped[0].message}")
    scenes, notes = comparable(sources.scenes)
    if request.zones is not None:
        check_on_earth(scenes, "zones")
    known = class_names(scenes)
    request.chosen.check_classes(known)
    names = list(request.chosen.classes or known)
    dates = sorted({date_of(scene) for scene in scenes}) if "date" in request.by else [""]
    groups = [[scene for scene in scenes if date in ("", date_of(scene))] for date in dates]
    tally = Tally(names if "class" in request.by else None, request.zones)
    _count(groups, tally, request)
    areas, more = _areas(groups, request.zones)
    if tally.outside:
        notes.append(f"{tally.outside:,} detections lie in none of the areas")
    keys, columns = _keys(dates, areas, tally, request)
    table, outlines = _table(keys, columns, areas, tally, request)
    return Summary(table, outlines, request.confidence, len(scenes), (*notes, *more), sources.skipped)


def comparable(scenes: Sequence[SceneSource]) -> tuple[list[SceneSource], list[str]]:
    """The scenes with georeference, if any has one, and what is said of the others.

    Raises:
        ConfigError: some are deduplicated, and some are not.
    """
    if len({scene.deduplicated for scene in scenes}) > 1:
        raise ConfigError("some outputs are deduplicated, and some are not; deduplicate all of them at once")
    placed = [scene for scene in scenes if scene.crs is not None]
    if not placed or len(placed) == len(scenes):
        return list(scenes), []
    note = f"{len(scenes) - len(placed):,} of {len(scenes):,} scenes have no georeference, and are left out"
    return placed, [note]


def _count(groups: Sequence[Sequence[SceneSource]], tally: Tally, request: _Request) -> None:
    total, done = sum(scene.rows for group in groups for scene in group), 0
    for date, group in enumerate(groups):
        for scene in group:
            for table in read_batches(scene.detections, scene):
                tally.add(request.chosen.of(table), date)
                done += len(table)
                request.on_rows(done, total)


def _areas(groups: Sequence[Sequence[SceneSource]], zones: Zones | None) -> tuple[list[FloatArray] | None, list[str]]:
    """Inspected square kilometres of each group and zone, and what is said of them; None without georeference.

    Raises:
        ConfigError: deduplicated scenes of several groups show the same ground.
    """
    if groups[0][0].crs is None:
        return None, []
    crs = groups[0][0].crs
    lonlat = [[inspected_lonlat(scene) for scene in group] for group in groups]
    merged = [union(group) for group in lonlat]
    once = [float(shapely.area(on_plane(group, crs)).sum()) / 1e6 for group in merged]
    every = [inspected_km2(group) for group in groups]
    notes = []
    if groups[0][0].deduplicated:
        whole = float(shapely.area(on_plane(union(merged), crs)).sum()) / 1e6
        if sum(once) > whole * (1 + _OVERLAP):
            raise ConfigError(
                "the outputs are deduplicated, so that an object of several dates counts at one of them only; "
                "summarize the outputs that they were made from by date"
            )
        ground, every = merged, once
    else:
        ground = [np.concatenate(group) for group in lonlat]
        if (twice := sum(every) - sum(once)) > _OVERLAP * sum(every):
            notes.append(
                f"{twice:,.2f} km2 of {sum(every):,.2f} km2 are ground that another scene shows, too, whose objects "
                "count again; geosod deduplicate leaves each once"
            )
    if zones is None:
        return [np.array([area]) for area in every], notes
    inside = [zones.areas(group) for group in ground]
    count = len(zones.names())
    return [np.concatenate([area, np.zeros(count - len(area))]) for area in inside], notes


def _keys(
    dates: Sequence[str], areas: Sequence[FloatArray] | None, tally: Tally, request: _Request
) -> tuple[IntArray, dict[str, list[str]]]:
    """(N, 3) date, zone and class of each row, and their names: what was found, or could have been."""
    kinds = len(tally.classes) if tally.classes is not None else 1
    found = {key[:2] for key in tally.counts}
    seen = {(d, z) for d, area in enumerate(areas or ()) for z in np.flatnonzero(area > 0).tolist()}
    places = found | (seen if areas is not None else {(d, 0) for d in range(len(dates))})
    names = request.zones.names() if request.zones is not None else [""]
    ordered = sorted(places, key=lambda place: (place[0], names[place[1]]))
    keys = np.array([(d, z, c) for d, z in ordered for c in range(kinds)], np.int64).reshape(-1, 3)
    columns: dict[str, list[str]] = {}
    if "date" in request.by:
        columns["date"] = [dates[d] for d in keys[:, 0]]
    if request.zones is not None:
        columns[request.zones.column] = [names[z] for z in keys[:, 1]]
    if tally.classes is not None:
        columns["class"] = [tally.classes[c] for c in keys[:, 2]]
    return keys, columns


def _table(
    keys: IntArray,
    columns: dict[str, list[str]],
    areas: Sequence[FloatArray] | None,
    tally: Tally,
    request: _Request,
) -> tuple[pa.Table, npt.NDArray[Any] | None]:
    """The rows, and the outline of each."""
    counts = np.array([tally.counts.get(tuple(key), 0) for key in keys.tolist()], np.int64)
    low, high = poisson_interval(counts, request.confidence)
    area = np.array([areas[d][z] if areas is not None else 0.0 for d, z, _ in keys.tolist()], np.float64)
    none = area <= 0
    values: dict[str, Any] = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    values |= {"count": counts, "count_low": low, "count_high": high, "inspected_km2": pa.array(area, mask=none)}
    safe = np.where(none, 1.0, area)
    for name, number in (("per_km2", counts), ("per_km2_low", low), ("per_km2_high", high)):
        values[name] = pa.array(number / safe, mask=none)
    outlines = None if request.zones is None else request.zones.outlines()[keys[:, 1]]
    return pa.table(values), outlines
