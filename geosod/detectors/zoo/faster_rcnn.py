"""Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017): proposals, and a head that looks at each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geosod.detectors.operators import nms, roi_align
from geosod.detectors.zoo.anchors import Anchors, Size, cells, check_places, decoded, regular_shapes
from geosod.detectors.zoo.dense import PyramidNetwork, above, at_places, best_places, head_convolution, places
from geosod.errors import ConfigError, ModelError

#: Side of an object, in strides of a level, from which on the next coarser level is pooled (Lin et al. 2017).
_SIDE_IN_STRIDES = 28
#: Proposals whose side is shorter, in pixels, are dropped.
_MIN_SIDE = 1.0


class FasterRCNN(PyramidNetwork):
    """A region proposal network on P2 to P6, and a head of two layers on what RoIAlign cuts from P2 to P5.

    Boxes do not depend on the class. The number of proposals is fixed, and those of one image go through the head by
    themselves, so that a tile's boxes do not depend on the other tiles of its batch.

    Args:
        sizes, ratios, scales: of the prior boxes, as in `RetinaNet`.
        proposals: for the head, of each image.
        before_nms: the best prior boxes of each level that suppression chooses from.
        proposal_iou: of that suppression.
        pool: cells on a side of what is cut out.
        hidden: width of the head's layers.
        trunk: what `PyramidNetwork` takes.

    Raises:
        ConfigError: an argument is out of range.
    """

    candidates_per_box = 2

    def __init__(
        self,
        *,
        sizes: Sequence[float] | None = None,
        ratios: Sequence[float] | Sequence[Sequence[float]] = (0.5, 1.0, 2.0),
        scales: Sequence[float] = (1.0,),
        proposals: int = 300,
        before_nms: int = 1000,
        proposal_iou: float = 0.7,
        pool: int = 7,
        hidden: int = 1024,
        **trunk: Any,
    ) -> None:
        super().__init__(**trunk)
        if min(proposals, before_nms, pool, hidden) < 1 or not 0 < proposal_iou <= 1:
            raise ConfigError(
                f"FasterRCNN: proposals={proposals}, before_nms={before_nms}, pool={pool} and hidden={hidden} must be "
                f"at least 1, and proposal_iou={proposal_iou} in 0..1"
            )
        sides = [2.0 * stride for stride in self.strides] if sizes is None else list(sizes)
        self.anchors = Anchors(self.strides, regular_shapes(sides, ratios, scales))
        each = self.anchors.counts[0]
        if set(self.anchors.counts) != {each}:
            raise ConfigError(f"FasterRCNN: ratios={ratios} must have one length for all levels, which share a head")
        self.count, self.before_nms, self.proposal_iou, self.pool = proposals, before_nms, proposal_iou, pool
        self.rpn_conv = head_convolution(self.channels, self.channels)
        self.rpn_out = head_convolution(self.channels, each * 5)
        self.fc1 = nn.Linear(self.channels * pool**2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, self.classes + 1 + 4)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, proposals, classes + 1 + 4) float32 of images (B, bands, H, W).

        Logits of the classes and of the background, and boxes in pixels. Rows that are no proposals are background.
        """
        height, width = images.shape[2:]
        levels = self.levels(images)
        regions = self.regions(levels)
        boxes, sound = self.propose(regions, (height, width))
        found = torch.stack([self.examine(levels, i, boxes[i]) for i in range(len(boxes))])
        logits, offsets = found[..., :-4], found[..., -4:]
        background = torch.full_like(logits, -torch.inf)
        background[..., -1] = 0.0
        logits = torch.where(sound[..., None], logits, background)
        raw = torch.cat([logits, decoded(offsets, boxes)], dim=2)
        # Such images have no proposals, and would be taken for empty.
        broken = torch.isnan(regions.flatten(1).amax(dim=1))
        return raw.masked_fill(broken[:, None, None], torch.nan)

    def regions(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, N, 1 + 4) float32 of P2 to P6: logits of there being an object, and offsets of the N prior boxes."""
        return torch.cat([places(self.rpn_out(F.relu(self.rpn_conv(level))), 5) for level in levels], dim=1).float()

    @torch.no_grad()
    def propose(self, regions: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """The best boxes of each image after suppression inside each level.

        Args:
            regions: (B, N, 5) float32.
            size: height and width of the images in pixels.

        Returns:
            (B, proposals, 4) float32, clipped to the image, the best first; and (B, proposals) bool, which of them are
            proposals. The others are the whole image.
        """
        priors = self.anchors.boxes(size, regions.device)
        check_places(regions, len(priors), size)
        pairs = zip(self.strides, self.anchors.counts, strict=True)
        counts = [rows * cols * each for (rows, cols), each in ((cells(size, s), each) for s, each in pairs)]
        whole = regions.new_tensor([0.0, 0.0, size[1], size[0]])
        boxes = whole.expand(len(regions), self.count, 4).clone()
        sound = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=regions.device)
        for i, image in enumerate(regions):
            best = self._of_image(image, priors, counts, whole)
            boxes[i, : len(best)], sound[i, : len(best)] = best, True
        return boxes, sound

    def _of_image(self, regions: Tensor, priors: Tensor, counts: Sequence[int], whole: Tensor) -> Tensor:
        found = []
        of_levels = (torch.split(table, list(counts)) for table in (regions, priors))
        for level, prior in zip(*of_levels, strict=True):
            logits, rows = level[:, 0].topk(min(self.before_nms, len(level)))
            boxes = decoded(level[rows, 1:], prior[rows])
            boxes = torch.minimum(boxes.clamp(min=0), whole[2:].repeat(2))
            sound = (boxes[:, 2:] - boxes[:, :2] >= _MIN_SIDE).all(dim=1) & torch.isfinite(logits)
            boxes, logits = boxes[sound], logits[sound]
            kept = nms(boxes, logits, self.proposal_iou)
            found.append(torch.cat([boxes[kept], logits[kept, None]], dim=1))
        table = torch.cat(found)
        return table[table[:, 4].argsort(descending=True, stable=True)[: self.count], :4]

    def examine(self, levels: Sequence[Tensor], image: int, boxes: Tensor) -> Tensor:
        """(K, classes + 1 + 4) float32, logits and offsets of the boxes (K, 4) of one image of the batch."""
        side = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        # Without the logarithm: a box at a limit must not change its level by a last bit.
        limits = side.new_tensor([_SIDE_IN_STRIDES * stride for stride in self.strides[:3]])
        level = (side[:, None] >= limits).sum(dim=1)
        cut = boxes.new_zeros(len(boxes), self.channels, self.pool, self.pool)
        for k, stride in enumerate(self.strides[:4]):
            rows = torch.nonzero(level == k).flatten()
            # In float32: in bf16 and fp16 places would be rounded, and CPUs have no such operator.
            features = levels[k][image : image + 1].float()
            regions = F.pad(boxes[rows], (1, 0))
            cut = cut.index_copy(0, rows, roi_align(features, regions, (self.pool, self.pool), 1 / stride, samples=2))
        hidden = F.relu(self.fc1(cut.flatten(1).to(self.fc1.weight.dtype)))
        found: Tensor = self.out(F.relu(self.fc2(hidden)))
        return found.float()

    def exported(self, precision: str) -> NoReturn:  # noqa: ARG002
        """Refuse: the number of boxes of each level depends on the image, which graphs here do not hold.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            "faster-rcnn: a network with proposals cannot be made an ONNX graph; run it in torch (--backend eager), or "
            "use retinanet or fcos"
        )

    def decode(
        self,
        raw: Tensor,
        *,
        size: Size,  # noqa: ARG002
        threshold: float,
        topk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of the best proposals and classes, in float32.

        Args:
            raw: (B, proposals, classes + 1 + 4) from the network.
            size: height and width of the images in pixels.
            threshold: minimum score, the probability of the class.
            topk: maximum number of boxes of one image; the best ones are kept.

        Returns:
            Boxes (B, K, 4) float32 ``x0, y0, x1, y1`` in pixels of the image, not clipped to it; scores (B, K) float32,
            descending, -inf for rows that are no boxes; and labels (B, K) int64.
        """
        scores = raw[..., :-4].double().softmax(dim=2)[..., :-1].float()
        best, place, labels = best_places(scores, topk)
        return at_places(raw[..., -4:], place).float(), above(best, max(threshold, 1e-9)), labels

    def decode_fixed(self, raw: Tensor, *, size: Size, threshold: float, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `decode`."""
        return self.decode(raw, size=size, threshold=threshold, topk=topk)
