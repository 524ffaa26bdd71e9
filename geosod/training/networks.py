"""The network that a run trains: made as the settings and the data say, with the weights that it starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from geosod.datasets.labels import Labels
from geosod.detectors.adapters.zoo import network
from geosod.detectors.card import ModelCard
from geosod.detectors.zoo import ARCHITECTURES, WITH_PRIOR_BOXES
from geosod.detectors.zoo.members import MEMBERS, Member
from geosod.errors import ConfigError, did_you_mean
from geosod.training.classifiers import crop_classifier
from geosod.training.config import TrainConfig
from geosod.training.from_data import estimated_anchors, s_alpha
from geosod.training.initialise import IMAGENET, bundle_of, first_weights
from geosod.training.library_networks import PREFIX, library_network
from geosod.training.made import NewNetwork

CLASSIFIER = "classifier"
S_ALPHA = "s-alpha"


def new_network(labels: Labels, config: TrainConfig, card_of: Callable[..., ModelCard]) -> NewNetwork:
    """A network for some labels.

    Args:
        labels: boxes to train on.
        config: `network`, `parameters`, `loss`, `box_size`, `fusion`, `anchors`, `init`, `tile` and those of slices.
        card_of: called with `architecture` and `parameters`.

    Raises:
        ConfigError: there is no such network.
        ModelError: it refuses its parameters, or the initial weights do not fit.
    """
    if (of_library := library_network(labels, config, card_of)) is not None:
        return of_library
    if config.network == CLASSIFIER:
        return crop_classifier(config, card_of)
    asked = asked_network(config)
    architecture, parameters = asked.architecture, asked.parameters | config.parameters
    notes: list[str] = []
    if config.box_size is not None and parameters.get("side") is not None and "side" not in config.parameters:
        parameters["side"] = config.box_size
    if config.anchors == "estimate":
        _check_prior_boxes(architecture, config)
        found = estimated_anchors(labels, config, upscale=asked.upscale)
        parameters |= {"sizes": list(found.sizes), "ratios": list(found.ratios)}
        notes.append(f"prior boxes: {found}")
    if config.fusion is not None:
        parameters["fusion"] = _fusion(labels, config, replace(asked, parameters=parameters), notes)
    card = card_of(architecture=architecture, parameters=parameters)
    upscale = asked.upscale if config.enlargement is None else config.enlargement
    card = replace(card, input=replace(card.input, upscale=upscale))
    made: nn.Module = network(card)
    notes.append(first_weights(made, config))
    return NewNetwork(made, card, tuple(notes), asked.options)


def _check_prior_boxes(architecture: str, config: TrainConfig) -> None:
    if architecture not in WITH_PRIOR_BOXES:
        raise ConfigError(
            f"anchors = 'estimate': network {config.network!r} ({architecture}) has no prior boxes to estimate; leave "
            f"anchors out, or use --network {' or '.join(WITH_PRIOR_BOXES)}"
        )


def asked_network(config: TrainConfig) -> Member:
    """A member of the zoo, or an architecture with its defaults; where none is named, that of the bundle `init`.

    Raises:
        ConfigError: there is none of that name.
    """
    if "network" not in config.model_fields_set and config.init is not None and config.init != IMAGENET:
        bundle = bundle_of(config.init)
        if bundle is not None and bundle.card.adapter == "zoo":
            card = bundle.card
            return Member(config.init, card.architecture, dict(card.parameters), upscale=card.input.upscale)
    if config.network in MEMBERS:
        return MEMBERS[config.network]
    if config.network in ARCHITECTURES:
        return Member(config.network, config.network, {})
    raise ConfigError(
        f"network {config.network!r}: is no member of the zoo ({', '.join(MEMBERS)}) and none of its architectures "
        f"({', '.join(ARCHITECTURES)}), nor {CLASSIFIER}, {PREFIX}NAME or a folder of transformers with config.json"
        f"{did_you_mean(config.network, [*MEMBERS, *ARCHITECTURES])}"
    )


def _fusion(labels: Labels, config: TrainConfig, asked: Member, notes: list[str]) -> Any:
    if isinstance(config.fusion, tuple):
        return config.fusion[0] if len(config.fusion) == 1 else list(config.fusion)
    if config.fusion != S_ALPHA:
        return config.fusion
    # The prior boxes decide on which level an object counts.
    plain = {name: value for name, value in asked.parameters.items() if name != "fusion"}
    factors, counts = s_alpha(labels, config, asked.architecture, plain, upscale=asked.upscale)
    notes.append(f"fusion factors (S-α): {', '.join(f'{f:.3g}' for f in factors)}, from counts {counts}")
    return [round(factor, 6) for factor in factors]
