"""Networks of torchvision and transformers to be trained: new ones, and those of bundles, folders and weights files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from geosod.datasets.labels import Labels
from geosod.detectors.adapters.detection_networks import ARCHITECTURES, build, first_layer
from geosod.detectors.card import ModelCard
from geosod.detectors.packing.found import Found, make_card
from geosod.detectors.packing.huggingface import is_model_folder
from geosod.detectors.packing.huggingface import read as read_folder
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ConfigError, ModelError
from geosod.training.config import TrainConfig
from geosod.training.initialise import IMAGENET, bundle_of, copied, state_of_bundle, state_of_file
from geosod.training.made import NewNetwork

TORCHVISION, TRANSFORMERS = "torchvision", "huggingface"
PREFIX = "torchvision/"
#: Networks whose batch normalisation torchvision trains, also where it begins with weights.
_TRAINED_NORMS = ("fasterrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn_v2", "ssdlite320_mobilenet_v3_large")
#: Mean and standard deviation of bands, where torchvision's are of red, green and blue.
_MEAN, _STD = 0.45, 0.225
#: Side in pixels of the smallest prior boxes of torchvision's networks.
_SMALLEST = 32


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """Where a network comes from.

    Attributes:
        adapter: of the bundle to be.
        architecture: its name in the library.
        name: where the weights are from, in words.
        state: the weights; None for random ones.
        card: of the bundle or folder; None where there is none.
        parameters: of the card.
    """

    adapter: str
    architecture: str
    name: str = ""
    state: Mapping[str, Tensor] | None = None
    card: ModelCard | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def has_classes(self, names: tuple[str, ...]) -> bool:
        """Whether the outputs of the network are those of some classes already."""
        return self.card is not None and self.card.classes == names


def library_network(labels: Labels, config: TrainConfig, card_of: Callable[..., ModelCard]) -> NewNetwork | None:
    """The network of another library that the settings name; None where they name one of the zoo.

    That is ``network`` "torchvision/NAME" or a folder of transformers, with the weights of ``init``; or where no
    network is named, that of the bundle or folder ``init``.

    Args:
        labels: boxes to train on.
        config: `network`, `init`, `parameters`.
        card_of: called with `architecture`, `parameters` and further fields of the card.

    Raises:
        ConfigError: there is no such network, or a setting has no meaning for it.
        ModelError: it refuses its parameters, or the initial weights do not fit.
    """
    source = _source(config)
    if source is None:
        return None
    for name in ("anchors", "fusion"):
        if getattr(config, name) != type(config).model_fields[name].default:
            raise ConfigError(f"{name}: is for networks of geosod; {source.architecture} has its own, leave it out")
    return (_torchvision if source.adapter == TORCHVISION else _transformers)(source, labels, config, card_of)


def _source(config: TrainConfig) -> _Source | None:
    named = "network" in config.model_fields_set
    init = None if config.init == IMAGENET and "init" not in config.model_fields_set else config.init
    if named and config.network.startswith(PREFIX):
        return _torchvision_source(config.network.removeprefix(PREFIX), init)
    if named and _is_folder(config.network):
        if init not in (None, config.network):
            raise ConfigError(f"init {init!r}: the folder {config.network} brings its own weights; leave init out")
        return _folder_source(config.network, random="init" in config.model_fields_set and config.init is None)
    if named or init is None:
        return None
    return _folder_source(init, random=False) if _is_folder(init) else _bundle_source(init)


def _is_folder(name: str) -> bool:
    return is_model_folder(Path(name).expanduser())


def _bundle_source(init: str) -> _Source | None:
    """The network of a bundle; None where it is no bundle, or one of the zoo."""
    bundle = bundle_of(init)
    if bundle is None or bundle.card.adapter not in (TORCHVISION, TRANSFORMERS):
        return None
    card = bundle.card
    return _Source(card.adapter, card.architecture, init, state_of_bundle(bundle), card, dict(card.parameters))


def _torchvision_source(name: str, init: str | None) -> _Source:
    if name not in ARCHITECTURES:
        known = ", ".join(f"{PREFIX}{one}" for one in ARCHITECTURES)
        raise ConfigError(f"network '{PREFIX}{name}': torchvision has no such detection network here; use {known}")
    if init is None:
        return _Source(TORCHVISION, name)
    if init == IMAGENET:
        raise ConfigError(
            f"init {IMAGENET!r}: torchvision downloads its weights, which geosod does not; give init a file of a "
            "state dict, or a bundle"
        )
    found = _bundle_source(init)
    if found is None:
        return _Source(TORCHVISION, name, init, state_of_file(Path(init).expanduser()))
    if found.architecture != name:
        raise ConfigError(f"init {init!r}: is {found.architecture}, and network is {PREFIX}{name}; leave network out")
    return found


def _folder_source(name: str, *, random: bool) -> _Source:
    found: Found = read_folder(Path(name).expanduser(), PackOptions())
    card, state = make_card(found, PackOptions(license="proprietary")), found.weights
    assert isinstance(state, dict)
    return _Source(TRANSFORMERS, found.architecture, name, None if random else state, card, dict(card.parameters))


def _torchvision(source: _Source, labels: Labels, config: TrainConfig, card_of: Callable[..., ModelCard]) -> NewNetwork:
    name, classes = source.architecture, labels.classes
    kind = ARCHITECTURES[name]
    parameters = source.parameters | config.parameters
    if not source.has_classes(classes):
        outputs = len(classes) + kind.background
        parameters |= {"outputs": outputs, "labels": list(range(int(kind.background), outputs))}
    if kind.fixed is None:
        # Tiles pass as they are, in training and in detection.
        parameters |= {"min_size": None, "max_size": None}
    card = card_of(architecture=name, parameters=parameters, adapter=TORCHVISION, nms_iou=kind.nms_iou)
    card = _as_before(card, source.card, config)
    bands = len(card.bands)
    if len(parameters.get("image_mean", [0] * 3)) != bands:
        parameters |= {"image_mean": [_MEAN] * bands, "image_std": [_STD] * bands}
    network = build(name, parameters, channels=bands)
    notes = ["weights: at random; --init names others"]
    if source.state is not None:
        first = first_layer(network.state_dict())
        report = copied(network, source.state, source.name, first=f"{first}.weight")
        notes = [f"weights: {report}"]
    if kind.fixed is not None and config.tile != (kind.fixed, kind.fixed):
        notes.append(f"{name} resizes tiles to {kind.fixed} x {kind.fixed} px, as torchvision does")
    elif len(labels) and _usual_side(labels) < _SMALLEST / 2:
        notes.append(
            f"half of the objects are smaller than {_usual_side(labels):.0f} px, and the prior boxes of torchvision "
            f"begin at some {_SMALLEST} px; networks of geosod (--network S, M, L) are made for small objects"
        )
    frozen = source.state is not None and name not in _TRAINED_NORMS
    return NewNetwork(
        network,
        replace(card, parameters=parameters),
        tuple(notes),
        {"labels": list(parameters["labels"]), "frozen_norms": frozen},
    )


def _transformers(
    source: _Source, labels: Labels, config: TrainConfig, card_of: Callable[..., ModelCard]
) -> NewNetwork:
    from geosod.detectors.adapters.huggingface import network_of, random_network

    if config.parameters:
        raise ConfigError(f"parameters: {source.architecture} takes those of its config.json; leave them out")
    assert source.card is not None
    values = dict(source.parameters["config"])
    if not source.has_classes(labels.classes):
        values |= {"id2label": dict(enumerate(labels.classes)), "num_labels": len(labels.classes)}
        values["label2id"] = {name: k for k, name in enumerate(labels.classes)}
    # Tiles pass as they are, of whatever size.
    values |= {name: None for name in ("anchor_image_size", "eval_size") if values.get(name)}
    network = random_network(values, source.name)
    weights = "at random"
    if source.state is not None:
        # With the names of the installed version of transformers.
        before = network_of(source.parameters["config"], dict(source.state), source.name)
        weights = str(copied(network, before.state_dict(), source.name))
    card = card_of(architecture=source.architecture, parameters={}, adapter=TRANSFORMERS, nms_iou=source.card.nms_iou)
    card = _as_before(card, source.card, config)
    if len(card.bands) != len(source.card.bands):
        raise ModelError(
            f"{source.name}: the network takes {len(source.card.bands)} bands, and the images have {len(card.bands)}; "
            "choose with --bands"
        )
    made = json.loads(network.config.to_json_string(use_diff=False))
    parameters = {"config": made, "pad": None, "scores": source.parameters["scores"]}
    notes = [f"weights: {weights}"]
    queries = getattr(network.config, "num_queries", None)
    if queries is not None and queries < card.top_k / 2:
        notes.append(f"the network finds at most {queries} objects in a tile, and the labels have more in some")
    return NewNetwork(
        network, replace(card, parameters=parameters), tuple(notes), {"labels": list(range(len(labels.classes)))}
    )


def _as_before(card: ModelCard, before: ModelCard | None, config: TrainConfig) -> ModelCard:
    """The card, with the input values of the one with which the weights were made, where they fit and none are set."""
    if before is None or len(before.bands) != len(card.bands):
        return card
    # What is resized is decided anew; what values the network expects is not.
    spec = replace(before.input, size=None, upscale=1.0, resize="letterbox")
    card = replace(card, input=spec)
    stated = {"scaling", "minimum", "maximum", "gamma"} & config.model_fields_set
    if stated or before.dtype != card.dtype:
        return card
    return replace(card, scaling=before.scaling, minimum=before.minimum, maximum=before.maximum, gamma=before.gamma)


def _usual_side(labels: Labels) -> float:
    import numpy as np

    return float(np.median(np.sqrt(np.prod(labels.boxes[:, 2:] - labels.boxes[:, :2], axis=1))))
