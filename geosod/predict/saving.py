"""Where results are saved: folders and file names as PaddleX has them, and nothing lost unasked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from geosod.datasets.write import staged
from geosod.errors import OutputError

#: Suffixes of pictures that are written as they are; the picture of any other input is a PNG.
PICTURES = (".jpg", ".jpeg", ".png")
#: Kind of file → its suffixes. A name with another suffix is a folder.
SUFFIXES = {
    "picture": (*PICTURES, ".bmp", ".webp", ".tif", ".tiff"),
    "JSON file": (".json",),
    "Parquet file": (".parquet",),
}


@dataclass(slots=True)
class Names:
    """The names of the results of one call of `predict`, so that none replaces another's or an image.

    Attributes:
        inputs: local images that were read.
        stems: names of results that are taken, in lower case.
        written: file → the number of the result it belongs to.
    """

    inputs: set[Path] = field(default_factory=set)
    stems: set[str] = field(default_factory=set)
    written: dict[Path, int] = field(default_factory=dict)

    def unique(self, stem: str) -> str:
        """`stem`, or with a number where another result has it."""
        # Compared without case, as some file systems do.
        name, number = stem, 1
        while name.lower() in self.stems:
            number += 1
            name = f"{stem}-{number}"
        self.stems.add(name.lower())
        return name

    def claim(self, path: Path, number: int) -> None:
        """Take a file for a result.

        Raises:
            OutputError: it is another result's, or an image that was read.
        """
        resolved = path.resolve()
        if resolved in self.inputs:
            raise OutputError(f"{path}: is an image that was read, and would be lost; give save_path another name")
        if self.written.setdefault(resolved, number) != number:
            raise OutputError(f"{path}: holds the result of another image; give save_path a folder")


def target(save_path: str | Path | None, name: str, *, kind: str) -> Path:
    """The file that a result is saved to.

    Args:
        save_path: a folder, or a file with a suffix of its kind; None is the current folder.
        name: of the file in a folder.
        kind: a key of `SUFFIXES`.

    Raises:
        OutputError: `save_path` is empty, or has a suffix of another kind.
    """
    text = "." if save_path is None else os.fspath(save_path)
    if not text.strip():
        raise OutputError("save_path is empty; check the variable that was to hold it")
    path = Path(text).expanduser()
    if path.is_dir() or text.endswith(("/", os.sep)):
        return path / name
    suffix = path.suffix.lower()
    if suffix in SUFFIXES[kind]:
        return path
    if other := next((one for one, suffixes in SUFFIXES.items() if suffix in suffixes), None):
        expected = ", ".join(SUFFIXES[kind])
        raise OutputError(f"{text}: is the name of a {other}; for a {kind} use a folder or a name with {expected}")
    return path / name


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file, in one step; the folders above it are made.

    Raises:
        OutputError: it cannot be written.
    """
    with staged(path, folder=False, overwrite=True) as draft:
        try:
            write(draft)
        except ValueError as error:
            raise OutputError(f"{path}: cannot be written: {error}; give save_path another name") from error


def write_text(path: Path, text: str) -> None:
    """`write_whole` for text, in UTF-8."""
    write_whole(path, lambda draft: _write(draft, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
