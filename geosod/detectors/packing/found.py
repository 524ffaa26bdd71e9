"""From what a model file says of itself, and what a user adds, to a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from geosod.detectors.card import ModelCard
from geosod.detectors.network_input import NetworkInput
from geosod.detectors.packing.class_names import COCO
from geosod.errors import ConfigError, ModelError
from geosod.tile_size import MAX_SIDE, MIN_SIDE, STRIDE, Overlap, TileSize, parse_overlap, parse_tile

#: Number of bands → their names, where nothing else is said.
_BANDS = {1: ("gray",), 3: ("red", "green", "blue")}
_TILE, _OVERLAP = 640, 0.2
_MAX_CLASSES = 10_000
#: STAC's word for a licence that is not stated by an SPDX identifier.
_OTHER_LICENSE = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What a user says of a model; None, or empty, for what the file says, or else the usual.

    Attributes:
        name: of the bundle; default: that of the file.
        layout: what the outputs of an ONNX graph mean, see `geosod.detectors.adapters.onnx_layouts.LAYOUTS`.
        architecture: of the network, where weights alone do not say: a name that the adapter knows.
        classes: names in the network's order.
        bands: names of the input bands.
        dtype: pixel type of scenes.
        minimum, maximum: pixel values that become 0 and 1, one for all bands or one for each.
        gsd, gsd_range: metres a pixel.
        tile, overlap: as in `geosod.RunConfig`.
        threshold, nms_iou, top_k: as in `ModelCard`.
        input: fields of `NetworkInput` to set.
        unreported, supercategories, license, description: as in `ModelCard`; supercategories one for each class.
        context: of a classifier: share of a box's width and height that crops show on each side.
        trust: code in the source may be executed.
    """

    name: str | None = None
    layout: str | None = None
    architecture: str | None = None
    classes: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    dtype: str | None = None
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    gsd: float | None = None
    gsd_range: tuple[float, float] | None = None
    tile: TileSize | None = None
    overlap: Overlap | None = None
    threshold: float | None = None
    nms_iou: float | None = None
    top_k: int | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    unreported: tuple[str, ...] = ()
    supercategories: tuple[str, ...] = ()
    context: float | None = None
    license: str | None = None
    description: str | None = None
    trust: bool = False


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
        raise ModelError(f"{found.name}: the file does not say everything; add {wanted} to `geosod model pack`")
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
        **{name: value for name, value in values.items() if name not in ("description", "minimum", "maximum")},
    )


def parse_options(**texts: Any) -> PackOptions:
    """Options from the texts of a command line; those that are None are left out.

    Raises:
        ConfigError: one cannot be read.
    """
    known = {option.name for option in fields(PackOptions)}
    readers = {
        "classes": class_names,
        "bands": _words,
        "unreported": _words,
        "supercategories": _optional_words,
        "minimum": _numbers,
        "maximum": _numbers,
        "gsd_range": _numbers,
        "tile": parse_tile,
        "overlap": parse_overlap,
    }
    values: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for name, text in texts.items():
        if text is None:
            continue
        if name in known:
            values[name] = readers[name](text) if name in readers and isinstance(text, str) else text
        else:
            inputs[name] = _numbers(text) if name in ("mean", "std") else text
    if "size" in inputs:
        inputs["size"] = _size(str(inputs["size"]))
    if "fill" in inputs:
        inputs["fill"] = float(inputs["fill"])
    if (pair := values.get("gsd_range")) is not None and len(pair) != 2:
        raise ConfigError(f"gsd_range {texts['gsd_range']!r}: give the minimum and the maximum in metres, as 0.4,0.6")
    return PackOptions(**values, input=inputs)


def class_names(text: str) -> tuple[str, ...]:
    """Names from ``a,b,c``, from a text file with one name a line, or those that ``coco`` stands for.

    Raises:
        ConfigError: the file cannot be read.
    """
    if text == "coco":
        return COCO
    path = Path(text).expanduser()
    if "," not in text and path.suffix:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"classes {text!r}: cannot be read as a file of names, one a line: {error}") from error
        return tuple(line.strip() for line in lines if line.strip())
    return _words(text)


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
    bands = options.bands or tuple(found.card.pop("bands", ())) or _BANDS.get(found.channels or 3, ())
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
    return replace(spec)


def _tile_for(found: Found) -> TileSize:
    """The size of the network's input, to the nearest size that a tile may have."""
    sides = found.input.get("size") or (_TILE, _TILE)
    width, height = (min(MAX_SIDE, max(MIN_SIDE, round(side / STRIDE) * STRIDE)) for side in sides)
    return width, height


def _optional_words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise ConfigError(f"{text!r} has an empty name; give a,b,c")
    return words


def _numbers(text: Any) -> tuple[float, ...]:
    if not isinstance(text, str):
        return tuple(map(float, text))
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{text!r} is not a number or several, as 0.485,0.456,0.406") from None


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if not all(side.strip().isdigit() for side in sides) or len(sides) > 2:
        raise ConfigError(f"size {text!r}: give 640, or 640x512 (width x height)")
    return int(sides[0]), int(sides[-1])
