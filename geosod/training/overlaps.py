"""How much boxes overlap, as matrices and pair by pair, for assigners and losses."""

from __future__ import annotations

import torch
from torch import Tensor

#: Side in pixels by which distances are divided in `nwd`; the mean side of the objects of AI-TOD (Wang et al. 2021).
NWD_SCALE = 12.8


def iou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) IoU of boxes (N, 4) and (M, 4) ``x0, y0, x1, y1``, float32."""
    shared = _shared(a, b)
    union = _area(a)[:, None] + _area(b)[None] - shared
    return shared / union.clamp(min=1e-9)


def iou_pairs(a: Tensor, b: Tensor) -> Tensor:
    """(N,) IoU of boxes (N, 4) and (N, 4) pair by pair."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    return shared / (_area(a) + _area(b) - shared).clamp(min=1e-9)


def covered_matrix(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) part of the area of each box of `a` that lies in each of `b`."""
    return _shared(a, b) / _area(a)[:, None].clamp(min=1e-9)


def nwd_matrix(a: Tensor, b: Tensor, *, scale: float = NWD_SCALE) -> Tensor:
    """(N, M) normalised Gaussian Wasserstein distance, see `nwd`."""
    return nwd(a[:, None], b[None], scale=scale)


def nwd(a: Tensor, b: Tensor, *, scale: float = NWD_SCALE) -> Tensor:
    """Normalised Gaussian Wasserstein distance of boxes (..., 4), 1 where they are equal, towards 0 where far apart.

    Boxes are taken for Gaussians about their centre with half their sides as deviations (Wang et al. 2021, *A
    Normalized Gaussian Wasserstein Distance for Tiny Object Detection*). Unlike IoU it differs between boxes that do
    not touch.
    """
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    sides = (a[..., 2:] - a[..., :2] - b[..., 2:] + b[..., :2]) / 2
    square = centres.square().sum(-1) + sides.square().sum(-1)
    # The root has no gradient at 0.
    return torch.exp(-(square + 1e-9).sqrt() / scale)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def _shared(a: Tensor, b: Tensor) -> Tensor:
    # Along one axis after the other: a product over a last axis of two takes several times as long.
    a, b = a.T.contiguous(), b.T.contiguous()
    return _shared_along(a[::2], b[::2]) * _shared_along(a[1::2], b[1::2])


def _shared_along(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) shared lengths of intervals (2, N) and (2, M)."""
    low = torch.maximum(a[0, :, None], b[0])
    return torch.minimum(a[1, :, None], b[1]).sub_(low).clamp_(min=0)
