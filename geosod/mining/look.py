"""Feature vectors of crops of scenes and of labelled images, read as detection reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np

from geosod.arrays import FloatArray
from geosod.datasets.image_files import scene_of
from geosod.datasets.labels import Labels
from geosod.datasets.problems import Problems
from geosod.detectors.detector import Detector
from geosod.detectors.features import tile_features
from geosod.errors import GeosodError
from geosod.mining.candidates import Candidate
from geosod.running.job import Job
from geosod.running.limits import pixel_limits
from geosod.running.planning import model_bands
from geosod.running.stages import read_tiles
from geosod.scene import Scene, TileBatch, Window
from geosod.scenes.read import ReadSpec
from geosod.tile_size import TileSize
from geosod.tiling.grid import make_grid
from geosod.tiling.units import plan_units

#: Crops of labelled images that are compared with.
MAX_KNOWN = 500
#: Rows and columns of crops that are read together.
_UNIT = (1, 8)


class Eye:
    """Describes crops by the backbone of a detector.

    Args:
        job: model and settings.
        detector: of the model.
        crop: (width, height) in pixels.
    """

    def __init__(self, job: Job, detector: Detector, crop: TileSize) -> None:
        self._job, self._detector, self._crop = job, detector, crop

    def candidates(self, candidates: Sequence[Candidate], problems: Problems) -> tuple[list[Candidate], FloatArray]:
        """The candidates that can be read, in their order, and their feature vectors (N, D)."""
        by_scene: dict[str, list[int]] = {}
        for k, one in enumerate(candidates):
            by_scene.setdefault(one.scene.id, []).append(k)
        found: dict[int, FloatArray] = {}
        for rows in by_scene.values():
            at = {(candidates[k].window.col, candidates[k].window.row): k for k in rows}
            for start, vector in self._vectors(candidates[rows[0]].scene, at, problems):
                found[at[start]] = vector
        order = sorted(found)
        return [candidates[k] for k in order], _stacked([found[k] for k in order])

    def known(self, labels: Labels, problems: Problems) -> FloatArray:
        """(K, D) feature vectors of labelled images: of at most `MAX_KNOWN` crops, spread evenly."""
        grids = [make_grid(image.width, image.height, tile=self._crop, overlap=0) for image in labels.images]
        ends = np.cumsum([0, *(grid.rows * grid.cols for grid in grids)])
        wanted = np.unique(np.linspace(0, ends[-1] - 1, min(MAX_KNOWN, int(ends[-1]))).round().astype(np.int64))
        found: list[FloatArray] = []
        for image, grid, first, end in zip(labels.images, grids, ends, ends[1:], strict=False):
            mine = wanted[(wanted >= first) & (wanted < end)] - first
            windows = [grid.window(*divmod(int(k), grid.cols)) for k in mine]
            if not windows:
                continue
            try:
                scene = scene_of(image)
            except GeosodError as error:
                problems.add(image.uri or image.id, "", error)
                continue
            found += [vector for _, vector in self._vectors(scene, _starts(windows), problems)]
        return _stacked(found)

    def _vectors(
        self, scene: Scene, starts: Iterable[tuple[int, int]], problems: Problems
    ) -> Iterator[tuple[tuple[int, int], FloatArray]]:
        """The start and the vector of each crop of a scene that can be read whole and has a valid pixel."""
        wanted = set(starts)
        grid = make_grid(scene.width, scene.height, tile=self._crop, overlap=0)
        keep = np.array([[(x, y) in wanted for x in grid.x_starts] for y in grid.y_starts], np.bool_)
        units = plan_units(scene.id, grid, shape=_UNIT, keep=keep)
        try:
            bands = model_bands(self._job, scene)
            limits = pixel_limits(self._job.model.card, scene, bands)
            spec = ReadSpec(bands, (grid.tile_width, grid.tile_height), chunk=1, limits=limits)
            with closing(read_tiles(scene, units, spec)) as parts:
                for part in parts:
                    if isinstance(part, TileBatch):
                        yield (int(part.windows[0, 0]), int(part.windows[0, 1])), tile_features(self._detector, part)[0]
                    else:
                        for failure in part.failures:
                            problems.add(scene.ref.uri, f"pixels {failure.window}", failure.message)
        except GeosodError as error:
            problems.add(scene.ref.uri, "", error)


def _starts(windows: Sequence[Window]) -> list[tuple[int, int]]:
    return [(window.col, window.row) for window in windows]


def _stacked(vectors: list[FloatArray]) -> FloatArray:
    return np.stack(vectors).astype(np.float64) if vectors else np.empty((0, 0))
