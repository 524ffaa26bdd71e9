"""What a user says of a model that is packed, from the texts of a command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from geosod.detectors.packing.class_names import COCO
from geosod.errors import ConfigError
from geosod.tile_size import Overlap, TileSize, parse_overlap, parse_tile


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What a user says of a model; None, or empty, for what the file says, or else the usual.

    Attributes:
        name: of the bundle; default: that of the file.
        layout: what the outputs of an ONNX graph mean, see `geosod.detectors.adapters.layouts.LAYOUTS`.
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
