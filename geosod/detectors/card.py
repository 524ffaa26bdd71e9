"""The model card: what a model is made for, and how it is run. `ModelCard.check` refuses other scenes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from geosod.detectors.classes import ClassRules, class_rules
from geosod.detectors.network_input import NetworkInput
from geosod.errors import ConfigError, ModelError
from geosod.html_repr import card, grid
from geosod.palette import visible_bands
from geosod.scene import Scene
from geosod.tile_size import Overlap, TileSize, overlap_pixels, parse_overlap, parse_tile

#: Pixel types that GDAL and torch have in common.
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
SCALINGS = ("stored", "physical", "percentile")
DETECTION, CLASSIFICATION = "object-detection", "classification"
#: A GSD may exceed a card's range by this ratio: projections and geodesic lengths are no more exact.
GSD_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a model is made for, and how it is run.

    Attributes:
        name: name of the bundle.
        architecture: of the network; with the adapter "zoo" a name in its registry.
        parameters: for the adapter; with "zoo" keyword arguments of the network besides bands and classes.
        bands: names of the input bands, in order.
        dtype: numpy name of the pixel type it was trained on.
        minimum, maximum: per band, the values that are scaled to 0 and 1 (MLM ``min-max`` scaling).
        scaling: what these are: "stored" pixel values; "physical" values, after the scale and offset that a scene's
            bands carry; or "percentile"s of a scene's valid pixels, the same for all of its tiles.
        gamma: scaled values are raised to the power 1 / gamma.
        classes: label of each class id.
        tile: side of a tile in pixels, or (width, height).
        overlap: of neighbouring tiles, in pixels, as a ratio of the tile's side below 1, or (x, y) of either.
        gsd: metres a pixel it was trained at; None where that has no meaning.
        gsd_range: minimum and maximum GSD in metres it may be run at; None for any.
        threshold: minimum score of a box.
        class_thresholds: that of single classes, by name, which replaces `threshold`.
        unreported: classes whose boxes are dropped unless a run asks for them, such as "background".
        class_agnostic: whether boxes of different classes may show one object, and are merged by default.
        task: "object-detection", or "classification" of crops of detections.
        supercategories: of each class, "" for none, as "vehicle" of "car"; empty where no class has one.
        nms_iou: IoU of the suppression inside one tile.
        top_k: maximum number of boxes kept in one tile.
        merge_metric, merge_threshold: how boxes of overlapping tiles are merged by default. "ios" suits classes whose
            objects do not lie within one another: a box of a part then always merges with that of the whole.
        border_px: a box this close to an interior tile edge counts as touching it, and is a fragment.
        edge_margin_px: a box this close to one is whole, but is replaced by a box of the same object from a tile that
            shows more of its surroundings.
        license: SPDX identifier or "proprietary"; "" where it is not stated.
        description: one paragraph for a person.
        accuracy: measured figures, with the data they were measured on.
        provenance: what made the weights.
        weights_digest: sha256 of the weights file.
        adapter: what loads the network: a name of `geosod.detectors.adapters.ADAPTERS`, or ``module:function``.
        weights_file: name of the weights file in the bundle's folder.
        input: how tiles become the network's input.
        framework: MLM framework of the network, such as "pytorch" or "onnx".
        artifact_type: MLM artifact type of the weights file, such as "safetensors" or "onnx".

    Raises:
        ModelError: a value is out of range.
    """

    name: str
    bands: tuple[str, ...]
    dtype: str
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    classes: tuple[str, ...]
    tile: int | TileSize
    overlap: float | Overlap
    threshold: float
    architecture: str = ""
    weights_digest: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    gsd: float | None = None
    gsd_range: tuple[float, float] | None = None
    nms_iou: float = 0.5
    top_k: int = 1000
    scaling: str = "stored"
    gamma: float = 1.0
    merge_metric: str = "iou"
    merge_threshold: float = 0.5
    border_px: float = 2.0
    edge_margin_px: float = 0.0
    license: str = ""
    description: str = ""
    accuracy: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    adapter: str = "zoo"
    weights_file: str = "model.safetensors"
    input: NetworkInput = field(default_factory=NetworkInput)
    framework: str = "pytorch"
    artifact_type: str = "safetensors"
    class_thresholds: dict[str, float] = field(default_factory=dict)
    unreported: tuple[str, ...] = ()
    class_agnostic: bool = False
    task: str = DETECTION
    supercategories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.name), self.name, "has no name")
        for name in ("bands", "classes", "minimum", "maximum", "supercategories", "unreported"):
            value = getattr(self, name)
            _require(isinstance(value, tuple | list), self.name, f"{name} {value!r} must be a tuple, one for each")
            object.__setattr__(self, name, tuple(value))
        _require(len(self.bands) > 0, self.name, "names no input band")
        _require(len(self.classes) > 0, self.name, "names no class")
        _require(len(set(self.classes)) == len(self.classes), self.name, "names a class twice")
        _require(self.dtype in _DTYPES, self.name, f"dtype {self.dtype!r} is none of {', '.join(_DTYPES)}")
        _require(self.gsd is None or self.gsd > 0, self.name, f"gsd {self.gsd} must be above 0")
        gsd = self.gsd_range
        _require(gsd is None or (len(gsd) == 2 and 0 < gsd[0] <= gsd[1]), self.name, f"gsd_range {gsd} is no range")
        _require(0 < self.nms_iou <= 1, self.name, f"nms_iou {self.nms_iou} is not in 0..1")
        try:
            object.__setattr__(self, "tile", parse_tile(self.tile))
            object.__setattr__(self, "overlap", parse_overlap(self.overlap))
            side, _ = min(self.tile_size), self.overlap_px
        except ConfigError as error:
            raise ModelError(f"model {self.name!r}: {error}") from error
        _require(0 < self.top_k <= 100_000, self.name, f"top_k {self.top_k} is not in 1..100000")
        _require(
            self.merge_metric in ("iou", "ios"), self.name, f"merge_metric {self.merge_metric!r} is not iou or ios"
        )
        _require(0 < self.merge_threshold <= 1, self.name, f"merge_threshold {self.merge_threshold} is not in 0..1")
        _require(0 <= self.threshold <= 1, self.name, f"threshold {self.threshold} is not in 0..1")
        for name, score in self.class_thresholds.items():
            _require(name in self.classes, self.name, f"has a threshold for {name!r}, which is none of its classes")
            _require(0 <= score <= 1, self.name, f"threshold {score} of class {name!r} is not in 0..1")
        _require(self.task in (DETECTION, CLASSIFICATION), self.name, f"task {self.task!r} is neither of the two")
        unknown = sorted(set(self.unreported) - set(self.classes))
        _require(not unknown, self.name, f"unreported names {', '.join(unknown)}, which is no class")
        _require(set(self.unreported) < set(self.classes), self.name, "reports no class")
        count = len(self.supercategories)
        _require(count in (0, len(self.classes)), self.name, f"has {count} supercategories, not one for each class")
        scaled = zip(self.minimum, self.maximum, strict=False)
        fits = len(self.minimum) == len(self.maximum) == len(self.bands) and all(a < b for a, b in scaled)
        _require(fits, self.name, "needs one minimum below one maximum for every band")
        _require(self.scaling in SCALINGS, self.name, f"scaling {self.scaling!r} is none of {', '.join(SCALINGS)}")
        percentiles = self.scaling != "percentile" or (min(self.minimum) >= 0 and max(self.maximum) <= 100)
        _require(percentiles, self.name, "scales by percentiles that are not in 0..100")
        for name, value in (("border_px", self.border_px), ("edge_margin_px", self.edge_margin_px)):
            _require(0 <= value <= side / 2, self.name, f"{name} {value} is not in 0..{side // 2}")
        _require(0.1 <= self.gamma <= 10, self.name, f"gamma {self.gamma} is not in 0.1..10")
        try:
            self.input.check_bands(len(self.bands))
        except ModelError as error:
            raise ModelError(f"model {self.name!r}: {error}") from error

    def _repr_html_(self) -> str:
        tile = "x".join(map(str, self.tile_size))
        rows: list[tuple[str, object]] = [
            ("task", self.task),
            ("classes", ", ".join(self.classes)),
            ("bands", f"{', '.join(self.bands)} ({self.dtype})"),
            ("tile", f"{tile} px, overlap {self.overlap_px[0]} px"),
            ("GSD", "any" if self.gsd_range is None else f"{self.gsd_range[0]:g} to {self.gsd_range[1]:g} m"),
            ("threshold", self.threshold),
            ("licence", self.license or "not stated"),
        ]
        text = grid((), rows)
        return card(self.name, text, grid((), [(self.description,)]) if self.description else "")

    @property
    def class_rules(self) -> ClassRules:
        """Every class under its own name, from its threshold."""
        rules = class_rules(self.classes, self.threshold, self.class_thresholds)
        return rules.changed(classes=[name for name in self.classes if name not in self.unreported])

    @property
    def tile_size(self) -> TileSize:
        """(width, height) of a tile in pixels."""
        return parse_tile(self.tile)

    @property
    def overlap_px(self) -> tuple[int, int]:
        """Overlap along x and y in pixels, for tiles of `tile_size`."""
        return overlap_pixels(parse_overlap(self.overlap), self.tile_size)

    @property
    def whole_values(self) -> bool:
        """Whether scaled pixels are whole numbers divided by 255."""
        limits = (set(self.minimum), set(self.maximum)) == ({0.0}, {255.0})
        return self.dtype == "uint8" and self.scaling == "stored" and self.gamma == 1 and limits

    @property
    def visible_bands(self) -> list[int]:
        """Indices of the bands called red, green and blue; else of the first three, or of the first one three times."""
        return visible_bands(self.bands)

    def check(self, scene: Scene) -> str | None:
        """Refuse a scene this model was not made for.

        Returns:
            A warning where something could not be checked, else None.

        Raises:
            ModelError: the pixel type or the GSD does not fit.
        """
        if self.scaling == "stored" and scene.dtype != self.dtype:
            raise ModelError(
                f"{scene.ref.uri}: pixels are {scene.dtype}, but {self.name} was trained on {self.dtype}; "
                f"use a model made for {scene.dtype}, or convert the scene on purpose (gdal_translate -ot -scale)"
            )
        if self.gsd_range is None:
            return None
        low, high = self.gsd_range
        if scene.pixel is None:
            return f"{scene.id}: its GSD is unknown, so it cannot be checked against the model's {low:g} to {high:g} m"
        if not all(low * (1 - GSD_TOLERANCE) <= side <= high * (1 + GSD_TOLERANCE) for side in scene.pixel):
            width, height = scene.pixel
            square = abs(width / height - 1) < 10 * GSD_TOLERANCE
            gsd = f"GSD is {scene.gsd:.3g} m" if square else f"pixels are {width:.3g} x {height:.3g} m on the ground"
            raise ModelError(
                f"{scene.ref.uri}: {gsd}, but {self.name} works from {low:g} to {high:g} m; "
                f"{self._gsd_advice()}, or use a model made for this GSD"
            )
        return None

    def _gsd_advice(self) -> str:
        return f"resample it on purpose with --tile-gsd {self.gsd:g}" if self.gsd else "warp it (gdalwarp -tr)"


def _require(holds: bool, name: str, problem: str) -> None:
    if not holds:
        raise ModelError(f"model {name!r} {problem}; fix its card")
