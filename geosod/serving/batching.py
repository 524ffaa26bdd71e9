"""One thread that detects: it takes the images of several requests that wait in one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from geosod.detections import Detections
from geosod.detectors.detector import Detector
from geosod.scene import TileBatch
from geosod.serving.refused import RefusedError

#: Called after a batch with its number of images and its seconds.
OnBatch = Callable[[int, float], None]


@dataclass(slots=True, eq=False)
class _Waiting:
    tiles: TileBatch
    found: Future[Detections]


class Batcher:
    """Detects in images one batch at a time, in the order in which they came, as many of one shape as a batch takes.

    It does not wait for a batch to fill up: under load the next one fills while the last one is computed.

    Args:
        detector: the detector.
        on_batch: called for every batch.
    """

    def __init__(self, detector: Detector, *, on_batch: OnBatch = lambda _images, _seconds: None) -> None:
        self._detectors = _by_size(detector)
        self._size = detector.execution.batch
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="geosod-detector", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether images that are submitted will be detected in."""
        return self._thread.is_alive() and not self._closed

    def submit(self, tiles: TileBatch) -> Future[Detections]:
        """Detect in one image. A future that is cancelled before its batch begins costs nothing.

        Args:
            tiles: a batch of one tile.

        Raises:
            RefusedError: the service is shutting down (503).
        """
        found: Future[Detections] = Future()
        with self._changed:
            if self._closed:
                raise RefusedError(503, "the service is shutting down; try another one", {"Retry-After": "5"})
            self._waiting.append(_Waiting(tiles, found))
            self._changed.notify()
        return found

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            self._detect(batch)
            self._on_batch(len(batch), time.perf_counter() - started)

    def _next(self) -> list[_Waiting]:
        """The images of the next batch; none where the service has been closed and nothing waits."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if batch := self._taken():
                    return batch
                if self._closed:
                    return []

    def _taken(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        while self._waiting and len(batch) < self._size:
            item = self._waiting.popleft()
            if batch and not _alike(item.tiles, batch[0].tiles):
                others.append(item)
            elif item.found.set_running_or_notify_cancel():
                batch.append(item)
        self._waiting.extendleft(reversed(others))
        return batch

    def _detect(self, batch: list[_Waiting]) -> None:
        detector = self._detectors[min(size for size in self._detectors if size >= len(batch))]
        try:
            found = detector.detect_batch(TileBatch.concat([item.tiles for item in batch])).per_tile()
        except BaseException as error:
            if len(batch) == 1:
                batch[0].found.set_exception(error)
                return
            # An image at which the network fails must not take others with it.
            for item in batch:
                self._detect([item])
            return
        for item, one in zip(batch, found, strict=True):
            item.found.set_result(one)


def _by_size(detector: Detector) -> dict[int, Detector]:
    """The detector for batches of 1, 2, 4, … images up to its own: a batch that is not full need not be padded to it.

    Graphs have a batch of one size, and code is compiled for one.
    """
    full, adapter = detector.execution, detector.adapter
    sizes = {full.batch}
    if full.backend == "eager":
        sizes |= {2**i for i in range(full.batch.bit_length()) if 2**i < full.batch}
    return {
        size: detector
        if size == full.batch
        else Detector(detector.card, adapter, replace(full, batch=size), rules=detector.rules)
        for size in sorted(sizes)
    }


def _alike(a: TileBatch, b: TileBatch) -> bool:
    return a.pixels.shape[1:] == b.pixels.shape[1:] and (a.limits is None) == (b.limits is None)
