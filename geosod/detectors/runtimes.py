"""Runs ONNX graphs by ONNX Runtime or OpenVINO: one session for each detector, with the threads it may use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from geosod.detectors.adapters import RUNTIMES
from geosod.detectors.detector import is_out_of_memory
from geosod.device import kind_of
from geosod.errors import ConfigError, ModelError, one_line
from geosod.results import Execution

#: Precision of an execution → OpenVINO's word for it. What a graph of int8 leaves as it is, is computed in float32.
_OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
#: Without these words among a processor's capabilities OpenVINO computes in float32 all the same, or is slower.
_OPENVINO_NEEDS = {"bf16": "BF16", "fp16": "FP16"}

Array = npt.NDArray[Any]
#: Sizes of the axes of an input; None where any will do.
Shape = tuple[int | None, ...]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: as in the graph.
        shape: sizes of the axes; None where any will do.
        dtype: numpy's name of the type.
    """

    name: str
    shape: Shape
    dtype: str


class Session(Protocol):
    """A graph that is ready to run. One thread at a time may use it.

    Attributes:
        inputs, outputs: in the graph's order.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, images: Array | Mapping[str, Array]) -> list[Array]:
        """Compute the outputs.

        Args:
            images: value of the first input, or of every input by its name.

        Returns:
            Every output, in the graph's order. The arrays are the caller's.

        Raises:
            MemoryError: memory does not hold what is computed.
            ModelError: the graph does not take these values.
        """
        ...


def open_session(
    model: bytes,
    execution: Execution,
    *,
    name: str = "model",
    shapes: Mapping[str, Shape] | None = None,
    in_bytes: bool = False,
) -> Session:
    """Make a graph ready to run. No file is read: a graph whose weights lie in other files is refused.

    Args:
        model: a serialized ONNX ModelProto.
        execution: `backend` is "onnxruntime" or "openvino"; device, precision and threads are used as well. With
            precision "int8" the graph itself must be quantized.
        name: of the model, for errors.
        shapes: sizes of the axes of inputs that the graph leaves open, by input name; OpenVINO computes faster with
            sizes that it knows.
        in_bytes: the first input, which the graph takes as float32, is given as uint8 and divided by 255 (OpenVINO).

    Raises:
        ConfigError: the runtime is not installed, or cannot do what the execution asks for.
        ModelError: the graph is malformed, refers to other files, or holds an operator that the runtime lacks.
    """
    if execution.backend not in RUNTIMES:
        raise ConfigError(f"backend {execution.backend!r} does not run ONNX graphs; use {' or '.join(RUNTIMES)}")
    names = _check_self_contained(model, name)
    if execution.backend == "onnxruntime":
        return _OnnxRuntime(model, execution, name, dict(shapes or {}))
    return _OpenVino(model, execution, name, dict(shapes or {}), names, in_bytes=in_bytes)


def require(module: str, *, extra: str) -> Any:
    """Import an optional package.

    Raises:
        ConfigError: it is not installed; the message names the extra that installs it.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{module} is not installed ({error}); install it with: pip install 'geosod[{extra}]'"
        ) from error


def check_runtime(backend: str, device: str, precision: str) -> None:
    """Refuse what a runtime cannot do on this machine.

    Raises:
        ConfigError: it is not installed, or has no such device or precision here.
    """
    if backend == "onnxruntime":
        runtime = require("onnxruntime", extra=RUNTIMES["onnxruntime"])
        if kind_of(device) == "cuda" and "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ConfigError(
                "backend 'onnxruntime' is installed without CUDA; install onnxruntime-gpu instead, or use --device cpu"
            )
        if precision in ("bf16", "fp16"):
            raise ConfigError(
                f"backend 'onnxruntime' computes in the graph's own precision, not in {precision}; use --precision "
                "fp32, or --backend openvino"
            )
        return
    openvino = require("openvino", extra=RUNTIMES["openvino"])
    if device != "cpu":
        raise ConfigError(f"backend 'openvino' runs on CPUs, not on {device!r}; use --device cpu or another backend")
    needs = _OPENVINO_NEEDS.get(precision)
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if needs and needs not in capable:
        raise ConfigError(f"this processor has no fast {precision}, says OpenVINO ({', '.join(capable)}); use fp32")


class _OnnxRuntime:
    """A session of ONNX Runtime."""

    def __init__(self, model: bytes, execution: Execution, name: str, shapes: Mapping[str, Shape]) -> None:
        check_runtime("onnxruntime", execution.device, execution.precision)
        runtime = require("onnxruntime", extra=RUNTIMES["onnxruntime"])
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = execution.threads, 1
        options.log_severity_level = 3
        # Threads that spin while they wait take cores from other detectors.
        for kind in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{kind}.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if kind_of(execution.device) == "cuda" else []
        try:
            self._session = runtime.InferenceSession(model, options, providers=[*providers, "CPUExecutionProvider"])
        except Exception as error:
            raise _refused(name, "ONNX Runtime", error) from error
        self._name = name
        self.inputs = tuple(_ort_port(port, shapes) for port in self._session.get_inputs())
        self.outputs = tuple(_ort_port(port, {}) for port in self._session.get_outputs())

    def run(self, images: Array | Mapping[str, Array]) -> list[Array]:
        try:
            return [np.asarray(array) for array in self._session.run(None, _feeds(images, self.inputs))]
        except Exception as error:
            raise _failed(self._name, "ONNX Runtime", error) from error


class _OpenVino:
    """A compiled graph of OpenVINO, on the CPU."""

    def __init__(
        self,
        model: bytes,
        execution: Execution,
        name: str,
        shapes: Mapping[str, Shape],
        names: tuple[Names, Names],
        *,
        in_bytes: bool,
    ) -> None:
        check_runtime("openvino", execution.device, execution.precision)
        openvino = require("openvino", extra=RUNTIMES["openvino"])
        config = {
            "INFERENCE_NUM_THREADS": execution.threads,
            "NUM_STREAMS": 1,
            # Detectors that pin their threads would all take the first cores.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS[execution.precision],
        }
        try:
            graph = openvino.Core().read_model(model)
            if shapes:
                graph.reshape({key: [-1 if n is None else n for n in shape] for key, shape in shapes.items()})
            compiled = openvino.Core().compile_model(_of_bytes(graph) if in_bytes else graph, "CPU", config)
            self.inputs = _openvino_ports(compiled.inputs, names[0])
            self.outputs = _openvino_ports(compiled.outputs, names[1])
            self._request = compiled.create_infer_request()
        except Exception as error:
            raise _refused(name, "OpenVINO", error) from error
        self._name = name

    def run(self, images: Array | Mapping[str, Array]) -> list[Array]:
        given = _feeds(images, self.inputs)
        feeds = {i: np.ascontiguousarray(given[port.name]) for i, port in enumerate(self.inputs)}
        try:
            found = self._request.infer(feeds, share_inputs=True)
            return [np.asarray(found[i]) for i in range(len(self.outputs))]
        except Exception as error:
            raise _failed(self._name, "OpenVINO", error) from error


def _of_bytes(graph: Any) -> Any:
    """A graph of OpenVINO whose first input is uint8, which is divided by 255."""
    openvino = require("openvino", extra=RUNTIMES["openvino"])
    before = require("openvino.preprocess", extra=RUNTIMES["openvino"]).PrePostProcessor(graph)
    before.input(0).tensor().set_element_type(openvino.Type.u8)
    before.input(0).preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    return before.build()


def _feeds(images: Array | Mapping[str, Array], inputs: tuple[Port, ...]) -> dict[str, Array]:
    return dict(images) if isinstance(images, Mapping) else {inputs[0].name: images}


#: ONNX Runtime's words for types that numpy calls otherwise.
_ORT_TYPES = {"float": "float32", "double": "float64"}


def _ort_port(port: Any, shapes: Mapping[str, Shape]) -> Port:
    kind = str(port.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(n if isinstance(n, int) else None for n in port.shape)
    return Port(port.name, shapes.get(port.name, shape), _ORT_TYPES.get(kind, kind))


def _openvino_ports(ports: Sequence[Any], names: Names) -> tuple[Port, ...]:
    """The ports, by the names of the graph: OpenVINO may call a tensor by the name of another that equals it."""
    return tuple(_openvino_port(port, name) for port, name in zip(ports, names, strict=True))


def _openvino_port(port: Any, name: str) -> Port:
    shape = tuple(None if n.is_dynamic else n.get_length() for n in port.get_partial_shape())
    return Port(name, shape, np.dtype(port.get_element_type().to_dtype()).name)


def _refused(name: str, runtime: str, error: Exception) -> ModelError:
    line = one_line(error)[:300]
    return ModelError(f"model {name!r}: {runtime} cannot load the graph: {line}; try another --backend")


def _failed(name: str, runtime: str, error: Exception) -> Exception:
    line = one_line(error)[:300]
    if is_out_of_memory(RuntimeError(str(error))):
        return MemoryError(line)
    return ModelError(f"model {name!r}: {runtime} failed: {line}; try another --backend")


def _check_self_contained(model: bytes, name: str) -> tuple[Names, Names]:
    """Refuse a graph that refers to other files: OpenVINO would read them from the working folder.

    Returns:
        The names of its inputs and of its outputs.
    """
    onnx = require("onnx", extra="onnx")
    try:
        proto = onnx.load_model_from_string(model)
    except Exception as error:
        raise ModelError(f"model {name!r}: is not an ONNX graph: {one_line(error)[:300]}") from error
    for graph in [proto.graph, *proto.functions]:
        for tensor in _tensors(graph):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ModelError(
                    f"model {name!r}: weights {tensor.name!r} lie in another file; write the graph with its weights "
                    "in one file (onnx.save without save_as_external_data)"
                )
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = tuple(port.name for port in proto.graph.input if port.name not in constants)
    return inputs, tuple(port.name for port in proto.graph.output)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor that a graph or function holds, those of graphs inside it included."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            # A field that is not set has no nodes.
            inner: Sequence[Any] = (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs
            for subgraph in inner:
                yield from _tensors(subgraph)
