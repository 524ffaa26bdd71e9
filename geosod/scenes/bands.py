"""Which bands of a scene a model reads, and in what order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from geosod.errors import ModelError, SceneError
from geosod.scene import BandFile, Scene, SceneRef

#: The user's choice of bands: a list in the model's order, or the scene's band for each of the model's.
Chosen = Sequence[str | int] | Mapping[str, str]


def choose_bands(scene: Scene, wanted: Sequence[str], chosen: Chosen | None) -> tuple[int, ...]:
    """The 1-based bands of `scene` to read, in the model's order.

    Without `chosen`, bands are matched by name; if the scene's bands have no names, and it has as many as the model,
    they are taken in file order; and if one band of as many has no name, it is the one that is not found. An alpha
    band is a mask unless it is chosen explicitly.

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
    names = _numbers(scene)
    if all(name.lower() in names for name in wanted):
        return tuple(names[name.lower()] for name in wanted)
    data = tuple(i for i in range(1, scene.count + 1) if i != scene.alpha)
    if len(data) == len(wanted) and not any(scene.band_names[i - 1] for i in data):
        return data
    unnamed = [i for i in data if is_unnamed(scene.band_names[i - 1])]
    if len(data) == len(wanted) and len(unnamed) == 1 and sum(name.lower() not in names for name in wanted) == 1:
        return tuple(names.get(name.lower(), unnamed[0]) for name in wanted)
    fix = f"choose {len(wanted)} of them with --bands"
    if scene.count < len(wanted):
        absent = [name for name in wanted if name.lower() not in names]
        lacking = f"{', '.join(absent)} {'are' if len(absent) > 1 else 'is'} missing" if absent else "bands are missing"
        fix = f"{lacking}; where each band is a file, give the folder and --bands '{wanted[0]}=*_B04.tif,...'"
    raise ModelError(
        f"{scene.ref.uri}: has bands {describe(scene)}, but the model takes {', '.join(wanted)}; {fix}, or use a model "
        "made for these bands"
    )


def is_unnamed(name: str) -> bool:
    """Whether the name of a band says nothing; "alpha" is what GDAL calls the fourth of four bands, often infrared."""
    return name in ("", "alpha")


def choose_files(ref: SceneRef, wanted: Sequence[str], chosen: Chosen | None) -> tuple[BandFile, ...]:
    """The band files to read of a scene with `files`, in the model's order; as `choose_bands`, but also by alias."""
    names = {alias.lower(): file for file in reversed(ref.files) for alias in file.aliases}
    names |= {file.name.lower(): file for file in reversed(ref.files)}
    names |= {str(i): file for i, file in enumerate(ref.files, 1) if str(i) not in names}
    bands = list(wanted) if chosen is None else _in_order(ref, wanted, chosen)
    missing = [band for band in bands if band.strip().lower() not in names]
    if not missing:
        return tuple(names[band.strip().lower()] for band in bands)
    available = ", ".join("/".join((file.name, *file.aliases)) for file in ref.files)
    if chosen is not None:
        raise SceneError(f"{ref.uri}: has no band {missing[0]!r}; its bands are {available}")
    raise ModelError(
        f"{ref.uri}: has bands {available}, but the model takes {', '.join(wanted)}; assign them with "
        f"--bands {wanted[0]}=NAME,..."
    )


def _in_order(ref: SceneRef, wanted: Sequence[str], chosen: Chosen) -> list[str]:
    """The chosen bands in the model's order."""
    listed = ", ".join(wanted)
    if isinstance(chosen, Mapping):
        by_name = {name.lower(): band for name, band in chosen.items()}
        if by_name.keys() != {name.lower() for name in wanted}:
            raise ModelError(f"{ref.uri}: bands chosen for {', '.join(chosen)}, but the model takes {listed}")
        return [by_name[name.lower()] for name in wanted]
    if len(chosen) != len(wanted):
        raise ModelError(f"{ref.uri}: {len(chosen)} bands chosen, but the model takes {len(wanted)}: {listed}")
    return [str(band) for band in chosen]


def describe(scene: Scene) -> str:
    """The bands of a scene as ``1=red, 2=green, 3``."""
    return ", ".join(f"{i}={name}" if name else str(i) for i, name in enumerate(scene.band_names, 1))


def _numbers(scene: Scene) -> dict[str, int]:
    """Band numbers by name; the first of several bands with one name."""
    pairs = reversed(list(enumerate(scene.band_names, 1)))
    return {name.lower(): i for i, name in pairs if name and i != scene.alpha}


def _find(scene: Scene, band: str) -> int:
    text = band.strip()
    number = _numbers(scene).get(text.lower(), int(text) if text.isdecimal() else 0)
    if text.lower() == "alpha" and scene.alpha:
        number = scene.alpha
    if not 1 <= number <= scene.count:
        raise SceneError(f"{scene.ref.uri}: has no band {text!r}; its bands are {describe(scene)}")
    return number
