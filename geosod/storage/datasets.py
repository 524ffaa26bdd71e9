"""Open a raster or a view with GDAL, local or remote, with retries of transient errors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from geosod.errors import MEMORY, SceneError, one_line
from geosod.scene import SceneRef
from geosod.storage.formats import DRIVERS, REMOTE_DRIVERS, advice, is_local_tiff
from geosod.storage.gdal_env import environment, forget, versioned_name
from geosod.storage.retry import ATTEMPTS, with_retries
from geosod.storage.sandbox import check_raster, gdal_source
from geosod.storage.uris import is_remote, suffix

# Whoever asks for a scene's position sees that there is none. `warnings.catch_warnings` would not do: threads that
# read scenes undo each other's.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=r"geosod\.")

#: Option of the GTiff driver; others would warn of it.
_UNPLACED = {"GEOREF_SOURCES": "PAM"}
#: The suffix that `versioned_name` adds, removed from messages.
_VERSION_SUFFIX = re.compile(r"#[0-9a-f]{12}-\d+")


@contextmanager
def open_dataset(ref: SceneRef, *, view: str | None, options: Mapping[str, Any], placed: bool = True) -> Iterator[Any]:
    """Open a rasterio dataset with its own GDAL handle.

    Args:
        ref: the scene.
        view: text of a generated VRT that is opened instead of the file; its sources are the scene's files.
        options: GDAL options in addition to those for remote files.
        placed: False where its georeference is not used; GDAL takes most of the time for a small local TIFF to find it.

    Raises:
        SceneError: it cannot be opened.
    """
    remote = [uri for uri in source_versions(ref) if is_remote(uri)]

    def attempt() -> tuple[Any, ExitStack]:
        with ExitStack() as stack:
            try:
                name, allowed = _gdal_input(ref, view)
                stack.enter_context(environment([name], options))
                own = _UNPLACED if not placed and view is None and is_local_tiff(ref.uri) else {}
                dataset = stack.enter_context(DatasetReader(name, sharing=False, driver=allowed, **own))
                return dataset, stack.pop_all()
            except RasterioError:
                for uri in remote:
                    forget(uri)
                raise

    try:
        dataset, stack = with_retries(attempt, attempts=ATTEMPTS if remote else 1, errors=RasterioError)
    except RasterioError as error:
        raise _scene_error(ref.uri, error) from (None if remote else error)
    with stack:
        yield dataset


def source_versions(ref: SceneRef) -> dict[str, str | None]:
    """The files that hold the pixels of a scene, with the versions that were found when it was planned."""
    # Arrays in memory are copies, which do not change.
    own = None if ref.uri.startswith(MEMORY) else ref.version
    return {file.uri: file.version for file in ref.files} or {ref.uri: own}


def _gdal_input(ref: SceneRef, view: str | None) -> tuple[str, list[str]]:
    """The name or VRT text that GDAL opens, and the drivers that may open it."""
    if view is not None:
        # GDAL opens the sources of a view with any driver.
        for uri, version in source_versions(ref).items():
            if is_remote(uri) and suffix(uri) != ".vrt":
                check_raster(uri, version)
        return view, ["VRT"]
    if is_remote(ref.uri) and suffix(ref.uri) != ".vrt":
        # A VRT served under the name of a raster would bypass the sandbox.
        name = versioned_name(ref.uri, ref.version)
        return ref.image + name, list(REMOTE_DRIVERS)
    return gdal_source(ref.uri, ref.image), list(DRIVERS)


def _scene_error(uri: str, error: RasterioError) -> SceneError:
    text = _VERSION_SUFFIX.sub("", one_line(error)).removeprefix(f"{uri}: ").removeprefix(f"'{uri}' ")
    if "not recognized as being in a supported file format" in text:
        text = f"GDAL does not recognise its format; {advice(uri)}"
    elif "TIFFReadDirectory" in text:
        text = f"{text.rstrip('.')}; the file is damaged or incomplete, copy it again"
    return SceneError(f"{uri}: cannot be opened as a raster: {text or type(error).__name__}")
