"""`export`: outputs of geosod → one file, or folder, of another format."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import cast, get_args

from geosod.datasets.contract import Images, Target
from geosod.datasets.write import staged
from geosod.deduplication.reading import UnreadableSceneError
from geosod.deduplication.remote import copied
from geosod.deduplication.sources import SceneSource, Sources, find_sources
from geosod.deduplication.target_crs import choose_crs
from geosod.errors import ConfigError, OutputError
from geosod.exporting.formats import ExportFormat, export_format
from geosod.exporting.images import write_coco, write_yolo_folder
from geosod.exporting.layers import Layers, write_layers
from geosod.exporting.rows import Selection, class_names
from geosod.exporting.tiles.features import LAST_LATITUDE
from geosod.georeference.crs import LONLAT, body_name, crs_name, is_earth
from geosod.output.geoparquet import GeoParquetVersion
from geosod.results import Failure
from geosod.storage.place import Place, is_address, open_place, split_file


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Summary of an export.

    Attributes:
        out: the file or folder.
        format: name of its format.
        files: names of all files beside each other; of a folder, its name.
        scenes: number of scenes in it.
        rows: number of detections in it.
        crs: name of the CRS of its coordinates; None for pixels.
        notes: what a user should know.
        skipped: scenes that could not be used.
        seconds: wall time.
    """

    out: str
    format: str
    files: tuple[str, ...]
    scenes: int
    rows: int
    crs: str | None
    notes: tuple[str, ...]
    skipped: tuple[Failure, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0: all scenes were used. 3: some were skipped."""
        return 3 if self.skipped else 0


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be written.

    Attributes:
        out: as the user gave it.
        format: its format.
        version: of GeoParquet.
        crs: as the user gave it.
        chosen: which detections.
        images: what becomes of the images, of formats that have some.
        overwrite: whether what is there is replaced.
        on_rows: called with the number of detections that were written, and that there are.
    """

    out: str
    format: ExportFormat
    version: GeoParquetVersion
    crs: str | None
    chosen: Selection
    images: Images | None
    overwrite: bool
    on_rows: Callable[[int, int], None]


def export(
    outputs: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    format: str | None = None,
    geoparquet: GeoParquetVersion = "1.1",
    crs: str | None = None,
    threshold: float = 0.0,
    classes: Sequence[str] | None = None,
    images: Images | None = None,
    overwrite: bool = False,
    on_rows: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> ExportResult:
    """Write the detections of outputs in another format, in bounded memory.

    Args:
        outputs: folders, or ``NAME.parquet`` files, that `geosod.detect` or `geosod.deduplicate` wrote, local or in
            object stores.
        out: the new file, or folder for YOLO; it appears whole or not at all, with a QGIS style beside it.
        format: "geoparquet", "gpkg", "flatgeobuf", "geojson", "pmtiles", "csv", "coco" or "yolo"; None takes that of
            the suffix.
        geoparquet: version of GeoParquet: "1.1", WKB and a column of bounding boxes, or "2.0", the GEOMETRY type of
            Parquet with statistics of each row group.
        crs: CRS of the coordinates; None is that of the outputs, or longitude and latitude if they differ.
        threshold: minimum score.
        classes: names of the classes that are written; None for all.
        images: of YOLO: "none", "link" or "copy"; None links them if all are local files.
        overwrite: replace what is there.
        on_rows: called with the number of detections that were written so far, and with that of all outputs.

    Raises:
        UsageError: an argument is invalid, a path is not an output, or `out` exists or cannot be written.
    """
    started = time.monotonic()
    if geoparquet not in get_args(GeoParquetVersion):
        raise ConfigError(f"geoparquet {geoparquet!r} is not known; choose 1.1 or 2.0")
    if isinstance(classes, str):
        raise ConfigError(f"classes {classes!r} is text; give a list of names")
    chosen = Selection(threshold, None if classes is None else tuple(classes))
    wanted = export_format(str(out), format)
    request = _Request(str(out), wanted, geoparquet, crs, chosen, images, overwrite, on_rows)
    _check_options(request)
    named = [outputs] if isinstance(outputs, str | Path) else list(outputs)
    with copied(named, ".", overwrite=False) as copies:
        sources = find_sources(copies.outputs, deduplicated=True)
        _keep_outputs(str(out), named, sources.scenes)
        result = _export(sources, request)
        skipped = tuple(map(copies.failure, result.skipped))
        return replace(result, skipped=skipped, seconds=time.monotonic() - started)


def _check_options(request: _Request) -> None:
    kind = request.format
    if request.version == "2.0" and kind.name != "geoparquet":
        raise ConfigError(f"--geoparquet 2.0 is not for {kind.name}; leave it out, or name the output NAME.parquet")
    if request.crs is not None and (kind.lonlat or kind.kind == "images"):
        what = "longitude and latitude (WGS 84)" if kind.lonlat else "pixels"
        raise ConfigError(f"--crs {request.crs}: {kind.name} has {what}; leave it out, or choose another format")
    if request.images is not None and kind.name != "yolo":
        raise ConfigError(f"--image-files is for YOLO, not for {kind.name}; leave it out")
    if kind.folder and is_address(request.out):
        raise OutputError(f"{request.out}: {kind.name} is a folder with images; give a local one")


def _export(sources: Sources, request: _Request) -> ExportResult:
    """Write the scenes that can be read."""
    sources, left_out = _usable(sources, request)
    while sources.scenes:
        request.chosen.check_classes(class_names(sources.scenes))
        try:
            result = _write_images(sources, request) if request.format.kind == "images" else _write(sources, request)
        except UnreadableSceneError as error:
            broken = next(scene for scene in sources.scenes if scene.id == error.scene_id)
            failure = Failure(broken.id, broken.uri, None, "export", "SceneError", str(error))
            sources = sources.without(failure)
            continue
        return replace(result, notes=(*left_out, *result.notes), skipped=sources.skipped)
    raise OutputError(f"no scene can be used; {sources.skipped[0].message}")


def _usable(sources: Sources, request: _Request) -> tuple[Sources, list[str]]:
    """The scenes that a format can hold beside each other, and what is said of the others."""
    pixel = [scene for scene in sources.scenes if scene.crs is None]
    placed = [scene for scene in sources.scenes if scene.crs is not None]
    if not pixel or request.format.kind == "images" or (not placed and request.format.pixels):
        return sources, []
    if not placed:
        raise ConfigError(
            f"{request.format.name} holds positions on the Earth, and scene {pixel[0].id!r} has no georeference; "
            "export it to coco, yolo, csv or gpkg"
        )
    note = (
        f"{len(pixel):,} of {len(sources.scenes):,} scenes have no georeference, such as {pixel[0].id!r}, and are left "
        "out; --to coco has all"
    )
    return replace(sources, scenes=tuple(placed)), [note]


def _crs_of(sources: Sources, request: _Request) -> str | None:
    """The CRS of the export; None for pixels."""
    if sources.scenes[0].crs is None:
        if request.crs is not None:
            raise ConfigError(f"--crs {request.crs}: the scenes have no georeference; leave it out")
        return None
    if not request.format.lonlat:
        return choose_crs(sources, request.crs)
    other = next((scene for scene in sources.scenes if scene.crs is not None and not is_earth(scene.crs)), None)
    if other is not None and other.crs is not None:
        raise ConfigError(
            f"{request.format.name} holds positions on the Earth, and scene {other.id!r} is on {body_name(other.crs)}; "
            "export it to gpkg or flatgeobuf"
        )
    return choose_crs(sources, LONLAT)


def _write(sources: Sources, request: _Request) -> ExportResult:
    """Write a file with ground coordinates, or a table, and its style."""
    crs = _crs_of(sources, request)
    parent, name = split_file(request.out)
    place = open_place(parent)
    style = f"{PurePosixPath(name).stem}.qml"
    _check_new(place, name, request)
    try:
        place.check()
        with place.staging() as stage:
            layers = Layers(sources.scenes, crs, request.chosen, stage)
            rows = write_layers(layers, stage / name, request.format, request.version, request.on_rows)
            (stage / style).write_text(layers.style, encoding="utf-8")
            # A style that is there may be one that a user has made.
            before = None if request.overwrite else place.read(style)
            keep = before is not None
            files = {stage / name: name} if keep else {stage / style: style, stage / name: name}
            place.flush(*files)
            place.put(files)
    except OSError as error:
        raise _unwritable(request, place, error) from error
    return ExportResult(
        out=place.at(name),
        format=request.format.name,
        files=(name, style),
        scenes=len(sources.scenes),
        rows=rows,
        crs=None if crs is None else crs_name(crs),
        notes=_notes(sources, request, kept=style if before not in (None, layers.style.encode()) else None),
        skipped=(),
        seconds=0.0,
    )


def _notes(sources: Sources, request: _Request, *, kept: str | None) -> tuple[str, ...]:
    """What a user should know; `kept` is a style that was not replaced."""
    notes = [] if kept is None else [f"{kept} was there already, and is kept"]
    latitudes = [abs(lat) for scene in sources.scenes for lat in (scene.item.get("bbox") or ())[1::2]]
    if request.format.kind == "tiles" and max(latitudes, default=0) > LAST_LATITUDE:
        notes.append(
            f"boxes beyond {LAST_LATITUDE:.2f} degrees of latitude, where the map of vector tiles ends, are left out; "
            "gpkg and flatgeobuf have all"
        )
    return tuple(notes)


def _unwritable(request: _Request, place: Place, error: OSError) -> OutputError:
    return OutputError(f"{request.out}: cannot be written ({error.strerror or error}); {place.remedy}")


def _check_new(place: Place, name: str, request: _Request) -> None:
    if Path(request.out).is_dir():
        raise OutputError(f"{request.out}: is a folder; give -o the name of a file")
    if not request.overwrite and place.exists(name):
        raise OutputError(f"{place.at(name)}: exists; use --overwrite, or give -o another name")


def _write_images(sources: Sources, request: _Request) -> ExportResult:
    """Write boxes in pixels."""
    notes: list[str] = []
    scenes, chosen = sources.scenes, request.chosen
    if request.format.folder:
        final = Path(request.out).expanduser()
        with staged(final, folder=True, overwrite=request.overwrite) as stage:
            target = Target(stage, final, request.images or "none", None, notes)
            rows = write_yolo_folder(scenes, chosen, target, request.images)
        address, name = str(final.absolute()), final.name
    else:
        parent, name = split_file(request.out)
        place = open_place(parent)
        _check_new(place, name, request)
        address = place.at(name)
        try:
            place.check()
            with place.staging() as folder:
                draft = folder / name
                rows = write_coco(scenes, chosen, Target(draft, Path(address), notes=notes))
                place.flush(draft)
                place.put({draft: name})
        except OSError as error:
            raise _unwritable(request, place, error) from error
    return ExportResult(address, request.format.name, (name,), len(scenes), rows, None, tuple(notes), (), 0.0)


def _keep_outputs(out: str, outputs: Sequence[str | Path], scenes: Sequence[SceneSource]) -> None:
    """Refuse an export that would replace the outputs that it is made from.

    Raises:
        OutputError: `out` is one of them, one of their files, or a folder around one.
    """
    error = OutputError(f"{out}: is, or holds, what is exported; give -o another name")
    if is_address(out):
        if out.rstrip("/") in [str(output).rstrip("/") for output in outputs]:
            raise error
        return
    path = Path(out).expanduser().resolve()
    for scene in scenes:
        for file in (scene.item_path, scene.detections, scene.coverage):
            if path == file.resolve() or path in file.resolve().parents:
                raise error


def as_images(text: str | None) -> Images | None:
    """What becomes of images; ConfigError where the text is none of the choices."""
    if text is not None and text not in get_args(Images):
        raise ConfigError(f"--image-files {text!r} is not known; choose none, link or copy")
    return cast("Images | None", text)
