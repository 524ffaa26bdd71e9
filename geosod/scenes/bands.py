"""Which bands of a scene a model is fed, and in what order."""

from __future__ import annotations

from collections.abc import Sequence

from geosod.errors import ModelError, SceneError
from geosod.types import Scene


def choose_bands(scene: Scene, wanted: Sequence[str], chosen: Sequence[str | int] | None) -> tuple[int, ...]:
    """The 1-based bands of `scene` to read, in the model's order.

    Without `chosen`, bands are matched by name; a scene whose bands carry no names and are as many as
    the model's is taken in file order. An alpha band is a mask unless it is chosen outright (NAIP files
    call their near-infrared band alpha).

    Args:
        scene: an opened scene.
        wanted: the model's band names, in its order.
        chosen: the user's bands, by 1-based number or by name.

    Raises:
        SceneError: a chosen band does not exist.
        ModelError: the bands do not fit the model.
    """
    if chosen is not None:
        bands = tuple(_find(scene, band) for band in chosen)
        if len(bands) != len(wanted):
            listed = ", ".join(wanted)
            raise ModelError(f"{scene.ref.uri}: {len(bands)} bands chosen, but the model takes {len(wanted)}: {listed}")
        return bands
    names = _names(scene)
    if all(name.lower() in names for name in wanted):
        return tuple(names[name.lower()] for name in wanted)
    data = tuple(i for i in range(1, scene.count + 1) if i != scene.alpha)
    unnamed = not any(scene.band_names[i - 1] for i in data)
    if unnamed and len(data) == len(wanted):
        return data
    raise ModelError(
        f"{scene.ref.uri}: has bands {describe(scene)}, but the model takes {', '.join(wanted)}; "
        f"choose {len(wanted)} of them with --bands, or use a model made for these bands"
    )


def describe(scene: Scene) -> str:
    """The bands of a scene as ``1=red, 2=green, 3``."""
    return ", ".join(f"{i}={name}" if name else str(i) for i, name in enumerate(scene.band_names, 1))


def _names(scene: Scene) -> dict[str, int]:
    pairs = reversed(list(enumerate(scene.band_names, 1)))
    return {name.lower(): i for i, name in pairs if name and i != scene.alpha}


def _find(scene: Scene, band: str | int) -> int:
    text = str(band).strip()
    number = int(text) if text.isdecimal() else _names(scene).get(text.lower(), 0)
    if text.lower() == "alpha" and scene.alpha:
        number = scene.alpha
    if not 1 <= number <= scene.count:
        raise SceneError(f"{scene.ref.uri}: has no band {text!r}; its bands are {describe(scene)}")
    return number
