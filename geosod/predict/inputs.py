"""The images that a user passes to `predict`, one after the other: files, folders, globs, arrays, lists of these."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geosod.array_scene import ArrayScene, array_scenes
from geosod.errors import ConfigError, GeosodError, identity
from geosod.results import Failure
from geosod.running.job import Job
from geosod.scene import SceneRef
from geosod.scenes.open import pages_and_grey
from geosod.scenes.sources import find_scenes
from geosod.storage.uris import is_remote, stem

#: The order of the colours in an array of three bands. PaddleX's own, and OpenCV's, is blue, green, red.
Color = Literal["bgr", "rgb"]
#: Names of the bands of models whose arrays have an order of colours.
_RGB = ("red", "green", "blue")


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image to detect on.

    Attributes:
        job: model and settings, with the page of this image.
        input_path: as the user named it, without credentials; None for arrays.
        page_index: number of the page from 0; None where the file has only one.
        stem: name of its results.
        suffix: of its file, as it is written there; "" for arrays.
        ref: the scene; None for arrays.
        array: the pixels, where the user passed them.
    """

    job: Job
    input_path: str | None
    page_index: int | None
    stem: str
    suffix: str
    ref: SceneRef | None = None
    array: ArrayScene | None = None

    @contextmanager
    def opened(self) -> Iterator[SceneRef]:
        """The scene, which can be read inside the block.

        Raises:
            ConfigError: an array is no image.
            ModelError: it does not fit the model's bands.
        """
        if self.array is None:
            assert self.ref is not None
            yield self.ref
            return
        config = self.job.config
        bands = None if config.bands else len(self.job.model.card.bands)
        with array_scenes([self.array], bands=bands, datetime=config.datetime) as (ref,):
            yield ref


def images(given: Any, job: Job, *, color: Color, written: Container[Path] = ()) -> Iterator[Image | Failure]:
    """The images that a user passes, each once for every time that it is named, in order.

    Args:
        given: as `geosod.predict.pipeline.Pipeline.predict` takes it, see `check_input`.
        job: model and settings.
        color: order of the colours in arrays.
        written: files of results, which are no images when a folder or glob finds them.

    Yields:
        An image, or the failure to find one.
    """
    if isinstance(given, list | tuple):
        for one in given:
            yield from images(one, job, color=color, written=written)
    elif isinstance(given, ArrayScene):
        yield Image(job, None, None, given.id, "", array=given)
    elif hasattr(given, "__array__"):
        yield Image(job, None, None, "array", "", array=ArrayScene(_in_order(given, job, color)))
    else:
        yield from _named(str(given) if isinstance(given, Path) else given, job, written)


def check_input(given: Any) -> None:
    """Refuse inputs of other types before anything is done.

    Raises:
        ConfigError: one is, or there is none.
    """
    if isinstance(given, list | tuple):
        if not given:
            raise ConfigError("input is an empty list; pass at least one image")
        for one in given:
            check_input(one)
    elif not isinstance(given, ArrayScene | str | Path | Mapping) and not hasattr(given, "__array__"):
        raise ConfigError(
            f"input is a {type(given).__name__}; pass a path, an address, a folder, a glob, an array, or a list of "
            "these"
        )


def _named(name: str | Mapping[str, Any], job: Job, written: Container[Path]) -> Iterator[Image | Failure]:
    c = job.config
    refs, failures = find_scenes([name], datetime=c.datetime, bands=c.bands, asset=c.asset)
    yield from failures
    for ref in refs:
        shown = _shown(name, ref)
        if shown != name and Path(ref.uri) in written:
            continue
        label = ref.id if ref.files or is_remote(ref.uri) else stem(ref.uri)
        suffix = "" if ref.files else Path(identity(ref.uri)).suffix
        try:
            count, grey = (1, False) if ref.files else pages_and_grey(ref)
        except GeosodError as error:
            yield Failure(ref.id, ref.uri, None, "open", type(error).__name__, str(error))
            continue
        # As PaddleX does: a grey photo is one whose three colours are the same.
        bands = ("1", "1", "1") if grey and c.bands is None and _takes_colours(job) else c.bands
        if count == 1 or c.page != 1:
            page = None if count == 1 else c.page - 1
            one = replace(job, config=c.model_copy(update={"bands": bands}))
            yield Image(one, shown, page, _page_stem(label, page), suffix, ref)
            continue
        for page in range(count):
            one = replace(job, config=c.model_copy(update={"page": page + 1, "bands": bands}))
            yield Image(one, shown, page, _page_stem(label, page), suffix, ref)


def _takes_colours(job: Job) -> bool:
    return sorted(name.lower() for name in job.model.card.bands) == sorted(_RGB)


def _page_stem(label: str, page: int | None) -> str:
    return label if page is None else f"{label}_{page}"


def _shown(name: str | Mapping[str, Any], ref: SceneRef) -> str:
    """The path of an image as the user would write it: as given, or below a folder as given."""
    if isinstance(name, Mapping) or is_remote(ref.uri):
        return identity(ref.uri)
    given = Path(name).expanduser()
    try:
        if given.is_file():
            return name
        if given.is_dir():
            return str(Path(name) / Path(ref.uri).relative_to(given.resolve()))
        # A glob: files below the working directory are shown from there.
        return ref.uri if given.is_absolute() else os.path.relpath(ref.uri)
    except (OSError, ValueError):
        return ref.uri


def _in_order(given: Any, job: Job, color: Color) -> Any:
    """The array as (C, H, W) in the model's order of bands, where it is an image of that many bands."""
    try:
        pixels = given if np.ma.isMaskedArray(given) else np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        return given  # refused, with its reason, where it becomes a scene
    names = tuple(name.lower() for name in job.model.card.bands)
    bands = len(names)
    if pixels.ndim == 2 and _takes_colours(job):
        return (np.ma if np.ma.isMaskedArray(pixels) else np).stack([pixels] * 3)
    if pixels.ndim != 3:
        return pixels
    # PaddleX's arrays have the bands last.
    if pixels.shape[2] == bands:
        pixels = np.moveaxis(pixels, 2, 0)
    if pixels.shape[0] != 3 or not _takes_colours(job):
        return pixels
    order = ("blue", "green", "red") if color == "bgr" else _RGB
    return pixels[[order.index(name) for name in names]]
