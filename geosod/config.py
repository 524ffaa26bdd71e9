"""Every setting of a detection run: one flat model behind the CLI's flags, the YAML file and the keywords."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from geosod.device import parse_device
from geosod.errors import ConfigError
from geosod.setting_errors import make_settings
from geosod.setting_types import (
    LevelSetting,
    MaskSetting,
    parse_bands,
    parse_classes,
    parse_datetime,
    parse_masks,
    parse_pairs,
    parse_renames,
    parse_thresholds,
)
from geosod.tile_size import Overlap, TileSize, parse_overlap, parse_tile
from geosod.yaml_file import read_yaml

#: Settings that cannot change which boxes come out; and files, whose content counts, not their names.
_WITHOUT_EFFECT = {"engine", "workers", "ray_address", "overwrite", "unit", "device", "gpus_per_detector", "backend"}
_WITHOUT_EFFECT |= {"precision", "batch", "threads", "batch_timeout", "aoi", "mask", "dem", "read_threads", "cache_mb"}
_WITHOUT_EFFECT |= {"trust", "model", "classifier", "out", "processes"}


class RunConfig(BaseModel):
    """Settings of `geosod detect`. Each is a flag of the CLI, a key of the YAML file and a keyword of `detect`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="a model's name, a bundle's folder, or module:function")
    out: str | None = Field(None, description="output folder; with one scene also NAME.parquet")
    classifier: str | None = Field(
        None, description="bundle or model file of a classifier that names every detection from an enlarged crop of it"
    )
    bands: tuple[str, ...] | dict[str, str] | None = Field(
        None,
        description="bands for the model, by number (1 is first) or name; or pairs MODEL'S=SCENE'S,...",
    )
    asset: str | None = Field(None, description="asset of a STAC item to read, by name or role")
    page: int = Field(1, ge=1, le=10_000, description="image to read of files that hold several (TIFF pages, NITF)")
    alpha: Literal["auto", "use", "ignore"] = Field(
        "auto",
        description="whether a band that a file calls alpha hides pixels; auto looks whether it holds image data, such "
        "as infrared",
    )
    aoi: Path | None = Field(
        None, description="vector file of the area of interest, in any CRS; all its layers, or FILE:LAYER"
    )
    mask: dict[str, MaskSetting] = Field(
        {},
        description="ground to leave out, KIND=FILE, KIND=FILE:LAYER or KIND=FILE:CODE,... for the codes of a raster; "
        "!FILE leaves out what it does not cover",
    )
    tile_gsd: float | Literal["model"] | None = Field(
        None, description='resample scenes to this GSD in metres before cutting tiles; "model" for the model\'s'
    )
    rpc_height: float | None = Field(
        None, allow_inf_nan=False, description="height in metres for scenes located by RPCs; default: the RPCs' own"
    )
    dem: str | None = Field(None, description="raster of heights for scenes located by RPCs")
    tile: TileSize | None = Field(
        None, description="tile size in pixels, 640 or 640x512 (width x height); default: the model's"
    )
    overlap: Overlap | None = Field(
        None,
        description="overlap of tiles, a ratio below 1 or pixels, for both axes or as 0.25x64; default: the model's",
    )
    levels: tuple[LevelSetting, ...] = Field(
        (LevelSetting(scale=1.0),),
        min_length=1,
        description="scales to search, as 1,0.5,full: full shows a scene in one tile, auto is 1,0.5,0.25,... to full; "
        "each as SCALE or SCALE:MIN-MAX with the sizes in pixels it may report",
    )
    views: int | None = Field(
        None,
        ge=1,
        le=8,
        description="flipped and turned views of each tile whose heat maps are averaged, 1, 2, 4 or 8 (test-time "
        "augmentation); for models of centres with boxes of one side",
    )
    threshold: float | dict[str, float] | None = Field(
        None,
        description="minimum score of a detection, and of those of single classes, by name or id, as 0.4,vessel=0.6; "
        "default: the model's",
    )
    classes: tuple[str, ...] | None = Field(
        None, description="classes to report, by name or id, as vessel,vehicle; default: all"
    )
    rename_classes: dict[str, str] = Field(
        {}, description="names under which classes are reported, CLASS=NAME,...; those of one name become one class"
    )
    merge_method: Literal["nms", "soft_nms", "nmm", "greedy_nmm", "wbf"] = Field(
        "nms", description="how boxes of overlapping tiles are merged"
    )
    level_merge: Literal["nms", "soft_nms", "nmm", "greedy_nmm", "wbf"] | None = Field(
        None, description="how boxes of different levels are merged; default: as merge_method"
    )
    metric: Literal["iou", "ios"] | None = Field(
        None, description="overlap measure, over the union or over the smaller box; default: the model's"
    )
    merge_threshold: float | None = Field(
        None, gt=0, le=1, description="minimum overlap of two boxes of one object; default: the model's"
    )
    merge_threshold_by_class: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        {}, description="merge thresholds of single classes, which replace merge_threshold, CLASS=OVERLAP,..."
    )
    sigma: float = Field(0.5, gt=0, allow_inf_nan=False, description="width of soft_nms's Gaussian decay")
    min_score: float = Field(0.001, ge=0, le=1, description="score below which soft_nms drops a box")
    decay: Literal["gaussian", "linear"] = Field("gaussian", description="how soft_nms lowers scores")
    borders: bool = Field(
        True, description="at tile borders, let whole boxes absorb their fragments, and stitch the other fragments"
    )
    class_agnostic: bool | None = Field(
        None, description="merge boxes of different classes too; default: the model's, and yes with a classifier"
    )
    crs: str = Field("OGC:CRS84", description="CRS of the output dataset")
    datetime: dt.datetime | None = Field(
        None, description="acquisition time of the scenes, ISO 8601; UTC if it has no offset"
    )
    engine: Literal["auto", "local", "ray", "serial"] = Field(
        "auto",
        description="local for threads of this process, ray for a cluster, serial for one thing at a time; default: "
        "auto, ray where a cluster is named or the machine is large, else local",
    )
    workers: int | None = Field(
        None, ge=1, le=10_000, description="number of detectors; default: one per GPU, or per core"
    )
    processes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="processes of the local engine, each with its share of the cores; default: one, and several for "
        "many small scenes on a CPU",
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one detector")
    batch_timeout: float = Field(
        600.0, gt=0, description="seconds after which a detector that hangs in a batch is given up (engine local)"
    )
    ray_address: str | None = Field(None, description="a Ray cluster to join; else RAY_ADDRESS, else one is started")
    device: str = Field(
        "auto",
        description="device of the detectors: auto, cpu, cuda for all GPUs, cuda:N or cuda:N,M for some (gpu means "
        "cuda); mps, xpu, npu or mlu where torch has them",
    )
    gpus_per_detector: float | None = Field(
        None, gt=0, le=1, description="share of a GPU that a detector takes, so that several run on one; default: 1"
    )
    backend: Literal["auto", "eager", "compile", "onnxruntime", "openvino"] = Field(
        "auto", description="what runs the network: torch (eager, compile), ONNX Runtime or OpenVINO"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto", description="precision of the forward pass; int8 is that of bundles that were calibrated for it"
    )
    batch: int | None = Field(None, ge=1, le=4096, description="tiles in one forward pass")
    unit: tuple[int, int] | None = Field(
        None, description="tile rows and columns in one unit of work, 0 for all; default: 8 8, less in small scenes"
    )
    read_threads: int = Field(
        1, ge=1, le=64, description="decoding threads of one reader; more keep processes from forking later"
    )
    cache_mb: int = Field(64, ge=8, le=65536, description="GDAL block cache of one reader in MB")
    overwrite: bool = Field(False, description="redo scenes that are already committed")
    trust: bool = Field(False, description="run Python code that a model names (module:function)")

    @field_validator("out", "model", "classifier", "asset", "aoi", "dem", mode="before")
    @classmethod
    def _not_empty(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Path) and info.field_name != "aoi":
            return str(value)
        if isinstance(value, str) and not value.strip():
            raise ValueError("is empty; check the variable that was to hold it")
        return value

    @field_validator("aoi", "dem", "out")
    @classmethod
    def _home(cls, value: Any) -> Any:
        return value if value is None else type(value)(os.path.expanduser(value))  # noqa: PTH111

    @model_validator(mode="before")
    @classmethod
    def _no_booleans(cls, values: Any) -> Any:
        """True is no number: YAML's `yes` for a number is a slip."""
        if isinstance(values, dict):
            for name, value in values.items():
                field = cls.model_fields.get(name)
                takes = field is not None and bool in (field.annotation, *get_args(field.annotation))
                if isinstance(value, bool) and field is not None and not takes:
                    raise ValueError(f"{name} is {value}, which is no value for it")
        return values

    @field_validator("tile", mode="before")
    @classmethod
    def _tile(cls, value: Any) -> Any:
        return None if value is None else parse_tile(value)

    @field_validator("overlap", mode="before")
    @classmethod
    def _overlap(cls, value: Any) -> Any:
        return None if value is None else parse_overlap(value)

    @field_validator("bands", mode="before")
    @classmethod
    def _split_bands(cls, value: Any) -> Any:
        return None if value is None else parse_bands(value)

    @field_validator("device", mode="before")
    @classmethod
    def _device(cls, value: Any) -> Any:
        return str(parse_device(value))

    @field_validator("threshold", mode="before")
    @classmethod
    def _thresholds(cls, value: Any) -> Any:
        return None if value is None else parse_thresholds(value)

    @field_validator("classes", mode="before")
    @classmethod
    def _classes(cls, value: Any) -> Any:
        return None if value is None else parse_classes(value)

    @field_validator("rename_classes", mode="before")
    @classmethod
    def _renames(cls, value: Any) -> Any:
        return parse_renames(value)

    @field_validator("mask", mode="before")
    @classmethod
    def _mask_pairs(cls, value: Any) -> Any:
        return parse_masks(value)

    @field_validator("merge_threshold_by_class", mode="before")
    @classmethod
    def _split_pairs(cls, value: Any) -> Any:
        return parse_pairs(value) if isinstance(value, str) else value

    @field_validator("levels", mode="before")
    @classmethod
    def _split_levels(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else value

    @field_validator("levels")
    @classmethod
    def _finest_first(cls, value: tuple[LevelSetting, ...]) -> tuple[LevelSetting, ...]:
        if len({level.scale for level in value}) < len(value):
            raise ValueError("names a scale twice")
        return tuple(sorted(value, key=lambda level: 0.0 if isinstance(level.scale, str) else -level.scale))

    @field_validator("tile_gsd")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, float) and not 0 < value < math.inf:
            raise ValueError("must be above 0")
        return value

    @field_validator("unit")
    @classmethod
    def _unit_not_negative(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 0:
            raise ValueError("must be two numbers of at least 0")
        return value

    @field_validator("datetime", mode="before")
    @classmethod
    def _in_utc(cls, value: Any) -> dt.datetime | None:
        return None if value is None else parse_datetime(value)

    def options(self) -> dict[str, Any]:
        """The settings that can change a result, as plain JSON values."""
        return self.model_dump(mode="json", exclude=_WITHOUT_EFFECT)


def make_config(file: str | Path | None = None, **settings: Any) -> RunConfig:
    """Settings from a YAML file, with keywords that are not None on top.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    return config_of({} if file is None else read_yaml(Path(file)), file, **settings)


def config_of(
    values: Mapping[str, Any], file: str | Path | None, *, known: Iterable[str] = (), **settings: Any
) -> RunConfig:
    """Settings from the values of a YAML file, which its errors name, with keywords that are not None on top.

    Args:
        values: those of the file.
        file: its name.
        known: names that the file may hold besides those of `RunConfig`, to suggest for a name that is unknown.
        **settings: override those of the file.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    if values.get("trust"):
        raise ConfigError(
            f"config {file}: trust cannot be set in a file, which may come from others; pass --trust (trust=True)"
        )
    given = {name: value for name, value in settings.items() if value is not None}
    return make_settings(RunConfig, values, file, given, known=known)


def digest(values: Mapping[str, Any]) -> str:
    """sha256 of plain JSON values, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
