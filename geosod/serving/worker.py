"""Who works on requests: what the service asks of it, and the one that works in this process."""

from __future__ import annotations

import asyncio
import base64
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from geosod.arrays import PixelArray
from geosod.detections import Detections
from geosod.errors import SceneError
from geosod.machine import usable_cpus
from geosod.output.scene_outputs import SceneOutputs
from geosod.running.job import Job
from geosod.scene import TileBatch
from geosod.serving.allowed import is_address
from geosod.serving.answers import SUCCESS, as_json
from geosod.serving.batching import OnBatch
from geosod.serving.budget import Share
from geosod.serving.fetch import fetch
from geosod.serving.images import for_model, from_base64, image_field, objects, picture
from geosod.serving.options import ServeOptions
from geosod.serving.refused import RefusedError
from geosod.serving.scene_answers import scene_answer
from geosod.serving.served_model import ServedModel
from geosod.storage.uploads import check_upload, read_upload

T = TypeVar("T")
#: Images that are fetched at once.
_FETCHERS = 8
#: Arrays of an image's size that are held on the way, the decoded one included.
_COPIES = 3


class Worker(Protocol):
    """Works on requests.

    Attributes:
        about: what `/models` says of the model.
        replicas: models that detect at the same time.
        waiting: images that wait for a batch, or at replicas.
    """

    @property
    def about(self) -> dict[str, Any]: ...  # noqa: D102

    @property
    def replicas(self) -> int: ...  # noqa: D102

    @property
    def waiting(self) -> int: ...  # noqa: D102

    async def ready(self) -> bool:
        """Whether requests will be answered."""

    async def infer(self, body: bytes, share: Share, log_id: str) -> bytes:
        """The answer to `infer`.

        Args:
            body: of the request.
            share: where further bytes are counted.
            log_id: of the request.

        Raises:
            GeosodError: the request cannot be carried out.
        """

    async def detect(self, body: bytes, threshold: float | None, wanted: str) -> bytes:
        """What is found in a GeoTIFF, as a file of a media type.

        Raises:
            GeosodError: it cannot be read, or does not fit the model.
        """

    def close(self) -> None:
        """Finish what has begun, and end."""


class LocalWorker:
    """One model in this process, and the threads that work with it.

    Args:
        job: model and settings.
        options: how the service runs.
        on_batch: called for every batch.
    """

    replicas = 1

    def __init__(self, job: Job, options: ServeOptions, *, on_batch: OnBatch) -> None:
        self._options = options
        self.model = ServedModel(job, on_batch=on_batch)
        self._threads = ThreadPoolExecutor(usable_cpus() + 1, "geosod-images")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "geosod-fetch")
        self._scenes = ThreadPoolExecutor(1, "geosod-scenes")

    @property
    def about(self) -> dict[str, Any]:
        """What `/models` says of the model."""
        return self.model.about

    @property
    def waiting(self) -> int:
        """Images that wait for a batch."""
        return len(self.model.batcher)

    async def ready(self) -> bool:
        """Whether requests will be answered."""
        return self.model.batcher.alive

    def close(self) -> None:
        """Finish what has begun, and end all threads."""
        self.model.batcher.close()
        for pool in (self._threads, self._fetchers, self._scenes):
            pool.shutdown(cancel_futures=True)

    async def infer(self, body: bytes, share: Share, log_id: str) -> bytes:
        """See `Worker.infer`."""
        text = await self._in(self._threads, lambda: image_field(body))
        fetched = await self._in(self._fetchers, lambda: self._fetched(text, share)) if is_address(text) else None
        pixels, tiles = await self._in(self._threads, lambda: self._decoded(text, fetched, share))
        if tiles is None:
            found = await self._scene(lambda stopped: self.model.in_array(pixels, stopped))
        else:
            found = await asyncio.wrap_future(self.model.submit(tiles))
        return await self._in(self._threads, lambda: self._answer(pixels, found, log_id))

    async def detect(self, body: bytes, threshold: float | None, wanted: str) -> bytes:
        """See `Worker.detect`."""
        outputs = await self._scene(lambda stopped: self._in_upload(body, threshold, stopped))
        return await self._in(self._threads, lambda: scene_answer(outputs, wanted))

    def _fetched(self, url: str, share: Share) -> bytes:
        limits, parts = self._options.limits, []
        for part in fetch(
            url,
            self._options.allowed_hosts,
            max_bytes=limits.body_bytes,
            seconds=min(limits.seconds, limits.body_seconds),
        ):
            share.add(len(part))
            parts.append(part)
        return b"".join(parts)

    def _decoded(self, text: str, fetched: bytes | None, share: Share) -> tuple[PixelArray, TileBatch | None]:
        content = from_base64(text) if fetched is None else fetched

        def reserve(size: int) -> None:
            share.add(_COPIES * size)

        try:
            image = read_upload(content, max_pixels=self._options.limits.pixels, reserve=reserve)
        except SceneError as error:
            raise RefusedError(422, f"image: {error}") from error
        pixels = for_model(image, self.model.card)
        return pixels, self.model.tiles(pixels)

    def _answer(self, pixels: PixelArray, found: Detections, log_id: str) -> bytes:
        jpeg = picture(pixels, self.model.card, found, self.model.names)
        result = {"detectedObjects": objects(found), "image": base64.b64encode(jpeg).decode("ascii")}
        return as_json({"logId": log_id, "errorCode": 0, "errorMsg": SUCCESS, "result": result})

    def _in_upload(self, body: bytes, threshold: float | None, stopped: Callable[[], bool]) -> SceneOutputs:
        # GDAL looks for files beside a scene: the folder is new, and holds nothing else.
        with tempfile.TemporaryDirectory(prefix="geosod-upload-") as folder:
            path = Path(folder) / "upload.tif"
            path.write_bytes(body)
            try:
                check_upload(path, max_pixels=self._options.limits.pixels)
                return self.model.in_file(path, threshold, stopped)
            except SceneError as error:
                raise RefusedError(422, f"the body {str(error).removeprefix(f'{path}: ')}") from error
            except RefusedError as error:
                message = str(error).replace(f"{path}: ", "").replace(str(path), "the body")
                raise RefusedError(error.status, message) from error

    async def _scene(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """The result of work on a scene, which is stopped between batches when nobody waits for it any more."""
        stop = threading.Event()

        def checked() -> T:
            if stop.is_set():
                raise RefusedError(503, "nobody waits for this scene")
            return work(stop.is_set)

        try:
            return await self._in(self._scenes, checked)
        finally:
            stop.set()

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function)
