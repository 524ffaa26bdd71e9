"""Settings that have parts: masks and levels, with the short forms that a command line can hold."""

from __future__ import annotations

import math
import os
import re
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
