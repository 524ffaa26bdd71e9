"""torchvision's detection networks: which there are, and how one is built without weights and without a download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geosod.errors import ModelError

#: Numbers of torchvision's constructors that a card may state under its parameters.
_NUMBERS = (
    "topk_candidates",
    "rpn_pre_nms_top_n_test",
    "rpn_post_nms_top_n_test",
    "rpn_nms_thresh",
    "rpn_score_thresh",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network of torchvision, and what torchvision does by default.

    Attributes:
        background: output 0 is the background, by which scores are divided.
        anchors: boxes at each place of a feature map; None where that differs between maps.
        nms_iou: IoU of the network's own NMS.
        top_k: maximum number of boxes of an image.
        min_size, max_size: images are resized so that the shorter side has `min_size` pixels, unless the longer one
            would then exceed `max_size`; None where `fixed` says the size.
        fixed: side in pixels to which images are stretched.
    """

    background: bool
    anchors: int | None
    nms_iou: float = 0.5
    top_k: int = 100
    min_size: int | None = 800
    max_size: int | None = 1333
    fixed: int | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "retinanet_resnet50_fpn": Architecture(background=False, anchors=9, top_k=300),
    "retinanet_resnet50_fpn_v2": Architecture(background=False, anchors=9, top_k=300),
    "fcos_resnet50_fpn": Architecture(background=False, anchors=1, nms_iou=0.6),
    "fasterrcnn_resnet50_fpn": Architecture(background=True, anchors=3),
    "fasterrcnn_resnet50_fpn_v2": Architecture(background=True, anchors=3),
    "fasterrcnn_mobilenet_v3_large_fpn": Architecture(background=True, anchors=15),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Architecture(background=True, anchors=15, min_size=320, max_size=640),
    "ssd300_vgg16": Architecture(
        background=True, anchors=None, nms_iou=0.45, top_k=200, min_size=None, max_size=None, fixed=300
    ),
    "ssdlite320_mobilenet_v3_large": Architecture(
        background=True, anchors=None, nms_iou=0.55, top_k=300, min_size=None, max_size=None, fixed=320
    ),
}
#: First convolution of each, by its name in the state dict.
FIRST_LAYERS = (
    "backbone.body.conv1",
    "backbone.body.0.0",
    "backbone.features.0.0.0",
    "backbone.features.0",
)


def build(name: str, parameters: Mapping[str, Any], *, channels: int) -> Any:
    """A network of torchvision with random weights, in eval mode.

    Args:
        name: of `ARCHITECTURES`.
        parameters: "outputs", the number of outputs for classes, the background included where there is one; further
            ones as docs/model-files.md lists them.
        channels: number of input bands.

    Raises:
        ModelError: the name is unknown, or torchvision refuses a parameter.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f"unknown architecture {name!r} of torchvision; known are: {', '.join(ARCHITECTURES)}")
    options = {key: parameters[key] for key in (*_NUMBERS, "image_mean", "image_std") if key in parameters}
    if ARCHITECTURES[name].fixed is None and parameters.get("min_size") is not None:
        options |= {"min_size": int(parameters["min_size"]), "max_size": int(parameters["max_size"])}
    try:
        outputs = int(parameters["outputs"])
        if name == "ssdlite320_mobilenet_v3_large" and not parameters.get("reduced_tail", True):
            model = _ssdlite_with_whole_tail(outputs, options)
        else:
            import torchvision

            make = getattr(torchvision.models.detection, name)
            model = make(weights=None, weights_backbone=None, num_classes=outputs, **options)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"architecture {name} of torchvision refuses its parameters: {error}") from error
    _set_channels(model, channels)
    _set_norm_eps(model, float(parameters.get("norm_eps", 1e-5)))
    return model.eval()


def first_layer(names: Mapping[str, Any]) -> str | None:
    """Name of the first convolution in a state dict."""
    return next((name for name in FIRST_LAYERS if f"{name}.weight" in names), None)


def _ssdlite_with_whole_tail(outputs: int, options: dict[str, Any]) -> Any:
    """What torchvision builds for training from a backbone's weights: its last block is not halved."""
    from functools import partial

    from torch import nn
    from torchvision.models.detection import _utils as shapes
    from torchvision.models.detection import ssdlite
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.mobilenetv3 import mobilenet_v3_large

    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    backbone = ssdlite._mobilenet_extractor(mobilenet_v3_large(weights=None, norm_layer=norm), 6, norm)
    boxes = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    size = (320, 320)
    head = ssdlite.SSDLiteHead(
        shapes.retrieve_out_channels(backbone, size), boxes.num_anchors_per_location(), outputs, norm
    )
    usual: dict[str, Any] = {"nms_thresh": 0.55, "detections_per_img": 300, "topk_candidates": 300}
    usual |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return SSD(backbone, boxes, size, outputs, head=head, **(usual | options))


def _set_channels(model: Any, channels: int) -> None:
    from torch import nn

    name = first_layer(model.state_dict())
    assert name is not None
    layer = model.get_submodule(name)
    if layer.in_channels == channels:
        return
    parent, _, child = name.rpartition(".")
    made = nn.Conv2d(
        channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=layer.bias is not None
    )
    setattr(model.get_submodule(parent), child, made)


def _set_norm_eps(model: Any, eps: float) -> None:
    """Of the backbone's batch normalisation, where the constructor leaves it at torch's 1e-5."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.eps == 1e-5:
            module.eps = eps
