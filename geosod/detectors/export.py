"""Networks of the zoo as ONNX graphs: their raw maps, with the boxes decoded in the graph where that is asked for."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geosod.detectors.card import ModelCard
from geosod.detectors.radiometry import scaled_tiles
from geosod.detectors.resize import network_input
from geosod.detectors.runtimes import require
from geosod.scene import TileBatch
from geosod.tile_size import TileSize

IMAGES, RAW = "images", "raw"
BOXES = ("boxes", "scores", "labels")
#: Side of the image with which a network is traced; its size does not matter.
_TRACED = 64
#: What the exporter writes works from this version of the operators on, in all runtimes that we know.
_OPSET = 17
#: The exporter keeps its state in globals.
_lock = threading.Lock()
_graphs: dict[str, bytes] = {}


def graph_of(card: ModelCard, network: Any, precision: str) -> bytes:
    """The graph of a network's raw maps, kept in memory for further detectors of this process.

    Args:
        card: of the bundle; its weights' digest and its parameters identify the network.
        network: a module of the zoo with the bundle's weights, on the CPU, in float32.
        precision: in which a runtime will compute it.
    """
    key = f"{card.weights_digest} {card.architecture} {sorted(card.parameters.items())!r} {len(card.bands)} {precision}"
    with _lock:
        if key not in _graphs or not card.weights_digest:
            _graphs[key] = _exported(network.exported(precision), (IMAGES,), (RAW,), _image(card))
        return _graphs[key]


def raw_graph(card: ModelCard, network: Any, precision: str = "fp32") -> bytes:
    """The graph of a network's raw maps: "images" (B, bands, H, W) float32 → "raw", any B, H and W.

    That for "bf16" may be computed in fp32, too, but not quantized to "int8".
    """
    with _lock:
        return _exported(network.exported(precision), (IMAGES,), (RAW,), _image(card))


def with_decoding(raw: bytes, card: ModelCard, network: Any, *, threshold: float) -> bytes:
    """A graph of raw maps with the boxes decoded: "boxes" (B, K, 4), "scores" (B, K), "labels" (B, K).

    Boxes are corners in pixels of the images; scores descend, and rows without a box have a score of -1. K is the
    card's `top_k` times the network's `candidates_per_box`, so images must not be much smaller than a tile; where the
    network has places on several maps, they must have its size. Boxes are not suppressed: that is left to whoever runs
    the graph.
    """
    onnx = require("onnx", extra="onnx")
    model = onnx.load_model_from_string(raw)
    fit = card.input.fit(*card.tile_size)
    size = fit.height, fit.width
    decoding = _Decoding(network, size, threshold, network.candidates_per_box * card.top_k)
    with torch.inference_mode():
        example = network.fused()(_image(card, (fit.width, fit.height)))
    with _lock:
        tail = onnx.load_model_from_string(_exported(decoding, (RAW,), BOXES, example))
    tail = onnx.compose.add_prefix(tail, "decode/", rename_inputs=False, rename_outputs=False)
    tail.ir_version = model.ir_version
    joined = onnx.compose.merge_models(model, tail, io_map=[(RAW, RAW)])
    if example.ndim == 3:
        # The places in the graph are those of one size; a runtime then refuses others.
        sides = joined.graph.input[0].type.tensor_type.shape.dim[2:]
        for side, length in zip(sides, size, strict=True):
            side.dim_value = length
    return bytes(joined.SerializeToString())


def network_images(tiles: TileBatch, card: ModelCard) -> npt.NDArray[np.float32]:
    """What the network gets for tiles: (B, C, H, W) float32, as the card's `input` states."""
    images = scaled_tiles(tiles, card, size=len(tiles), device=torch.device("cpu"))
    ready, _ = network_input(images, card)
    return np.asarray(ready.contiguous().numpy(), np.float32)


def with_metadata(model: bytes, card: ModelCard, texts: Mapping[str, str]) -> bytes:
    """A graph whose metadata state what the card does, so that the file explains itself."""
    onnx = require("onnx", extra="onnx")
    proto = onnx.load_model_from_string(model)
    stated = {"names": str(dict(enumerate(card.classes))), "bands": ",".join(card.bands), **texts}
    onnx.helper.set_model_props(proto, stated)
    proto.doc_string = card.description
    proto.producer_name = "geosod"
    return bytes(proto.SerializeToString())


class _Decoding(nn.Module):
    """The decoding of a network, as a module that can be traced."""

    def __init__(self, network: Any, size: tuple[int, int], threshold: float, count: int) -> None:
        super().__init__()
        self._network, self._size, self._threshold, self._count = network, size, threshold, count

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw maps → boxes, scores and labels, the same number of rows for every image."""
        boxes, scores, labels = self._network.decode_fixed(
            raw, size=self._size, threshold=self._threshold, topk=self._count
        )
        return boxes, torch.where(torch.isfinite(scores), scores, torch.full_like(scores, -1.0)), labels


def _image(card: ModelCard, size: TileSize = (_TRACED, _TRACED)) -> Tensor:
    return torch.rand(1, len(card.bands), size[1], size[0])


def _exported(module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], example: Tensor) -> bytes:
    """A module as an ONNX graph; the number of images and the size of maps are left open.

    By tracing, which takes a tenth of a second; torch's newer exporter takes one to four, in every process.
    """
    with torch.inference_mode():
        made = module.eval()(example)
    values = {inputs[0]: example} | dict(zip(outputs, (made,) if isinstance(made, Tensor) else made, strict=True))
    # Maps have any height and width, and lists of places any length.
    open_axes = {IMAGES: {0: "batch", 2: "height", 3: "width"}, **{name: {0: "batch"} for name in BOXES}}
    open_axes[RAW] = open_axes[IMAGES] if values[RAW].ndim == 4 else {0: "batch", 1: "places"}
    axes = {name: open_axes[name] for name in values}
    file = io.BytesIO()
    with warnings.catch_warnings():
        # That tracing is deprecated, and what it may miss: the tests compare what comes out.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (example,),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
        )
    return file.getvalue()
