"""Windows of a scene, one after the other; those of files on the network are fetched before they are asked for.

A file may change while it is read. Its version is looked up before the first window and after the last, and held
against the one the scene was planned with.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

from rasterio.errors import RasterioError

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import ChangedError, GeosodError, LostError, SceneError
from geosod.scene import Scene, Unit, Window
from geosod.storage.datasets import sources_of
from geosod.storage.gdal_env import ATTEMPTS, backoff, forget, is_permanent, is_transient, version
from geosod.storage.uris import is_remote

#: Handles that read a file on the network at a time, each in a thread of its own.
LANES = 3
#: Windows under way or waiting to be taken.
AHEAD = 5
#: Windows of more bytes than this are not fetched ahead.
MAX_AHEAD_BYTES = 128 << 20
#: Waits without a single success between them, after which nothing is tried again.
PATIENCE = 2 * (ATTEMPTS - 1)

Pixels = tuple[PixelArray, BoolArray]
Open = Callable[[], Any]
Read = Callable[[Any, Window], Pixels]


def strip_windows(unit: Unit, rows: int, columns: int) -> Iterator[Window]:
    """The windows that a rolling strip over a unit reads, in order: whole rows of blocks, none twice.

    Args:
        unit: tiles in reading order.
        rows: height of the blocks that strips end at.
        columns: width of the blocks.
    """
    hull, bottom = unit.read_window, 0
    for top, row in groupby(unit.windows, key=lambda window: window.row):
        start = max(top, bottom)
        bottom = max(start, min(-(-next(row).bottom // rows) * rows, hull.bottom))
        if bottom > start:
            yield from runs(unit, Window(hull.col, start, hull.width, bottom - start), columns)


def runs(unit: Unit, strip: Window, columns: int) -> list[Window]:
    """The parts of a strip across a unit that its tiles need, from left to right; where all are there, one.

    Args:
        unit: its tiles, of which an area of interest may have left few.
        strip: as wide as the unit.
        columns: width of the blocks; parts end at their edges or the strip's.
    """
    needed = sorted((w.col, w.right) for w in unit.windows if w.row < strip.bottom and w.bottom > strip.row)
    parts: list[tuple[int, int]] = []
    for start, stop in needed:
        left, right = max(strip.col, start // columns * columns), min(strip.right, -(-stop // columns) * columns)
        if parts and left <= parts[-1][1]:
            before = parts.pop()
            left, right = before[0], max(before[1], right)
        parts.append((left, right))
    return [Window(left, strip.row, right - left, strip.height) for left, right in parts]


@contextmanager
def source(scene: Scene, windows: Sequence[Window], *, attempts: int, open_: Open, read: Read) -> Iterator[Source]:
    """The windows of a scene.

    Args:
        scene: the scene.
        windows: those that will be asked for, in order; others may be, too.
        attempts: how often a failing read of a local file is tried.
        open_: gives a context manager of a dataset, which is entered, used and left in one thread.
        read: gives the pixels and the validity of a window of a dataset.

    Raises:
        ChangedError: the file changed while it was read.
        SceneError: it cannot be opened.
    """
    remote = any(is_remote(uri) for uri in sources_of(scene.ref))
    made = _Remote(scene, windows, open_, read) if remote else _Local(scene, attempts, open_, read)
    with made:
        yield made


class Source:
    """What a unit's windows are read from."""

    def __init__(self, scene: Scene, open_: Open, read: Read) -> None:
        self._scene, self.open, self._read_pixels = scene, open_, read
        self.tried = 1

    @property
    def salvageable(self) -> bool:
        """Whether a window that failed is worth reading block by block."""
        return True

    def read(self, window: Window) -> Pixels:
        """Pixels and validity, tried as often as makes sense.

        Raises:
            RasterioError: they cannot be read, but some of them may be.
            LostError: they cannot be read.
        """
        raise NotImplementedError

    def read_once(self, window: Window) -> Pixels:
        """Pixels and validity, without trying again; errors as `read`."""
        raise NotImplementedError

    def _check(self) -> None:
        """See that the files are the ones that the scene was planned with."""
        for uri, known in sources_of(self._scene.ref).items():
            if known is not None and version(uri) != known:
                raise ChangedError(f"{uri}: changed while it was read; run again")


class _Local(Source):
    """A file on this machine, read in the thread that asks."""

    def __init__(self, scene: Scene, attempts: int, open_: Open, read: Read) -> None:
        super().__init__(scene, open_, read)
        self.tried = attempts
        self._stack = ExitStack()

    def __enter__(self) -> _Local:
        self._check()
        self._dataset = self._stack.enter_context(self.open())
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._stack.close()
        if kind is None:
            self._check()

    def read(self, window: Window) -> Pixels:
        for attempt in range(self.tried - 1):
            try:
                return self.read_once(window)
            except RasterioError:
                time.sleep(0.05 * attempt)
        return self.read_once(window)

    def read_once(self, window: Window) -> Pixels:
        return self._read_pixels(self._dataset, window)


class _Remote(Source):
    """A file on the network. A rasterio handle belongs to one thread, so each lane has its own of both."""

    def __init__(self, scene: Scene, windows: Sequence[Window], open_: Open, read: Read) -> None:
        super().__init__(scene, open_, read)
        self.tried = ATTEMPTS
        self._remote = [uri for uri in sources_of(scene.ref) if is_remote(uri)]
        self._planned = deque(windows)
        self._ahead: deque[tuple[Window, Future[Pixels]]] = deque()
        self._lanes = [_Lane(self) for _ in range(LANES)]
        self._turn = 0
        self._waits = 0
        self._checks = ThreadPoolExecutor(1)
        self._before: Future[None] | None = None
        self._after: Future[None] | None = None

    def __enter__(self) -> _Remote:
        self._before = self._checks.submit(self._check)
        self._fill()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for _window, future in self._ahead:
            future.cancel()
        for lane in self._lanes:
            lane.close()
        try:
            if kind is None:
                self._begun()
                (self._after or self._checks.submit(self._check)).result()
        finally:
            self._checks.shutdown(wait=False, cancel_futures=True)

    @property
    def salvageable(self) -> bool:
        """Not where the server has been silent for long."""
        return self._waits < PATIENCE

    def read(self, window: Window) -> Pixels:
        self._begun()
        while self._ahead and self._ahead[0][0] != window:
            self._ahead.popleft()[1].cancel()
        if not self._ahead:
            self._submit(window)
        future = self._ahead.popleft()[1]
        self._fill()
        try:
            return future.result()
        finally:
            if not self._ahead and not self._planned and self._after is None:
                # The last window is here: look whether the file is still the same while tiles are cut.
                self._after = self._checks.submit(self._check)

    def read_once(self, window: Window) -> Pixels:
        lane = self._lanes[0]
        return lane.submit(lambda: self._tried(lane, window, attempts=1)).result()

    def _begun(self) -> None:
        if self._before is not None:
            before, self._before = self._before, None
            before.result()

    def _fill(self) -> None:
        """Keep some windows on their way."""
        while self._planned and len(self._ahead) < AHEAD:
            if self._ahead and self._bytes(self._planned[0]) > MAX_AHEAD_BYTES:
                return
            self._submit(self._planned.popleft())

    def _submit(self, window: Window) -> None:
        lane = self._lanes[self._turn % LANES]
        self._turn += 1
        self._ahead.append((window, lane.submit(lambda: self._tried(lane, window, attempts=ATTEMPTS))))

    def _bytes(self, window: Window) -> int:
        return window.width * window.height * self._scene.count * 8

    def _tried(self, lane: _Lane, window: Window, *, attempts: int) -> Pixels:
        """Runs in the lane's thread."""
        for attempt in range(attempts):
            try:
                pixels = self._read_pixels(lane.dataset(), window)
            except RasterioError as error:
                lane.drop()
                for uri in self._remote:
                    forget(uri)
                self._look_around()
                if attempt + 1 == attempts or self._waits >= PATIENCE or is_permanent(error):
                    raise
                self._waits += 1
                time.sleep(backoff(attempt))
            else:
                self._waits = 0
                return pixels
        raise AssertionError("the last attempt returns or raises")

    def _look_around(self) -> None:
        """Ask the server ourselves: GDAL tells of a failed read that bytes are missing, but not why.

        Raises:
            LostError: the files may not be read any more, are gone, or have changed.
        """
        for uri in self._remote:
            known = sources_of(self._scene.ref)[uri]
            try:
                found = version(uri, attempts=1)
            except GeosodError as refused:
                if not is_transient(refused):
                    raise LostError(str(refused)) from None
            else:
                if known is not None and found != known:
                    raise ChangedError(f"{uri}: changed while it was read; run again") from None
        # The file is there and the same: whether the bytes that came make sense is for the caller to find out.


class _Lane:
    """A thread with a handle of its own, made when it is needed."""

    def __init__(self, owner: _Remote) -> None:
        self._owner = owner
        self._pool = ThreadPoolExecutor(1)
        self._stack = ExitStack()
        self._dataset: Any = None

    def submit(self, action: Callable[[], Pixels]) -> Future[Pixels]:
        return self._pool.submit(action)

    def dataset(self) -> Any:
        """In the lane's thread: the handle, opened if need be."""
        if self._dataset is None:
            try:
                self._dataset = self._stack.enter_context(self._owner.open())
            except SceneError as error:
                raise LostError(str(error)) from None
        return self._dataset

    def drop(self) -> None:
        """In the lane's thread: give the handle up."""
        self._dataset = None
        self._stack.close()

    def close(self) -> None:
        """From another thread: give up the handle and the thread."""
        self._pool.submit(self.drop)
        self._pool.shutdown(wait=True)
