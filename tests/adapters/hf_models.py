"""Small networks of transformers with random weights whose outputs depend strongly on the image, saved as a user would.

Weights are larger than those that training starts from: an image with its channels swapped then gives other boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

NAMES = {0: "plane", 1: "ship", 2: "tank", 3: "vehicle"}
_RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
_LAYERS = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 30,
}
#: Of the weights of heads: large enough for boxes to differ, and not so large that rounding errors grow to 1e-3 px.
_SPREAD = {"d_fine": 0.4}
_LABELS = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}


def detr(**changes: Any) -> Any:
    """A config of DETR."""
    backbone = transformers.ResNetConfig(**_RESNET, out_features=["stage4"])
    return transformers.DetrConfig(**({"backbone_config": backbone} | _LAYERS | _LABELS | changes))


def conditional_detr() -> Any:
    """A config of Conditional DETR."""
    backbone = transformers.ResNetConfig(**_RESNET, out_features=["stage4"])
    return transformers.ConditionalDetrConfig(backbone_config=backbone, **_LAYERS, **_LABELS)


def table_transformer() -> Any:
    """A config of Table Transformer."""
    backbone = transformers.ResNetConfig(**_RESNET, out_features=["stage4"])
    return transformers.TableTransformerConfig(backbone_config=backbone, **_LAYERS, **_LABELS)


def dab_detr() -> Any:
    """A config of DAB-DETR."""
    backbone = transformers.ResNetConfig(**_RESNET, out_features=["stage4"])
    layers = {"hidden_size" if name == "d_model" else name: value for name, value in _LAYERS.items()}
    return transformers.DabDetrConfig(backbone_config=backbone, **layers, **_LABELS)


def deformable_detr() -> Any:
    """A config of Deformable DETR."""
    backbone = transformers.ResNetConfig(**_RESNET, out_features=["stage2", "stage3", "stage4"])
    return transformers.DeformableDetrConfig(backbone_config=backbone, num_feature_levels=4, **_LAYERS, **_LABELS)


def _rt_detr_layers() -> dict[str, Any]:
    return {
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4,
        "num_queries": 40,
        "num_denoising": 0,
    }


def _rt_detr(kind: Any) -> Any:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic"
    )
    backbone.out_features = ["stage2", "stage3", "stage4"]
    channels = {"encoder_in_channels": [24, 32, 48], "decoder_in_channels": [32, 32, 32]}
    return kind(backbone_config=backbone, **_rt_detr_layers(), **channels, **_LABELS)


def rt_detr() -> Any:
    """A config of RT-DETR."""
    return _rt_detr(transformers.RTDetrConfig)


def rt_detr_v2() -> Any:
    """A config of RT-DETRv2."""
    return _rt_detr(transformers.RTDetrV2Config)


def d_fine() -> Any:
    """A config of D-FINE."""
    backbone = transformers.HGNetV2Config(
        hidden_sizes=[24, 32, 48, 64],
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 24, 32, 48],
        stage_mid_channels=[8, 8, 16, 16],
        stage_out_channels=[24, 32, 48, 64],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        stage_light_block=[False, False, True, True],
        stage_downsample=[False, True, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        out_features=["stage2", "stage3", "stage4"],
    )
    channels = {"encoder_in_channels": [32, 48, 64], "decoder_in_channels": [32, 32, 32]}
    return transformers.DFineConfig(backbone_config=backbone, **_rt_detr_layers(), **channels, **_LABELS)


def yolos() -> Any:
    """A config of YOLOS."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    return transformers.YolosConfig(**sizes, image_size=[256, 256], num_detection_tokens=30, **_LABELS)


def rf_detr() -> Any:
    """A config of RF-DETR."""
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=128,
        patch_size=16,
        num_windows=2,
        out_features=["stage2", "stage4"],
        window_block_indexes=[0, 2, 3],
    )
    heads = {"decoder_self_attention_heads": 4, "decoder_cross_attention_heads": 4, "decoder_n_points": 2}
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 64, "num_queries": 30, "group_detr": 2}
    return transformers.RfDetrConfig(backbone_config=backbone, **heads, **sizes, **_LABELS)


#: Name → config, class of the image processor, and its arguments.
MODELS: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "detr": (detr, "DetrImageProcessor", {"size": {"shortest_edge": 256, "longest_edge": 400}}),
    "conditional_detr": (conditional_detr, "ConditionalDetrImageProcessor", {"size": {"height": 256, "width": 320}}),
    "table-transformer": (table_transformer, "DetrImageProcessor", {"size": {"height": 256, "width": 256}}),
    "dab-detr": (dab_detr, "ConditionalDetrImageProcessor", {"size": {"height": 256, "width": 256}}),
    "deformable_detr": (
        deformable_detr,
        "DeformableDetrImageProcessor",
        {"size": {"max_height": 256, "max_width": 256}, "pad_size": {"height": 256, "width": 256}},
    ),
    "rt_detr": (rt_detr, "RTDetrImageProcessor", {"size": {"height": 256, "width": 256}}),
    "rt_detr_v2": (rt_detr_v2, "RTDetrImageProcessor", {"size": {"height": 320, "width": 256}, "do_normalize": True}),
    "d_fine": (d_fine, "RTDetrImageProcessor", {"size": {"height": 256, "width": 256}}),
    "rf_detr": (rf_detr, "RfDetrImageProcessor", {"size": {"height": 160, "width": 224}}),
    "yolos": (yolos, "YolosImageProcessor", {"size": {"height": 256, "width": 256}}),
}


def save(name: str, folder: Path, **options: Any) -> Path:
    """One of `MODELS` in a folder, with its image processor; `options` are those of save_pretrained."""
    make, processor, arguments = MODELS[name]
    network(make()).save_pretrained(folder, **options)
    getattr(transformers, processor)(**arguments).save_pretrained(folder)
    return folder


def network(config: Any, seed: int = 0) -> Any:
    """The network of a config."""
    torch.manual_seed(seed)
    spread = _SPREAD.get(config.model_type, 0.8)
    made = transformers.AutoModelForObjectDetection.from_config(config).eval()
    with torch.no_grad():
        for name, module in made.named_modules():
            if isinstance(module, nn.BatchNorm2d) or "FrozenBatchNorm" in type(module).__name__:
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.3, 1.0)
                module.weight.uniform_(0.8, 1.6)
                module.bias.uniform_(-0.3, 0.3)
            elif isinstance(module, nn.Conv2d):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, nn.Linear):
                head = any(part in name for part in ("class", "bbox", "score"))
                module.weight.normal_(0, (spread if head else 0.8) / module.in_features**0.5)
                if module.bias is not None and head:
                    # Before training, heads are biased towards no object.
                    module.bias.normal_(0, 0.3)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, 1)
        for name, parameter in made.named_parameters():
            if name.endswith("detection_tokens"):
                parameter.normal_(0, 1)
    return made
