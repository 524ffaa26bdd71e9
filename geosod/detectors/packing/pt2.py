"""Reads programs of torch.export (.pt2): what they take, and what a run of them returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geosod.detectors.adapters.pt2 import Axis, image_axes, on_device, open_program, run
from geosod.detectors.packing.found import Found, nearest_side, safe_name
from geosod.detectors.packing.onnx_layout import CLASSIFIER, Recognised, architecture_of, fields_of, recognise
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError, one_line

#: Batch, bands, height and width.
Axes = tuple[Axis, Axis, Axis, Axis]


def read(path: Path, options: PackOptions) -> Found:
    """What a program is.

    Raises:
        ModelError: it is not trusted, cannot be loaded or run, or takes no images.
    """
    if not options.trust:
        raise ModelError(
            f"{path}: loading a program of torch.export may execute code that it holds; add --trust (trust=True) if "
            "you trust it"
        )
    name = options.name or safe_name(path.stem)
    content = path.read_bytes()
    program = open_program(content, name=name)
    axes = image_axes(program, name=name)
    size = _size(axes, options)
    module = on_device(program, "cpu", name=name)
    axes = (_with_single(module, axes, size), *axes[1:])
    found = _recognised(_outputs(module, axes, size), size, options)
    fixed = axes[2].fixed and axes[3].fixed
    usual = fields_of(found)
    return Found(
        name=name,
        weights=content,
        adapter="pt2",
        architecture=architecture_of(found),
        weights_file="model.pt2",
        framework="pytorch",
        artifact_type="torch.export.save",
        parameters={"layout": found.layout, **found.parameters, "fixed_size": fixed, "min_batch": axes[0].low},
        channels=axes[1].example if axes[1].fixed else None,
        count=found.count,
        card={"tile": size, **usual["card"]},
        input={**usual["input"], **({"size": size} if fixed else {})},
        missing=usual["missing"],
        notes=["the bundle needs --trust wherever it is used: loading its program may execute code"],
        provenance={"torch": torch.__version__},
    )


def _size(axes: Axes, options: PackOptions) -> tuple[int, int]:
    """(width, height) of the input: the only one, that which was asked for, or that of the export."""
    asked = options.input.get("size") or options.tile or (None, None)
    width, height = (_side(axis, side) for axis, side in zip((axes[3], axes[2]), asked, strict=True))
    return width, height


def _side(axis: Axis, asked: int | None) -> int:
    if axis.fixed:
        return axis.low
    side = asked or nearest_side(axis.example)
    if not axis.holds(side):
        raise ModelError(f"the program takes sides of {axis.low} to {axis.high} pixels, not of {side}; give --tile")
    return side


def _with_single(module: Any, axes: Axes, size: tuple[int, int]) -> Axis:
    """The axis of the batch: exports state a minimum of 2 for many programs that take single images, too."""
    single = replace(axes[0], low=1)
    if axes[0].low != 2 or axes[0].fixed:
        return axes[0]
    try:
        _outputs(module, (single, *axes[1:]), size)
    except ModelError:
        return axes[0]
    return single


def _outputs(module: Any, axes: Axes, size: tuple[int, int]) -> dict[str, Tensor]:
    """What the program returns for noise, of as few images as it takes.

    Raises:
        ModelError: it does not run.
    """
    shape = (axes[0].low, axes[1].example, size[1], size[0])
    try:
        with torch.inference_mode():
            return run(module, torch.rand(shape, generator=torch.Generator().manual_seed(0)), axes[0])
    except ModelError:
        raise
    except Exception as error:
        line = one_line(error)[:200]
        raise ModelError(f"the program does not run on images of {size[0]} x {size[1]} px ({line})") from error


def _recognised(outputs: dict[str, Tensor], size: tuple[int, int], options: PackOptions) -> Recognised:
    """The layout of the outputs."""
    arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
    found = recognise(("images",), arrays, size, layout=options.layout, classes=len(options.classes))
    if found.layout == CLASSIFIER:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in outputs.items())
        raise ModelError(f"the program returns {shapes}, which are no boxes; geosod runs programs that detect")
    if found.layout == "torchvision" and options.layout is None:
        # Those of ONNX graphs are nearly always exports of torchvision, which counts the background.
        return Recognised("labelled")
    return found
