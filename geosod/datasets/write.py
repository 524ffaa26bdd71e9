"""Write labels in any format: whole or not at all, and over nothing that is not to be replaced."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from geosod.datasets.contract import Format, Images, Target
from geosod.datasets.formats import named_format, output_format
from geosod.datasets.labels import Labels
from geosod.errors import LabelError, OutputError
from geosod.storage.uris import is_remote

#: Marks a folder that geosod wrote, and may therefore replace when it is asked to.
_MARK = ".geosod-dataset"


def write_labels(
    labels: Labels,
    out: str | Path,
    *,
    format: str | None = None,
    image_files: Images | None = None,
    crs: str | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write labels.

    Args:
        labels: any labels.
        out: a new file or folder.
        format: a name in `geosod.datasets.formats.FORMATS`; None takes that of the suffix.
        image_files: whether images are linked or copied into a folder, or left where they are; None links them where
            the format has no size of images without them.
        crs: CRS of ground coordinates; None is that of longitude and latitude.
        overwrite: whether an existing file, or a folder that this function wrote, is replaced.

    Returns:
        What the format cannot express, in words.

    Raises:
        LabelError: the labels do not fit the format, or an image is missing.
        OutputError: it cannot be written, or exists.
    """
    path = Path(out).expanduser()
    chosen = output_format(path, format)
    images = _images(chosen, image_files)
    notes: list[str] = []
    if labels.points and chosen.name not in ("coco", "tinyperson", "geojson", "geoparquet", "gpkg"):
        notes.append(f"points are written as boxes without area, since {chosen.name} has no points")
    keep_images(path, labels)
    with staged(path, folder=chosen.folder, overwrite=overwrite) as stage:
        chosen.write(labels, Target(stage, path, images, crs, notes))
    return tuple(notes)


def keep_images(path: Path, labels: Labels) -> None:
    """Refuse a folder that holds images of the labels, which would be lost when it is replaced.

    Raises:
        OutputError: it does.
    """
    if not path.is_dir():
        return
    folder = path.resolve()
    for image in labels.images:
        if image.uri and not is_remote(image.uri) and folder in Path(image.uri).resolve().parents:
            raise OutputError(
                f"{path}: holds the image {image.uri} of the labels, which would be lost; give -o another folder"
            )


@contextmanager
def staged(path: Path, *, folder: bool, overwrite: bool) -> Iterator[Path]:
    """A place to write to, which becomes `path` if nothing fails.

    Raises:
        OutputError: `path` exists and may not be replaced, or it cannot be written.
    """
    _check(path, folder=folder, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".geosod-", dir=path.parent) as stage:
            # GDAL chooses by the suffix.
            draft = Path(stage) / path.name
            if folder:
                draft.mkdir()
            yield draft
            if folder:
                (draft / _MARK).write_text("")
            _replace(draft, path, Path(stage) / "old")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from error


def _check(path: Path, *, folder: bool, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir() != folder:
        raise OutputError(f"{path}: is a {'folder' if path.is_dir() else 'file'}; give -o another name")
    if folder and not any(path.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{path}: exists; use --overwrite, or give -o another name")
    if folder and not (path / _MARK).is_file():
        raise OutputError(f"{path}: was not written by geosod and would be lost; give -o another folder")


def _replace(draft: Path, path: Path, old: Path) -> None:
    if path.is_dir():
        path.rename(old)
        try:
            draft.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old)
    else:
        draft.replace(path)


def write_parts(
    parts: Mapping[str, Labels],
    out: str | Path,
    *,
    format: str = "coco",
    image_files: Images | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write several sets into one folder, each as a file or folder of its name; as `write_labels`."""
    chosen = named_format(format)
    images = _images(chosen, image_files)
    path, notes = Path(out).expanduser(), list[str]()
    keep_images(path, Labels.concat(parts.values()))
    with staged(path, folder=True, overwrite=overwrite) as stage:
        for name, labels in parts.items():
            file = name if chosen.folder else name + chosen.suffix
            if chosen.folder:
                (stage / file).mkdir()
            chosen.write(labels, Target(stage / file, path / file, images, None, notes))
    return tuple(dict.fromkeys(notes))


def _images(chosen: Format, image_files: Images | None) -> Images:
    if image_files not in (None, "none", "link", "copy"):
        raise LabelError(f"image-files {image_files!r}: choose none, link or copy")
    if image_files in ("link", "copy") and not chosen.folder:
        raise LabelError(f"{chosen.name} is one file without images; leave out --image-files")
    return image_files or ("link" if chosen.own_images else "none")
