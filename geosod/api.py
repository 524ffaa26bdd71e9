"""Functions of the public API that belong to no single room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geosod.running.detect import make_job
from geosod.running.job import load_fitting

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector


def load_model(
    name_or_path: str | Path,
    *,
    device: str | None = None,
    backend: Literal["auto", "eager", "compile", "onnxruntime", "openvino"] | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] | None = None,
    batch: int | None = None,
    threads: int | None = None,
    threshold: float | str | Mapping[str, float] | Mapping[int, float] | None = None,
    classes: str | int | Sequence[str | int] | None = None,
    rename_classes: Mapping[str, str] | Mapping[int, str] | str | None = None,
    tile: int | str | tuple[int, int] | None = None,
    classifier: str | Path | None = None,
    trust: bool | None = None,
) -> Detector:
    """Load a detector into this process.

        detector = geosod.load_model("trees-naip-60cm", precision="fp32")
        found = detector.detect(image)          # uint8 (4, H, W): red, green, blue, near infrared

    Args:
        name_or_path: a shipped model's name, a bundle's folder, or ``module:function`` with `trust`.
        device, backend, precision, batch, threads: as in `RunConfig`; None takes its default.
        threshold, classes, rename_classes, tile, trust: likewise.

    Returns:
        A detector for `Detector.detect`, and for ``geosod.detect(scenes, model=detector)``. Torch's number of threads
        in this process changes only while the detector runs.

    Raises:
        UsageError: the model or a setting is unusable.
    """
    job = make_job(
        name_or_path,
        device=device,
        backend=backend,
        precision=precision,
        batch=batch,
        threads=threads,
        threshold=threshold,
        classes=classes,
        rename_classes=rename_classes,
        tile=tile,
        classifier=classifier,
        trust=trust,
    )
    return load_fitting(job)[0]
