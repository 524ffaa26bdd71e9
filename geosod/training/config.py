"""Every setting of a training run: one flat model behind the flags of `geosod train`, its YAML file and keywords."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from geosod.setting_errors import make_settings
from geosod.setting_types import LevelSetting
from geosod.tile_size import Overlap, TileSize
from geosod.training.setting_forms import FORMS
from geosod.yaml_file import read_yaml

#: Settings that cannot change the weights that come out.
WITHOUT_EFFECT = frozenset(
    {
        "out",
        "overwrite",
        "device",
        "threads",
        "loaders",
        "cache_mb",
        "max_minutes",
        "ray_workers",
        "save_every",
        "ray_address",
    }
)
_Share = Annotated[float, Field(ge=0, le=1)]
_Range = tuple[float, float]


class TrainConfig(BaseModel):
    """Settings of `geosod train`. Each is a flag, a key of the YAML file and a keyword of `geosod.train`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: str | None = Field(None, description="file or folder of labels to train on")
    val: str | None = Field(
        None, description="labels to validate on; default: a share of the images of labels, see val-share"
    )
    val_share: float = Field(0.1, gt=0, lt=1, description="share of the images that is held out without val")
    out: str | None = Field(None, description="folder of the run; a run that was interrupted goes on in it")
    overwrite: bool = Field(False, description="start again in a folder that holds a run with other settings")

    format: str | None = Field(None, description="format of the labels; default: recognised")
    images: Path | None = Field(None, description="folder of the images; default: where the format has it")
    scenes: tuple[str, ...] = Field((), description="georeferenced scenes, for labels with ground coordinates")
    subset: str | None = Field(None, description="part of a set in several to train on, such as train")
    val_subset: str | None = Field(None, description="part to validate on; with it val may be left out")
    classes: tuple[str, ...] | None = Field(
        None, description="names of the classes in order, for files that hold only numbers"
    )
    label_column: str | None = Field(None, description="column of a vector file with the classes")
    labels_crs: str | None = Field(None, description="CRS of a vector file that has none")
    rename_classes: dict[str, str | None] = Field(
        {}, description="new names of classes, CLASS=NAME,...; those of one name become one, CLASS= drops one"
    )
    class_agnostic: bool = Field(False, description="make one class, object, of all")
    points: bool = Field(False, description="reduce boxes to points at their centres")
    box_size: float | None = Field(
        None, gt=0, description="side in pixels of the boxes around points; needed where objects are points"
    )
    on_error: Literal["skip", "stop"] = Field(
        "skip", description="what becomes of labels and images that cannot be read; they are reported either way"
    )

    bands: tuple[str, ...] | dict[str, str] | None = Field(
        None, description="bands to read, by number (1 is first) or name; default: all but an alpha band"
    )
    band_names: tuple[str, ...] | None = Field(
        None, description="what the model calls its bands; default: the names in the first image"
    )
    scaling: Literal["stored", "percentile", "physical"] | None = Field(
        None, description="what minimum and maximum are; default: stored for uint8, else percentile"
    )
    minimum: tuple[float, ...] | None = Field(
        None, description="per band or for all, what is scaled to 0; default: 0, or the 2nd percentile"
    )
    maximum: tuple[float, ...] | None = Field(
        None, description="per band or for all, what is scaled to 1; default: 255, or the 98th percentile"
    )
    gamma: float = Field(1.0, gt=0, le=10, description="scaled values are raised to 1 / gamma")
    alpha: Literal["auto", "use", "ignore"] = Field("auto", description="whether an alpha band hides pixels")
    gsd_range: _Range | None = Field(
        None, description="GSD in metres at which the model may be run; default: of the images, plus and minus 20 %"
    )

    network: str = Field(
        "M",
        description="member of the zoo (S, M, L, XL), one of its architectures, torchvision/NAME, or a folder of a "
        "detector of transformers; default: M, or that of init, where that is a bundle of torchvision or transformers",
    )
    parameters: dict[str, Any] = Field({}, description="arguments of the architecture, NAME=VALUE,...")
    fusion: str | tuple[float, ...] | None = Field(
        None,
        description="fusion factors of the pyramid: a number, three, s-alpha for those of the data, learnable-one, "
        "learnable-three or attention; default: 1",
    )
    anchors: Literal["default", "estimate"] = Field(
        "default", description="prior boxes: those of the architecture, or estimated from the data"
    )
    init: str | None = Field(
        "imagenet",
        description="weights to start from: imagenet where the backbone has them, a bundle, a state dict of "
        "torchvision, a folder of transformers, or none",
    )
    loss: dict[str, Any] = Field({}, description="arguments of the loss, NAME=VALUE,...")
    name: str | None = Field(None, description="name of the model; default: that of the folder")
    license: str | None = Field(None, description="licence of the weights, an SPDX identifier")
    tile: TileSize = Field((512, 512), description="tile size in pixels, 640 or 640x512, in training and detection")
    overlap: Overlap | None = Field(
        None, description="overlap of tiles in detection; default: what holds nearly all objects of the data"
    )

    batch: int = Field(8, ge=1, le=4096, description="images in one step")
    slice: tuple[int, int] | None = Field(
        None, description="minimum and maximum side of the slices, drawn for each side; default: the tile"
    )
    resize_width: tuple[int, int] | None = Field(
        None,
        description="minimum and maximum width to which slices are resized, aspect kept, as tiles of detection are to "
        "their mean; default: not resized",
    )
    scale_jitter: float = Field(1.25, ge=1, le=4, description="slices are enlarged or reduced by up to this factor")
    whole_images: _Share = Field(0.0, description="share of whole images beside slices")
    negatives: _Share = Field(0.2, description="share of slices that are placed anywhere, with or without objects")
    balance: _Share = Field(0.5, description="0 draws objects as they come, 1 all classes equally often")
    min_visible: _Share = Field(0.25, description="objects of which a slice shows a smaller share are ignored")
    levels: tuple[LevelSetting, ...] | None = Field(
        None,
        description="scales to train at, one a step, each with the sizes in pixels that count there, as "
        "2:0-80,1:40-160,0.5:120- (SNIP); without sizes all count (multi-scale training)",
    )
    chips: bool = Field(True, description="at the finest of levels, train on chips that hold its objects only")

    flips: Literal["all", "horizontal", "none"] = Field(
        "all", description="flips and rotations by 90°, horizontal flips, or none"
    )
    photometric: float = Field(
        1.0, ge=0, le=3, description="strength of changes of brightness, contrast, gamma and single bands"
    )
    noise: float = Field(0.3, ge=0, le=3, description="strength of noise and blur")
    copy_paste: _Share = Field(0.0, description="share of the images into which objects of others are pasted")
    occlusion: _Share = Field(0.0, description="share of the objects of which a part is hidden")

    steps: int | None = Field(None, ge=1, description="optimizer steps; default: of epochs")
    epochs: float = Field(24.0, gt=0, description="times that as many slices are seen as cover all images once")
    max_minutes: float | None = Field(None, gt=0, description="stop after this time; the same command goes on")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimizer")
    lr: float | None = Field(None, gt=0, description="peak learning rate; default: 5e-4 for adamw, 5e-3 for sgd")
    weight_decay: float | None = Field(None, ge=0, description="default: 0.05 for adamw, 1e-4 for sgd")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    warmup: float = Field(
        0.05, ge=0, description="linear warm-up, a share of the steps below 1, or steps; a tenth of a shorter run"
    )
    schedule: Literal["cosine", "steps", "constant"] = Field("cosine", description="how the learning rate falls")
    milestones: tuple[float, ...] = Field(
        (16.0, 22.0), description="epochs, also in fractions, at which schedule steps divides the rate by ten"
    )
    clip: float | None = Field(10.0, gt=0, description="maximum norm of the gradients")
    ema: float = Field(0.998, ge=0, lt=1, description="decay of the moving average of the weights; 0 for none")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="precision of the forward pass")
    seed: int = Field(1, ge=0, description="seed of weights, slices and augmentation")

    validate_every: int | None = Field(
        None, ge=1, description="steps between validations; default: five of a run, 25 or more apart, one at its end"
    )
    save_every: int | None = Field(
        None, ge=1, description="steps between checkpoints; default: every two minutes, with ray-workers 100 steps"
    )
    device: str = Field("auto", description="device: auto, cpu, cuda:N, mps, xpu, npu or mlu")
    threads: int | None = Field(None, ge=1, le=256, description="CPU threads of torch; default: all cores")
    loaders: int | None = Field(
        None, ge=0, le=64, description="threads that make batches; default: 1 on a CPU, 8 at most on a GPU"
    )
    cache_mb: int = Field(1024, ge=0, le=1 << 20, description="decoded images that are kept, in MB")
    ray_address: str | None = Field(
        None, description="a Ray cluster to join with ray-workers; else RAY_ADDRESS, else one is started"
    )
    ray_workers: int | None = Field(
        None, ge=1, le=1024, description="train with Ray Train on so many workers, which share each batch"
    )

    @field_validator("labels", "val", "out", "init", "name", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, str) and not value.strip():
            raise ValueError("is empty; check the variable that was to hold it")
        return value

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """Text of the command line, as ``0.5,1``, in place of lists and mappings."""
        if not isinstance(values, dict):
            return values
        return {name: FORMS[name](value) if name in FORMS else value for name, value in values.items()}

    @field_validator("rename_classes", mode="before")
    @classmethod
    def _dropped(cls, value: Any) -> Any:
        """No name drops a class, as ``CLASS=`` does on the command line."""
        if not isinstance(value, dict):
            return value
        return {k: None if isinstance(v, str) and not v.strip() else v for k, v in value.items()}

    @field_validator("slice", "resize_width", "gsd_range")
    @classmethod
    def _ordered(cls, value: Any) -> Any:
        if value is not None and not 0 < value[0] <= value[1] < math.inf:
            raise ValueError("needs a positive minimum that is not above the maximum")
        return value

    @field_validator("levels")
    @classmethod
    def _plain_scales(cls, value: tuple[LevelSetting, ...] | None) -> tuple[LevelSetting, ...] | None:
        if value is None:
            return None
        if not value or any(isinstance(level.scale, str) for level in value):
            raise ValueError("needs numbers, as 2:0-80,1:40-160")
        if len({level.sizes is None for level in value}) > 1:
            raise ValueError("needs sizes for every scale, or for none")
        return tuple(sorted(value, key=lambda level: -float(level.scale)))

    @model_validator(mode="after")
    def _levels_alone(self) -> Self:
        """Settings of slices have no effect on windows at several scales."""
        unused = [name for name in ("slice", "resize_width") if getattr(self, name) is not None]
        unused += ["whole_images"] * (self.whole_images > 0)
        unused += ["scale_jitter"] * ("scale_jitter" in self.model_fields_set and self.scale_jitter != 1)
        if self.levels is not None and unused:
            names = ", ".join(name.replace("_", "-") for name in unused)
            raise ValueError(f"levels: {names} would have no effect beside levels; leave out one or the other")
        return self

    @property
    def enlargement(self) -> float | None:
        """The factor by which slices are enlarged on average, as tiles will be; None where they are not resized."""
        if self.resize_width is None:
            return None
        side = self.tile[0] if self.slice is None else sum(self.slice) / 2
        return round(sum(self.resize_width) / 2 / side, 2)

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        return self.lr or (5e-4 if self.optimizer == "adamw" else 5e-3)

    @property
    def decay(self) -> float:
        """Weight decay of matrices and kernels; biases and norms have none."""
        return self.weight_decay if self.weight_decay is not None else 0.05 if self.optimizer == "adamw" else 1e-4

    def options(self) -> dict[str, Any]:
        """The settings that can change the weights, as plain JSON values."""
        return self.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))


def make_train_config(file: str | Path | None = None, **settings: Any) -> TrainConfig:
    """Settings from a YAML file, with keywords that are not None on top.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    values = {} if file is None else read_yaml(Path(file))
    given = {name: value for name, value in settings.items() if value is not None}
    return make_settings(TrainConfig, values, file, given)
