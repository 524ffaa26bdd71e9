"""From what a model file says of itself, and what a user adds, to a model card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from geosod.detectors.card import ModelCard
from geosod.detectors.network_input import NetworkInput
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError
from geosod.tile_size import MAX_SIDE, MIN_SIDE, STRIDE, TileSize

#: Number of bands → their names, where nothing else is said.
_BANDS = {1: ("gray",), 3: ("red", "green", "blue")}
_TILE, _OVERLAP = 640, 0.2
_MAX_CLASSES = 10_000
#: Fields of `Found.card` that are not passed on as they are.
_APART = ("bands", "description", "minimum", "maximum")
#: STAC's word for a licence that is not stated by an SPDX identifier.
_OTHER_LICENSE = "other"


@dataclass(slots=True, kw_only=True)
class Found:
    """What was read from a model file.

    Attributes:
        name: of the bundle.
        weights: content of the bundle's weights file, or a torch state dict.
        adapter, architecture, parameters, weights_file, framework, artifact_type: as in `ModelCard`.
        channels: number of input bands; None where the file does not say.
        count: number of classes; None where the file does not say.
        classes: their names, where the file has them.
        card: further fields of `ModelCard`: gsd, tile, overlap, threshold, nms_iou, license, …
        input: fields of `NetworkInput`.
        missing: flag → why it is needed, for what can neither be read nor guessed.
        notes: what a user should know.
        provenance: what the file says of its origin.
    """

    name: str
    weights: bytes | dict[str, Any]
    adapter: str
    architecture: str
    weights_file: str
    framework: str
    artifact_type: str
    parameters: dict[str, Any] = field(default_factory=dict)
    channels: int | None = 3
    count: int | None = None
    classes: tuple[str, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


def make_card(found: Found, options: PackOptions) -> ModelCard:
    """The card of a model.

    Raises:
        ModelError: something is missing, which the message lists, or contradicts the file.
    """
    missing = dict(found.missing)
    classes = _classes(found, options, missing)
    bands = _bands(found, options, missing)
    if missing:
        wanted = "; ".join(f"{flag} ({why})" for flag, why in missing.items())
        raise ModelError(
            f"{found.name}: the file does not say everything; in `geosod model pack FILE -o BUNDLE`, add {wanted}"
        )
    given = {
        name: getattr(options, name)
        for name in ("dtype", "gsd", "gsd_range", "tile", "overlap", "threshold", "nms_iou", "top_k", "license")
        if getattr(options, name) is not None
    }
    values: dict[str, Any] = {"dtype": "uint8", "threshold": 0.25, "license": _OTHER_LICENSE, "overlap": _OVERLAP}
    values |= found.card | given
    values.setdefault("tile", _tile_for(found))
    if given.get("gsd") and not options.gsd_range:
        values.pop("gsd_range", None)
    if values.get("gsd") and not values.get("gsd_range"):
        # Detectors tolerate objects that are somewhat larger or smaller than those they were trained on.
        values["gsd_range"] = (values["gsd"] / 1.5, values["gsd"] * 1.5)
    low, high = _limits(found, options, str(values["dtype"]), len(bands))
    return ModelCard(
        name=options.name or found.name,
        architecture=found.architecture,
        parameters=found.parameters | ({} if options.context is None else {"context": options.context}),
        unreported=options.unreported,
        supercategories=options.supercategories,
        bands=bands,
        minimum=low,
        maximum=high,
        classes=classes,
        input=_network_input(found, options),
        description=options.description or found.card.get("description", ""),
        provenance=found.provenance,
        adapter=found.adapter,
        weights_file=found.weights_file,
        framework=found.framework,
        artifact_type=found.artifact_type,
        **{name: value for name, value in values.items() if name not in _APART},
    )


def unique(names: Sequence[str]) -> tuple[str, ...]:
    """Names made different: a card cannot name two classes alike, as lists with several "N/A" do."""
    seen: set[str] = set()
    result = []
    for i, name in enumerate(names):
        text = str(name).strip() or "unnamed"
        while text in seen:
            text = f"{text}-{i}"
        seen.add(text)
        result.append(text)
    return tuple(result)


def safe_name(text: str) -> str:
    """A name for a bundle from that of a file."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "model"


def _classes(found: Found, options: PackOptions, missing: dict[str, str]) -> tuple[str, ...]:
    classes = unique(options.classes or found.classes)
    if not classes:
        count = "" if found.count is None else f", {found.count} of them"
        missing["--classes"] = f"names in the network's order{count}: a,b,… or a file with one a line; or coco"
    elif found.count is not None and len(classes) != found.count:
        one_more = ", one that stands for no class included, as unused" if found.count == len(classes) + 1 else ""
        raise ModelError(
            f"{found.name}: {len(classes)} names of classes are given, but the network has {found.count}; give "
            f"--classes with one name for each, in its order{one_more}"
        )
    elif len(classes) > _MAX_CLASSES:
        raise ModelError(f"{found.name}: {len(classes)} classes are more than the {_MAX_CLASSES} that geosod takes")
    return classes


def _bands(found: Found, options: PackOptions, missing: dict[str, str]) -> tuple[str, ...]:
    bands = options.bands or tuple(found.card.get("bands", ())) or _BANDS.get(found.channels or 3, ())
    if not bands:
        missing["--bands"] = f"names of its {found.channels} input bands, as red,green,blue,nir"
    elif found.channels is not None and len(bands) != found.channels:
        raise ModelError(
            f"{found.name}: --bands names {len(bands)} bands, but the network has {found.channels} input channels"
        )
    return bands


def _limits(found: Found, options: PackOptions, dtype: str, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    usual = {"uint8": 255.0, "uint16": 65535.0}.get(dtype, 1.0)
    low = options.minimum or found.card.get("minimum") or (0.0,)
    high = options.maximum or found.card.get("maximum") or (usual,)
    spread = [tuple(side) * count if len(side) == 1 else tuple(side) for side in (low, high)]
    return spread[0], spread[1]


def _network_input(found: Found, options: PackOptions) -> NetworkInput:
    values = dict(found.input) | dict(options.input)
    for name in ("mean", "std"):
        if len(values.get(name, ())) == 1:
            values[name] = tuple(values[name]) * (found.channels or 3)
    spec = NetworkInput(**values)
    fixed = found.input.get("size") if found.parameters.get("fixed_size") else None
    if fixed is not None and spec.size != tuple(fixed):
        raise ModelError(f"{found.name}: the graph takes images of {fixed[0]} x {fixed[1]} only, not of {spec.size}")
    return spec


def nearest_side(side: float) -> int:
    """The side of a tile that is nearest to a number of pixels."""
    return min(MAX_SIDE, max(MIN_SIDE, round(side / STRIDE) * STRIDE))


def _tile_for(found: Found) -> TileSize:
    """The size of the network's input, to the nearest size that a tile may have."""
    width, height = found.input.get("size") or (_TILE, _TILE)
    return nearest_side(width), nearest_side(height)
