"""A detector: radiometry, an adapter's network, and postprocessing of its raw boxes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch

from geosod.arrays import PixelArray
from geosod.detections import Detections
from geosod.detectors.arrays import tiles_of
from geosod.detectors.card import ModelCard
from geosod.detectors.classes import ClassRules, Thresholds
from geosod.detectors.contract import Adapter, RawBoxes
from geosod.detectors.devices import current_device
from geosod.detectors.postprocess import BatchDetections, postprocess, reported
from geosod.detectors.radiometry import byte_tiles, scaled_tiles
from geosod.detectors.resize import boxes_in_tile, network_input
from geosod.device import kind_of
from geosod.errors import ConfigError, ModelError, one_line
from geosod.results import Execution
from geosod.scene import TileBatch
from geosod.tile_size import TileSize

#: Messages of torch's CPU allocators, in lower case.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc", "out of memory")
#: How an object runs that a user made without saying so.
IN_PROCESS = Execution("cpu", "eager", "fp32", 1, 1)

#: So many boxes of a batch on a GPU are brought to the CPU before postprocessing: it is many small operations, each of
#: which a GPU needs ten microseconds to start. More are left there.
MAX_BOXES_ON_CPU = 20_000

T = TypeVar("T")


class Detector:
    """Finds objects in tiles. Engines call `detect_batch`; for arrays of your own there is `detect`.

    `geosod.load_model` makes one from a bundle. To run a network of your own, pass an object with a `predict` method,
    as docs/adapters.md describes, and give the detector to `geosod.detect(scenes, model=detector)`.

    Attributes:
        card: what the model is made for.
        adapter: the network.
        execution: how it runs: device, precision, batch and threads.
        rules: what is reported of each class: from which score, and under which name.

    Args:
        card: what the model is made for.
        adapter: see `geosod.detectors.contract.Adapter`.
        execution: None runs single tiles on the CPU with one thread.
        threshold: minimum score; or those of classes, by name or id, and of the "default"; None takes the card's.
        classes: names or ids of the classes to report; None for all.
        rename_classes: class, by name or id → the name under which it is reported. Classes of one name become one
            class before boxes are suppressed and merged.
        rules: what applies where the other arguments are None; None takes the card's.

    Raises:
        ConfigError: a threshold is not in 0 to 1, a class is unknown, or the adapter has no method `predict`.
    """

    def __init__(
        self,
        card: ModelCard,
        adapter: Adapter,
        execution: Execution | None = None,
        *,
        threshold: Thresholds | None = None,
        classes: Iterable[str | int] | None = None,
        rename_classes: Mapping[Any, str] | None = None,
        rules: ClassRules | None = None,
    ) -> None:
        if isinstance(adapter, type) or not isinstance(adapter, Adapter):
            what = f"is the class {adapter.__name__}" if isinstance(adapter, type) else f"is a {type(adapter).__name__}"
            raise ConfigError(f"adapter {what}; pass an object with a method predict(images), see docs/adapters.md")
        self.card = card
        self.adapter = adapter
        self.execution = IN_PROCESS if execution is None else execution
        base = card.class_rules if rules is None else rules
        self.rules = base.changed(threshold=threshold, classes=classes, rename=rename_classes)
        self._check_min_score()
        self._device = torch.device(self.execution.device)

    @property
    def threshold(self) -> float:
        """Minimum score of any box; single classes may have a higher one, see `rules`."""
        return self.rules.min_score

    @property
    def any_size(self) -> bool:
        """Whether the adapter takes images of any size in multiples of 32, as its attribute of this name says."""
        return self.card.input.size is None and bool(getattr(self.adapter, "any_size", False))

    def with_threshold(self, threshold: Thresholds | None) -> Detector:
        """The same network with another minimum score, or others for single classes; None keeps those it has."""
        return self.with_rules(self.rules.changed(threshold=threshold))

    def with_rules(self, rules: ClassRules) -> Detector:
        """The same network with other rules for its classes."""
        return self if rules == self.rules else Detector(self.card, self.adapter, self.execution, rules=rules)

    def with_half_the_batch(self) -> Detector | None:
        """The same network, run on half as many tiles at once; None where it is one, or a graph has a fixed number."""
        if self.execution.batch == 1 or self.execution.backend not in ("eager", "compile"):
            return None
        smaller = replace(self.execution, batch=self.execution.batch // 2)
        return Detector(self.card, self.adapter, smaller, rules=self.rules)

    @overload
    def detect(self, tiles: TileBatch) -> list[Detections]: ...

    @overload
    def detect(self, tiles: PixelArray) -> Detections | list[Detections]: ...

    def detect(self, tiles: TileBatch | PixelArray) -> Detections | list[Detections]:
        """Find the objects in tiles, or in an image that is no larger than one tile may be.

        Args:
            tiles: an array (C, H, W) for one image or (N, C, H, W) for several, or (H, W, C) and (N, H, W, C) where
                only that fits the model's bands, of the model's pixel type and bands; pixels that are not finite are
                invalid. Or a `TileBatch`.

        Returns:
            The boxes of the image, in its pixels; for several images or a `TileBatch` a list, one entry each.

        Raises:
            ModelError: the array does not fit the model's bands or pixel type, or is larger than 8192 pixels.
        """
        if isinstance(tiles, TileBatch):
            return self.detect_batch(tiles).per_tile()
        any_shape = bool(getattr(self.adapter, "any_shape", False))
        images = tiles_of(tiles, self.card, any_size=self.any_size, any_shape=any_shape)
        found = self.detect_batch(TileBatch.concat(list(images))).per_tile()
        return found if np.ndim(tiles) == 4 else found[0]

    def detect_batch(self, batch: TileBatch) -> BatchDetections:
        """What is found in the tiles of a batch of any length, in the scene frame.

        Raises:
            MemoryError: the device does not hold `execution.batch` tiles; see `with_half_the_batch`.
        """
        try:
            with torch_settings(self.execution), torch.inference_mode():
                parts = [self._forward(part) for part in _slices(batch, self.execution.batch)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self._device.type == "cuda":
                torch.cuda.empty_cache()  # what the failed pass has left would be in the way of a smaller one
            raise MemoryError(one_line(error)[:200]) from error
        if not parts:
            none = np.zeros(0, np.int64)
            return BatchDetections(Detections.empty(), none, none.astype(np.bool_), none)
        return BatchDetections(
            Detections.concat(part.detections for part in parts),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.capped for part in parts]),
            np.concatenate([part.degenerate for part in parts]),
        )

    def warm_up(self, tile: TileSize) -> None:
        """Compile and allocate for tiles of a size.

        Raises:
            MemoryError: the device does not hold a batch.
        """
        width, height = tile
        pixels = np.zeros((1, len(self.card.bands), height, width), self.card.dtype)
        size = np.array([[width, height]], np.int64)
        self.detect_batch(TileBatch(pixels, np.array([[0, 0, width, height]], np.int64), None, size))

    def _check_min_score(self) -> None:
        lowest = float(getattr(self.adapter, "min_score", 0.0))
        if self.threshold < lowest:
            raise ConfigError(
                f"threshold {self.threshold} is below the {lowest} with which the detector was loaded; load it again"
            )

    def _check(self, raw: RawBoxes, tiles: int) -> None:
        """Refuse what the network returned for a batch of which the first `tiles` are not padding."""
        name, size, classes = self.card.name, self.execution.batch, len(self.card.classes)
        if raw.tiles not in (None, size):
            raise ModelError(
                f"model {name!r}: the adapter returned an answer for {raw.tiles} tiles of a batch of {size}; tiles "
                "without boxes need one, too"
            )
        wanted = (raw.tile < tiles) & ~(raw.scores < self.threshold)
        wrong = raw.labels[wanted & ((raw.labels < 0) | (raw.labels >= classes))]
        if len(wrong):
            raise ModelError(
                f"model {name!r}: the adapter returned label {int(wrong[0])}, but the card has classes 0 to "
                f"{classes - 1}; where a network counts its background as 0, subtract 1"
            )
        if broken := int(_broken(raw, wanted, tiles).sum()):
            raise ModelError(
                f"model {name!r}: the network's output is not a number on {broken} of {tiles} tiles; its weights, or "
                "its precision (--precision fp32), do not suit these pixels"
            )

    def _predicted(self, tiles: torch.Tensor) -> RawBoxes:
        """What the adapter finds in tiles (B, C, H, W), 0 to 1 or bytes; boxes in pixels of the tile."""
        images, fit = network_input(tiles, self.card)
        raw = self.adapter.predict(images)
        if not isinstance(raw, RawBoxes):
            raise ModelError(
                f"model {self.card.name!r}: the adapter's predict returned {type(raw).__name__}; it must return "
                "RawBoxes, such as RawBoxes.per_tile([(boxes, scores, labels), ...])"
            )
        # Other accelerators lack operators that postprocessing needs, and some of them float64.
        here = raw if raw.boxes.device.type in ("cpu", "cuda") else raw.on_cpu()
        return boxes_in_tile(here, fit)

    def _forward(self, batch: TileBatch) -> BatchDetections:
        """What is found in at most `execution.batch` tiles, scene frame."""
        tiles, size = None, self.execution.batch
        if getattr(self.adapter, "takes_bytes", False):
            tiles = byte_tiles(batch, self.card, size=size)
        if tiles is None:
            tiles = scaled_tiles(batch, self.card, size=size, device=self._device)
        raw = self._predicted(tiles)
        raw = raw.wanted(len(batch), self.threshold)
        if raw.boxes.device.type != "cpu" and len(raw.boxes) <= MAX_BOXES_ON_CPU:
            raw = raw.on_cpu()
        self._check(raw, len(batch))
        return postprocess(reported(raw, self.rules), batch, self.card, threshold=self.threshold)


def _broken(raw: RawBoxes, wanted: torch.Tensor, tiles: int) -> torch.Tensor:
    """(tiles,) bool, tiles reported as broken, and those with boxes all of which have values that are not finite."""
    finite = torch.isfinite(raw.boxes).all(dim=1) & torch.isfinite(raw.scores)
    count, sound = (torch.bincount(raw.tile[rows], minlength=tiles) for rows in (wanted, wanted & finite))
    broken = (count > 0) & (sound == 0)
    return broken if raw.broken is None else broken | raw.broken[:tiles]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate memory: it has a class for GPUs, but only messages for CPUs."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error).lower() for text in _NO_MEMORY)


def _slices(batch: TileBatch, size: int) -> Iterator[TileBatch]:
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


@contextmanager
def same_threads() -> Iterator[None]:
    """Torch's number of threads belongs to the process: it is as before when the block ends."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Setting(Generic[T]):
    """A setting of torch that belongs to the process. Blocks may overlap in several threads; the last one restores."""

    def __init__(self, read: Callable[[], T], write: Callable[[T], None]) -> None:
        self._read, self._write = read, write
        self._lock, self._users, self._before = threading.Lock(), 0, read()

    @contextmanager
    def at(self, value: T) -> Iterator[None]:
        """The setting has a value in the block."""
        with self._lock:
            if self._users == 0:
                self._before = self._read()
            self._users += 1
        self._write(value)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._write(self._before)


def _tf32_allowed() -> bool:
    cudnn: Any = torch.backends.cudnn
    # From torch 2.9 on, `allow_tf32` raises an error where a user has set this by the newer name.
    return bool(cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allowed


_threads = _Setting(torch.get_num_threads, torch.set_num_threads)
_tf32 = _Setting(_tf32_allowed, _allow_tf32)


def torch_threads(count: int) -> AbstractContextManager[None]:
    """Torch uses `count` threads in the block."""
    return _threads.at(count)


@contextmanager
def torch_settings(execution: Execution) -> Iterator[None]:
    """Torch computes as an execution says in the block."""
    with ExitStack() as stack:
        stack.enter_context(torch_threads(execution.threads))
        stack.enter_context(current_device(execution.device))
        if kind_of(execution.device) == "cuda" and execution.precision == "fp32":
            # By default convolutions on GPUs round what they multiply to 10 bits (TF32).
            stack.enter_context(_tf32.at(False))
        yield
