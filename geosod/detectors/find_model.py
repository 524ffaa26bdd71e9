"""From what a user names as a model to the model."""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from geosod.detectors.adapters import code_digest, is_dotted
from geosod.detectors.bundle import open_bundle
from geosod.detectors.card import DETECTION, ModelCard
from geosod.detectors.models import BundleModel, FactoryModel, Model, ObjectModel, StagedModel, made_by
from geosod.detectors.packing import is_model_file, packed
from geosod.detectors.zoo import VIEWS
from geosod.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector


def find_model(
    model: str | Path | Detector,
    *,
    classifier: str | Path | None = None,
    views: int | None = None,
    trust: bool = False,
) -> Model:
    """What a user named as the model.

    Args:
        model: a shipped model's name, a bundle's folder, a model file that can be packed, ``module:function``, or a
            detector.
        classifier: a bundle's folder or a model file, whose classes are given to what the model finds.
        views: of each tile, whose heat maps are averaged; None for what the card says.
        trust: code that `model` or its card names may be run.

    Raises:
        ModelError: there is no such model, it is malformed, or it names code that is not trusted.
        ConfigError: `model` is something else, or has no heat map of one side where `views` are asked for.
    """
    found = _find(model, trust=trust)
    if views is not None:
        found = _with_views(found, views)
    if isinstance(found, BundleModel) and found.card.task != DETECTION:
        raise ModelError(f"model {str(model)!r}: is a model for {found.card.task}; use it with --classifier")
    if classifier is None:
        return found
    from geosod.detectors.staged import check_classifier

    second = _bundle(classifier, trust=trust)
    check_classifier(second.card, found.card)
    return StagedModel(found, second.bundle, (*found.notes, *second.notes))


def _find(model: str | Path | Detector, *, trust: bool) -> Model:
    if isinstance(model, str | Path):
        name = str(model)
        if not is_dotted(name) or Path(name).expanduser().exists():
            return _bundle(model, trust=trust)
        if not trust:
            raise ModelError(f"model {name!r}: is Python code; add --trust (trust=True) if you trust it")
        return _factory(name)
    from geosod.detectors.detector import Detector

    if not isinstance(model, Detector):
        raise ConfigError(
            f"model is a {type(model).__name__}; pass a name, a bundle's folder, or geosod.Detector(card, adapter)"
        )
    adapter = type(model.adapter)
    code = f"{adapter.__module__}:{adapter.__qualname__} {_source_of(adapter)}"
    return ObjectModel(model, _digest(model.card, code))


def _with_views(model: Model, views: int) -> Model:
    card = model.card
    if views not in VIEWS:
        raise ConfigError(f"views = {views}: must be one of {', '.join(map(str, VIEWS))}")
    averages = card.architecture == "centre-unet" or (
        card.architecture == "centre" and card.parameters.get("side") is not None
    )
    if views == card.parameters.get("views", 1):
        return model
    if not isinstance(model, BundleModel) or card.adapter != "zoo" or not averages:
        raise ConfigError(
            f"views = {views}: model {card.name!r} is no network of geosod's that finds centres and gives boxes one "
            "side, whose heat maps can be averaged over flipped and turned views; leave views out"
        )
    card = replace(card, parameters={**card.parameters, "views": views})
    return replace(model, bundle=replace(model.bundle, card=card))


def _bundle(name_or_path: str | Path, *, trust: bool) -> BundleModel:
    """A bundle, which is made of a model file first."""
    path = Path(name_or_path).expanduser()
    if is_model_file(path):
        return BundleModel(*packed(path, trust=trust))
    return BundleModel(open_bundle(name_or_path, trust=trust))


def _factory(name: str) -> FactoryModel:
    from geosod.detectors.detector import IN_PROCESS

    made = made_by(name, IN_PROCESS)
    digest = _digest(made.card, f"{name} {code_digest(name)}")
    return FactoryModel(name, made.card, digest, made.rules, made.any_size)


def _source_of(kind: type) -> str:
    """sha256 of the file that defines a class; a random text where there is none, so that it equals nothing else."""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return secrets.token_hex(16)


def _digest(card: ModelCard, code: str) -> str:
    values = json.dumps([asdict(card), code], sort_keys=True, default=str)
    return hashlib.sha256(values.encode()).hexdigest()
