"""Programs of torch.export (.pt2), decoded as the card's layout says. Loading one may execute code that it holds."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geosod.detectors.adapters.layouts import LAYOUTS, decode
from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.errors import ModelError, one_line
from geosod.results import Execution

#: Where a program sets no limit to a side or the batch.
UNLIMITED = 1 << 31


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of the input of a program.

    Attributes:
        low, high: limits of its size; the same where it is fixed.
        example: its size in the export.
    """

    low: int
    high: int
    example: int

    @property
    def fixed(self) -> bool:
        """Whether it has one size."""
        return self.low == self.high

    def holds(self, size: int) -> bool:
        """Whether it may have a size."""
        return self.low <= size <= self.high


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> Pt2Adapter:  # noqa: ARG001
    """The bundle's program on the execution's device, in the precision of the program.

    Raises:
        ModelError: it cannot be loaded, or does not fit the card.
    """
    card = bundle.card
    if not bundle.trusted:
        raise ModelError(f"model {card.name!r}: loading its program may execute code; add --trust (trust=True)")
    if card.parameters.get("layout") not in LAYOUTS:
        raise ModelError(f"model {card.name!r}: its card states no known layout; pack the program again")
    program = open_program(bundle.read_weights(), name=card.name)
    axes = image_axes(program, name=card.name)
    width, height = card.tile_size
    fit = card.input.fit(width, height)
    shape = (1, len(card.bands), fit.height, fit.width)
    if not all(axis.holds(size) for axis, size in zip(axes[1:], shape[1:], strict=True)):
        takes = " x ".join(str(axis.low) if axis.fixed else f"{axis.low}…{axis.high}" for axis in axes[1:])
        raise ModelError(
            f"model {card.name!r}: its program takes images of {takes} (bands, height, width), but the card makes them "
            f"{' x '.join(map(str, shape[1:]))}; pack it again, with --size or --tile"
        )
    batch = replace(axes[0], low=int(card.parameters.get("min_batch", axes[0].low)))
    return Pt2Adapter(card, on_device(program, execution.device, name=card.name), batch)


class Pt2Adapter:
    """A program and the meaning of its outputs."""

    def __init__(self, card: ModelCard, module: Any, batch: Axis) -> None:
        self._card, self._module, self._batch = card, module, batch

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W) float32, in the network's values."""
        height, width = images.shape[2:]
        return decode(self._card, run(self._module, images, self._batch), width, height, len(images))


def open_program(content: bytes, *, name: str) -> Any:
    """A ``torch.export.ExportedProgram``. This unpickles what the archive holds.

    Raises:
        ModelError: it is none, or of another version of torch.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(io.BytesIO(content))
    except Exception as error:
        line = one_line(error)[:200]
        raise ModelError(
            f"model {name!r}: cannot be loaded as a program of torch.export by torch {torch.__version__} ({line}); "
            "export it again with this version"
        ) from error


def image_axes(program: Any, *, name: str) -> tuple[Axis, Axis, Axis, Axis]:
    """Batch, bands, height and width of the input of a program.

    Raises:
        ModelError: its input is not one tensor (B, C, H, W) float32.
    """
    inputs = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    shapes = ", ".join(f"{list(value.shape)} {value.dtype}" for value in values if isinstance(value, Tensor))
    if len(inputs) != 1 or len(values) != 1 or values[0].ndim != 4 or values[0].dtype != torch.float32:
        raise ModelError(
            f"model {name!r}: the program takes {shapes or 'no tensor'}; it must take one tensor (B, C, H, W) float32"
        )
    batch, bands, height, width = (_axis(size, program.range_constraints) for size in values[0].shape)
    return batch, bands, height, width


def on_device(program: Any, device: str, *, name: str) -> Any:
    """The program as a module on a device.

    Raises:
        ModelError: this version of torch cannot move it there.
    """
    if device != "cpu":
        try:
            from torch.export.passes import move_to_device_pass
        except ImportError as error:
            raise ModelError(
                f"model {name!r}: torch {torch.__version__} cannot move a program to {device}; update torch, or use "
                "--device cpu"
            ) from error
        program = move_to_device_pass(program, device)
    return program.module()


def run(module: Any, images: Tensor, batch: Axis) -> dict[str, Tensor]:
    """The outputs of a program for images (B, C, H, W), by name: those with the most axes first, in float32.

    Args:
        module: of the program.
        images: any number of them.
        batch: how many it takes at once; where they are fewer, zeros are added.

    Raises:
        ModelError: an output is no tensor, or has not one row for each image.
    """
    parts = []
    for part in torch.split(images, min(max(len(images), batch.low), batch.high)):
        count = max(len(part), batch.low)
        padding = part.new_zeros((count - len(part), *part.shape[1:]))
        parts.append(_named(module(torch.cat([part, padding]) if len(padding) else part), count))
    outputs = {name: torch.cat([part[name] for part in parts])[: len(images)] for name in parts[0]}
    ordered = sorted(outputs.items(), key=lambda item: -item[1].ndim)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in ordered}


def _named(outputs: Any, count: int) -> dict[str, Tensor]:
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    named = outputs if isinstance(outputs, Mapping) else {f"output{i}": value for i, value in enumerate(outputs)}
    for name, value in named.items():
        what = f"{list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != count:
            raise ModelError(
                f"the program's output {name} is {what} for {count} images; it must return one tensor, a tuple or a "
                "dict of tensors with one row for each image, as boxes (B, K, 4), scores (B, K) and labels (B, K)"
            )
    return dict(named)


def _axis(size: Any, ranges: Mapping[Any, Any]) -> Axis:
    if isinstance(size, int):
        return Axis(size, size, size)
    limits = ranges.get(size.node.expr)
    low = 1 if limits is None else max(1, int(limits.lower))
    # An infinity of sympy or of torch cannot be converted, but compared.
    high = UNLIMITED if limits is None or bool(limits.upper >= UNLIMITED) else int(limits.upper)
    return Axis(low, high, int(size.node.hint or 0))
