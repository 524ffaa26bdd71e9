"""Errors of settings as one line for a person."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

#: What to write for settings of several forms, instead of what each form expects.
_FORMS = {
    "levels": "give scales, full or auto, as 1,0.5,full or 1:0-64,0.5",
    "tile_gsd": "give metres, or model",
    "merge_threshold_by_class": "give CLASS=OVERLAP,..., as car=0.3,ship=0.6",
}


def error_text(error: ValidationError, values: Mapping[str, Any], *, known: Iterable[str]) -> str:
    """The errors of all settings, one for each setting of several forms.

    Args:
        error: what pydantic found.
        values: the settings that were given.
        known: names of all settings.
    """
    lines: dict[str, None] = {}
    # That too few levels are left once wrong ones are taken out says nothing new.
    for one in (e for e in error.errors() if e["type"] != "too_short" or error.error_count() == 1):
        name = str(one["loc"][0]) if one["loc"] else ""
        form = _FORMS.get(name) if one["type"] != "value_error" else None
        lines[f"{name} = {reprlib.repr(values.get(name))}: {form}" if form else _line(one, known)] = None
    return "; ".join(lines)


def _line(error: Any, known: Iterable[str]) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown setting; known are {', '.join(known)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name} = {reprlib.repr(error['input'])}: {message[0].lower()}{message[1:]}"
