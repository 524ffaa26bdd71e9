"""`view`: outputs → one HTML page with a map of the scenes and their detections."""

from __future__ import annotations

import html
import posixpath
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from geosod.deduplication.remote import Copies, copied
from geosod.deduplication.sources import SceneSource, Sources, find_sources
from geosod.errors import ConfigError, OutputError
from geosod.exporting.rows import Selection, class_names
from geosod.map_page.content import OnProgress, make_content
from geosod.map_page.library import deck_gl
from geosod.map_page.packing import Links, packed_content
from geosod.map_page.page import page_html
from geosod.results import Failure
from geosod.storage.place import is_address, open_place, split_file

#: Detections that a page holds unless another number is given.
MAX_BOXES = 500_000
#: What browsers can hold.
_MOST_BOXES = 3_000_000


@dataclass(frozen=True, slots=True, eq=False)
class MapPage:
    """A page with a map.

    Attributes:
        html: the page.
        out: where it was written; None where it was not.
        scenes: number of scenes on it.
        boxes: number of detections on it.
        total: number of detections that were chosen, with those for which there was no room.
        notes: what a user should know; the page has them, too.
        skipped: scenes that could not be used.
        seconds: wall time.
    """

    html: str
    out: str | None
    scenes: int
    boxes: int
    total: int
    notes: tuple[str, ...]
    skipped: tuple[Failure, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0: all scenes were used. 3: some were skipped."""
        return 3 if self.skipped else 0

    def __repr__(self) -> str:
        where = "" if self.out is None else f", {self.out}"
        return f"MapPage({self.boxes:,} boxes of {self.scenes:,} scenes, {len(self.html) / 1e6:.1f} MB{where})"

    def _repr_html_(self) -> str:
        """The map in a notebook, in a frame that reaches nothing of the notebook."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" title="Map of the detections" '
            'style="width:100%;height:560px;border:1px solid #ccc;border-radius:8px"></iframe>'
        )


def view(
    outputs: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    threshold: float = 0.0,
    classes: Sequence[str] | None = None,
    max_boxes: int = MAX_BOXES,
    pictures: bool = True,
    title: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,  # noqa: ARG005
) -> MapPage:
    """Make a page with a map of outputs: scenes, detections, and ground that was not inspected.

        geosod.view("out", out="out.html")      # a file for any browser, which needs no network
        geosod.view("out", threshold=0.5)       # in a notebook

    Args:
        outputs: folders, or ``NAME.parquet`` files, that `geosod.detect` or `geosod.deduplicate` wrote, local or in
            object stores.
        out: the new file; it appears whole or not at all. None only returns the page.
        threshold: minimum score.
        classes: names of the classes that are shown; None for all.
        max_boxes: number of detections that the page holds at most; those of the highest scores are kept.
        pictures: whether scenes that can be read are shown under the boxes.
        title: of the page; None names the outputs.
        overwrite: replace what is there.
        on_progress: called with what is being done, how much of it is done, and how much there is.

    Raises:
        UsageError: an argument is invalid, a path is not an output, or `out` exists or cannot be written.
    """
    started = time.monotonic()
    if isinstance(classes, str):
        raise ConfigError(f"classes {classes!r} is text; give a list of names")
    if not 1 <= max_boxes <= _MOST_BOXES:
        raise ConfigError(f"max_boxes {max_boxes}: give a number from 1 to {_MOST_BOXES:,}, which browsers can hold")
    deck_gl()  # raises now, not after the work
    if out is not None:
        _check_new(str(out), overwrite=overwrite)
    chosen = Selection(threshold, None if classes is None else tuple(classes))
    named = [outputs] if isinstance(outputs, str | Path) else list(outputs)
    with copied(named, ".", overwrite=False) as copies:
        sources, notes = _usable(find_sources(copies.outputs, deduplicated=True))
        chosen.check_classes(class_names(sources.scenes))
        content = make_content(sources, chosen, max_boxes, pictures=pictures, on_progress=on_progress)
        names = class_names([scene.source for scene in content.scenes])
        values, columns = packed_content(content, names, _links(out, copies))
        skipped = tuple(map(copies.failure, content.skipped))
    notes += [copies.named(note) for note in content.notes(pictures=pictures)]
    notes += [f"left out: {one.message}" for one in skipped]
    on_progress("writing", 0, 1)
    text = page_html(title or _title(named), values | {"notes": notes}, columns)
    if out is not None:
        _write(str(out), text)
    return MapPage(
        html=text,
        out=None if out is None else str(out),
        scenes=len(content.scenes),
        boxes=content.boxes,
        total=content.total,
        notes=tuple(notes),
        skipped=skipped,
        seconds=time.monotonic() - started,
    )


def default_out(output: str) -> str:
    """The page of an output where no name is given: beside it, and named like it."""
    if is_address(output):
        raise ConfigError(f"{output}: give -o the name of the page, such as map.html")
    path = Path(output).expanduser().absolute()
    stem = path.stem if path.suffix == ".parquet" and not path.is_dir() else path.resolve().name
    return str(path.parent / f"{stem}.html") if stem else "map.html"


def _title(named: Sequence[str | Path]) -> str:
    names = [posixpath.basename(str(Path(one).absolute() if not is_address(one) else one).rstrip("/")) for one in named]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _usable(sources: Sources) -> tuple[Sources, list[str]]:
    """The scenes that one map can hold, and what is said of the others."""
    pixel = [scene for scene in sources.scenes if scene.crs is None]
    placed = [scene for scene in sources.scenes if scene.crs is not None]
    if not pixel or not placed:
        return sources, []
    note = (
        f"{len(pixel):,} of {len(sources.scenes):,} scenes have no georeference, such as {pixel[0].id!r}, and are not "
        "on the map; detect them into an output of their own"
    )
    return replace(sources, scenes=tuple(placed)), [note]


def _links(out: str | Path | None, copies: Copies) -> Links:
    """The function that makes the link from the page to a scene's file; it returns None without a place for both."""
    if out is None:
        return lambda scene: None  # noqa: ARG005
    folder = split_file(out)[0]

    def link(scene: SceneSource) -> str | None:
        address = copies.named(str(scene.detections))
        if is_address(address) or is_address(folder):
            return None
        # Without the dot a name with a colon would be an address.
        relative = posixpath.relpath(Path(address).resolve().as_posix(), Path(folder).resolve().as_posix())
        return f"./{quote(relative)}"

    return link


def _check_new(out: str, *, overwrite: bool) -> None:
    parent, name = split_file(out)
    if not name.lower().endswith((".html", ".htm")):
        raise OutputError(f"{out}: is no name of a page; give -o NAME.html")
    if Path(out).is_dir() and not is_address(out):
        raise OutputError(f"{out}: is a folder; give -o the name of a file")
    if not overwrite and open_place(parent).exists(name):
        raise OutputError(f"{out}: exists; use --overwrite, or give -o another name")


def _write(out: str, text: str) -> None:
    parent, name = split_file(out)
    place = open_place(parent)
    try:
        place.check()
        with place.staging() as stage:
            draft = stage / name
            draft.write_text(text, encoding="utf-8")
            place.flush(draft)
            place.put({draft: name})
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror or error}); {place.remedy}") from error
