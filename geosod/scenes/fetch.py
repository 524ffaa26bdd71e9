"""Read windows of a scene in order, with retries; windows of remote files are fetched ahead by several threads.

A file may change while it is read. Its version is compared with the planned one before the first window and after
the last one of each unit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from rasterio.errors import RasterioError

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import ChangedError, GeosodError, LostError, SceneError
from geosod.scene import Scene, Window
from geosod.storage.datasets import source_versions
from geosod.storage.gdal_env import forget
from geosod.storage.retry import ATTEMPTS, backoff, is_permanent, is_transient
from geosod.storage.uris import is_remote, suffix
from geosod.storage.versions import version

#: Concurrent readers of a remote file, each a thread with its own handle.
WORKERS = 3
#: Windows that are being fetched or waiting to be used.
AHEAD = 5
#: Windows with more bytes than this are not fetched ahead.
MAX_AHEAD_BYTES = 128 << 20
#: After this many waits without a success, nothing is retried.
PATIENCE = 2 * (ATTEMPTS - 1)

#: Drivers of files that present others, which they may resample.
_MOSAICS = {"VRT", "GTI"}

Pixels = tuple[PixelArray, BoolArray]
Open = Callable[[], AbstractContextManager[Any]]
Read = Callable[[Any, Window, PixelArray | None], Pixels]


def window_reader(scene: Scene, *, attempts: int, open_: Open, read: Read) -> LocalReader:
    """What reads windows of a scene.

    Args:
        scene: the scene.
        attempts: attempts to read a window of local files.
        open_: opens the dataset; it is opened, used and closed in one thread.
        read: reads the pixels and validity of a window of the dataset, the pixels into an array where one is given.
    """
    remote = any(is_remote(uri) for uri in source_versions(scene.ref))
    return RemoteReader(scene, open_, read) if remote else LocalReader(scene, attempts, open_, read)


class LocalReader:
    """Reads windows of local files, in the calling thread."""

    def __init__(self, scene: Scene, attempts: int, open_: Open, read: Read) -> None:
        self._scene, self._open, self._read_pixels = scene, open_, read
        self._versions = source_versions(scene.ref)
        self._stack, self._dataset = ExitStack(), None
        self._waits = 0
        self.attempts = attempts

    def begin(self, windows: Sequence[Window]) -> None:  # noqa: ARG002
        """Open the files, unless they are open, and check that they are those that were planned.

        Args:
            windows: the windows that will be read until `end`, in order; others may be read too.

        Raises:
            SceneError: a file cannot be opened.
            ChangedError: a file has changed.
        """
        if self._dataset is None:
            self._check_versions()
            self._dataset = self._stack.enter_context(self._open())

    def end(self) -> None:
        """Check again after the last window; ChangedError where a file has changed."""
        self._check_versions()

    def close(self) -> None:
        """Close the files."""
        self._dataset = None
        self._stack.close()

    @property
    def steady(self) -> bool:
        """Whether a pixel is the same in every window, so that windows may differ from run to run.

        Where a mosaic resamples its sources that is not sure; a generated view is read in whole blocks.
        """
        return self._scene.view is not None or getattr(self._dataset, "driver", "GTI") not in _MOSAICS

    @property
    def salvageable(self) -> bool:
        """Whether a window that failed is worth reading block by block: not after many waits without a success."""
        return self._waits < PATIENCE

    def read(self, window: Window, out: PixelArray | None = None) -> Pixels:
        """Pixels and validity, with retries; LostError where no part of the window can be read, else RasterioError.

        The pixels may be read into `out`, an array of their shape; what is in it after an error means nothing.
        """
        for attempt in range(self.attempts - 1):
            try:
                return self.read_once(window, out)
            except RasterioError:
                time.sleep(0.05 * attempt)
        return self.read_once(window, out)

    def read_once(self, window: Window, out: PixelArray | None = None) -> Pixels:
        """Pixels and validity without retries; as `read`."""
        try:
            return self._read_pixels(self._dataset, window, out)
        except RasterioError:
            # Where several threads decode, GDAL keeps blocks that it could not decode in its cache, and the next read
            # would take what they hold for pixels.
            self._reopen()
            raise

    def _reopen(self) -> None:
        self.close()
        try:
            self._dataset = self._stack.enter_context(self._open())
        except SceneError as error:
            raise LostError(str(error)) from None

    def _check_versions(self) -> None:
        for uri, known in self._versions.items():
            if known is not None:
                self._check_version(uri)

    def _check_version(self, uri: str, attempts: int = ATTEMPTS) -> None:
        if self._versions[uri] not in (None, version(uri, attempts=attempts)):
            raise ChangedError(f"{uri}: changed while it was read; run again")


class RemoteReader(LocalReader):
    """Reads windows of remote files, fetched ahead by workers. A worker is a thread with its own rasterio handle."""

    def __init__(self, scene: Scene, open_: Open, read: Read) -> None:
        super().__init__(scene, ATTEMPTS, open_, read)
        self._remote = [uri for uri in self._versions if is_remote(uri)]
        self._planned: deque[Window] = deque()
        self._ahead: deque[tuple[Window, Future[Pixels]]] = deque()
        self._workers = deque(_Worker(open_) for _ in range(WORKERS))
        self._checks = ThreadPoolExecutor(1)
        self._before: Future[None] | None = None
        self._after: Future[None] | None = None

    def begin(self, windows: Sequence[Window]) -> None:
        """As `LocalReader.begin`, but what is wrong is raised by the first `read`."""
        self._planned, self._waits, self._after = deque(windows), 0, None
        if self._before is None:
            self._before = self._checks.submit(self._check_versions)
        self._fetch_ahead()

    def end(self) -> None:
        """As `LocalReader.end`."""
        assert self._before is not None
        self._before.result()
        (self._after or self._checks.submit(self._check_versions)).result()

    def close(self) -> None:
        """Close the files and the threads."""
        for _window, future in self._ahead:
            future.cancel()
        for worker in self._workers:
            worker.close()
        self._checks.shutdown(wait=False, cancel_futures=True)

    @property
    def steady(self) -> bool:
        """As `LocalReader.steady`."""
        return self._scene.view is not None or suffix(self._scene.ref.uri) != ".vrt"

    def read(self, window: Window, out: PixelArray | None = None) -> Pixels:  # noqa: ARG002
        """As `LocalReader.read`; pixels that are fetched ahead have an array of their own."""
        assert self._before is not None
        self._before.result()
        while self._ahead and self._ahead[0][0] != window:
            self._ahead.popleft()[1].cancel()
        if not self._ahead:
            self._submit(window)
        future = self._ahead.popleft()[1]
        self._fetch_ahead()
        try:
            return future.result()
        finally:
            if not self._ahead and not self._planned and self._after is None:
                # This was the last window: check the version while its tiles are processed.
                self._after = self._checks.submit(self._check_versions)

    def read_once(self, window: Window, out: PixelArray | None = None) -> Pixels:  # noqa: ARG002
        """As `LocalReader.read_once`."""
        worker = self._workers[0]
        return worker.submit(self._attempts, worker, window, 1).result()

    def _fetch_ahead(self) -> None:
        while self._planned and len(self._ahead) < AHEAD:
            window = self._planned[0]
            if self._ahead and window.width * window.height * self._scene.count * 8 > MAX_AHEAD_BYTES:
                return
            self._submit(self._planned.popleft())

    def _submit(self, window: Window) -> None:
        worker = self._workers[0]
        self._workers.rotate(-1)
        self._ahead.append((window, worker.submit(self._attempts, worker, window, ATTEMPTS)))

    def _attempts(self, worker: _Worker, window: Window, attempts: int) -> Pixels:
        """Runs in the worker's thread."""
        for attempt in range(attempts):
            try:
                pixels = self._read_pixels(worker.dataset(), window, None)
            except RasterioError as error:
                worker.reset()
                for uri in self._remote:
                    forget(uri)
                self._diagnose()
                if attempt + 1 == attempts or self._waits >= PATIENCE or is_permanent(error):
                    raise
                self._waits += 1
                time.sleep(backoff(attempt))
            else:
                self._waits = 0
                return pixels
        raise AssertionError("the last attempt returns or raises")

    def _diagnose(self) -> None:
        """Request the files without GDAL, which does not report why bytes are missing.

        Raises:
            LostError: the files may not be read any more, do not exist, or have changed.
        """
        for uri in self._remote:
            try:
                self._check_version(uri, attempts=1)
            except ChangedError as changed:
                raise changed from None
            except GeosodError as refused:
                if not is_transient(refused):
                    raise LostError(str(refused)) from None


class _Worker(ThreadPoolExecutor):
    """A thread with its own dataset, which is opened when it is first used."""

    def __init__(self, open_: Open) -> None:
        super().__init__(1)
        self._open, self._stack, self._dataset = open_, ExitStack(), None

    def dataset(self) -> Any:
        """The dataset; call it in the worker's thread."""
        if self._dataset is None:
            try:
                self._dataset = self._stack.enter_context(self._open())
            except SceneError as error:
                raise LostError(str(error)) from None
        return self._dataset

    def reset(self) -> None:
        """Close the dataset; call it in the worker's thread."""
        self._dataset = None
        self._stack.close()

    def close(self) -> None:
        """Close the dataset and the thread; call it from another thread."""
        self.submit(self.reset)
        self.shutdown(wait=True)
