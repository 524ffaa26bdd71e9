"""A look before training: a batch as the network gets it, and whether the network can learn it by heart."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geosod.errors import ConfigError
from geosod.training.batches import Batch
from geosod.training.config import TrainConfig
from geosod.training.events import Emit, Noted, Stepped
from geosod.training.placement import torch_threads, training_device, training_precision
from geosod.training.prepared import Prepared, batch_maker, prepare
from geosod.training.state import State, check_finite
from geosod.training.targets import Targets
from geosod.viewing.pictures import contact_sheet, draw_examples

#: Steps on one batch, and the share of its first loss below which that was learnt.
STEPS, LEARNT = 40, 0.6
#: Images that are drawn, and their side in pixels.
_DRAWN, _SIDE = 6, 640


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was seen.

    Attributes:
        picture: the batch with its labels; where it was written.
        first, last: loss of the batch before and after the steps.
        examples: objects, ignored objects and positive examples of the batch.
        learns: whether the loss fell as far as it should.
        text: all of this in words.
    """

    picture: Path
    first: float
    last: float
    examples: tuple[int, int, int]
    learns: bool
    text: str


def dry_run(config: TrainConfig, *, on_event: Emit | None = None, steps: int = STEPS) -> DryRun:
    """Draw the first batch of a run, and train on it alone for some steps.

    The picture, OUT-batch.png, shows the pixels as the network gets them, objects dashed, and the places or prior boxes
    that count as positive examples in the colours of their classes. If boxes lie beside the objects, the labels have
    another format or the images another size.

    Args:
        config: as for `geosod.train`.
        on_event: called with notes.
        steps: on the batch.

    Raises:
        UsageError: as `geosod.train`.
        TrainingError: the loss is not finite.
    """
    emit: Emit = on_event or (lambda _: None)
    if config.out is None:
        raise ConfigError("no output is given: add --out NAME; the picture is written beside it")
    ready = prepare(config)
    for note in (*ready.notes, *(f"left out: {problem}" for problem in ready.labels.problems.found[:5])):
        emit(Noted(note))
    batch = batch_maker(ready, config)(0)
    device = training_device(config.device)
    examples = _examples(ready.criterion.to(device), batch.to(device))
    path = Path(f"{Path(config.out).expanduser()}-batch.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    _drawn(batch, examples, ready).save(path)
    emit(Noted(f"the batch is drawn in {path}; now the network learns it by heart"))
    with torch_threads(config):
        first, last = _by_heart(ready, batch, device, steps, emit)
    counts = _counts(batch.targets, examples)
    learns = last < LEARNT * first
    return DryRun(path, first, last, counts, learns, _text(path, batch, counts, first, last, steps, learns=learns))


def _examples(criterion: Any, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        found: list[tuple[Tensor, Tensor]] = criterion.examples(batch.images, batch.targets)
    return found


def _by_heart(ready: Prepared, batch: Batch, device: torch.device, steps: int, emit: Emit) -> tuple[float, float]:
    """The loss of a batch before and after some steps on it, without weight decay and averaging."""
    config = ready.config.model_copy(update={"ema": 0.0, "weight_decay": 0.0})
    precision = training_precision(config, device)
    state = State.new(copy.deepcopy(ready.criterion), config, device=device, precision=precision)
    state.criterion.train()
    losses, here, images = [], batch.to(device), len(batch.targets)
    began = time.monotonic()
    for step in range(1, steps + 1):
        rate = config.peak_lr * min(1.0, step / 5)
        parts = {name: float(loss) for name, loss in state.train(here, config, rate=rate).items()}
        check_finite(parts, step)
        losses.append(parts["total"])
        emit(Stepped(step, steps, parts, rate, time.monotonic() - began, step * images))
    return losses[0], float(np.mean(losses[-3:]))


def _counts(targets: list[Targets], examples: list[tuple[Tensor, Tensor]]) -> tuple[int, int, int]:
    ignored = sum(int(one.ignored.sum()) for one in targets)
    return sum(len(one.boxes) for one in targets) - ignored, ignored, sum(len(boxes) for boxes, _ in examples)


def _drawn(batch: Batch, examples: list[tuple[Tensor, Tensor]], ready: Prepared) -> Any:
    pictures, captions = [], []
    for image, target, (boxes, labels), sample in list(
        zip(batch.images, batch.targets, examples, batch.samples, strict=False)
    )[:_DRAWN]:
        pixels = _picture(image, ready)
        zoom = max(1, _SIDE // max(pixels.shape[:2]))
        truth = target.boxes.cpu().numpy()
        pictures.append(draw_examples(pixels, boxes.cpu().numpy(), labels.cpu().numpy(), truth, zoom=zoom))
        name = ready.data.labels.images[sample.image].id
        captions.append(f"{name} at {sample.window.col}, {sample.window.row}: {len(truth)} objects")
    return contact_sheet(pictures, columns=3, captions=captions)


def _picture(image: Tensor, ready: Prepared) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8, red, green and blue of the network's input, or its first three bands, or the first one."""
    values = image[ready.card.visible_bands].float()
    low, high = float(values.min()), float(values.max())
    shown = (values - low) / max(high - low, 1e-6) * 255
    return np.ascontiguousarray(shown.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _text(
    path: Path,
    batch: Batch,
    counts: tuple[int, int, int],
    first: float,
    last: float,
    steps: int,
    *,
    learns: bool,
) -> str:
    size = tuple(batch.images.shape)
    objects, ignored, positive = counts
    lines = [
        f"batch: {size[0]} images of {size[1]} bands, {size[3]} x {size[2]} px; {objects} objects, {ignored} ignored",
        f"positive examples: {positive}",
        f"loss of this batch: {first:.3f}, after {steps} steps on it {last:.3f}",
        f"picture: {path}",
    ]
    if not learns:
        lines.append("the network hardly learns a single batch: look at the picture, and try another --lr")
    return "\n".join(lines)
