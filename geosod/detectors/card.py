"""The model card: a STAC 1.1 Item with the Machine Learning Model extension 1.5.2, read and written.

What MLM has no word for stands under ``geosod:``. The card is the contract between a model and the
scenes it may be run on; `ModelCard.check` enforces it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from geosod.errors import ModelError
from geosod.scene import Scene

STAC_VERSION = "1.1.0"
SCALINGS = ("stored", "physical", "percentile")
MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a bundle says of its model.

    Attributes:
        name: name of the bundle.
        architecture: key of the network in the registry.
        parameters: keyword arguments of the network besides bands and classes.
        bands: names of the input bands, in order.
        dtype: numpy name of the pixel type it was trained on.
        minimum, maximum: per band, what becomes 0 and 1 (MLM ``min-max`` scaling).
        scaling: what these are: "stored" pixel values; "physical" values, after the scale and offset that a scene's
            bands carry; or "percentile"s of a scene's valid pixels, the same for all of its tiles.
        gamma: scaled values are raised to the power 1 / gamma.
        classes: label of each class id.
        tile, overlap: in pixels of level 0.
        gsd: metres a pixel it was trained at; None where that has no meaning.
        gsd_range: least and greatest GSD in metres it may be run at; None for any.
        threshold: score below which boxes are dropped.
        nms_iou: IoU of the suppression inside one tile.
        top_k: most boxes kept in one tile.
        merge_metric, merge_threshold: how boxes of overlapping tiles are merged unless the user says otherwise;
            "ios" where no true object lies much within another of its class, as then a part never stands beside
            the whole.
        border_px: a box this near to an interior tile edge counts as touching it: as a fragment.
        edge_margin_px: a box this near to one is whole, but gives way to a box of the same object from a tile that
            shows more of its surroundings.
        license: SPDX identifier or "proprietary".
        description: one paragraph for a person.
        accuracy: measured figures, with the data they were measured on.
        provenance: what made the weights.
        weights_digest: sha256 of ``model.safetensors``.
    """

    name: str
    architecture: str
    bands: tuple[str, ...]
    dtype: str
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    classes: tuple[str, ...]
    tile: int
    overlap: int
    threshold: float
    weights_digest: str
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
    license: str = "Apache-2.0"
    description: str = ""
    accuracy: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(len(self.bands) > 0, self.name, "names no input band")
        _require(len(self.classes) > 0, self.name, "names no class")
        _require(0 < self.tile <= 8192 and self.tile % 32 == 0, self.name, f"tile {self.tile} is not a multiple of 32")
        _require(0 <= self.overlap < self.tile, self.name, f"overlap {self.overlap} is not below the tile {self.tile}")
        _require(0 < self.top_k <= 100_000, self.name, f"top_k {self.top_k} is not in 1..100000")
        _require(
            self.merge_metric in ("iou", "ios"), self.name, f"merge_metric {self.merge_metric!r} is not iou or ios"
        )
        _require(0 < self.merge_threshold <= 1, self.name, f"merge_threshold {self.merge_threshold} is not in 0..1")
        _require(0 <= self.threshold <= 1, self.name, f"threshold {self.threshold} is not in 0..1")
        scaled = zip(self.minimum, self.maximum, strict=False)
        fits = len(self.minimum) == len(self.maximum) == len(self.bands) and all(a < b for a, b in scaled)
        _require(fits, self.name, "needs one minimum below one maximum for every band")
        _require(self.scaling in SCALINGS, self.name, f"scaling {self.scaling!r} is none of {', '.join(SCALINGS)}")
        percentiles = self.scaling != "percentile" or (min(self.minimum) >= 0 and max(self.maximum) <= 100)
        _require(percentiles, self.name, "scales by percentiles that are not in 0..100")
        for name, value in (("border_px", self.border_px), ("edge_margin_px", self.edge_margin_px)):
            _require(0 <= value <= self.tile / 2, self.name, f"{name} {value} is not in 0..{self.tile // 2}")
        _require(0.1 <= self.gamma <= 10, self.name, f"gamma {self.gamma} is not in 0.1..10")

    def check(self, scene: Scene) -> str | None:
        """Refuse a scene this model was not made for.

        Returns:
            A line of caution where something could not be checked, else None.

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
        if scene.gsd is None:
            return f"{scene.id}: no georeference, so its GSD cannot be held against the model's {low:g} to {high:g} m"
        if not low <= scene.gsd <= high:
            raise ModelError(
                f"{scene.ref.uri}: GSD is {scene.gsd:.3g} m, but {self.name} works from {low:g} to {high:g} m; "
                f"{self._gsd_advice()}, or use a model made for this GSD"
            )
        return None

    def _gsd_advice(self) -> str:
        return f"resample it on purpose with --tile-gsd {self.gsd:g}" if self.gsd else "warp it (gdalwarp -tr)"

    def to_item(self) -> dict[str, Any]:
        """The card as a STAC Item."""
        return {
            "type": "Feature",
            "stac_version": STAC_VERSION,
            "stac_extensions": [MLM_SCHEMA],
            "id": self.name,
            "geometry": None,
            "properties": _mlm(self) | _own(self) | {"description": self.description, "license": self.license},
            "links": [],
            "assets": {
                "weights": {
                    "href": "model.safetensors",
                    "type": "application/octet-stream; application=safetensors",
                    "title": "Weights",
                    "roles": ["mlm:model", "mlm:weights"],
                    "mlm:artifact_type": "safetensors",
                }
            },
        }

    @classmethod
    def from_item(cls, item: Any, where: str) -> ModelCard:
        """Read a card.

        Args:
            item: the parsed JSON.
            where: what to call it in an error.

        Raises:
            ModelError: a field is missing or malformed.
        """
        try:
            p = item["properties"]
            limits = _limits(p)
            return cls(
                name=str(item["id"]),
                architecture=str(p["mlm:architecture"]),
                bands=tuple(b if isinstance(b, str) else str(b["name"]) for b in p["mlm:input"][0]["bands"]),
                dtype=str(p["mlm:input"][0]["input"]["data_type"]),
                minimum=tuple(float(low) for low, _ in limits),
                maximum=tuple(float(high) for _, high in limits),
                scaling=str(p.get("geosod:scaling", "stored")),
                gamma=float(p.get("geosod:gamma", 1.0)),
                classes=tuple(str(c["name"]) for c in p["mlm:output"][0]["classification:classes"]),
                tile=int(p["geosod:tile"]),
                overlap=int(p["geosod:overlap"]),
                threshold=float(p["geosod:threshold"]),
                weights_digest=str(p["geosod:weights_sha256"]),
                parameters=dict(p["geosod:parameters"]),
                gsd=p["geosod:gsd"],
                gsd_range=_range(p["geosod:gsd_range"]),
                nms_iou=float(p["geosod:nms_iou"]),
                top_k=int(p["geosod:top_k"]),
                merge_metric=str(p["geosod:merge_metric"]),
                merge_threshold=float(p["geosod:merge_threshold"]),
                border_px=float(p["geosod:border_px"]),
                edge_margin_px=float(p.get("geosod:edge_margin_px", p.get("geosod:rim_px", 0))),
                license=str(p.get("license", "")),
                description=str(p.get("description", "")),
                accuracy=dict(p.get("geosod:accuracy", {})),
                provenance=dict(p.get("geosod:provenance", {})),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(f"{where}: not a geosod model card: {type(error).__name__} at {error}") from error


def _min_max(scaling: Any) -> list[tuple[float, float]]:
    kinds = {s["type"] for s in scaling} - {"min-max"}
    if kinds:
        raise ValueError(f"value_scaling {', '.join(sorted(kinds))}; geosod knows min-max")
    return [(s["minimum"], s["maximum"]) for s in scaling]


def _limits(p: Any) -> list[tuple[float, float]]:
    """What becomes 0 and 1, which MLM's scaling and our own property must agree on where both say it."""
    scaling = p["mlm:input"][0]["value_scaling"]
    if "geosod:limits" not in p:
        return _min_max(scaling)
    own = [(low, high) for low, high in p["geosod:limits"]]
    if p["geosod:scaling"] != "percentile" and own != _min_max(scaling):
        raise ValueError("geosod:limits, which differ from value_scaling")
    return own


def _range(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = value
    return float(low), float(high)


def _require(holds: bool, name: str, problem: str) -> None:
    if not holds:
        raise ModelError(f"model {name!r} {problem}; mend its model.json")


def _mlm(card: ModelCard) -> dict[str, Any]:
    limits = list(zip(card.minimum, card.maximum, strict=True))
    scaling: list[dict[str, Any]] = [{"type": "min-max", "minimum": low, "maximum": high} for low, high in limits]
    if card.scaling == "percentile":
        # MLM has no word for limits that depend on the scene.
        words = [f"min-max between percentiles {low:g} and {high:g} of the scene" for low, high in limits]
        scaling = [{"type": "processing", "format": "text", "expression": text} for text in words]
    classes = [{"value": i, "name": name} for i, name in enumerate(card.classes)]
    return {
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        "bands": [{"name": band} for band in card.bands],
        "mlm:name": card.name,
        "mlm:architecture": card.architecture,
        "mlm:tasks": ["object-detection"],
        "mlm:framework": "pytorch",
        "mlm:input": [
            {
                "name": "tiles",
                "bands": [{"name": band} for band in card.bands],
                "input": {
                    "shape": [-1, len(card.bands), card.tile, card.tile],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": card.dtype,
                },
                "value_scaling": scaling,
                "resize_type": None,
            }
        ],
        "mlm:output": [
            {
                "name": "boxes",
                "tasks": ["object-detection"],
                "result": {"shape": [-1, 6], "dim_order": ["box", "corners-score-label"], "data_type": "float32"},
                "classification:classes": classes,
            }
        ],
    }


def _own(card: ModelCard) -> dict[str, Any]:
    return {
        "geosod:box": "x0, y0, x1, y1 in tile pixels; (0, 0) is the top-left corner of the top-left pixel",
        "geosod:parameters": card.parameters,
        "geosod:limits": [list(pair) for pair in zip(card.minimum, card.maximum, strict=True)],
        "geosod:scaling": card.scaling,
        "geosod:gamma": card.gamma,
        "geosod:tile": card.tile,
        "geosod:overlap": card.overlap,
        "geosod:gsd": card.gsd,
        "geosod:gsd_range": None if card.gsd_range is None else list(card.gsd_range),
        "geosod:threshold": card.threshold,
        "geosod:nms_iou": card.nms_iou,
        "geosod:top_k": card.top_k,
        "geosod:merge_metric": card.merge_metric,
        "geosod:merge_threshold": card.merge_threshold,
        "geosod:border_px": card.border_px,
        "geosod:edge_margin_px": card.edge_margin_px,
        "geosod:weights_sha256": card.weights_digest,
        "geosod:accuracy": card.accuracy,
        "geosod:provenance": card.provenance,
    }
