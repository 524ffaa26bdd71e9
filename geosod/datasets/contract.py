"""What a format of labels is: a reader, a writer, and how it is recognised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from geosod.datasets.labels import Labels
from geosod.datasets.problems import Problems

#: What becomes of the images when a set is written.
Images = Literal["none", "link", "copy"]


#: What readers of folders use.
TAKES = frozenset({"images", "subset", "classes"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where labels are read from.

    Attributes:
        path: the file or folder of the labels.
        images: folder of their images; None where the format has a place for them.
        scenes: georeferenced scenes, for labels with ground coordinates.
        subset: which part is read of a set in several, such as ``train``; None reads all of them.
        classes: names of the classes in their order, for files that have only numbers.
        label_column: column with the names of classes, for vector files.
        crs: CRS of a vector file that has none.
        problems: what is wrong is recorded here.
        notes: what a user should know, which is not wrong.
    """

    path: Path
    images: Path | None = None
    scenes: Sequence[str] = ()
    subset: str | None = None
    classes: Sequence[str] | None = None
    label_column: str | None = None
    crs: str | None = None
    problems: Problems = field(default_factory=Problems)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Target:
    """Where labels are written to.

    Attributes:
        path: the file or folder, which does not exist yet.
        final: its path once it is complete.
        images: what becomes of the images.
        crs: CRS of ground coordinates; None is that of longitude and latitude.
        notes: what the format cannot express is recorded here.
    """

    path: Path
    final: Path
    images: Images = "none"
    crs: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Format:
    """A format of labels.

    Attributes:
        name: as users write it.
        about: what it is, in a few words.
        folder: whether it is a folder with files, or one file.
        read: the labels of a source; entries that cannot be used are recorded in `Source.problems`, and LabelError is
            raised where nothing can be used.
        write: writes labels to a target; LabelError where they do not fit the format.
        recognises: whether a file or folder is certainly of this format.
        suffix: of the file that is written; "" for folders.
        takes: which attributes of `Source` the reader uses besides the path.
        own_images: whether the format is useless without images in its own folder, which are linked by default.
    """

    name: str
    about: str
    folder: bool
    read: Callable[[Source], Labels]
    write: Callable[[Labels, Target], None]
    recognises: Callable[[Path], bool]
    suffix: str = ""
    takes: frozenset[str] = frozenset({"images"})
    own_images: bool = False
