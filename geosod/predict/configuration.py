"""The configuration of a pipeline: by name, as a YAML file or as a dictionary, with PaddleX's keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from geosod.detectors.adapters import is_dotted
from geosod.detectors.bundle import open_bundle, shipped_models
from geosod.detectors.card import ModelCard
from geosod.detectors.packing import is_model_file
from geosod.errors import ConfigError, OutputError
from geosod.predict.saving import write_text
from geosod.setting_types import parse_thresholds
from geosod.yaml_file import read_yaml

#: PaddleX's pipeline, and the model that it runs: the best shipped one for red, green and blue.
SMALL_OBJECTS = "small_object_detection"
SMALL_OBJECT_MODEL = "vehicles-aerial-13cm"
MODULE = "SmallObjectDetection"
_MODULE_KEYS = ("module_name", "model_name", "model_dir", "batch_size", "threshold")


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What a pipeline starts with.

    Attributes:
        pipeline_name: its name.
        model_name: a shipped model; another name where `model_dir` is given.
        model_dir: the folder or file of another model, such as fine-tuned weights; None takes `model_name`.
        batch_size: tiles in one forward pass; None chooses by their size.
        threshold: minimum score, or those of classes by name or id; None takes the model's.
    """

    pipeline_name: str
    model_name: str
    model_dir: str | None = None
    batch_size: int | None = 1
    threshold: float | dict[str, float] | None = 0.5

    @property
    def model(self) -> str:
        """What the model is loaded from."""
        return self.model_dir or self.model_name

    def to_dict(self) -> dict[str, Any]:
        """With PaddleX's keys, as in the YAML file."""
        module = {
            "module_name": SMALL_OBJECTS,
            "model_name": self.model_name,
            "model_dir": self.model_dir,
            "batch_size": self.batch_size,
            "threshold": self.threshold,
        }
        return {"pipeline_name": self.pipeline_name, "SubModules": {MODULE: module}}


def pipeline_names() -> tuple[str, ...]:
    """The names of pipelines: PaddleX's, and every shipped model."""
    return (SMALL_OBJECTS, *shipped_models())


def default_config(pipeline: str) -> PipelineConfig:
    """The configuration of a pipeline by name, or of a bundle's folder, a model file, or ``module:function``.

    PaddleX's pipeline starts with PaddleX's values; models by their own names run as `geosod.detect` runs them.

    Raises:
        ConfigError: there is none of that name; the message lists those that there are.
        ModelError: the model is damaged.
    """
    if pipeline == SMALL_OBJECTS:
        return PipelineConfig(SMALL_OBJECTS, SMALL_OBJECT_MODEL)
    if pipeline in shipped_models():
        card = open_bundle(pipeline).card
        return PipelineConfig(pipeline, pipeline, batch_size=None, threshold=_threshold_of(card))
    if (path := _model_path(pipeline)) is not None:
        return PipelineConfig(path.stem, path.stem, str(path), batch_size=None, threshold=None)
    if is_dotted(pipeline):
        return PipelineConfig(pipeline, pipeline, pipeline, batch_size=None, threshold=None)
    raise ConfigError(
        f"pipeline {pipeline[:200]!r}: there is none of that name; use {', '.join(pipeline_names())}, the path of a "
        "YAML file, or a bundle's folder"
    )


def _model_path(text: str) -> Path | None:
    """The folder or file of a model; None where the text names none."""
    try:
        path = Path(text).expanduser()
        return path.resolve() if path.is_dir() or is_model_file(path) else None
    except (OSError, RuntimeError, ValueError):
        return None  # too long a name, or a home that is not there


def _threshold_of(card: ModelCard) -> float | dict[str, float]:
    return {"default": card.threshold, **card.class_thresholds} if card.class_thresholds else card.threshold


def pipeline_config(pipeline: str | Path | None, config: Mapping[str, Any] | None) -> PipelineConfig:
    """What a user names as a pipeline; `config` wins, and then the names must agree.

    Args:
        pipeline: a name, the path of a YAML file, or a model as in `default_config`.
        config: the content of such a file.

    Raises:
        ConfigError: neither is given, they disagree, or one is malformed.
    """
    if pipeline is None and config is None:
        raise ConfigError(f"no pipeline is given: name one, such as {SMALL_OBJECTS!r}, or pass a configuration")
    if pipeline is not None and not isinstance(pipeline, str | Path):
        raise ConfigError(f"pipeline is a {type(pipeline).__name__}; pass a name or the path of a YAML file")
    named = None if pipeline is None else str(pipeline)
    file = named if named is not None and _is_yaml(named) else None
    if config is None:
        return parsed(read_yaml(Path(file)), f"config {file}") if file else default_config(str(named))
    if not isinstance(config, Mapping):
        raise ConfigError(f"config is a {type(config).__name__}; pass a dictionary as in the YAML file of a pipeline")
    given = parsed(config, "config")
    if named is not None:
        name = str(read_yaml(Path(file)).get("pipeline_name")) if file else named
        if name != given.pipeline_name:
            raise ConfigError(
                f"pipeline {name!r}, but config has pipeline_name {given.pipeline_name!r}; leave one out, or make the "
                "names agree"
            )
    return given


def _is_yaml(name: str) -> bool:
    return name not in pipeline_names() and name.lower().endswith((".yaml", ".yml"))


def parsed(values: Mapping[str, Any], what: str) -> PipelineConfig:
    """The content of a YAML file, checked; `what` names it in errors.

    Raises:
        ConfigError: a key is unknown or missing, or has an unusable value.
    """
    top = _mapping(values, what, "", ("pipeline_name", "SubModules"))
    name = _text(top.get("pipeline_name"), what, "pipeline_name")
    modules = _mapping(top.get("SubModules"), what, "SubModules", (MODULE,))
    module = _mapping(modules.get(MODULE), what, f"SubModules.{MODULE}", _MODULE_KEYS)
    kind = module.get("module_name", SMALL_OBJECTS)
    if kind != SMALL_OBJECTS:
        raise ConfigError(f"{what}: module_name {kind!r}: geosod has {SMALL_OBJECTS} only")
    model_dir = module.get("model_dir")
    model_dir = None if model_dir is None else _text(model_dir, what, "model_dir")
    model = _text(module.get("model_name"), what, "model_name")
    if model_dir is None and model not in shipped_models():
        raise ConfigError(
            f"{what}: model_name {model!r}: there is no such model; use {', '.join(shipped_models())}, or set "
            "model_dir to a bundle's folder (geosod model pack makes one)"
        )
    batch = module.get("batch_size", 1)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 4096):
        raise ConfigError(f"{what}: batch_size {batch!r}: give a number from 1 to 4096, or null")
    threshold = checked_threshold(module.get("threshold", 0.5), f"{what}: threshold")
    return PipelineConfig(name, model, model_dir, batch, threshold)


def checked_threshold(value: Any, what: str) -> float | dict[str, float] | None:
    """A minimum score, or those of classes by name or id, as `geosod.detect` takes it; None stays None.

    Raises:
        ConfigError: it is neither.
    """
    if value is None:
        return None
    values = value.values() if isinstance(value, Mapping) else [value]
    try:
        if any(isinstance(one, bool) for one in values):
            raise ValueError("true and false are no scores")
        return parse_thresholds(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} {value!r}: {error}; give a score from 0 to 1, or one for each class") from error


def _mapping(values: Any, what: str, where: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    place = f"{where} " if where else ""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what}: {place}is {type(values).__name__}, expected the keys {', '.join(known)}")
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise ConfigError(f"{what}: {place}has the unknown key {unknown[0]!r}; its keys are {', '.join(known)}")
    return values


def _text(value: Any, what: str, key: str) -> str:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what}: {key} is {value!r}, expected text")
    return value


def write_config(pipeline: str, folder: str | Path) -> Path:
    """Write ``NAME.yaml``, the configuration of a pipeline by name, into a folder.

    Raises:
        ConfigError: there is no such pipeline.
        OutputError: the file cannot be written, or holds something else.
    """
    config = default_config(pipeline)
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    target = Path(folder).expanduser() / f"{config.pipeline_name}.yaml"
    if target.is_file() and target.read_bytes() != text.encode():
        raise OutputError(f"{target}: exists and was changed; give --save_path another folder, or remove it")
    write_text(target, text)
    return target
