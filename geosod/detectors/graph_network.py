"""An ONNX graph with one input and one output as a function of tensors, as networks of torch are."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from geosod.detectors.runtimes import Session, open_session
from geosod.results import Execution

#: Sizes of images for which OpenVINO keeps compiled code: scenes smaller than a tile have sizes of their own.
MAX_SESSIONS = 8


class GraphNetwork:
    """Maps (B, …) float32 of images (B, C, H, W) float32, computed by a runtime.

    OpenVINO compiles for each size of images, which takes a tenth of a second and saves a twentieth to an eighth of the
    time of every tile.

    Attributes:
        takes_bytes: whether images may be uint8, which OpenVINO divides by 255: a quarter of the memory to go through,
            a seventh of the time of a small network. It multiplies by 1 / 255, so that quotients may differ in the
            last bit of float32, far less than what it computes from them.

    Raises:
        ConfigError: the runtime is not installed, or cannot do what the execution asks for.
        ModelError: the runtime refuses the graph.
    """

    def __init__(self, graph: bytes, execution: Execution, *, name: str) -> None:
        self._graph, self._execution, self._name = graph, execution, name
        self._sessions: OrderedDict[tuple[torch.dtype, tuple[int, ...]], Session] = OrderedDict()
        self._device = torch.device(execution.device)
        self.takes_bytes = execution.backend == "openvino"
        if execution.backend != "openvino":
            self._whatever_size = open_session(graph, execution, name=name)

    def __call__(self, images: Tensor) -> Tensor:
        """The maps of images on the execution's device."""
        values = images if images.dtype == torch.uint8 else images.float()
        found = self._session(values.dtype, tuple(images.shape)).run(values.cpu().contiguous().numpy())
        return torch.from_numpy(found[0]).to(self._device)

    def _session(self, kind: torch.dtype, shape: tuple[int, ...]) -> Session:
        if self._execution.backend != "openvino":
            return self._whatever_size
        key = (kind, shape)
        if key not in self._sessions:
            if len(self._sessions) == MAX_SESSIONS:
                self._sessions.popitem(last=False)
            sizes = {"images": shape}
            self._sessions[key] = open_session(
                self._graph, self._execution, name=self._name, shapes=sizes, in_bytes=kind == torch.uint8
            )
        self._sessions.move_to_end(key)
        return self._sessions[key]
