"""Which of torchvision's detection networks a state dict belongs to, and for how many classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geosod.detectors.adapters.detection_networks import ARCHITECTURES, first_layer
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError

#: Name in the state dict → the architecture that has it; the first one decides.
_MARKS = {
    "head.regression_head.bbox_ctrness.weight": "fcos_resnet50_fpn",
    "head.classification_head.conv.0.1.weight": "retinanet_resnet50_fpn_v2",
    "head.classification_head.cls_logits.weight": "retinanet_resnet50_fpn",
    "roi_heads.box_head.0.0.weight": "fasterrcnn_resnet50_fpn_v2",
    "roi_heads.box_predictor.cls_score.weight": "fasterrcnn_resnet50_fpn",
    "head.classification_head.module_list.0.0.0.weight": "ssdlite320_mobilenet_v3_large",
    "head.classification_head.module_list.0.weight": "ssd300_vgg16",
}
_MOBILENET = "fasterrcnn_mobilenet_v3_large_fpn"
_MOBILENET_320 = "fasterrcnn_mobilenet_v3_large_320_fpn"


def architecture_of(path: Path, state: Mapping[str, Any], options: PackOptions) -> str:
    """The network that has the names of a state dict.

    Raises:
        ModelError: none does, or not the one that the user named.
    """
    if options.architecture is not None and options.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{path}: --architecture {options.architecture} is unknown for torchvision; known are {known}")
    found = next((name for mark, name in _MARKS.items() if mark in state), None)
    layer = first_layer(state)
    if found is None or layer is None:
        raise ModelError(
            f"{path}: not a state dict of a detection network of torchvision; looked for backbone.… and one of "
            f"{', '.join(_MARKS)}; found are {', '.join(list(state)[:4])}, …"
        )
    if found == "fasterrcnn_resnet50_fpn" and layer == "backbone.body.0.0":
        found = _MOBILENET_320 if "320" in path.name else _MOBILENET
    if options.architecture in (None, found) or {options.architecture, found} == {_MOBILENET, _MOBILENET_320}:
        return options.architecture or found
    raise ModelError(f"{path}: --architecture {options.architecture} is given, but the weights are those of {found}")


def outputs_of(path: Path, name: str, state: Mapping[str, Any]) -> int:
    """Number of outputs for classes, from the shapes of the heads."""
    kind = ARCHITECTURES[name]
    try:
        if name.startswith("fasterrcnn"):
            anchors = int(state["rpn.head.cls_logits.weight"].shape[0])
            outputs = int(state["roi_heads.box_predictor.cls_score.weight"].shape[0])
        else:
            end = {"ssd300_vgg16": "module_list.0", "ssdlite320_mobilenet_v3_large": "module_list.0.1"}.get(name)
            boxes = state[f"head.regression_head.{end or 'bbox_reg'}.weight"].shape[0]
            anchors = int(boxes) // 4
            outputs = int(state[f"head.classification_head.{end or 'cls_logits'}.weight"].shape[0]) // anchors
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ModelError(f"{path}: looks like {name}, but its heads are incomplete: {error}") from error
    if kind.anchors not in (None, anchors):
        raise ModelError(
            f"{path}: {name} has {kind.anchors} anchors at each place, but the weights are for {anchors}; the sizes of "
            "anchors do not stand in weights: write an adapter as docs/adapters.md describes"
        )
    return outputs


def has_reduced_tail(state: Mapping[str, Any]) -> bool:
    """False where the last block of SSDLite's backbone has all its channels, as with weights of a backbone."""
    weights = state.get("backbone.features.1.0.3.0.weight")
    return weights is None or int(weights.shape[0]) == 80
