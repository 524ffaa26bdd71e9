"""Graphs of 8-bit integers, calibrated on the tiles of scenes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.detectors.export import IMAGES
from geosod.detectors.runtimes import require
from geosod.errors import ModelError, one_line

#: Operators that are computed in 8 bits; the arithmetic of indices such as the NDVI stays in float32.
_OPERATORS = ["Conv", "Relu", "Add", "Concat", "MaxPool", "Resize"]


def quantized(graph: bytes, images: Iterable[npt.NDArray[np.float32]], *, name: str) -> bytes:
    """A graph whose weights and maps are of 8 bits, with scales for the values that occur in images.

    The convolution that computes the output stays in float32: logits of 8 bits would give whole neighbourhoods of a
    peak one height.

    Args:
        graph: with the input "images".
        images: (B, C, H, W) each, as the network gets them.
        name: of the model, for errors.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        ModelError: there are no images, or the graph cannot be quantized.
    """
    onnx = require("onnx", extra="onnx")
    tools = require("onnxruntime.quantization", extra="onnx")
    model = onnx.load_model_from_string(graph)
    reader = _reader(tools, images)
    with _without_warnings(), tempfile.TemporaryDirectory(prefix="geosod-int8-") as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        try:
            tools.quantize_static(
                before, after, reader,
                quant_format=tools.QuantFormat.QDQ, per_channel=True,
                activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
                op_types_to_quantize=_OPERATORS, nodes_to_exclude=_last(model),
            )  # fmt: skip
        except Exception as error:
            line = one_line(error)[:300]
            raise ModelError(f"model {name!r}: cannot be quantized: {line}") from error
        return after.read_bytes()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """ONNX Runtime warns that the graph was not optimized before; normalisation is folded already."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(max(before, logging.ERROR))
    try:
        yield
    finally:
        root.setLevel(before)


def _reader(tools: Any, images: Iterable[npt.NDArray[np.float32]]) -> Any:
    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[npt.NDArray[np.float32]] = iter(images)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            image = next(self._left, None)
            return None if image is None else {IMAGES: image}

    return Reader()


def _last(model: Any) -> list[str]:
    """Names of the convolutions whose values become the output without another one after them."""
    makers = {output: node for node in model.graph.node for output in node.output}
    names, left = [], [output.name for output in model.graph.output]
    while left:
        node = makers.get(left.pop())
        if node is not None and node.op_type == "Conv":
            names.append(node.name)
        elif node is not None:
            left.extend(node.input)
    return names
