"""Open a file or a view with GDAL, here or on the network; what passes is tried again."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from geosod.errors import SceneError
from geosod.scene import SceneRef
from geosod.storage.gdal_env import ATTEMPTS, backoff, environment, forget, is_transient, name_of_version
from geosod.storage.uris import is_remote, suffix
from geosod.storage.vrt_sandbox import check_raster, gdal_source

#: What `name_of_version` adds to a name, of no use to a reader.
_MARK = re.compile(r"#[0-9a-f]{12}-\d+")


@contextmanager
def connected(ref: SceneRef, *, view: str | None, drivers: Sequence[str], options: Mapping[str, Any]) -> Iterator[Any]:
    """A rasterio dataset with a handle of its own.

    Args:
        ref: the scene.
        view: what is opened in its place: a VRT of our own making, whose sources are the scene's files.
        drivers: GDAL's drivers that may open it.
        options: settings of GDAL besides those that files on the network call for.

    Raises:
        SceneError: it cannot be opened.
    """
    with ExitStack() as stack:
        yield _with_retries(stack, ref, view, drivers, options)


def sources_of(ref: SceneRef) -> dict[str, str | None]:
    """The files that the pixels of a scene come from, and their versions as they were found."""
    return {file.uri: file.version for file in ref.files} or {ref.uri: ref.version}


def _with_retries(
    stack: ExitStack, ref: SceneRef, view: str | None, drivers: Sequence[str], options: Mapping[str, Any]
) -> Any:
    remote = [uri for uri in sources_of(ref) if is_remote(uri)]
    attempt = 0
    while True:
        with ExitStack() as tried:
            try:
                name, allowed = _openable(ref, view, drivers)
                tried.enter_context(environment([name], options))
                dataset = tried.enter_context(_dataset(name, allowed))
                stack.push(tried.pop_all())
                return dataset
            except RasterioError as error:
                for uri in remote:
                    forget(uri)
                if not remote or attempt + 1 == ATTEMPTS or not is_transient(error):
                    raise _told(ref.uri, error) from (None if remote else error)
        time.sleep(backoff(attempt))
        attempt += 1


def _openable(ref: SceneRef, view: str | None, drivers: Sequence[str]) -> tuple[str, list[str]]:
    """What GDAL is handed, and the drivers that may take it."""
    if view is not None:
        # GDAL opens what a view names with any driver it has.
        for uri, version in sources_of(ref).items():
            if is_remote(uri) and suffix(uri) != ".vrt":
                check_raster(uri, version)
        return view, list(drivers)
    if is_remote(ref.uri) and suffix(ref.uri) != ".vrt":
        # What comes as a raster must be one: a VRT in its place would go unchecked.
        return name_of_version(ref.uri, ref.version), [driver for driver in drivers if driver != "VRT"]
    return gdal_source(ref.uri), list(drivers)


def _dataset(name: str, drivers: list[str]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return DatasetReader(name, sharing=False, driver=drivers)


def _told(uri: str, error: RasterioError) -> SceneError:
    text = _MARK.sub("", " ".join(str(error).split())).removeprefix(f"{uri}: ").removeprefix(f"'{uri}' ")
    return SceneError(f"{uri}: cannot be opened as a raster: {text or type(error).__name__}")
