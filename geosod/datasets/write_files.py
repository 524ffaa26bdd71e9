"""Parts that writers of labels share: names of images, their place, and JSON."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from geosod.datasets.contract import Target
from geosod.datasets.image_files import is_file
from geosod.datasets.labels import Labels
from geosod.errors import LabelError, OutputError
from geosod.storage.uris import is_remote, suffix


def safe_path(folder: Path, id_: str, ending: str) -> Path:
    """The file of an image below a folder; LabelError where its identifier leads out of it."""
    name = PurePosixPath(id_)
    if name.is_absolute() or ".." in name.parts or not name.name or "\0" in id_:
        raise LabelError(f"image {id_!r}: cannot name a file; rename the image")
    return folder / name.with_name(name.name + ending)


def image_names(labels: Labels, target: Target) -> list[str]:
    """The name of each image in a file at `target`: below its folder if it lies there, else where it is.

    With `Target.images` the images are placed in a folder ``images`` beside the file.
    """
    if target.images != "none":
        raise OutputError("images are placed beside formats that are folders only; leave out --image-files")
    here = target.final.parent.resolve()
    names = []
    for image in labels.images:
        if not image.uri or is_remote(image.uri):
            names.append(image.uri or image.id)
            continue
        path = Path(image.uri).absolute()
        try:
            names.append(path.resolve().relative_to(here).as_posix())
        except ValueError:
            names.append(path.as_posix())
    return names


def place_images(labels: Labels, folder: Path, target: Target) -> list[Path]:
    """Link or copy the images below a folder, as their identifiers; their paths there, in the order of the set.

    Raises:
        LabelError: an image is missing.
        OutputError: it cannot be linked or copied.
    """
    placed = []
    for image in labels.images:
        path = safe_path(
            folder, image.id, "" if PurePosixPath(image.id).suffix == suffix(image.uri) else suffix(image.uri)
        )
        placed.append(path)
        if target.images == "none":
            continue
        if not is_file(Path(image.uri)):
            raise LabelError(f"image {image.id}: there is no file {image.uri}; give the folder with --images")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if target.images == "copy":
                shutil.copyfile(image.uri, path)
            else:
                path.symlink_to(Path(image.uri).resolve())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error}; try --image-files copy") from error
    return placed


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file; values that are iterators become lists whose entries are written one by one."""
    with path.open("w", encoding="utf-8") as file:
        for k, (key, value) in enumerate(document.items()):
            file.write(f"{', ' if k else '{'}{_json(key)}: ")
            if isinstance(value, Iterator):
                file.write("[")
                file.writelines(f"{', ' if i else ''}{_json(entry)}" for i, entry in enumerate(value))
                file.write("]")
            else:
                file.write(_json(value))
        file.write("}" if document else "{}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def no_progress(done: int, total: int) -> None:
    """Show nothing of the progress: `done` of `total` images."""


def number(value: float) -> str:
    """The shortest text of a number that reads back as the same."""
    return str(int(value)) if value == int(value) else repr(float(value))


def write_text(path: Path, text: str) -> None:
    """Write a text file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def relative_link(path: Path, start: Path) -> str:
    """A path relative to a folder, with forward slashes."""
    return Path(os.path.relpath(path, start)).as_posix()
