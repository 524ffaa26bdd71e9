"""State dicts of torchvision's detection networks, and of DeepForest's, to bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geosod.detectors.adapters.detection_networks import ARCHITECTURES, Architecture, build, first_layer
from geosod.detectors.bundle import sha256_of
from geosod.detectors.packing import deepforest
from geosod.detectors.packing.checkpoint import plain_content, refuse_code, state_dict_in
from geosod.detectors.packing.class_names import COCO, COCO_IDS
from geosod.detectors.packing.detection_heads import architecture_of, has_reduced_tail, outputs_of
from geosod.detectors.packing.found import Found, safe_name
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError

#: Beginnings of the sha256 of torchvision's own files whose batch normalisation has no eps.
_WITHOUT_EPS = ("258fb6c6", "eeacb38b")
#: Parts of Mask R-CNN and Keypoint R-CNN that say nothing of boxes.
_OTHER_HEADS = ("roi_heads.mask_", "roi_heads.keypoint_")
#: Number of outputs of networks that were trained on COCO, whose ids have gaps.
_COCO_OUTPUTS = 91


def read(path: Path, options: PackOptions) -> Found:
    """What a state dict, a checkpoint or a folder of DeepForest says of its network.

    Raises:
        ModelError: it is no detection network of torchvision, is damaged, or holds code.
    """
    if path.is_dir():
        content = plain_content(path / deepforest.WEIGHTS)
        settings: dict[str, Any] | None = deepforest.read_config(path)
    else:
        content = plain_content(path)
        settings = None if content is None else deepforest.settings_of(content)
    if content is None:
        # The one place where a reader of files that hold code would be asked, with options.trust.
        raise refuse_code(path)
    state = state_dict_in(content, path)
    return _found(path, state, settings, options)


def _found(path: Path, state: dict[str, Any], settings: dict[str, Any] | None, options: PackOptions) -> Found:
    name = architecture_of(path, state, options)
    kind, outputs = ARCHITECTURES[name], outputs_of(path, name, state)
    notes: list[str] = []
    if any(key.startswith(_OTHER_HEADS) for key in state):
        state = {key: value for key, value in state.items() if not key.startswith(_OTHER_HEADS)}
        notes.append(f"{path.name}: only its boxes are used, not its masks or keypoints")
    names, labels = _classes(path, kind, outputs, settings, options, notes)
    card: dict[str, Any] = {"nms_iou": kind.nms_iou, "top_k": kind.top_k, "tile": _tile(kind)}
    parameters: dict[str, Any] = {"outputs": outputs, "labels": labels}
    if settings is not None:
        parameters |= deepforest.parameters_of(settings, outputs)
        card |= deepforest.card_of(settings)
    parameters |= _norms(path, name, state, parameters, notes)
    if not has_reduced_tail(state):
        parameters["reduced_tail"] = False
    parameters |= _resizing(path, kind, parameters, card, options, notes)
    layer = first_layer(state)
    assert layer is not None
    channels = int(state[f"{layer}.weight"].shape[1])
    missing = _values(parameters, channels, options)
    return Found(
        name=safe_name(path.name if path.is_dir() else path.stem),
        weights=_fitted(path, name, parameters, state, channels),
        adapter="torchvision",
        architecture=name,
        weights_file="model.safetensors",
        framework="pytorch",
        artifact_type="safetensors",
        parameters=parameters,
        channels=channels,
        count=len(labels),
        classes=names,
        card=card,
        missing=missing,
        notes=notes,
        provenance={"file": path.name} | ({} if settings is None else {"library": "DeepForest"}),
    )


def _classes(
    path: Path,
    kind: Architecture,
    outputs: int,
    settings: Mapping[str, Any] | None,
    options: PackOptions,
    notes: list[str],
) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes, as far as the file has them, and the network's label of each class.

    Raises:
        ModelError: the number of names does not fit the network.
    """
    names = deepforest.class_names_of(settings or {})
    foreground = list(range(1 if kind.background else 0, outputs))
    if not names and not options.classes and outputs == _COCO_OUTPUTS and "coco" in path.name.lower():
        names = COCO
        notes.append(f"{path.name}: its classes are taken to be COCO's; --classes names others")
    given = options.classes or names
    if given == COCO and outputs == _COCO_OUTPUTS:
        return names, list(COCO_IDS)
    if not given or len(given) == len(foreground):
        return names, foreground
    if not kind.background and settings is None and len(given) == outputs - 1:
        notes.append(f"{path.name}: output 0 of {outputs} is taken to be the background, as torchvision counts")
        return names, foreground[1:]
    either = "" if kind.background or outputs < 2 else f", or {outputs - 1} where output 0 is the background"
    raise ModelError(
        f"{path}: {len(given)} names of classes are given, but the network has {len(foreground)} classes"
        f"{' besides the background' if kind.background else ''}; give {len(foreground)} names{either}"
    )


def _norms(
    path: Path, name: str, state: Mapping[str, Any], parameters: Mapping[str, Any], notes: list[str]
) -> dict[str, float]:
    """What is added to variances before division; torchvision's first files of COCO have 0, later ones 1e-5.

    Weights that were trained from those files have 0, too, and do not show it.
    """
    if "norm_eps" in parameters or name not in ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"):
        return {}
    if path.is_file() and sha256_of(path).startswith(_WITHOUT_EPS):
        return {"norm_eps": 0.0}
    frozen = "backbone.body.bn1.num_batches_tracked" not in state
    if frozen and path.is_file():
        notes.append(
            f"{path.name}: its normalisation is frozen; if training began with torchvision's COCO_V1 weights, set "
            "norm_eps to 0 under geosod:parameters in model.json (a difference of some 0.001 in scores)"
        )
    return {}


def _tile(kind: Architecture) -> tuple[int, int]:
    """Tiles that the network does not resize, or hardly."""
    side = kind.fixed or kind.min_size or 800
    return (-(-side // 32) * 32,) * 2


def _resizing(
    path: Path,
    kind: Architecture,
    parameters: Mapping[str, Any],
    card: Mapping[str, Any],
    options: PackOptions,
    notes: list[str],
) -> dict[str, Any]:
    """How the network resizes images; not at all where the user states the size of its input."""
    stated = [name for name in ("size", "upscale") if name in options.input]
    if kind.fixed is not None:
        if stated and options.input.get("size") != (kind.fixed, kind.fixed):
            raise ModelError(f"{path}: SSD takes images of {kind.fixed} x {kind.fixed} pixels only; leave out {stated}")
        return {}
    if stated:
        return {"min_size": None, "max_size": None}
    sizes = {"min_size": kind.min_size, "max_size": kind.max_size} | {
        name: int(parameters[name]) for name in ("min_size", "max_size") if name in parameters
    }
    side = min(options.tile or card["tile"])
    if side != sizes["min_size"]:
        notes.append(
            f"{path.name}: tiles of {side} px are resized to {sizes['min_size']} px, as torchvision does with every "
            "image; --upscale 1 passes them as they are"
        )
    return sizes


def _values(parameters: dict[str, Any], channels: int, options: PackOptions) -> dict[str, str]:
    """The network's own mean and std give way to those that the user states; with other bands they must be stated."""
    stated = "mean" in options.input or "std" in options.input
    if stated or channels != 3:
        parameters |= {"image_mean": [0.0] * channels, "image_std": [1.0] * channels}
    if stated or channels == 3:
        return {}
    why = f"of {channels} bands, as in training, after scaling to 0…1; weights do not contain it"
    return {"--mean": why, "--std": why}


def _fitted(
    path: Path, name: str, parameters: Mapping[str, Any], state: dict[str, Any], channels: int
) -> dict[str, Any]:
    """The state dict with the names of today's torchvision, after it was loaded.

    Raises:
        ModelError: it does not fit.
    """
    model = build(name, parameters, channels=channels)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        problems = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise ModelError(
            f"{path}: looks like {name} of torchvision, but does not fit it: {' '.join(problems)[:300]}; only its own "
            "backbone and heads are supported: write an adapter as docs/adapters.md describes"
        ) from error
    return dict(model.state_dict())
