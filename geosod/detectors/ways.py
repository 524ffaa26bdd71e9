"""The ways in which a model can run on a machine: backends and precisions, and what is missing for the others."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch

from geosod.detectors.adapters import BACKENDS, RUNTIMES
from geosod.detectors.models import BundleModel, Model, StagedModel
from geosod.detectors.zoo import backends_of
from geosod.device import kind_of

TORCH_BACKENDS = ("eager", "compile")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
#: Instructions without which bf16 or fp16 is emulated, and slower than fp32.
BF16_FEATURES = ("amx_bf16", "avx512_bf16")
FP16_FEATURES = ("amx_fp16", "avx512_fp16")


class Way(NamedTuple):
    """A backend and a precision, as in `geosod.results.Execution`."""

    backend: str
    precision: str


class Measured(NamedTuple):
    """How fast a machine ran a model.

    Attributes:
        backend, precision: the way.
        seconds: for a tile, with a detector on every core.
    """

    backend: str
    precision: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Machine:
    """The properties of a machine that decide how a detector runs.

    Attributes:
        cuda: torch sees a CUDA GPU.
        cuda_bf16, cpu_bf16, cuda_fp16, cpu_fp16: it computes in that precision without emulation.
        amx: the processor has matrix units for bf16.
        compiler: there is a C++ compiler.
        runtimes: installed packages that run ONNX graphs.
    """

    cuda: bool
    cuda_bf16: bool
    cpu_bf16: bool
    amx: bool
    compiler: bool
    cuda_fp16: bool = False
    cpu_fp16: bool = False
    runtimes: tuple[str, ...] = ()

    def fast(self, precision: str, device: str) -> bool:
        """Whether a device computes in a precision at full speed."""
        if precision not in ("bf16", "fp16"):
            return True
        # Of devices other than CPUs and CUDA GPUs it is not known.
        known = {
            "cpu": {"bf16": self.cpu_bf16, "fp16": self.cpu_fp16},
            "cuda": {"bf16": self.cuda_bf16, "fp16": self.cuda_fp16},
        }
        return known.get(kind_of(device), {}).get(precision, False)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can run with.

    Attributes:
        backends: the preferred one first.
        quantized: its graph is of 8-bit integers, and runs in no other precision.
        automatic: precisions that may be chosen without being asked for.
    """

    backends: tuple[str, ...] = TORCH_BACKENDS
    quantized: bool = False
    automatic: tuple[str, ...] = ("fp32", "bf16", "int8")

    def ways(self) -> tuple[Way, ...]:
        """All of them, whether this machine can or not."""
        precisions = ("int8",) if self.quantized else ("fp32", "bf16", "fp16")
        return tuple(Way(backend, precision) for backend in self.backends for precision in precisions)


def this_machine() -> Machine:
    """The machine this process runs on."""
    cuda = torch.cuda.is_available()
    features = cpu_features()
    compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    return Machine(
        cuda,
        cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        any(features.get(name) for name in BF16_FEATURES),
        bool(features.get("amx_bf16")),
        compiler,
        cuda and torch.cuda.get_device_capability() >= (7, 0),
        any(features.get(name) for name in FP16_FEATURES),
        tuple(name for name in RUNTIMES if find_spec(name) and find_spec("onnx")),
    )


def cpu_features() -> dict[str, object]:
    """What torch knows of the processor: its name, and whether it has instructions."""
    return dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}


def abilities_of(model: Model) -> Abilities:
    """What a model's adapter can run with; code of a user's is asked to run in torch unless the user says otherwise."""
    if isinstance(model, StagedModel):
        return abilities_of(model.detector)
    if not isinstance(model, BundleModel):
        return Abilities()
    card = model.card
    zoo = card.adapter == "zoo"
    backends = backends_of(card.architecture) if zoo else BACKENDS.get(card.adapter, TORCH_BACKENDS)
    if card.adapter in ("onnx", "pt2"):
        # Graphs of others compute coordinates, too, and 600.5 px is not a number in bf16.
        return Abilities(backends, automatic=("fp32",))
    return Abilities(backends, card.parameters.get("precision") == "int8")


def why_not(way: Way, machine: Machine, device: str) -> str | None:
    """What a machine lacks for a way, and what to do about it; None where it can run it.

    bf16 in torch is always possible, but emulated where the machine is not `fast` at it.
    """
    backend, precision = way
    if backend in RUNTIMES:
        return _why_no_runtime(way, machine, device)
    if backend == "compile" and not machine.compiler:
        return "backend 'compile' needs a C++ compiler (g++ or clang++); install one or use --backend eager"
    if precision == "int8":
        return (
            "precision 'int8' needs a bundle with calibrated weights; make one with `geosod model export MODEL -o "
            "BUNDLE --int8 --calibrate SCENES`"
        )
    if precision == "fp16" and not machine.fast("fp16", device):
        return f"precision 'fp16' is not fast on this {_kind(device)}; use --precision auto, bf16 or fp32"
    return None


def _why_no_runtime(way: Way, machine: Machine, device: str) -> str | None:
    backend, precision = way
    if backend not in machine.runtimes:
        return f"backend {backend!r} is not installed; install it with: pip install 'geosod[{RUNTIMES[backend]}]'"
    if backend == "onnxruntime" and precision in ("bf16", "fp16"):
        return f"backend 'onnxruntime' has no {precision}; use --precision fp32, or --backend openvino"
    if backend == "openvino" and device != "cpu":
        return "backend 'openvino' runs on CPUs; use --device cpu, or another backend"
    if precision in ("bf16", "fp16") and not machine.fast(precision, device):
        return f"precision {precision!r} is not fast on this {_kind(device)}; use --precision auto or fp32"
    return None


def _kind(device: str) -> str:
    return "processor" if device == "cpu" else "device"
