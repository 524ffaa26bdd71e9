"""A model tried on a picture, to be looked at: a wrong order of bands or scale of values is silent otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geosod.array_scene import ArrayScene
from geosod.arrays import PixelArray, percentile_limits
from geosod.detections import Detections
from geosod.detectors.card import ModelCard
from geosod.errors import ModelError
from geosod.running.detect import detect, make_job
from geosod.running.job import Job, load_fitting
from geosod.scene import Scene, Window
from geosod.scenes.bands import choose_bands
from geosod.scenes.open import open_scene, opened
from geosod.scenes.pixels import read_window
from geosod.scenes.sources import find_scenes

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector

#: Larger images are tried on a part of this side in their middle, in pixels.
MAX_SIDE = 2048
#: Another setting is mentioned where its sum of scores is so many times that of the card's.
_CLEARLY_MORE = 1.3


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What a model finds in an image.

    Attributes:
        card: of the model.
        picture: (H, W, 3) uint8, the image as a person sees it.
        window: the part of the image that was looked at, scene frame.
        detections: in pixels of `picture`.
        notes: what does not fit, and settings with which the model finds more.
    """

    card: ModelCard
    picture: npt.NDArray[np.uint8]
    window: Window
    detections: Detections
    notes: tuple[str, ...]


def try_model(model: str | Path, image: str | Path, **settings: Any) -> Trial:
    """What a model finds in an image, or in the middle of a large one.

    Args:
        model: as in `geosod.detect`.
        image: a file or address of a scene.
        **settings: `bands`, `threshold`, `trust` and others of `RunConfig`.

    Raises:
        UsageError: a setting, the model or the image is unusable.
        SceneError: the image cannot be read.
    """
    job = make_job(model, None, **settings)
    scene = _scene(str(image), job)
    window = _middle(scene)
    pixels, valid = _pixels(scene, window, job)
    notes = list(_fit(scene, job))
    detector, _ = load_fitting(job)
    array = ArrayScene(np.ma.MaskedArray(pixels, np.broadcast_to(~valid, pixels.shape)), id="trial")
    found = _found(detector, array, job)
    notes += _better(detector, array, found, job)
    return Trial(job.model.card, _picture(pixels, valid, job.model.card), window, found, tuple(notes))


def _scene(image: str, job: Job) -> Scene:
    found, failures = find_scenes([image], bands=job.config.bands, asset=job.config.asset)
    if failures:
        raise ModelError(f"{image}: {failures[0].message}")
    if len(found) != 1:
        raise ModelError(f"{image}: stands for {len(found)} scenes; give one image")
    return open_scene(found[0], alpha=job.config.alpha)


def _middle(scene: Scene) -> Window:
    width, height = min(scene.width, MAX_SIDE), min(scene.height, MAX_SIDE)
    return Window((scene.width - width) // 2, (scene.height - height) // 2, width, height)


def _pixels(scene: Scene, window: Window, job: Job) -> tuple[PixelArray, npt.NDArray[np.bool_]]:
    bands = choose_bands(scene, job.model.card.bands, job.config.bands)
    with opened(scene.ref, view=scene.view) as dataset:
        return read_window(dataset, scene, bands, window)


def _fit(scene: Scene, job: Job) -> Iterator[str]:
    """Why a run would refuse the image, or warn."""
    try:
        warning = job.model.card.check(scene)
    except ModelError as error:
        if scene.dtype != job.model.card.dtype and job.model.card.scaling == "stored":
            raise
        warning = f"`geosod detect` refuses this image: {error}"
    if warning:
        yield warning


def _found(detector: Detector, image: ArrayScene, job: Job) -> Detections:
    tiling = {name: getattr(job.config, name) for name in ("tile", "overlap") if getattr(job.config, name) is not None}
    result = detect(image, model=detector, engine="serial", **tiling)
    return result["trial"].detections


def _better(detector: Detector, image: ArrayScene, found: Detections, job: Job) -> Iterator[str]:
    """Other orders of bands and scales of values with which a network finds clearly more."""
    from geosod.detectors.detector import Detector

    card = job.model.card
    if card.adapter == "zoo":
        return
    total = float(found.scores.sum())
    spec = card.input
    order = ("--rgb" if spec.reverse_bands else "--bgr", replace(spec, reverse_bands=not spec.reverse_bands))
    scale = 1.0 if spec.scale != 1 else 255.0
    others = [order] * (len(card.bands) > 1) + [(f"--scale {scale:g}", replace(spec, scale=scale))]
    for flag, other in others:
        changed = Detector(replace(card, input=other), detector.adapter, detector.execution, rules=job.class_rules)
        more = _found(changed, image, job)
        # Scores above 1 are none: a network without a sigmoid at its end was given values that are too large.
        sound = len(more) > 0 and float(more.scores.max()) <= 1
        if sound and float(more.scores.sum()) > _CLEARLY_MORE * max(total, 0.5):
            yield (
                f"with {flag} the model finds {len(more)} boxes (sum of scores {more.scores.sum():.1f}) instead of "
                f"{len(found)} ({total:.1f}): is the card right?"
            )


def _picture(pixels: PixelArray, valid: npt.NDArray[np.bool_], card: ModelCard) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8: the bands called red, green and blue, or else the first three."""
    out = np.zeros((*pixels.shape[1:], 3), np.uint8)
    for i, band in enumerate(card.visible_bands):
        values = pixels[band].astype(np.float32)
        if pixels.dtype == np.uint8:
            low, high = 0.0, 255.0
        else:
            low, high = percentile_limits(values[valid], (2.0, 98.0)) if valid.any() else (0.0, 1.0)
        out[..., i] = (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255 * valid).astype(np.uint8)
    return out
