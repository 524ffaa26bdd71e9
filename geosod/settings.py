"""The settings of `geosod.config.RunConfig` as typed keywords, in every form in which they may be passed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

Method = Literal["nms", "soft_nms", "nmm", "greedy_nmm", "wbf"]


class Settings(TypedDict, total=False):
    """Keywords of `geosod.detect` besides model and out; `geosod config show` prints what each means.

    None leaves a setting at its default.
    """

    classifier: str | Path | None
    bands: str | int | Sequence[str | int] | Mapping[str, str | int] | None
    asset: str | None
    page: int | None
    alpha: Literal["auto", "use", "ignore"] | None
    aoi: str | Path | None
    mask: Mapping[str, Any] | Sequence[str] | None
    tile_gsd: float | str | None
    rpc_height: float | None
    dem: str | Path | None
    tile: int | str | Sequence[int] | None
    overlap: float | str | Sequence[float] | None
    levels: float | str | Sequence[Any] | None
    views: int | None
    threshold: float | str | Mapping[str, float] | Mapping[int, float] | None
    classes: str | int | Sequence[str | int] | None
    rename_classes: Mapping[str, str] | Mapping[int, str] | str | None
    merge_method: Method | None
    level_merge: Method | None
    metric: Literal["iou", "ios"] | None
    merge_threshold: float | None
    merge_threshold_by_class: Mapping[str, float] | str | None
    sigma: float | None
    min_score: float | None
    decay: Literal["gaussian", "linear"] | None
    borders: bool | None
    class_agnostic: bool | None
    crs: str | None
    datetime: dt.datetime | dt.date | str | None
    engine: Literal["auto", "local", "ray", "serial"] | None
    workers: int | None
    processes: int | None
    threads: int | None
    batch_timeout: float | None
    ray_address: str | None
    device: str | None
    gpus_per_detector: float | None
    backend: Literal["auto", "eager", "compile", "onnxruntime", "openvino"] | None
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] | None
    batch: int | None
    unit: Sequence[int] | None
    read_threads: int | None
    cache_mb: int | None
    overwrite: bool | None
    trust: bool | None
