"""Model cards as STAC 1.1 Items with the Machine Learning Model extension 1.5.2, read and written.

Properties for which MLM has no name stand under ``geosod:``.
"""

from __future__ import annotations

from typing import Any

from geosod.detectors.card import CLASSIFICATION, ModelCard
from geosod.detectors.network_input import NetworkInput
from geosod.errors import ConfigError, ModelError
from geosod.tile_size import compact, parse_overlap, parse_tile

STAC_VERSION = "1.1.0"
MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
#: Artifact type of the weights → media type.
_MEDIA_TYPES = {"safetensors": "application/octet-stream; application=safetensors"}


def to_item(card: ModelCard) -> dict[str, Any]:
    """A card as a STAC Item."""
    license_ = {"license": card.license} if card.license else {}
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [MLM_SCHEMA],
        "id": card.name,
        "geometry": None,
        "properties": _mlm(card) | _own(card) | {"description": card.description} | license_,
        "links": [],
        "assets": {
            "weights": {
                "href": card.weights_file,
                "type": _MEDIA_TYPES.get(card.artifact_type, "application/octet-stream"),
                "title": "Weights",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": card.artifact_type,
            }
        },
    }


def from_item(item: Any, where: str) -> ModelCard:
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
        weights = item["assets"]["weights"]
        return ModelCard(
            name=str(item["id"]),
            architecture=str(p["mlm:architecture"]),
            bands=tuple(b if isinstance(b, str) else str(b["name"]) for b in p["mlm:input"][0]["bands"]),
            dtype=str(p["mlm:input"][0]["input"]["data_type"]),
            minimum=tuple(float(low) for low, _ in limits),
            maximum=tuple(float(high) for _, high in limits),
            scaling=str(p.get("geosod:scaling", "stored")),
            gamma=float(p.get("geosod:gamma", 1.0)),
            classes=tuple(str(c["name"]) for c in p["mlm:output"][0]["classification:classes"]),
            tile=parse_tile(p["geosod:tile"]),
            overlap=parse_overlap(p["geosod:overlap"]),
            threshold=float(p["geosod:threshold"]),
            class_thresholds={str(k): float(v) for k, v in p.get("geosod:class_thresholds", {}).items()},
            unreported=tuple(map(str, p.get("geosod:unreported", ()))),
            class_agnostic=bool(p.get("geosod:class_agnostic", False)),
            task=str(p["mlm:tasks"][0]),
            supercategories=tuple(map(str, p.get("geosod:supercategories", ()))),
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
            adapter=str(p.get("geosod:adapter", "zoo")),
            weights_file=str(weights["href"]).removeprefix("./"),
            input=NetworkInput.from_dict(p.get("geosod:input", {})),
            framework=str(p.get("mlm:framework", "")),
            artifact_type=str(weights.get("mlm:artifact_type", "")),
        )
    except (ConfigError, AttributeError, KeyError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise ModelError(f"{where}: not a geosod model card: {type(error).__name__} at {error}") from error


def _min_max(scaling: Any) -> list[tuple[float, float]]:
    kinds = {s["type"] for s in scaling} - {"min-max"}
    if kinds:
        raise ValueError(f"value_scaling {', '.join(sorted(kinds))}; geosod knows min-max")
    return [(s["minimum"], s["maximum"]) for s in scaling]


def _limits(p: Any) -> list[tuple[float, float]]:
    """The values scaled to 0 and 1; MLM's scaling and geosod's own property must agree where both are given."""
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
        "mlm:tasks": [card.task],
        "mlm:framework": card.framework,
        "mlm:input": [
            {
                "name": "tiles",
                "bands": [{"name": band} for band in card.bands],
                "input": {
                    "shape": [-1, len(card.bands), *reversed(card.tile_size)],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": card.dtype,
                },
                "value_scaling": scaling,
                "resize_type": _resize_type(card),
            }
        ],
        "mlm:output": [
            {
                "name": "probabilities" if card.task == CLASSIFICATION else "boxes",
                "tasks": [card.task],
                "result": _result(card),
                "classification:classes": classes,
            }
        ],
    }


def _result(card: ModelCard) -> dict[str, Any]:
    if card.task == CLASSIFICATION:
        return {"shape": [-1, len(card.classes)], "dim_order": ["crop", "class"], "data_type": "float32"}
    return {"shape": [-1, 6], "dim_order": ["box", "corners-score-label"], "data_type": "float32"}


def _resize_type(card: ModelCard) -> str | None:
    """MLM's word for how tiles are brought to the size of the network's input; `geosod:input` has the details."""
    width, height = card.tile_size
    return None if card.input.fit(width, height).is_identity else "interpolation-linear"


def _own(card: ModelCard) -> dict[str, Any]:
    return {
        "geosod:box": "x0, y0, x1, y1 in tile pixels; (0, 0) is the top-left corner of the top-left pixel",
        "geosod:adapter": card.adapter,
        "geosod:parameters": card.parameters,
        "geosod:input": card.input.to_dict(),
        "geosod:limits": [list(pair) for pair in zip(card.minimum, card.maximum, strict=True)],
        "geosod:scaling": card.scaling,
        "geosod:gamma": card.gamma,
        "geosod:tile": compact(card.tile_size),
        "geosod:overlap": compact(parse_overlap(card.overlap)),
        "geosod:gsd": card.gsd,
        "geosod:gsd_range": None if card.gsd_range is None else list(card.gsd_range),
        "geosod:threshold": card.threshold,
        "geosod:class_thresholds": card.class_thresholds,
        "geosod:unreported": list(card.unreported),
        "geosod:class_agnostic": card.class_agnostic,
        "geosod:supercategories": list(card.supercategories),
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
