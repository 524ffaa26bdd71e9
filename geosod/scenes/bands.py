"""Which bands of a scene a model is fed, and in what order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from geosod.errors import ModelError, SceneError
from geosod.scene import BandFile, Scene, SceneRef

#: What a user says of bands: a list in the model's order, or the scene's band for each of the model's.
Chosen = Sequence[str | int] | Mapping[str, str]


def choose_bands(scene: Scene, wanted: Sequence[str], chosen: Chosen | None) -> tuple[int, ...]:
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
        return tuple(_find(scene, band) for band in _in_order(scene.ref, wanted, chosen))
    names = _names(scene)
    if all(name.lower() in names for name in wanted):
        return tuple(names[name.lower()] for name in wanted)
    data = tuple(i for i in range(1, scene.count + 1) if i != scene.alpha)
    unnamed = not any(scene.band_names[i - 1] for i in data)
    if unnamed and len(data) == len(wanted):
        return data
    mend = f"choose {len(wanted)} of them with --bands, or use a model made for these bands"
    if scene.count < len(wanted):
        mend = f"give the folder of all with --bands '{wanted[0]}=*_B04.tif,...', or use a model made for these bands"
    raise ModelError(f"{scene.ref.uri}: has bands {describe(scene)}, but the model takes {', '.join(wanted)}; {mend}")


def choose_files(ref: SceneRef, wanted: Sequence[str], chosen: Chosen | None) -> tuple[BandFile, ...]:
    """Those of a scene's band files that a model is fed, in its order.

    Args:
        ref: a scene with `files`.
        wanted: the model's band names, in its order.
        chosen: the user's bands, by name, alias or 1-based number.

    Raises:
        SceneError: a chosen band does not exist.
        ModelError: the bands do not fit the model.
    """
    names = {alias.lower(): file for file in reversed(ref.files) for alias in file.aliases}
    names |= {file.name.lower(): file for file in reversed(ref.files)}
    names |= {str(i): file for i, file in enumerate(ref.files, 1) if str(i) not in names}
    asked = list(wanted) if chosen is None else _in_order(ref, wanted, chosen)
    missing = [band for band in asked if band.strip().lower() not in names]
    if not missing:
        return tuple(names[band.strip().lower()] for band in asked)
    there = ", ".join("/".join((file.name, *file.aliases)) for file in ref.files)
    if chosen is not None:
        raise SceneError(f"{ref.uri}: has no band {missing[0]!r}; its bands are {there}")
    raise ModelError(
        f"{ref.uri}: has bands {there}, but the model takes {', '.join(wanted)}; say which is which with "
        f"--bands {wanted[0]}=NAME,..."
    )


def _in_order(ref: SceneRef, wanted: Sequence[str], chosen: Chosen) -> list[str]:
    """The chosen bands in the model's order."""
    listed = ", ".join(wanted)
    if isinstance(chosen, Mapping):
        if {name.lower() for name in chosen} != {name.lower() for name in wanted}:
            raise ModelError(f"{ref.uri}: bands chosen for {', '.join(chosen)}, but the model takes {listed}")
        by_name = {name.lower(): band for name, band in chosen.items()}
        return [by_name[name.lower()] for name in wanted]
    if len(chosen) != len(wanted):
        raise ModelError(f"{ref.uri}: {len(chosen)} bands chosen, but the model takes {len(wanted)}: {listed}")
    return [str(band) for band in chosen]


def describe(scene: Scene) -> str:
    """The bands of a scene as ``1=red, 2=green, 3``."""
    return ", ".join(f"{i}={name}" if name else str(i) for i, name in enumerate(scene.band_names, 1))


def _names(scene: Scene) -> dict[str, int]:
    pairs = reversed(list(enumerate(scene.band_names, 1)))
    return {name.lower(): i for i, name in pairs if name and i != scene.alpha}


def _find(scene: Scene, band: str) -> int:
    text = band.strip()
    number = _names(scene).get(text.lower(), int(text) if text.isdecimal() else 0)
    if text.lower() == "alpha" and scene.alpha:
        number = scene.alpha
    if not 1 <= number <= scene.count:
        raise SceneError(f"{scene.ref.uri}: has no band {text!r}; its bands are {describe(scene)}")
    return number
