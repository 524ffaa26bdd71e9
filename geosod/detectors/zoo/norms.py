"""Normalisation in networks of the zoo: what replaces batch normalisation where batches are small, and its folding."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

from geosod.detectors.adapters.fold_norms import fold_norms
from geosod.errors import ConfigError

#: "batch": statistics of the batch while training. "frozen": those of the weights it starts from, for batches of a few
#: images. "group": statistics of one image (Wu and He 2018), for small batches without such weights.
NORMS = ("batch", "frozen", "group")
_MAX_GROUPS = 32

M = TypeVar("M", bound=nn.Module)


class FrozenNorm(nn.BatchNorm2d):
    """Batch normalisation that training does not change; the state dict is that of `BatchNorm2d`."""

    def __init__(self, features: int, eps: float) -> None:
        super().__init__(features, eps=eps)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenNorm:  # noqa: ARG002
        """Stay as it is."""
        super().train(False)
        return self


def set_norm(module: nn.Module, kind: str) -> None:
    """Replace every batch normalisation inside a module, in place.

    Raises:
        ConfigError: the kind is none of `NORMS`.
    """
    if kind not in NORMS:
        raise ConfigError(f"norm={kind!r} is none of {', '.join(NORMS)}")
    if kind == "batch":
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                made = FrozenNorm(child.num_features, child.eps) if kind == "frozen" else group_norm(child.num_features)
                setattr(parent, name, made)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with the largest number of groups up to 32 that divides the channels, of two or more each."""
    most = max(1, min(_MAX_GROUPS, channels // 2))
    return nn.GroupNorm(next(n for n in range(most, 0, -1) if channels % n == 0), channels)


def folded(module: M) -> M:
    """A copy for inference: eval mode, batch normalisation folded into the convolutions before it, no gradients."""
    made: Any = copy.deepcopy(module).eval()
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FrozenNorm):
                plain = nn.BatchNorm2d(child.num_features, eps=child.eps).to(child.weight.device)
                plain.load_state_dict(child.state_dict())
                setattr(parent, name, plain.eval())
    fold_norms(made)
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made  # type: ignore[no-any-return]
