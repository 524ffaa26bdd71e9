"""Reads ONNX graphs: what they state, and what a run of them shows."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from geosod.detectors.adapters.onnx import feeds, image_port, is_channels_last
from geosod.detectors.card import CLASSIFICATION
from geosod.detectors.packing.found import Found, safe_name
from geosod.detectors.packing.onnx_layout import (
    CLASSIFIER,
    Arrays,
    Recognised,
    architecture_of,
    fields_of,
    recognise,
)
from geosod.detectors.packing.onnx_metadata import Stated, read_metadata
from geosod.detectors.packing.options import PackOptions
from geosod.detectors.runtimes import Port, Session, open_session, require
from geosod.errors import ModelError, one_line
from geosod.results import Execution
from geosod.tile_size import STRIDE

#: Protobuf's own limit of a message.
MAX_BYTES = (1 << 31) - 1
#: Sides of the input where the graph and its metadata leave them open.
_USUAL_SIZE = (640, 640)
_MAX_RUN_PIXELS = 4096 * 4096


def read(path: Path, options: PackOptions) -> Found:
    """What an ONNX file is.

    Raises:
        ModelError: it is malformed, no detector of boxes, or has weights outside its folder.
        ConfigError: the extra `onnx` is not installed.
    """
    content, metadata = _content(path)
    name = options.name or safe_name(path.stem)
    stated = read_metadata(metadata, where=str(path))
    session = open_session(content, Execution("cpu", "onnxruntime", "fp32", 1, 1), name=name)
    port = image_port(session)
    size, fixed = _size(port, stated, options)
    names = options.classes or stated.classes
    outputs = _run_once(session, port, size)
    layout = options.layout or stated.layout
    inputs = tuple(other.name for other in session.inputs)
    found = recognise(inputs, outputs, size, layout=layout, classes=len(names))
    if found.layout == CLASSIFIER:
        return _classifier(name, content, found, stated, port, size, options)
    return _found(name, content, found, stated, port, size, fixed=fixed)


def _found(
    name: str, content: bytes, found: Recognised, stated: Stated, port: Port, size: tuple[int, int], *, fixed: bool
) -> Found:
    usual = fields_of(found)
    width, height = (max(STRIDE, round(side / STRIDE) * STRIDE) for side in size)
    return Found(
        name=name,
        weights=content,
        adapter="onnx",
        architecture=architecture_of(found),
        weights_file="model.onnx",
        framework="ONNX",
        artifact_type="onnx",
        parameters={"layout": found.layout, **stated.parameters, **found.parameters, "fixed_size": fixed},
        channels=port.shape[3 if is_channels_last(port) else 1],
        count=found.count,
        classes=stated.classes,
        card={**usual["card"], "tile": (width, height), **stated.card},
        # A graph that takes any size is given tiles as they are.
        input={**usual["input"], **stated.input, **({"size": size} if fixed else {})},
        missing=usual["missing"],
        provenance=stated.provenance,
    )


def _classifier(
    name: str,
    content: bytes,
    found: Recognised,
    stated: Stated,
    port: Port,
    size: tuple[int, int],
    options: PackOptions,
) -> Found:
    missing = {}
    if not (stated.layout == CLASSIFIER or {"mean", "std"} & options.input.keys()):
        missing["--mean and --std"] = "what its training used, as 0.485,0.456,0.406 and 0.229,0.224,0.225, or 0 and 1"
    return Found(
        name=name,
        weights=content,
        adapter="onnx-classifier",
        architecture="classifier",
        weights_file="model.onnx",
        framework="ONNX",
        artifact_type="onnx",
        parameters=found.parameters,
        channels=port.shape[3 if is_channels_last(port) else 1],
        count=found.count,
        classes=stated.classes,
        card={"task": CLASSIFICATION, "overlap": 0, "threshold": 0.25, **stated.card},
        input={**stated.input, "size": size},
        missing=missing,
        provenance=stated.provenance,
    )


def _content(path: Path) -> tuple[bytes, dict[str, str]]:
    """The graph in one piece, with weights that lie beside it, and its metadata.

    Raises:
        ModelError: it cannot be read, or its weights lie outside its folder.
    """
    onnx = require("onnx", extra="onnx")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path}: is larger than 2 GiB, which no ONNX file is")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        line = one_line(error)[:200]
        raise ModelError(f"{path}: cannot be read as an ONNX graph ({line}); is the file whole?") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    outside = _external_files(onnx, model, path)
    if not outside:
        return path.read_bytes(), metadata
    onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(f"{path}: with its weights it is larger than 2 GiB, which geosod does not take")
    return model.SerializeToString(), metadata


def _external_files(onnx: Any, model: Any, path: Path) -> set[str]:
    """Names of the files in which weights of a graph lie, all of them plain files in its folder.

    Raises:
        ModelError: one does not.
    """
    names = set()
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if onnx.external_data_helper.uses_external_data(tensor):
            names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    for name in names:
        place = path.parent / name
        plain = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts and "\\" not in name
        inside = plain and place.resolve().is_relative_to(path.parent.resolve())
        if not (inside and place.is_file()):
            raise ModelError(
                f"{path}: its weights lie in {name!r}, which is not a file in its own folder; put it there, or write "
                "the graph in one file"
            )
    return names


def _size(port: Port, stated: Stated, options: PackOptions) -> tuple[tuple[int, int], bool]:
    """(width, height) of the input, and whether the graph takes no other."""
    rows, cols = (port.shape[i] for i in ((1, 2) if is_channels_last(port) else (2, 3)))
    if rows is not None and cols is not None:
        return (cols, rows), True
    asked = options.input.get("size") or options.tile or stated.size or _USUAL_SIZE
    width, height = cols or asked[0], rows or asked[1]
    if width * height > _MAX_RUN_PIXELS:
        raise ModelError(f"an input of {width} x {height} pixels is larger than 4096 x 4096; choose a smaller --size")
    return (width, height), False


def _run_once(session: Session, port: Port, size: tuple[int, int]) -> Arrays:
    """The outputs for noise of the input's size.

    Raises:
        ModelError: the graph cannot be run.
    """
    width, height = size
    channels = port.shape[3 if is_channels_last(port) else 1] or 3
    noise = np.random.default_rng(0).random((port.shape[0] or 1, channels, height, width), np.float32)
    if port.dtype.startswith(("uint", "int")):
        noise *= 255
    arrays = session.run(feeds(session, torch.from_numpy(noise)))
    return {output.name: array for output, array in zip(session.outputs, arrays, strict=True)}
