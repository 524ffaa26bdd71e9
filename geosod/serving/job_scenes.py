"""Which scenes a job may name, and the local files that they become."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from geosod.scenes.sources import safe_id
from geosod.serving.allowed import is_address, target_of
from geosod.serving.fetch import fetch
from geosod.serving.options import ServeOptions
from geosod.serving.refused import RefusedError
from geosod.storage.uploads import check_upload
from geosod.storage.uris import LOCAL_SUFFIXES, suffix

_DOWNLOADED = (".tif", ".tiff", ".jpg", ".jpeg", ".png")
#: Seconds in which a scene must have been downloaded.
_SECONDS = 3600.0
_MAX_PIXELS = 1 << 40


def allowed_scene(name: str, options: ServeOptions) -> str:
    """A scene as a job records it: a resolved path, or a URL.

    Raises:
        RefusedError: it is not allowed (403), or is no raster (422).
    """
    if is_address(name):
        target_of(name, options.allowed_hosts)
        if suffix(name) not in _DOWNLOADED:
            raise RefusedError(422, f"{name[:120]!r}: is no GeoTIFF, JPEG or PNG by its name; name such a file")
        return name
    try:
        path = Path(name).resolve()
        inside = any(path.is_relative_to(folder) for folder in options.scene_folders)
        found = inside and path.is_file()
    except (OSError, ValueError, RuntimeError):
        inside = found = False
    if not inside:
        raise RefusedError(
            403,
            f"{ascii(name)[:120]}: is in no folder whose scenes jobs may name; start the service with --scenes FOLDER",
        )
    if not found or path.suffix.lower() not in LOCAL_SUFFIXES:
        raise RefusedError(422, f"{ascii(name)[:120]}: is no raster file; check the path")
    return str(path)


def local_scene(scene: str, folder: Path, index: int, options: ServeOptions) -> str:
    """The path of a scene; a URL is downloaded to a folder first, unless it has been before.

    Raises:
        GeosodError: it cannot be downloaded, or is no image.
    """
    if not is_address(scene):
        return allowed_scene(scene, options)
    name = Path(unquote(urlsplit(scene).path)).name
    target = folder / f"{index:05d}" / (safe_id(Path(name).stem) + suffix(scene))
    if target.exists():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name("part")
    limit = options.limits.scene_bytes
    with part.open("wb") as file:
        for content in fetch(scene, options.allowed_hosts, max_bytes=limit, seconds=_SECONDS):
            file.write(content)
    check_upload(part, max_pixels=_MAX_PIXELS)
    part.replace(target)
    return str(target)
