"""Where the images of a set of labels lie, what they are called, and how large they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.problems import InvalidEntryError, shown
from geosod.errors import GeosodError, LabelError
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_scene
from geosod.storage.uris import LOCAL_SUFFIXES, is_remote


def relative_name(name: object) -> PurePosixPath:
    """The name of an image in a file of labels, as a path below the folder of the images.

    Absolute paths, addresses and drives, which hold for another machine, are reduced to the file name.

    Raises:
        InvalidEntryError: it is no name, or leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise InvalidEntryError(f"image name is {shown(name)}, expected the name of a file")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or "://" in name or path.parts[0].endswith(":"):
        path = PurePosixPath(path.name)
    if ".." in path.parts or path.name in ("", "."):
        raise InvalidEntryError(f"image name {shown(name)} leads out of the folder of the images")
    return path


def image_ids(names: Sequence[PurePosixPath]) -> list[str]:
    """Identifiers of images: the path without suffix, or with it where two differ in the suffix alone."""
    plain = [_without_suffix(name) for name in names]
    times = Counter(plain)
    return [one if times[one] == 1 else name.as_posix() for one, name in zip(plain, names, strict=True)]


def _without_suffix(name: PurePosixPath) -> str:
    return (name.with_suffix("") if name.suffix.lower() in LOCAL_SUFFIXES else name).as_posix()


class ImageFolder:
    """Finds images by name in folders, the first of which is preferred."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)
        self._by_stem: dict[Path, dict[str, Path]] = {}

    def find(self, name: PurePosixPath, given: object = "") -> Path | None:
        """The file that is called `name`, with any suffix of a raster where it has none of its own.

        Args:
            name: as `relative_name`.
            given: the name as the file of labels has it, which may be an absolute path.
        """
        whole = Path(given) if isinstance(given, str) and "\0" not in given else Path()
        if whole.is_absolute() and is_file(whole):
            return whole
        for folder in self._folders:
            if is_file(folder / name):
                return folder / name
        for folder in self._folders:
            found = self._stems((folder / name).parent).get(PurePosixPath(_without_suffix(name)).name)
            if found is not None:
                return found
        return None

    def _stems(self, folder: Path) -> dict[str, Path]:
        if folder not in self._by_stem:
            self._by_stem[folder] = {path.stem: path for path in images_in(folder, deep=False)}
        return self._by_stem[folder]

    def expected(self, name: PurePosixPath) -> Path:
        """Where `name` should be."""
        return (self._folders[0] if self._folders else Path()) / name


def is_file(path: Path) -> bool:
    """Whether there is a file; names that no file can have are none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def images_in(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """The raster files in a folder, in order."""
    try:
        paths = sorted(folder.rglob("*") if deep else folder.iterdir())
    except OSError:
        return
    for path in paths:
        if path.suffix.lower() in LOCAL_SUFFIXES and is_file(path):
            yield path


def scene_of(image: LabelledImage) -> Scene:
    """The header of an image; SceneError where it cannot be opened, LabelError where it is not known where it lies."""
    if not image.uri:
        raise LabelError(f"image {image.id}: it is not known where its pixels are; give the folder with --images")
    return open_scene(SceneRef(image.uri, image.id))


def read_image(id: str, path: Path, number: int = 0) -> LabelledImage:
    """An image with the size that its file has; SceneError where it cannot be opened."""
    scene = open_scene(SceneRef(str(path), id))
    return LabelledImage(id, str(path), scene.width, scene.height, number, scene.pixel)


def with_ground_size(labels: Labels) -> Labels:
    """Labels with the size of pixels on the ground, of the images that are there and georeferenced."""
    images = []
    for image in labels.images:
        pixel = image.metres_per_pixel
        if pixel is None and image.uri and (is_remote(image.uri) or is_file(Path(image.uri))):
            try:
                pixel = scene_of(image).pixel
            except GeosodError:
                pixel = None
        images.append(replace(image, metres_per_pixel=pixel))
    return labels.with_columns(images=images)
