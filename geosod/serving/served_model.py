"""The model that a service has loaded: images go through its batches, scenes through the serial engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from geosod.array_scene import ArrayScene
from geosod.arrays import PixelArray
from geosod.detections import Detections
from geosod.detectors.arrays import tiles_of
from geosod.detectors.card import ModelCard
from geosod.detectors.detector import Detector
from geosod.output.scene_outputs import SceneOutputs
from geosod.running.detect import detect
from geosod.running.events import Event
from geosod.running.job import Job, load_fitting
from geosod.scene import TileBatch
from geosod.serving.batching import Batcher, OnBatch
from geosod.serving.refused import RefusedError


class Stopped(BaseException):
    """Work on a scene that nobody waits for any more; no error of the scene, so that nothing records it as one."""


class _InTurns:
    """An adapter that batches of images and tiles of scenes take turns at."""

    def __init__(self, adapter: Any) -> None:
        self._adapter, self._turn = adapter, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def predict(self, images: Any) -> Any:
        """What the adapter finds."""
        with self._turn:
            return self._adapter.predict(images)


class ServedModel:
    """A loaded model.

    Args:
        job: model and settings.
        on_batch: called for every batch.

    Attributes:
        digest: sha256 of the model, as outputs record it.
        line: how it runs, and why.
        detector: the detector.
        batcher: the thread that detects in images.
    """

    def __init__(self, job: Job, *, on_batch: OnBatch) -> None:
        loaded, self.line = load_fitting(job)
        self.digest = job.model.digest
        turns: Any = _InTurns(loaded.adapter)
        self.detector = Detector(loaded.card, turns, loaded.execution, rules=loaded.rules)
        self.batcher = Batcher(self.detector, on_batch=on_batch)

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.detector.card

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each class id, as reported."""
        return self.detector.rules.names

    @property
    def about(self) -> dict[str, Any]:
        """What `/models` says of it."""
        return {
            "name": self.card.name,
            "digest": self.digest,
            "classes": list(self.names),
            "bands": list(self.card.bands),
            "dtype": self.card.dtype,
            "gsd": self.card.gsd,
            "tile": list(self.card.tile_size),
            "threshold": self.detector.threshold,
            "execution": self.line,
        }

    def tiles(self, pixels: PixelArray) -> TileBatch | None:
        """An image as one tile; None where it is larger than the model's, and is detected in as a scene.

        Raises:
            ModelError: it does not fit the model.
        """
        width, height = self.card.tile_size
        if pixels.shape[-1] > width or pixels.shape[-2] > height:
            return None
        any_shape = bool(getattr(self.detector.adapter, "any_shape", False))
        return next(tiles_of(pixels, self.card, any_size=self.detector.any_size, any_shape=any_shape))

    def submit(self, tiles: TileBatch) -> Future[Detections]:
        """Detect in one image, in a batch with others."""
        return self.batcher.submit(tiles)

    def in_array(self, pixels: PixelArray, stopped: Callable[[], bool]) -> Detections:
        """Detect in an image that is larger than a tile."""
        return self._outputs(ArrayScene(pixels, id="image"), self.detector, stopped).detections

    def in_file(self, path: Path, threshold: float | None, stopped: Callable[[], bool]) -> SceneOutputs:
        """Detect in a raster file that has been checked.

        Raises:
            GeosodError: it does not fit the model, or cannot be read.
        """
        lowest = self.detector.threshold
        if threshold is not None and threshold < lowest:
            raise RefusedError(
                422,
                f"threshold {threshold:g} is below the {lowest:g} with which the service runs; ask for no less, or "
                "start it with a lower --threshold",
            )
        return self._outputs(str(path), self.detector.with_threshold(threshold), stopped)

    def _outputs(self, scene: Any, detector: Detector, stopped: Callable[[], bool]) -> SceneOutputs:
        def on_event(_: Event) -> None:
            if stopped():
                raise Stopped

        result = detect(scene, model=detector, engine="serial", on_event=on_event)
        if not len(result):
            raise RefusedError(422, result.failures[0].message)
        if result.failures:
            # Boxes of the ground that could be read would look like those of the whole image.
            raise RefusedError(422, f"some pixels cannot be read: {result.failures[0].message}; send the file again")
        outputs = result[next(iter(result))]
        # An engine knows a detector object by its code; this one's weights are known, too.
        return replace(outputs, provenance=replace(outputs.provenance, model_digest=self.digest))
