"""What a scene came to, as values: boxes, ground inspected, failures and counts. Nothing is written here."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.georeference.points import georeferenced
from geosod.html_repr import MAX_ROWS, boxes_svg, card, grid
from geosod.output.coverage import coverage_table
from geosod.output.geoparquet import file_metadata, write_geoparquet
from geosod.output.table import detection_rows, detection_table
from geosod.results import Counts, Coverage, Failure, Provenance, SceneResult
from geosod.scene import Scene

if TYPE_CHECKING:
    import geopandas
    import supervision
    from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SceneOutputs:
    """The result of one scene.

    Attributes:
        scene: the scene.
        detections: its boxes, merged, scene frame; all with a place on the ground where the scene is georeferenced.
        coverage: what became of its ground, on a grid.
        failures: what could not be read or processed.
        counts: of tiles and raw boxes.
        provenance: model, settings and execution.
        crs: CRS of the tables.
        aoi: the area of interest, scene frame; None for the whole scene.
        masks: ground left out by request, scene frame, by kind.
    """

    scene: Scene
    detections: Detections
    coverage: Coverage
    failures: tuple[Failure, ...]
    counts: Counts
    provenance: Provenance
    crs: str
    aoi: BaseGeometry | None = None
    masks: dict[str, BaseGeometry] = field(default_factory=dict)

    @property
    def status(self) -> Literal["done", "partial"]:
        """ "partial" where some ground failed."""
        return "partial" if self.failures else "done"

    def __repr__(self) -> str:
        return f"SceneOutputs({self.scene.id!r}, {self.status}, {self.detections!r})"

    def _repr_html_(self) -> str:
        found, scene = self.detections, self.scene
        order = np.argsort(-found.scores, kind="stable")
        drawing = boxes_svg(found.boxes[order], found.labels[order], (0.0, 0.0, scene.width, scene.height))
        counts = np.bincount(found.labels, minlength=len(self.provenance.classes))
        rows = [(name, f"{counts[k]:,}") for k, name in enumerate(self.provenance.classes) if counts[k]]
        about = [("size", f"{scene.width:,} x {scene.height:,} px"), ("model", self.provenance.model)]
        about += [("failed", failure.message) for failure in self.failures[:MAX_ROWS]]
        classes = grid(("class", "boxes"), rows[:MAX_ROWS], more=max(0, len(rows) - MAX_ROWS)) if rows else ""
        return card(f"{scene.id}: {len(found):,} boxes, {self.status}", drawing, classes, grid((), about))

    def renamed(self) -> SceneOutputs:
        """The same outputs under an identifier that depends on the scene's URI."""
        ref = self.scene.ref.hashed()
        failures = tuple(replace(failure, scene_id=ref.id) for failure in self.failures)
        return replace(self, scene=replace(self.scene, ref=ref), failures=failures)

    def detection_rows(self) -> pa.RecordBatchReader:
        """The rows of the detections file, made while they are read; see `geosod.output.table.detection_rows`."""
        return detection_rows(self.scene, self.detections, self.provenance, crs=self.crs)

    def detection_table(self) -> pa.Table:
        """`detection_rows` as a table, with `geosod.output.table.DETECTION_SCHEMA`."""
        return detection_table(self.scene, self.detections, self.provenance, crs=self.crs)

    def coverage_table(self) -> pa.Table:
        """The rows of the coverage file, with `geosod.output.coverage.COVERAGE_SCHEMA`."""
        return coverage_table(self.scene, self.coverage, crs=self.crs, aoi=self.aoi, masks=self.masks)

    def to_geopandas(self) -> geopandas.GeoDataFrame:
        """The detections as a GeoDataFrame: the same as reading the file that `geosod.detect(out=...)` writes."""
        return self._as_read(self.detection_rows())

    def coverage_to_geopandas(self) -> geopandas.GeoDataFrame:
        """The ground as a GeoDataFrame, with `status`, `reason` and `area_km2`."""
        return self._as_read(self.coverage_table())

    def to_supervision(self) -> supervision.Detections:
        """The detections as `supervision.Detections`, boxes in pixels of the scene, class names in ``data``.

        Raises:
            ConfigError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ConfigError("to_supervision needs the package supervision; pip install supervision") from error
        d, names = self.detections, np.array(self.provenance.classes, dtype=str)
        return supervision.Detections(
            xyxy=d.boxes.astype(np.float32),
            confidence=d.scores.copy(),
            class_id=d.labels.astype(int),
            data={"class_name": names[d.labels]},
        )

    def _as_read(self, rows: pa.Table | pa.RecordBatchReader) -> geopandas.GeoDataFrame:
        import geopandas

        buffer = io.BytesIO()
        crs = self.crs if georeferenced(self.scene) else None
        write_geoparquet(rows, buffer, crs=crs, metadata=file_metadata(self.scene, self.provenance))
        return geopandas.read_parquet(io.BytesIO(buffer.getvalue()))


def scene_result(
    outputs: SceneOutputs,
    *,
    paths: tuple[str, ...] = (),
    inspected_km2: float | None = None,
    left_over: tuple[str, ...] = (),
) -> SceneResult:
    """How a scene ended that was worked through.

    Args:
        outputs: what it came to.
        paths: the files it was written to.
        inspected_km2: ground inspected.
        left_over: what could not be removed.
    """
    return SceneResult(
        outputs.scene.id,
        outputs.scene.ref.uri,
        outputs.status,
        detections=len(outputs.detections),
        paths=paths,
        failures=outputs.failures,
        megapixels=outputs.scene.megapixels,
        inspected_km2=inspected_km2,
        counts=outputs.counts,
        left_over=left_over,
    )
