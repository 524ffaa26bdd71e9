"""`changes`: which objects are new, gone or the same between two dates, on ground that was inspected on both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from geosod.arrays import BoolArray, FloatArray
from geosod.deduplication.match import MatchRule
from geosod.deduplication.reading import common_schema, read_batches
from geosod.deduplication.remote import copied
from geosod.deduplication.reproject import layers_in
from geosod.deduplication.row_groups import Layer
from geosod.deduplication.sources import SceneSource, Sources, find_sources
from geosod.deduplication.target_crs import choose_crs
from geosod.errors import ConfigError, OutputError
from geosod.exporting.formats import ExportFormat, export_format
from geosod.exporting.layers import write_table
from geosod.exporting.rows import Selection, class_names, conformed, geometry_types
from geosod.exporting.style import categories_style
from geosod.georeference.crs import LONLAT
from geosod.results import Failure
from geosod.storage.place import Place, open_place, split_file
from geosod.summarizing.ground import inspected_lonlat, on_plane, points_on_plane, union
from geosod.summarizing.intervals import poisson_interval
from geosod.summarizing.match_dates import Matches, match_files, one_layer
from geosod.summarizing.run import comparable
from geosod.summarizing.tally import Tally, check_on_earth, date_of, positions
from geosod.summarizing.zones import Zones
from geosod.version import __version__

#: What became of objects. The last two lie on ground that was inspected on one of the dates only.
KINDS = ("same", "new", "gone", "unseen_before", "unseen_after")
_COLOURS = dict(zip(KINDS, ((150, 150, 150), (0, 158, 115), (213, 94, 0), (86, 180, 233), (230, 159, 0)), strict=True))
_COLUMN = pa.field("change", pa.string(), nullable=False)


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """The result of `changes`.

    Attributes:
        table: a row for each class, and zone if asked for: ``h3`` or ``area``; ``class``; the number of objects of
            each of `KINDS`; ``new_low``, ``new_high``, ``gone_low`` and ``gone_high``, the ends of intervals; and
            ``inspected_km2``, the ground that was inspected on both dates.
        outlines: (N,) geometry of each row, longitude and latitude; None without zones.
        dates: the two dates.
        confidence: rate of the intervals.
        notes: what a user should know.
        skipped: scenes that could not be used.
    """

    table: pa.Table
    outlines: npt.NDArray[np.object_] | None
    dates: tuple[str, str]
    confidence: float
    notes: tuple[str, ...]
    skipped: tuple[Failure, ...]

    @property
    def exit_code(self) -> int:
        """0: all scenes were used. 3: some were skipped."""
        return 3 if self.skipped else 0


@dataclass(frozen=True, slots=True)
class _Request:
    dates: tuple[str, str]
    zones: Zones | None
    chosen: Selection
    rule: MatchRule
    confidence: float
    objects: Path | None
    kind: ExportFormat | None


def changes(
    outputs: str | Path | Sequence[str | Path],
    *,
    dates: tuple[str, str],
    zones: Zones | None = None,
    threshold: float = 0.0,
    classes: Sequence[str] | None = None,
    metric: Literal["iou", "ios"] = "iou",
    merge_threshold: float = 0.5,
    confidence: float = 0.95,
    objects: str | Path | None = None,
    overwrite: bool = False,
) -> Changes:
    """Compare the objects of two dates.

    The scenes of each date are deduplicated, and the two results are matched in the same way: an object that both
    have is "same"; one that only the later date has is "new" where the earlier one inspected its centre, else
    "unseen_before"; one that only the earlier date has is "gone", or "unseen_after". An object counts if the score of
    one date reaches `threshold`, so that a score just below it on the other is no change.

    Args:
        outputs: folders, or ``NAME.parquet`` files, that `geosod.detect` wrote.
        dates: the earlier and the later day of acquisition in UTC, such as ``2024-05-01``.
        zones: as for `summarize`.
        threshold: minimum score.
        classes: names of the classes that are counted; None for all.
        metric, merge_threshold: when two boxes are one object, as for `geosod.deduplicate`.
        confidence: rate of the intervals.
        objects: a new file, in a format of `geosod.export` but not COCO or YOLO, for all objects with a column
            ``change``.
        overwrite: replace `objects`.

    Raises:
        UsageError: an argument is invalid, a path is no output of `geosod.detect`, or there is no scene of a date.
    """
    kind = None
    if objects is not None:
        kind = export_format(str(objects))
        if kind.kind == "images":
            raise ConfigError(f"{objects}: objects of two dates have no common pixels; give .gpkg, .fgb or .parquet")
    rule = MatchRule("score", metric, merge_threshold)
    chosen = Selection(threshold, None if classes is None else tuple(classes))
    poisson_interval(np.zeros(0, np.int64), confidence)
    named = [outputs] if isinstance(outputs, str | Path) else list(outputs)
    with copied(named, ".", overwrite=False) as copies:
        sources = find_sources(copies.outputs)
        parent, name = split_file(objects) if objects is not None else (".", "")
        place = open_place(parent)
        if objects is not None and not overwrite and place.exists(name):
            raise OutputError(f"{objects}: exists; use --overwrite, or another name")
        with _stage(place, objects is not None) as stage:
            draft = stage / name if objects is not None else None
            request = _Request(dates, zones, chosen, rule, confidence, draft, kind)
            result = _changes(sources, request, stage)
            if draft is not None:
                _put(place, draft, name, overwrite=overwrite)
        return replace(result, skipped=tuple(map(copies.failure, result.skipped)))


@contextmanager
def _stage(place: Place, writes: bool) -> Iterator[Path]:
    """A temporary folder: one from which a file can be put into place, if there will be one."""
    if not writes:
        with tempfile.TemporaryDirectory(prefix="geosod-") as folder:
            yield Path(folder)
        return
    try:
        place.check()
        with place.staging() as folder:
            yield folder
    except OSError as error:
        raise OutputError(f"{place.address}: cannot be written ({error.strerror or error}); {place.remedy}") from error


def _put(place: Place, draft: Path, name: str, *, overwrite: bool) -> None:
    style = f"{PurePosixPath(name).stem}.qml"
    sidecar = draft.with_name(f"style-{style}")
    sidecar.write_text(categories_style("change", _COLOURS), encoding="utf-8")
    files = {sidecar: style, draft: name} if overwrite or not place.exists(style) else {draft: name}
    place.flush(*files)
    place.put(files)


def _changes(sources: Sources, request: _Request, stage: Path) -> Changes:
    if not sources.scenes:
        raise OutputError(f"no scene can be used; {sources.skipped[0].message}")
    groups = [_of_date(sources.scenes, date) for date in request.dates]
    scenes = [scene for group in groups for scene in group]
    check_on_earth(scenes, "changes")
    _, notes = comparable(scenes)
    known = class_names(scenes)
    request.chosen.check_classes(known)
    tally_classes = list(request.chosen.classes or known)
    wanted = LONLAT if request.kind is not None and request.kind.lonlat else None
    crs = choose_crs(replace(sources, scenes=tuple(scenes)), wanted)
    layers = layers_in(scenes, crs, stage)
    split = len(groups[0])
    dated = [
        one_layer(part, index, request.rule, crs, stage / f"date-{index}")
        for index, part in enumerate((layers[:split], layers[split:]))
    ]
    (stage / "spill").mkdir()
    matches = match_files(dated, request.rule, crs, stage / "spill")
    grounds = [union([inspected_lonlat(scene) for scene in group]) for group in groups]
    tallies = {kind: Tally(tally_classes, request.zones) for kind in KINDS}
    rows = _rows(dated, matches, grounds, tallies, request.chosen)
    _write_or_drain(rows, dated, crs, request)
    outside = sum(tally.outside for tally in tallies.values())
    if outside:
        notes.append(f"{outside:,} objects lie in none of the areas")
    table, outlines = _table(tallies, _shared(*grounds), tally_classes, request)
    return Changes(table, outlines, request.dates, request.confidence, tuple(notes), sources.skipped)


def _of_date(scenes: Sequence[SceneSource], date: str) -> list[SceneSource]:
    found = [scene for scene in scenes if date_of(scene) == date]
    if not found:
        there = ", ".join(sorted({date_of(scene) for scene in scenes}))
        raise ConfigError(f"date {date!r}: no scene is of that day; the outputs have {there}")
    return found


def _rows(
    dated: Sequence[Layer],
    matches: Sequence[Matches],
    grounds: Sequence[npt.NDArray[np.object_]],
    tallies: dict[str, Tally],
    chosen: Selection,
) -> Iterator[pa.Table]:
    """The objects of both dates with their change; they are counted on the way."""
    for index, (layer, match) in enumerate(zip(dated, matches, strict=True)):
        other, start = shapely.STRtree(on_plane(grounds[1 - index], LONLAT)), 0
        alone = ("gone", "unseen_after") if index == 0 else ("new", "unseen_before")
        for table in read_batches(layer.path, layer.scene):
            part = slice(start, start + len(table))
            start += len(table)
            partner = match.partner[part]
            kind = np.where(partner >= 0, "same", np.where(_inside(table, other), *alone))
            best = np.maximum(table["score"].to_numpy(), partner)
            kept = ~match.dropped[part] & (best >= np.float32(chosen.threshold))
            named = table.append_column(_COLUMN, pa.array(kind, pa.string())).filter(pa.array(kept))
            named = replace(chosen, threshold=0.0).of(named)
            for name, tally in tallies.items():
                tally.add(named.filter(pc.equal(named["change"], name)))
            yield named


def _inside(table: pa.Table, ground: shapely.STRtree) -> BoolArray:
    """(N,) bool, whose centres lie on inspected ground."""
    inside = np.zeros(len(table), np.bool_)
    if len(table):
        points = shapely.points(points_on_plane(*positions(table)))
        inside[ground.query(points, predicate="intersects")[0]] = True
    return inside


def _write_or_drain(rows: Iterator[pa.Table], dated: Sequence[Layer], crs: str, request: _Request) -> None:
    if request.objects is None or request.kind is None:
        for _ in rows:
            pass
        return
    schema = common_schema([(layer.path, layer.scene) for layer in dated]).append(_COLUMN)
    tables = (conformed(table, schema) for table in rows)
    metadata: dict[str, object] = {"version": __version__, "dates": list(request.dates)}
    types = geometry_types([layer.path for layer in dated])
    write_table(tables, schema, request.objects, request.kind, crs=crs, types=types, metadata=metadata, layer="changes")


def _shared(before: npt.NDArray[np.object_], after: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Polygons of the ground that was inspected on both dates, longitude and latitude."""
    pairs = shapely.STRtree(after).query(before, predicate="intersects")
    return union([np.asarray(shapely.intersection(before[pairs[0]], after[pairs[1]]), object)])


def _table(
    tallies: dict[str, Tally], shared: npt.NDArray[np.object_], classes: Sequence[str], request: _Request
) -> tuple[pa.Table, npt.NDArray[np.object_] | None]:
    zones = request.zones
    areas: FloatArray
    if zones is None:
        names, areas = [""], np.array([float(shapely.area(on_plane(shared, LONLAT)).sum()) / 1e6])
    else:
        inside = zones.areas(shared)
        names = zones.names()
        areas = np.concatenate([inside, np.zeros(len(names) - len(inside))])
    used = {key[1] for tally in tallies.values() for key in tally.counts} | set(np.flatnonzero(areas > 0).tolist())
    order = sorted(used, key=lambda zone: names[zone]) if zones is not None else [0]
    keys = [(zone, kind) for zone in order for kind in range(len(classes))]
    columns: dict[str, object] = {} if zones is None else {zones.column: [names[zone] for zone, _ in keys]}
    columns["class"] = [classes[kind] for _, kind in keys]
    for name, tally in tallies.items():
        columns[name] = np.array([tally.counts.get((0, *key), 0) for key in keys], np.int64)
    for name in ("new", "gone"):
        low, high = poisson_interval(np.asarray(columns[name], np.int64), request.confidence)
        columns |= {f"{name}_low": low, f"{name}_high": high}
    columns["inspected_km2"] = np.array([areas[zone] for zone, _ in keys], np.float64)
    outlines = None if zones is None else zones.outlines()[[zone for zone, _ in keys]]
    return pa.table(columns), outlines
