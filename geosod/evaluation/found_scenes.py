"""What was found in scenes: from the outputs of `geosod detect`, or from a run in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from geosod.arrays import BoolArray, FloatArray
from geosod.deduplication.sources import SceneSource, find_sources
from geosod.detections import Detections
from geosod.errors import ConfigError, GeosodError, OutputError, one_line
from geosod.georeference.points import georeferenced, project
from geosod.output.scene_outputs import SceneOutputs
from geosod.running.result import Result
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_scene
from geosod.tile_size import Overlap, TileSize, parse_overlap, parse_tile

_SIDES = ("px_xmin", "px_ymin", "px_xmax", "px_ymax")


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a scene was cut into tiles.

    Attributes:
        tile: width and height of a tile, in pixels of the scene as it was read.
        overlap: of neighbouring tiles, as in the settings.
        scale: pixels of the scene as it was read per pixel of its file, in x and y.
    """

    tile: TileSize
    overlap: Overlap
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class FoundScene:
    """The result of one scene.

    Attributes:
        id: identifier of the scene.
        uri: its file.
        width, height: in pixels of the file.
        found: detections, pixels of the file.
        classes: names of their classes.
        supercategories: of each class, or empty.
        ground: rows of the coverage that were not inspected.
        crs: CRS of `ground`; None for pixels.
        tiling: None where it is not known.
        pixel: width and height of a pixel of the file on the ground in metres; None without georeference.
    """

    id: str
    uri: str
    width: int
    height: int
    found: Detections
    classes: tuple[str, ...]
    supercategories: tuple[str, ...]
    ground: pa.Table
    crs: str | None
    tiling: Tiling | None
    pixel: tuple[float, float] | None = None

    def uninspected(self, xy: FloatArray) -> BoolArray:
        """(N,) bool, which points (N, 2) in pixels of the file lie on ground that was not inspected.

        Raises:
            ConfigError: that cannot be seen, since the scene cannot be opened.
        """
        if self.ground.num_rows == 0 or not len(xy):
            return np.zeros(len(xy), np.bool_)
        if self.crs is not None:
            try:
                scene = open_scene(SceneRef(self.uri, self.id))
                xy = project(scene, xy, self.crs)
            except GeosodError as error:
                raise ConfigError(
                    f"scene {self.id!r}: parts of it were not inspected, and its file is needed to see which labels "
                    f"lie there: {one_line(error)}"
                ) from error
        tree = shapely.STRtree(shapely.from_wkb(self.ground["geometry"].to_pylist()))
        inside = np.zeros(len(xy), np.bool_)
        inside[tree.query(shapely.points(xy), predicate="intersects")[0]] = True
        return inside


def read_outputs(outputs: Sequence[str | Path]) -> list[FoundScene]:
    """Scenes of output folders, or of ``NAME.parquet`` files, of `geosod detect`.

    Raises:
        OutputError: one is no output, or a scene in it is not complete.
    """
    sources = find_sources(outputs)
    if sources.skipped:
        raise OutputError(f"scene {sources.skipped[0].scene_id!r}: {sources.skipped[0].message}")
    return [_read(source) for source in sources.scenes]


def _read(source: SceneSource) -> FoundScene:
    columns = [*_SIDES, "score", "label_id", "truncated", "n_merged", "level"]
    try:
        table = pq.read_table(source.detections, columns=columns, partitioning=None)
        ground = pq.read_table(source.coverage, columns=["geometry", "status"], partitioning=None)
        found = Detections(
            boxes=np.column_stack([table[name].to_numpy() for name in _SIDES]),
            scores=table["score"].to_numpy(),
            labels=table["label_id"].to_numpy(),
            truncated=table["truncated"].to_numpy(),
            n_merged=table["n_merged"].to_numpy(),
            level=table["level"].to_numpy(),
        )
        own, (scale_x, scale_y) = source.metadata, source.metadata.get("scale") or (1.0, 1.0)
        gsd = own.get("gsd")
        return FoundScene(
            id=source.id,
            uri=str(own.get("source") or source.uri),
            width=int(own["width"]),
            height=int(own["height"]),
            found=found,
            classes=tuple(own["classes"]),
            supercategories=tuple(own.get("supercategories") or ()),
            ground=_not_inspected(ground),
            crs=source.crs,
            tiling=_tiling(own.get("options") or {}, (float(scale_x), float(scale_y))),
            pixel=None if gsd is None else (gsd * scale_x, gsd * scale_y),
        )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"scene {source.id!r} in {source.output}: cannot be read ({one_line(error)}); detect it again"
        ) from error


def of_result(result: Result) -> Iterator[FoundScene]:
    """Scenes of a run whose outputs were returned."""
    for outputs in result.outputs.values():
        yield _of_outputs(outputs)


def _of_outputs(outputs: SceneOutputs) -> FoundScene:
    scene, found, own = outputs.scene, outputs.detections, outputs.provenance
    scale = scene.scale
    return FoundScene(
        id=scene.id,
        uri=scene.ref.uri,
        width=round(scene.width / scale[0]),
        height=round(scene.height / scale[1]),
        found=found if scale == (1.0, 1.0) else _scaled(found, scene),
        classes=own.classes,
        supercategories=own.supercategories,
        ground=_not_inspected(outputs.coverage_table()),
        crs=outputs.crs if georeferenced(scene) else None,
        tiling=_tiling(own.options, (float(scale[0]), float(scale[1]))),
        pixel=None if scene.pixel is None else (scene.pixel[0] * scale[0], scene.pixel[1] * scale[1]),
    )


def _scaled(found: Detections, scene: Scene) -> Detections:
    return Detections(boxes=found.boxes / np.tile(scene.scale, 2), scores=found.scores, labels=found.labels)


def _not_inspected(coverage: pa.Table) -> pa.Table:
    return coverage.filter(pc.not_equal(coverage["status"], "inspected"))


def _tiling(options: dict[str, Any], scale: tuple[float, float]) -> Tiling | None:
    tile, overlap = options.get("tile"), options.get("overlap")
    if tile is None or overlap is None:
        return None
    return Tiling(parse_tile(tile), parse_overlap(overlap), scale)
