"""Values that describe a result: ground inspected, failures, counts, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from geosod.errors import UsageError, redacted
from geosod.scene import Window

Status = Literal["inspected", "nodata", "outside_aoi", "masked", "failed"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that could not be done: the row of ``failures.parquet``.

    Attributes:
        scene_id, uri: the scene; the URI carries no credentials.
        window: the ground concerned, scene frame; None for the whole scene.
        stage: "open", "plan", "read", "detect", "write" or "deduplicate".
        error: class name of the exception.
        message: one line for a person.
        attempts: how often it was tried.
    """

    scene_id: str
    uri: str
    window: Window | None
    stage: str
    error: str
    message: str
    attempts: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", redacted(self.uri))
        object.__setattr__(self, "message", redacted(self.message))


def recorded(error: str) -> bool:
    """Whether a failure with that class of error is recorded: not where the run refused to redo a committed scene."""
    return error != UsageError.__name__


#: Codes of a coverage grid; where two apply to one cell, the higher one holds.
UNSEEN, NODATA, INSPECTED, FAILED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which ground was inspected, on a grid of square cells aligned to the scene's origin.

    A cell with any failed pixel is failed; with any valid pixel, inspected; else it is nodata. Cells
    that no tile touched are unseen.

    Attributes:
        cell: side of a cell in pixels of level 0.
        col, row: cell coordinates of ``codes[0, 0]``.
        codes: (rows, cols) uint8, UNSEEN, NODATA, INSPECTED or FAILED.
    """

    cell: int
    col: int
    row: int
    codes: npt.NDArray[np.uint8]

    @classmethod
    def of_window(cls, window: Window, cell: int, code: int = UNSEEN) -> Self:
        """A grid of one code over every cell that `window` touches."""
        col, row = window.col // cell, window.row // cell
        shape = (-(-window.bottom // cell) - row, -(-window.right // cell) - col)
        return cls(cell, col, row, np.full(shape, code, np.uint8))

    def copy(self) -> Self:
        """A grid whose codes can be updated without changing this one's."""
        return replace(self, codes=self.codes.copy())

    def update(self, other: Coverage) -> None:
        """Raise the cells of this grid, in place, to the codes of `other`."""
        top, left = other.row - self.row, other.col - self.col
        view = self.codes[top : top + other.codes.shape[0], left : left + other.codes.shape[1]]
        np.maximum(view, other.codes, out=view)


@dataclass(frozen=True, slots=True)
class Execution:
    """How the detector runs, once resolved for a machine. Part of what makes two results comparable.

    Attributes:
        device: torch's name of it, such as "cpu", "cuda" or "cuda:1"; outputs record the kind only.
        backend: "eager" or "compile" (torch), "onnxruntime" or "openvino".
        precision: "fp32", "bf16", "fp16" or "int8".
        batch: tiles in every forward pass; shorter batches are padded.
        threads: CPU threads of one detector.
    """

    device: str
    backend: str
    precision: str
    batch: int
    threads: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result comes from, as the outputs record it.

    Attributes:
        model: name of the bundle.
        model_digest: sha256 of the model's card and weights.
        config_digest: sha256 of every setting that can change a result.
        version: geosod's version.
        classes: name of each label id; the first of several classes of one name has the label id of all.
        execution: how the detector ran.
        options: the settings behind `config_digest`, free of paths and credentials.
        supercategories: of each class of the model, or empty.
    """

    model: str
    model_digest: str
    config_digest: str
    version: str
    classes: tuple[str, ...]
    execution: Execution
    options: dict[str, Any] = field(default_factory=dict)
    supercategories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of tiles and raw boxes of a scene.

    Attributes:
        tiles: tiles planned, and of these `empty` held no valid pixel.
        raw: boxes before merging.
        pending: boxes that one unit alone could not make final, because boxes of other units may match them.
        capped_tiles: tiles that reached the model's `top_k`, so that more objects may be there.
        degenerate: boxes of the model without area, or with a coordinate or score that is not finite; left out.
        unplaced: boxes on pixels that have no position on the ground; left out.
        reduced: tiles that went through the network in smaller batches than the execution says, since memory did not
            hold one. Their boxes may differ in the last bits from those of another run.
    """

    tiles: int = 0
    empty: int = 0
    raw: int = 0
    pending: int = 0
    capped_tiles: int = 0
    degenerate: int = 0
    unplaced: int = 0
    reduced: int = 0


@dataclass(frozen=True, slots=True)
class SceneResult:
    """How the processing of one scene ended.

    Attributes:
        scene_id, uri: the scene; the URI carries no credentials.
        status: "done", "partial" (some ground failed), "failed", or "skipped" (already committed).
        detections: number of rows written.
        paths: files of the scene, the committing item last.
        failures: what went wrong.
        megapixels: size of the scene; 0 where it could not be opened.
        inspected_km2: ground inspected; None without georeference.
        counts: of its tiles and raw boxes.
        left_over: what of earlier runs could not be removed although the scene is committed, and why.
    """

    scene_id: str
    uri: str
    status: Literal["done", "partial", "failed", "skipped"]
    detections: int = 0
    paths: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    megapixels: float = 0.0
    inspected_km2: float | None = None
    counts: Counts = Counts()
    left_over: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", redacted(self.uri))
