"""Batch normalisation folded into the convolutions before it, for inference."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_norms(module: nn.Module) -> None:
    """Fold every batch normalisation that directly follows a convolution among a module's children, at every depth.

    Args:
        module: in eval mode, with the weights it will have. Its children must run in the order in which they are
            defined, as those of torchvision's detection networks do.
    """
    before: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before is not None:
            _replace(module, before[0], fuse_conv_bn_eval(before[1], child))
            _replace(module, name, nn.Identity())
        fold_norms(child)
        before = (name, child) if isinstance(child, nn.Conv2d) else None


def _replace(module: Any, name: str, made: nn.Module) -> None:
    module._modules[name] = made
