"""Settings of a training run in the short forms that a command line can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geosod.setting_types import parse_bands, parse_classes
from geosod.tile_size import parse_overlap, parse_tile


def _pair(value: Any) -> Any:
    """``480-640``, ``480,640`` or one number as a range."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, str):
        low, _, high = value.replace(",", "-").partition("-")
        return (low.strip(), (high or low).strip())
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _fusion(value: Any) -> Any:
    if isinstance(value, str) and value.replace(",", "").replace(".", "").replace(" ", "").isdigit():
        return _numbers(value)
    return _numbers(value) if isinstance(value, int | float) else value


def _mapping(value: Any) -> Any:
    """``name=1,other=x`` as a mapping whose values are read as YAML."""
    if not isinstance(value, str):
        return value
    from geosod.yaml_file import parse_yaml

    pairs = [part.partition("=") for part in value.split(",")]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError("is not NAME=VALUE,...")
    return parse_yaml("\n".join(f"{name.strip()}: {text}" for name, _, text in pairs).encode(), "parameters")


def _none(value: Any) -> Any:
    return None if value == "none" else value


def _levels(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else value


def _optional(parse: Any) -> Any:
    return lambda value: None if value is None else parse(value)


def _renames(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(old): None if new is None else str(new) for old, new in value.items()}
    from geosod.datasets.class_map import parse_renames

    return parse_renames(str(value))


#: Setting → what makes its value of text, or of a number.
FORMS: dict[str, Any] = {
    "tile": _optional(parse_tile),
    "overlap": _optional(parse_overlap),
    "bands": _optional(parse_bands),
    "band_names": _optional(parse_classes),
    "classes": _optional(parse_classes),
    "rename_classes": _renames,
    "minimum": _numbers,
    "maximum": _numbers,
    "gsd_range": _pair,
    "slice": _pair,
    "resize_width": _pair,
    "milestones": _numbers,
    "fusion": _fusion,
    "parameters": _mapping,
    "loss": _mapping,
    "init": _none,
    "levels": _optional(_levels),
}
