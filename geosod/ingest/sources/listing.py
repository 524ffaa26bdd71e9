"""A prefix of an object store, or a watched folder: every raster file below it is an item."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from geosod.errors import GeosodError, SceneError, SourceError, identity, printable
from geosod.ingest.config import IngestConfig
from geosod.ingest.found import Found
from geosod.ingest.sources.source import Poll
from geosod.scene import SceneRef
from geosod.scenes.expand import raster_files
from geosod.scenes.open import is_complete
from geosod.storage.files import listing
from geosod.storage.uris import SUFFIXES, suffix
from geosod.storage.versions import version

#: Names of files that are still being written.
_UNFINISHED = (".part", ".tmp", ".partial", ".crdownload", ".filepart", "~")
#: A file that does not open is waited for this many times as long as others, then it fails like any other scene.
PATIENCE = 10


class Prefix:
    """The rasters below ``s3://bucket/prefix/``, see `geosod.ingest.sources.source.Source`. Objects appear whole."""

    lists_all = True

    def __init__(self, config: IngestConfig) -> None:
        self._root = str(config.source).rstrip("/") + "/"

    def poll(self, poll: Poll) -> Iterator[Found]:
        """See `Source`; files have no time of acquisition to be asked for."""
        _refuse_range(self._root, poll)
        for uri, tag in self._listing().items():
            if suffix(uri) in SUFFIXES and not _hidden(uri.removeprefix(self._root)):
                yield self._found(uri, tag)

    def cursor(self) -> None:
        """All is listed each time."""

    def current(self, found: Found) -> tuple[Found, SceneRef] | None:
        """See `Source`."""
        try:
            tag = version(found.address)
        except SceneError as error:
            if "is not there" in str(error) or "404" in str(error.__cause__):
                return None
            raise
        one = self._found(found.address, tag)
        return one, SceneRef(found.address, one.scene_id, version=tag)

    def _listing(self) -> Mapping[str, str]:
        try:
            return listing(self._root)
        except SceneError as error:
            raise SourceError(f"{error}; check the bucket's name and the credentials") from error

    def _found(self, uri: str, tag: str) -> Found:
        return Found(self._root.rstrip("/"), uri.removeprefix(self._root), tag.strip('"'), uri)


@dataclass(slots=True)
class Folder:
    """The rasters in a folder that files arrive in, see `geosod.ingest.sources.source.Source`.

    A file counts once its size and time have not changed for `settle` seconds, by this machine's steady clock and not
    by the file's time, and it opens as a raster.
    """

    config: IngestConfig
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], object] = time.sleep
    lists_all: bool = True
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    def poll(self, poll: Poll) -> Iterator[Found]:
        """See `Source`. Where files are new, it waits once until they have settled."""
        _refuse_range(str(self.config.source), poll)
        yield from self._settled(poll, waited=False)

    def _settled(self, poll: Poll, *, waited: bool) -> Iterator[Found]:
        found = {path: one for path in self._files(poll) if (one := self._found(path)) is not None}
        self._seen = {path: entry for path, entry in self._seen.items() if path in found}
        fresh: list[str] = []
        for path, one in found.items():
            if poll.is_known(one):
                yield one
                continue
            stamp, since = self._seen.get(path, ("", 0.0))
            if stamp != one.version:
                stamp, since = self._seen[path] = (one.version, self.clock())
            age = self.clock() - since
            if age < self.config.settle:
                fresh.append(path)
            elif age >= PATIENCE * self.config.settle or is_complete(path):
                yield one
            else:
                poll.say(f"{path}: does not open as a raster; it is waited for, as it may not be complete")
        if fresh and not waited:
            self.wait(self.config.settle)
            yield from self._settled(poll, waited=True)

    def cursor(self) -> None:
        """All is listed each time."""

    def current(self, found: Found) -> tuple[Found, SceneRef] | None:
        """See `Source`."""
        one = self._found(found.address)
        if one is None:
            return None
        return one, SceneRef(found.address, one.scene_id, version=version(found.address))

    def _files(self, poll: Poll) -> list[str]:
        root = Path(str(self.config.source)).expanduser().absolute()
        if not root.is_dir():
            raise SourceError(f"{root}: is no folder, or its disk is not mounted; check the source")
        names = []
        for path in raster_files(root):
            name = str(path)
            if printable(name) != name:
                poll.say(f"{printable(name)}: this name is not UTF-8; rename the file")
            elif not _hidden(path.relative_to(root).as_posix()):
                names.append(name)
        return sorted(names)

    def _found(self, path: str) -> Found | None:
        root = Path(str(self.config.source)).expanduser().absolute()
        try:
            stamp = version(path)
        except (GeosodError, OSError):
            return None  # it went between the listing and this
        return Found(identity(str(root)), Path(path).relative_to(root).as_posix(), stamp, path)


def _hidden(name: str) -> bool:
    """Whether a name, or a folder in it, is that of something unfinished or hidden."""
    parts = name.lower().split("/")
    return any(part.startswith(".") or part.endswith(_UNFINISHED) for part in parts)


def _refuse_range(root: str, poll: Poll) -> None:
    if poll.start or poll.end:
        raise SourceError(f"{root}: files have no time of acquisition to choose by; all of them are taken anyway")
