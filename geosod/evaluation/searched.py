"""Run a model on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from geosod.datasets.labels import Labels
from geosod.errors import ConfigError
from geosod.evaluation.found_scenes import FoundScene, of_result, read_outputs
from geosod.running.detect import detect
from geosod.running.events import Emit


def search(
    labels: Labels,
    *,
    scenes: Sequence[str] = (),
    out: str | Path | None = None,
    on_event: Emit | None = None,
    on_failed: Callable[[str], None] | None = None,
    **settings: Any,
) -> list[FoundScene]:
    """Run a model now.

    Args:
        labels: labels, whose images are searched where no scenes are given.
        scenes: as for `geosod.detect`.
        out: folder for the outputs; None keeps them in memory, in this process.
        on_event: called with the events of the run.
        on_failed: called with a message for each scene that could not be searched, or not all of it, while there are
            others; None refuses scenes that could not be searched at all.
        **settings: as for `geosod.detect`, with the model.

    Raises:
        ConfigError: it is not known where the pixels of the images are.
        UsageError: a setting or the model is unusable, or a scene could not be searched.
    """
    if unknown := [image.id for image in labels.images if not image.uri and not scenes]:
        raise ConfigError(f"image {unknown[0]}: it is not known where its pixels are; give --images, or the scenes")
    chosen = list(scenes) or list(dict.fromkeys(image.uri for image in labels.images))
    result = detect(chosen, out=out, on_event=on_event, **settings)
    failed = [scene for scene in result.scenes if scene.status == "failed"]
    if failed and (on_failed is None or len(failed) == len(result.scenes)):
        raise ConfigError(
            f"{len(failed):,} of {len(result.scenes):,} scenes could not be searched, so there is nothing to compare "
            f"their labels with: {failed[0].failures[0].message}"
        )
    if on_failed is not None:
        for scene in result.scenes:
            if scene.failures:
                on_failed(scene.failures[0].message)
    return list(of_result(result)) if out is None else read_outputs([out])
