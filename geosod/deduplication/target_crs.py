"""Which CRS does the deduplicated dataset have?"""

from __future__ import annotations

from geosod.deduplication.sources import SceneSource, Sources
from geosod.errors import ConfigError, SceneError
from geosod.georeference.crs import (
    LONLAT,
    body_name,
    crs_name,
    full_circle,
    horizontal_crs,
    parse_crs,
    same_body,
)


def same_crs(first: str, second: str) -> bool:
    """Whether two CRSs are equal, ignoring axis order: files always hold longitude or easting first."""
    return bool(parse_crs(first).equals(parse_crs(second), ignore_axis_order=True))


def choose_crs(sources: Sources, wanted: str | None) -> str:
    """The requested CRS, else the one that all scenes have, else longitude and latitude.

    Raises:
        ConfigError: PROJ does not know the CRS, it is not a horizontal one, or scenes lie on another body than it or
            than each other.
    """
    placed = [(scene, scene.crs) for scene in sources.scenes if scene.crs is not None]
    _check_one_body(placed)
    present: list[str] = []
    for crs in sorted({crs for _, crs in placed}):
        if not any(same_crs(crs, other) for other in present):
            present.append(crs)
    crs = wanted if wanted is not None else present[0] if len(present) == 1 else LONLAT
    try:
        horizontal_crs(crs)
    except SceneError as error:
        raise ConfigError(str(error)) from error
    if placed and not same_body(crs, placed[0][1]):
        raise ConfigError(
            f"the scenes lie on {body_name(placed[0][1])}, and {crs_name(crs)[:80]!r} is a CRS of {body_name(crs)}; "
            f"give --crs one of theirs, such as {crs_name(placed[0][1])[:80]!r}"
        )
    return crs


def _check_one_body(placed: list[tuple[SceneSource, str]]) -> None:
    for scene, crs in placed:
        first, first_crs = placed[0]
        if not same_body(first_crs, crs):
            raise ConfigError(
                f"scene {first.id!r} in {first.output} lies on {body_name(first_crs)}, scene {scene.id!r} in "
                f"{scene.output} on {body_name(crs)}; deduplicate the outputs of each body separately"
            )


def full_circle_of(crs: str) -> float | None:
    """360° in units of a geographic CRS; None if the CRS is not geographic."""
    horizontal = horizontal_crs(crs)
    return full_circle(horizontal) if horizontal.is_geographic else None
