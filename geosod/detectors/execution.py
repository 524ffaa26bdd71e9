"""How a detector runs on this machine: device, backend, precision, batch and threads."""

from __future__ import annotations

import ctypes
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from geosod.device import kind_of, parse_device
from geosod.errors import ConfigError
from geosod.results import Execution
from geosod.tile_size import TileSize

#: Pixels of one forward pass: enough to amortise the call, small enough to stay near the caches. On an NVIDIA H100 the
#: networks of the zoo took 3 and 9 % longer for 8 tiles of 1024 px than for 32, each.
CPU_BATCH_PIXELS = 1024**2
GPU_BATCH_PIXELS = 8 * 1024**2
#: Batches that a detector on a GPU works on at once, where memory holds them.
MAX_BATCHES_AT_ONCE = 2
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
#: Instructions without which bf16 is emulated and slower than fp32.
BF16_FEATURES = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True, slots=True)
class Machine:
    """The properties of a machine that decide how a detector runs."""

    cuda: bool
    cuda_bf16: bool
    cpu_bf16: bool
    amx: bool
    compiler: bool


def this_machine() -> Machine:
    """The machine this process runs on."""
    cuda = torch.cuda.is_available()
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    cuda_bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    cpu_bf16 = any(features.get(name) for name in BF16_FEATURES)
    return Machine(cuda, cuda_bf16, cpu_bf16, bool(features.get("amx_bf16")), compiler)


def gpu_names() -> tuple[str, ...]:
    """Names of the CUDA GPUs that torch sees."""
    return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def keep_freed_memory() -> None:
    """Let the C library keep the buffers of a forward pass for the next one.

    By default glibc gives large blocks back to the system and takes the same again for every tile, and each time the
    system clears every page of them: a fifth of the time of a small network on a CPU. So no block is mapped by itself,
    and all threads share the heap of the main one, since those of other threads are given back whatever the threshold
    says. See mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_ARENA_MAX, 1)


def batches_at_once(device: str) -> int:
    """How many batches a loaded and warmed-up detector works on at once, each in a thread and on a stream of its own.

    On a GPU two: while one batch is copied there, or its boxes back, the other is computed.
    """
    if kind_of(device) != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    # What a second batch needs is no more than what torch holds after a first one, weights included.
    return MAX_BATCHES_AT_ONCE if free >= torch.cuda.memory_reserved(device) else 1


_own = threading.local()


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """In the block, a GPU works for this thread on the thread's own stream, without waiting for other threads' work."""
    if kind_of(device) != "cuda":
        yield
        return
    streams: dict[str, torch.cuda.Stream] = _own.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device=device)  # type: ignore[no-untyped-call]
    # The GPU of the stream becomes the current one.
    with torch.cuda.stream(streams[device]):
        yield


def resolve(
    machine: Machine,
    *,
    tile: TileSize,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    batch: int | None = None,
    threads: int = 1,
) -> tuple[Execution, str]:
    """Choose what the user left open.

    Args:
        machine: where it will run.
        tile: (width, height) of a tile in pixels.
        device: as in `geosod.device.parse_device`; of several devices the first.
        backend: "auto", "eager" or "compile".
        precision: "auto", "fp32" or "bf16".
        batch: tiles in a forward pass; None chooses by the tile's size.
        threads: CPU threads of one detector.

    Returns:
        The execution, and one line that says what was chosen and why.

    Raises:
        ConfigError: the machine cannot do what was asked for.
    """
    asked = parse_device(device)
    if asked.kind == "cuda" and not machine.cuda:
        raise ConfigError(f"device {device!r} asked for, but torch sees no CUDA GPU here; use --device cpu or auto")
    if backend == "compile" and not machine.compiler:
        raise ConfigError("backend 'compile' needs a C++ compiler (g++ or clang++); install one or use --backend eager")
    chosen_device = ("cuda" if machine.cuda else "cpu") if asked.kind == "auto" else asked.names[0]
    on_cpu = chosen_device == "cpu"
    fast = _has_bf16(machine, chosen_device)
    # Compiled code gains where matrix units wait for memory. With AVX-512 alone it was no faster than eager bf16
    # (58 to 67 ms a tile of 1024 for both, one core of an EPYC 9004), and costs seconds to start. On GPUs it saves less
    # than a millisecond a tile (0.06 to 0.7, NVIDIA H100), while a core needs 20 to decode one.
    worth = fast and machine.compiler and machine.amx and on_cpu
    chosen_backend = ("compile" if worth else "eager") if backend == "auto" else backend
    chosen_precision = ("bf16" if fast else "fp32") if precision == "auto" else precision
    pixels = CPU_BATCH_PIXELS if on_cpu else GPU_BATCH_PIXELS
    size = batch or max(1, min(256, pixels // (tile[0] * tile[1])))
    execution = Execution(chosen_device, chosen_backend, chosen_precision, size, threads)
    return execution, _explain(machine, execution)


def _has_bf16(machine: Machine, device: str) -> bool:
    """Whether bf16 is fast there; of devices other than CPUs and CUDA GPUs it is not known."""
    return {"cpu": machine.cpu_bf16, "cuda": machine.cuda_bf16}.get(kind_of(device), False)


def tiles_a_batch(count: int) -> str:
    """A number of tiles, in words."""
    return f"{count} tile{'' if count == 1 else 's'} a batch"


def _explain(machine: Machine, execution: Execution) -> str:
    line = f"{execution.device}, {execution.precision}, {execution.backend}, {tiles_a_batch(execution.batch)}"
    on_cpu = execution.device == "cpu"
    missing = []
    if execution.precision == "fp32" and not _has_bf16(machine, execution.device):
        missing.append("no AMX or AVX-512 bf16 instructions" if on_cpu else "no bf16 on this GPU")
    if execution.backend == "eager" and not machine.compiler and on_cpu:
        missing.append("no C++ compiler")
    return f"{line} (plain: {' and '.join(missing)})" if missing else line
