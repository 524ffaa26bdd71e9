"""What DeepForest's files say of its models besides their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geosod.errors import ModelError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MAX_CONFIG_BYTES = 1 << 20
#: Side in pixels of the patches that DeepForest predicts.
_PATCH = 400


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a model in a folder, as ``save_pretrained`` and Hugging Face have it.

    Raises:
        ModelError: it cannot be read.
    """
    path = folder / CONFIG
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"it has over {_MAX_CONFIG_BYTES >> 20} MiB")
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: is not the configuration of a model")
    return config


def settings_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """DeepForest's settings in a Lightning checkpoint; None where it is not DeepForest's.

    Versions before 2.0 have the thresholds under "retinanet", and the labels beside the settings.
    """
    hyper = content.get("hyper_parameters")
    config = hyper.get("config") if isinstance(hyper, Mapping) else None
    labels = content.get("label_dict")
    if not isinstance(config, Mapping):
        config = {}
    if not isinstance(labels, Mapping) and "patch_size" not in config:
        return None
    old = config.get("retinanet")
    settings = dict(old) if isinstance(old, Mapping) else {}
    settings |= config
    if isinstance(labels, Mapping):
        settings["label_dict"] = labels
    model = settings.get("model")
    # Without a model to start from, DeepForest takes torchvision's weights of COCO, whose normalisation has no eps.
    if isinstance(model, Mapping) and model.get("name") is None:
        settings["norm_eps"] = 0.0
    return settings


def class_names_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes in the network's order; empty where the settings have none.

    Raises:
        ModelError: the labels are not 0, 1, … in some order.
    """
    labels = settings.get("label_dict")
    if not isinstance(labels, Mapping) or not labels:
        return ()
    names = {value: str(name) for name, value in labels.items() if isinstance(value, int)}
    if sorted(names) != list(range(len(labels))):
        raise ModelError(f"label_dict {dict(labels)} must give each class a number from 0 to {len(labels) - 1}")
    return tuple(names[i] for i in range(len(names)))


def parameters_of(settings: Mapping[str, Any], outputs: int) -> dict[str, Any]:
    """Parameters of the network that differ from torchvision's."""
    known = ("min_size", "max_size", "topk_candidates", "norm_eps")
    parameters = {name: settings[name] for name in known if isinstance(settings.get(name), int | float)}
    if outputs > 1 and "nms_thresh" in settings:
        # DeepForest suppresses boxes of different classes, too.
        parameters["agnostic_nms_iou"] = float(settings["nms_thresh"])
    return parameters


def card_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the card: threshold, NMS, maximum number of boxes and tile."""
    patch = settings.get("patch_size")
    side = patch if isinstance(patch, int) and patch > 0 else _PATCH
    card: dict[str, Any] = {"tile": (-(-side // 32) * 32,) * 2}
    fields = {"threshold": "score_thresh", "nms_iou": "nms_thresh", "top_k": "detections_per_img"}
    for field, name in fields.items():
        if isinstance(settings.get(name), int | float):
            card[field] = settings[name]
    return card
