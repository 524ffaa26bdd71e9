"""The result of one image: a dictionary with PaddleX's fields, which prints and saves itself."""

from __future__ import annotations

import builtins
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geosod.detections import Detections
from geosod.georeference.points import georeferenced
from geosod.output.geoparquet import file_metadata, write_geoparquet
from geosod.output.scene_outputs import SceneOutputs
from geosod.predict.inputs import Image
from geosod.predict.saving import PICTURES, Names, target, write_text, write_whole
from geosod.results import Failure

if TYPE_CHECKING:
    import geopandas


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a result is made of.

    Attributes:
        image: what was detected on.
        outputs: what was found.
        names: those of all results of the same call.
        number: of the result among them.
        name: under which it is saved.
    """

    image: Image
    outputs: SceneOutputs
    names: Names
    number: int
    name: str


class DetectionResult(dict[str, Any]):
    """What was found in one image.

    A dictionary with ``input_path`` (None for arrays), ``page_index`` (None but for files of several images, counted
    from 0) and ``boxes``: a list of ``{"cls_id": int, "label": str, "score": float, "coordinate": [xmin, ymin, xmax,
    ymax]}`` by descending score, in pixels of the file from its upper left corner.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._detections = _in_file(found.outputs)
        image, names = found.image, found.outputs.provenance.classes
        super().__init__(
            input_path=image.input_path, page_index=image.page_index, boxes=_boxes(self._detections, names)
        )

    @property
    def outputs(self) -> SceneOutputs:
        """The same as values: boxes as columns, the ground that was inspected, model and settings."""
        return self._found.outputs

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The parts of the image that could not be read or processed."""
        return self._found.outputs.failures

    @property
    def json(self) -> dict[str, Any]:
        """``{"res": …}`` with the fields, as plain values."""
        boxes = [{**box, "coordinate": [*box["coordinate"]]} for box in self["boxes"]]
        return {"res": {**self, "boxes": boxes}}

    @property
    def img(self) -> dict[str, Any]:
        """``{"res": PIL.Image.Image}``: the image with its boxes; of a large scene an overview and crops.

        Raises:
            SceneError: the image cannot be read any more.
        """
        from geosod.predict.picture import draw

        return {"res": draw(self._found.image, self.outputs, self._detections)}

    def print(self, format_json: bool = True, indent: int = 4, ensure_ascii: bool = False) -> None:
        """Print the result to standard output.

        Args:
            format_json: as indented JSON; False prints the dictionary in one line, as Python does.
            indent: spaces of a level of JSON.
            ensure_ascii: write other characters as escapes, in JSON.
        """
        text = json.dumps(self.json, indent=indent, ensure_ascii=ensure_ascii) if format_json else str(self.json)
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            plain = json.dumps(self.json, indent=indent) if format_json else ascii(self.json)
            builtins.print(plain)
            return
        builtins.print(text)

    def save_to_json(self, save_path: str | Path | None = None, indent: int = 4, ensure_ascii: bool = False) -> None:
        """Write the fields as a JSON file.

        Args:
            save_path: a folder, in which the file is ``<basename>_res.json``, or a file; None is the current folder.
            indent: spaces of a level.
            ensure_ascii: write other characters as escapes.

        Raises:
            OutputError: it cannot be written, or holds the result of another image.
        """
        path = self._target(save_path, ".json", kind="JSON file")
        write_text(path, json.dumps(self.json["res"], indent=indent, ensure_ascii=ensure_ascii) + "\n")

    def save_to_img(self, save_path: str | Path | None = None) -> None:
        """Write the picture that `img` returns.

        Args:
            save_path: a folder, in which the file is ``<basename>_res.<extension of the input>``, or .png where the
                input is no JPEG or PNG; or a file. None is the current folder.

        Raises:
            OutputError: it cannot be written, or would replace an image or another result.
            SceneError: the image cannot be read any more.
        """
        suffix = self._found.image.suffix
        path = self._target(save_path, suffix if suffix.lower() in PICTURES else ".png", kind="picture")
        picture = self.img["res"]
        options = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
        write_whole(path, lambda draft: picture.save(draft, **options))

    def save_to_parquet(self, save_path: str | Path | None = None) -> None:
        """Write the boxes as GeoParquet: the same rows as `geosod.detect` writes.

        Args:
            save_path: a folder, in which the file is ``<basename>_res.parquet``, or a file; None is the current folder.

        Raises:
            OutputError: it cannot be written, or holds the result of another image.
        """
        path = self._target(save_path, ".parquet", kind="Parquet file")
        outputs = self.outputs
        crs = outputs.crs if georeferenced(outputs.scene) else None
        metadata = file_metadata(outputs.scene, outputs.provenance)
        write_whole(path, lambda draft: write_geoparquet(outputs.detection_rows(), draft, crs=crs, metadata=metadata))

    def to_geopandas(self) -> geopandas.GeoDataFrame:
        """The boxes as a GeoDataFrame: the same as reading the file of `save_to_parquet`."""
        return self.outputs.to_geopandas()

    def _target(self, save_path: str | Path | None, suffix: str, *, kind: str) -> Path:
        path = target(save_path, f"{self._found.name}_res{suffix}", kind=kind)
        self._found.names.claim(path, self._found.number)
        return path


def _in_file(outputs: SceneOutputs) -> Detections:
    """The boxes by descending score, in pixels of the file."""
    found = outputs.detections[outputs.detections.canonical_order()]
    return found.with_columns(boxes=found.boxes / np.tile(outputs.scene.scale, 2))


def _boxes(found: Detections, names: tuple[str, ...]) -> list[dict[str, Any]]:
    columns = (found.labels.tolist(), found.scores.tolist(), found.boxes.tolist())
    return [
        {"cls_id": label, "label": names[label], "score": score, "coordinate": corners}
        for label, score, corners in zip(*columns, strict=True)
    ]
