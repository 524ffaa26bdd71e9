"""What a page shows: scenes with their boxes and ground, all on one map, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from geosod.arrays import FloatArray
from geosod.deduplication.reading import UnreadableSceneError, reading
from geosod.deduplication.sources import SceneSource, Sources
from geosod.deduplication.target_crs import choose_crs
from geosod.errors import OutputError
from geosod.exporting.rows import Selection
from geosod.map_page.backdrop import Backdrop, drawn
from geosod.map_page.boxes import Cut, SceneBoxes, best, read_boxes
from geosod.map_page.outlines import Geometries, Ground, on_map, read_ground, simplified
from geosod.map_page.plane import Plane, SceneFrame, choose_plane, lonlat, side_by_side
from geosod.results import Failure

#: Pixels of all pictures together, minimum and maximum side of one, and number of them.
_PIXELS, _SIDES, _PICTURES = 40_000_000, (256, 2048), 300
#: Called with what is being done, how much of it is done, and how much there is.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class SceneOnMap:
    """A scene on the map.

    Attributes:
        source: the scene.
        footprint: (F,) polygons.
        ground: status → (N,) polygons.
        inspected_km2: area of what was inspected; None where it is not known.
        boxes: its detections.
        picture: its picture.
        no_picture: why there is none; "" where there is one.
    """

    source: SceneSource
    footprint: Geometries
    ground: dict[str, Geometries]
    inspected_km2: float | None
    boxes: SceneBoxes
    picture: Backdrop | None
    no_picture: str

    @property
    def bounds(self) -> FloatArray:
        """(4,) ``xmin, ymin, xmax, ymax`` of its footprint and boxes."""
        corners = self.boxes.corners.reshape(-1, 2)
        both = np.concatenate([shapely.total_bounds(self.footprint).reshape(2, 2), corners])
        return np.concatenate([both.min(axis=0), both.max(axis=0)])


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a page shows.

    Attributes:
        plane: the map.
        scenes: the scenes.
        total: number of detections that were chosen, with those for which there was no room.
        cut: which of them the page holds.
        skipped: scenes that could not be used.
    """

    plane: Plane
    scenes: tuple[SceneOnMap, ...]
    total: int
    cut: Cut
    skipped: tuple[Failure, ...]

    @property
    def boxes(self) -> int:
        """Number of detections on the map."""
        return sum(len(scene.boxes.ids) for scene in self.scenes)

    def notes(self, *, pictures: bool) -> Iterator[str]:
        """What a user should know; `pictures`: whether they were asked for."""
        if self.boxes < self.total:
            yield (
                f"{self.total - self.boxes:,} of {self.total:,} boxes are left out, those with scores of "
                f"{self.cut.score:.3f} or less; choose fewer with --threshold or --classes, or raise --max-boxes"
            )
        bare = [scene for scene in self.scenes if scene.no_picture]
        if bare and pictures:
            first = bare[0]
            yield (
                f"{len(bare):,} of {len(self.scenes):,} scenes are shown as a footprint without a picture, such as "
                f"{first.source.id}: {first.no_picture}"
            )


def make_content(
    sources: Sources, chosen: Selection, max_boxes: int, *, pictures: bool, on_progress: OnProgress
) -> Content:
    """Read what a page shows.

    Args:
        sources: scenes that all have a georeference, or all have none.
        chosen: which detections.
        max_boxes: number of detections at most; those of the highest scores are kept.
        pictures: whether scenes are read.
        on_progress: called with what is being done.

    Raises:
        UsageError: no scene can be used, or scenes lie on several bodies.
    """
    if sources.scenes and sources.scenes[0].crs is not None:
        choose_crs(sources, None)  # refuses several bodies
    while sources.scenes:
        try:
            return _read(sources, chosen, max_boxes, pictures, on_progress)
        except UnreadableSceneError as error:
            broken = next(scene for scene in sources.scenes if scene.id == error.scene_id)
            sources = sources.without(Failure(broken.id, broken.uri, None, "view", "SceneError", str(error)))
    raise OutputError(f"no scene can be used; {sources.skipped[0].message}")


def _read(sources: Sources, chosen: Selection, max_boxes: int, pictures: bool, on_progress: OnProgress) -> Content:
    scenes = sources.scenes
    grounds = [read_ground(scene) for scene in _counted(scenes, "reading coverage", on_progress)]
    frames = _frames(scenes, grounds)
    cut = best(scenes, chosen, max_boxes)
    ties, boxes, outlines = cut.ties, [], []
    for k, scene in enumerate(_counted(scenes, "reading detections", on_progress)):
        boxes.append(read_boxes(scene, chosen, cut, ties, frames[k]))
        ties -= int((boxes[-1].plain["score"] == np.float32(cut.score)).sum())
        outlines.append(_ground_on_map(scene, grounds[k], frames[k]))
    # Last, since it takes longest, and nothing can make the scene unusable any more.
    shown = []
    for k, scene in enumerate(_counted(scenes, "reading pictures", on_progress)):
        picture, why = _picture(scene, frames[k], k, len(scenes)) if pictures else (None, "not asked for")
        shown.append(SceneOnMap(scene, *outlines[k], grounds[k].inspected_km2, boxes[k], picture, why))
    return Content(frames[0].plane, tuple(shown), cut.total, cut, sources.skipped)


def _picture(scene: SceneSource, frame: SceneFrame, number: int, scenes: int) -> tuple[Backdrop | None, str]:
    """The picture of one of some scenes, or why there is none."""
    if number >= _PICTURES:
        return None, f"a page has {_PICTURES} pictures at most"
    return drawn(scene, frame, int(np.clip(np.sqrt(_PIXELS / scenes), *_SIDES)))


def _counted(scenes: Sequence[SceneSource], what: str, on_progress: OnProgress) -> Iterable[SceneSource]:
    for k, scene in enumerate(scenes):
        on_progress(what, k, len(scenes))
        yield scene


def _frames(scenes: Sequence[SceneSource], grounds: Sequence[Ground]) -> list[SceneFrame]:
    """Where each scene lies on the map of all; UnreadableSceneError where the CRS of one cannot be used."""
    places = []
    for scene, ground in zip(scenes, grounds, strict=True):
        if ground.footprint_crs is None:
            return _pixel_frames(grounds)
        with reading(scene):
            places.append(lonlat(shapely.get_coordinates(ground.footprint), ground.footprint_crs))
    plane = choose_plane(np.concatenate(places), str(scenes[0].crs))
    frames = []
    for scene, ground in zip(scenes, grounds, strict=True):
        with reading(scene):
            first = shapely.get_coordinates(ground.footprint)[:1]
            beside = float(plane.of(first, str(ground.footprint_crs))[0, 0])
        frames.append(SceneFrame(plane, scene.crs, scene.near, np.zeros(2), beside))
    return frames


def _pixel_frames(grounds: Sequence[Ground]) -> list[SceneFrame]:
    """Scenes without georeference beside each other."""
    sizes = np.array([shapely.total_bounds(ground.footprint)[2:] for ground in grounds])
    return [SceneFrame(Plane(None), None, None, offset) for offset in side_by_side(sizes)]


def _ground_on_map(scene: SceneSource, ground: Ground, frame: SceneFrame) -> tuple[Geometries, dict[str, Geometries]]:
    """The footprint of a scene, and its ground by status, on the map."""
    with reading(scene):
        footprint, _ = on_map(ground.footprint, ground.footprint_crs, frame)
        shapes, origin = on_map(ground.shapes, scene.crs, frame)
    status = np.array(ground.status, object)[origin]
    return simplified(footprint), {str(name): simplified(shapes[status == name]) for name in np.unique(status)}
