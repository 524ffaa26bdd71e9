"""Settings that have parts: masks and levels, with the short forms that a command line can hold."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class MaskSetting(BaseModel):
    """Ground to leave out: a vector file, or a raster of codes, whose path may hold ``{id}`` for the scene's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1)
    values: tuple[float, ...] | None = None
    invert: bool = False

    @field_validator("path")
    @classmethod
    def _home(cls, value: str) -> str:
        return os.path.expanduser(value)  # noqa: PTH111

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """``PATH``, ``PATH:3,8,9`` for the codes of a raster, and ``!PATH`` for all that it does not cover."""
        from geosod.storage.uris import LOCAL_SUFFIXES, suffix

        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(!?)(.+?)(?::([-+.\d]+(?:,[-+.\d]+)*))?", value.strip())
        if match is None:
            raise ValueError("names no file")
        invert, path, values = match.groups()
        if values and suffix(path) not in LOCAL_SUFFIXES:
            # The layer of a vector file may be called 2024.
            path, values = f"{path}:{values}", None
        return {"path": path, "values": values.split(",") if values else None, "invert": bool(invert)}


class LevelSetting(BaseModel):
    """A scale to search, and the sizes of objects, √area in pixels of scale 1, that it may report."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Annotated[float, Field(ge=1 / 256, le=16)] | Literal["full", "auto"]
    sizes: tuple[float, float | None] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """``SCALE`` or ``SCALE:MIN-MAX``; either end may be left out."""
        if isinstance(value, int | float):
            return {"scale": value}
        if not isinstance(value, str):
            return value
        scale, colon, sizes = value.strip().partition(":")
        low, _, high = sizes.partition("-")
        return {"scale": scale, "sizes": (low or 0, high or None) if colon else None}

    @model_validator(mode="after")
    def _ordered(self) -> LevelSetting:
        if self.sizes is not None and self.sizes[1] == math.inf:
            object.__setattr__(self, "sizes", (self.sizes[0], None))
        low, high = self.sizes or (0.0, None)
        if not 0 <= low < (math.inf if high is None else high):
            raise ValueError("needs a minimum size below the maximum")
        if self.scale == "auto" and self.sizes is not None:
            raise ValueError("auto chooses its sizes itself")
        return self


def parse_bands(value: Any) -> list[str] | dict[str, str]:
    """``1,2,3``, a list, or pairs of the model's bands and the scene's, ``red=B04,nir=B08``.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str) and "=" in value:
        parts = [part.partition("=") for part in value.split(",")]
        if len({name.strip().lower() for name, _, _ in parts}) < len(parts):
            raise ValueError("names a band of the model twice")
        value = {name: band for name, _, band in parts}
    if isinstance(value, Mapping):
        pairs = {str(name).strip(): str(band).strip() for name, band in value.items()}
        if not pairs or not all(name and band for name, band in pairs.items()):
            raise ValueError("pairs every band of the model with one of the scene, as red=B04,nir=B08")
        return pairs
    return _listed(value, "is no list of bands, such as 1,2,3", "names no band")


def parse_thresholds(value: Any) -> float | dict[str, float]:
    """A number, ``0.4,vessel=0.6``, or a mapping of classes and "default" to numbers.

    Raises:
        ValueError: it is none of these, or a number is not from 0 to 1.
    """
    if isinstance(value, str) and ("=" in value or "," in value):
        pairs = [_pair(part) if "=" in part else ("default", part) for part in value.split(",")]
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("names a class twice, or gives two defaults")
        value = dict(pairs)
    if not isinstance(value, Mapping):
        return _score(value)
    if not value:
        raise ValueError("names no class")
    return {str(name).strip(): _score(score) for name, score in value.items()}


def parse_classes(value: Any) -> list[str]:
    """``vessel,vehicle``, or a list of names or ids.

    Raises:
        ValueError: it is neither.
    """
    return _listed(value, "is no list of classes, such as vessel,vehicle", "names no class")


def parse_pairs(text: str) -> dict[str, str]:
    """``CLASS=VALUE,...`` as a mapping.

    Raises:
        ValueError: it names a class twice.
    """
    pairs = [_pair(part) for part in text.split(",")]
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("names a class twice")
    return dict(pairs)


def parse_masks(value: Any) -> Any:
    """``KIND=FILE`` or a list of these as a mapping; other values as they are.

    Raises:
        ValueError: one is malformed, or a kind is named twice.
    """
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list | tuple):
        return value
    pairs = [str(part).partition("=") for part in value]
    if not all(kind.strip() and path for kind, _, path in pairs):
        raise ValueError("is not KIND=FILE, such as cloud=clouds.gpkg")
    if len({kind for kind, _, _ in pairs}) < len(pairs):
        raise ValueError("names one kind twice")
    return {kind.strip(): path for kind, _, path in pairs}


def parse_datetime(value: Any) -> dt.datetime:
    """ISO 8601, the basic format too, which is never taken for seconds since an epoch; UTC if it has no offset.

    Raises:
        ValueError: it is no instant.
    """
    if type(value) is dt.date:
        value = dt.datetime.combine(value, dt.time())
    try:
        time = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(str(value))
        return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("is not an instant in ISO 8601, such as 2026-05-01T10:30Z") from error


def parse_renames(value: Any) -> dict[str, str]:
    """``car=vehicle,van=vehicle``, or a mapping.

    Raises:
        ValueError: it is neither.
    """
    value = parse_pairs(value) if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise ValueError("is no list of CLASS=NAME, such as car=vehicle,van=vehicle")
    names = {str(name).strip(): str(new).strip() for name, new in value.items()}
    if not all(name and new for name, new in names.items()):
        raise ValueError("pairs every class with its new name, as car=vehicle,van=vehicle")
    return names


def _listed(value: Any, problem: str, empty: str) -> list[str]:
    parts = str(value).split(",") if isinstance(value, str | int) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(problem)
    names = [str(part).strip() for part in parts]
    if not all(names) or not names:
        raise ValueError(empty)
    return names


def _pair(text: str) -> tuple[str, str]:
    """The name and the value of ``NAME=VALUE``; a name may have an = in it."""
    name, _, value = text.rpartition("=")
    return name.strip(), value.strip()


def _score(value: Any) -> float:
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not 0 <= score <= 1:
        raise ValueError("must be from 0 to 1, alone or for classes, as 0.4,vessel=0.6")
    return score
