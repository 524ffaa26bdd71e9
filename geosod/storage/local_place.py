"""A local folder that outputs are written to; several processes may do so at a time.

It must be on a file system with atomic renames and, for several processes, working ``flock``.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from geosod.storage.folder_lock import folder_lock

# Paths are text where a scene is committed: as objects they took a tenth of the time that a small scene takes there.

_DAY = 86_400.0
#: How often the folder of a file is made again that others remove.
_TRIES = 10
_STAGING = re.compile(r"\.staging-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """See `geosod.storage.place.Place`.

    Attributes:
        address: absolute path of the folder.
    """

    address: str

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(self.address)

    @property
    def shared(self) -> bool:
        """Nothing is known of other machines."""
        return False

    @property
    def remedy(self) -> str:
        """What to do where it cannot be written."""
        return "free some space, or choose another folder with -o"

    def at(self, path: str) -> str:
        """Absolute path of a file."""
        return f"{self.address}/{path}"

    def names(self, folder: str = "") -> Iterator[str]:
        """Paths of the files below a folder, as the system lists them; `glob` would list all before the first."""
        waiting = [self.root / folder]
        while waiting:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        yield Path(entry.path).relative_to(self.root).as_posix()

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(self.at(path))  # noqa: PTH113

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            with open(self.at(path), "rb") as file:  # noqa: PTH123
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> IO[bytes]:
        """A file to be read."""
        return (self.root / path).open("rb")

    def flush(self, *files: Path) -> None:
        """Wait until staged files are on the disk."""
        flush(*files)

    def put(self, files: Mapping[Path, str]) -> None:
        """Rename staged files into place, and wait until their folders are on the disk."""
        targets = [self.at(path) for path in files.values()]
        for source, target in zip(files, targets, strict=True):
            rename(source, target)
        if os.name == "posix":
            flush(*sorted({os.path.dirname(target) for target in targets}))  # noqa: PTH120

    def create(self, path: str, content: bytes | Path) -> bool:
        """Write a new file, whole; False where there is one already. Others may do the same only with the lock."""
        if os.path.exists(self.at(path)):  # noqa: PTH110
            return False
        if isinstance(content, Path):
            self.put({content: path})
            return True
        with self.staging() as stage:
            (stage / "new").write_bytes(content)
            self.flush(stage / "new")
            self.put({stage / "new": path})
        return True

    def change(self, path: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the content of a file while the folder's lock is held."""
        with self.locked(), self.staging() as stage:
            content = change(self.read(path))
            if content is None:
                self.remove(path)
                return
            (stage / "new").write_bytes(content)
            self.flush(stage / "new")
            self.put({stage / "new": path})

    def remove(self, *paths: str) -> None:
        """Remove files; those that do not exist are ignored."""
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(self.at(path))  # noqa: PTH108

    def remove_folder(self, folder: str) -> None:
        """Remove a folder, and those around it that are empty then."""
        path = self.root / folder
        _remove_tree(path)
        with suppress(OSError):
            while (path := path.parent) != self.root:
                path.rmdir()

    def locked(self, part: str | None = None) -> AbstractContextManager[None]:
        """Hold the lock of the folder, a file ``.lock``; waits for it. See `geosod.storage.place.Place.locked`."""
        return folder_lock(self.at(".lock")).held(part)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A temporary folder on the same file system, outside the dataset's folders."""
        path = self.root / f".staging-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
        path.mkdir()
        try:
            yield path
        finally:
            try:
                path.rmdir()  # as a rule all files have been renamed into place
            except OSError:
                shutil.rmtree(path, ignore_errors=True)

    def check(self) -> None:
        """Create the folder, try to write to it, and remove staging folders of dead processes."""
        self.root.mkdir(parents=True, exist_ok=True)
        probe = self.root / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
        self._remove_stale_staging()

    def remove_empty(self) -> None:
        """Remove the folder where nothing is in it."""
        with suppress(OSError):
            self.root.rmdir()

    def _remove_stale_staging(self) -> None:
        """Of dead processes of this machine, and those of other machines that are a day old."""
        for path in self.root.glob(".staging-*"):
            match = _STAGING.fullmatch(path.name)
            if match is None or not path.is_dir():
                continue
            try:
                old = time.time() - path.stat().st_mtime > _DAY
            except FileNotFoundError:  # its process has just removed it
                continue
            here = match["host"] == _host()
            if (here and not _alive(int(match["pid"]))) or (not here and old):
                shutil.rmtree(path, ignore_errors=True)


def _remove_tree(path: Path) -> None:
    """Remove the files below a folder, and the folders; what others remove or add at the same time is no error."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(Path(entry.path))
            else:
                with suppress(FileNotFoundError):
                    Path(entry.path).unlink()
    with suppress(OSError):
        path.rmdir()


def flush(*paths: str | Path) -> None:
    """Wait until files and folders are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def rename(source: str | Path, target: str | Path) -> None:
    """Rename a file, and create its new folder if necessary; another thread may remove that while it is empty."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            os.replace(source, target)  # noqa: PTH105
            return
        with suppress(FileNotFoundError):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)  # noqa: PTH105


@cache
def _host() -> str:
    machine = f"{socket.gethostname()} {uuid.getnode():x}"
    return hashlib.blake2b(machine.encode(), digest_size=4).hexdigest()


def _alive(pid: int) -> bool:
    if os.name != "posix":  # on Windows, signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
