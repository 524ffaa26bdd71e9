"""How a detector runs on this machine: device, backend, precision, batch and threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from geosod.detectors.ways import Abilities, Machine, Measured, Way, why_not
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
#: Measured times that differ by less than this ratio are taken for equal.
NOISE = 0.05


def gpu_names() -> tuple[str, ...]:
    """Names of the CUDA GPUs that torch sees."""
    return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


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
    abilities: Abilities | None = None,
    measured: Sequence[Measured] = (),
) -> tuple[Execution, str]:
    """Choose what the user left open: the fastest way that was measured, else by rule.

    Args:
        machine: where it will run.
        tile: (width, height) of a tile in pixels.
        device: as in `geosod.device.parse_device`; of several devices the first.
        backend: "auto", "eager", "compile", "onnxruntime" or "openvino".
        precision: "auto", "fp32", "bf16", "fp16" or "int8".
        batch: tiles in a forward pass; None chooses by the tile's size.
        threads: CPU threads of one detector.
        abilities: what the model can run with; None for torch alone.
        measured: how fast this machine ran the model on that device, from `geosod.detectors.measure`.

    Returns:
        The execution, and one line that says what was chosen and why.

    Raises:
        ConfigError: the machine or the model cannot do what was asked for.
    """
    asked = parse_device(device)
    if asked.kind == "cuda" and not machine.cuda:
        raise ConfigError(f"device {device!r} asked for, but torch sees no CUDA GPU here; use --device cpu or auto")
    abilities = abilities or Abilities()
    on = resolved_device(machine, device)
    ways = _allowed(machine, abilities, on, backend, precision)
    size = batch or default_batch(on, tile)
    fastest = _fastest([m for m in measured if m.precision in abilities.automatic or precision != "auto"], ways)
    chosen, why = (fastest, "measured") if fastest else _by_rule(machine, abilities, on, ways)
    if "auto" not in (backend, precision):
        why = ""
    execution = Execution(on, chosen.backend, chosen.precision, size, threads)
    return execution, _explain(machine, execution, why)


def default_batch(device: str, tile: TileSize) -> int:
    """Tiles in a forward pass, by their size."""
    pixels = CPU_BATCH_PIXELS if device == "cpu" else GPU_BATCH_PIXELS
    return max(1, min(256, pixels // (tile[0] * tile[1])))


def _allowed(machine: Machine, abilities: Abilities, device: str, backend: str, precision: str) -> list[Way]:
    """Ways that the user's words leave, and of which machine and model are capable; the model's preferred one first.

    Raises:
        ConfigError: there is none.
    """
    wanted = [w for w in abilities.ways() if backend in ("auto", w.backend) and precision in ("auto", w.precision)]
    if not wanted:
        raise ConfigError(_no_way(abilities, backend, precision))
    lacks = {way: why_not(way, machine, device) for way in wanted}
    possible = [way for way, lack in lacks.items() if lack is None]
    if not possible:
        raise ConfigError(str(next(iter(lacks.values()))))
    return possible


def _no_way(abilities: Abilities, backend: str, precision: str) -> str:
    if backend not in ("auto", *abilities.backends):
        return f"backend {backend!r} cannot run this model; use {', '.join(abilities.backends)} or auto"
    if precision == "int8":
        return str(why_not(Way("eager", "int8"), Machine(False, False, False, False, True), "cpu"))
    return f"precision {precision!r}: this model's graph is of int8 and runs in no other precision; use auto"


def _fastest(measured: Sequence[Measured], ways: Sequence[Way]) -> Way | None:
    """The way that took least time; of those that took hardly more, the first in the model's order."""
    times = {Way(m.backend, m.precision): m.seconds for m in measured}
    known = [way for way in ways if way in times]
    if not known:
        return None
    limit = min(times[way] for way in known) * (1 + NOISE)
    return next(way for way in known if times[way] <= limit)


def _by_rule(machine: Machine, abilities: Abilities, device: str, ways: Sequence[Way]) -> tuple[Way, str]:
    """The way that has been found to be fast on machines of the kind, and a few words of why."""
    usual = [way for way in ways if way.precision in abilities.automatic and machine.fast(way.precision, device)]
    rank = usual or list(ways)
    best = next((p for p in ("int8", "bf16", "fp32") if any(way.precision == p for way in rank)), rank[0].precision)
    backends = [way.backend for way in rank if way.precision == best]
    backend, why = _backend_by_rule(device, backends)
    return Way(backend, best), why


def _backend_by_rule(device: str, backends: Sequence[str]) -> tuple[str, str]:
    # Of the time of eager bf16 OpenVINO takes 0.6 to 0.8 with AVX-512 (one core of an EPYC 9004) and 0.34 to 0.6 with
    # AMX, and less than a second more to start. Compiled code is not taken unasked: it takes 0.76 to 1.5 of that time,
    # and five to six core-seconds to start. On GPUs it saves less than a millisecond a tile (0.06 to 0.7, NVIDIA H100),
    # while a core needs 20 to decode one.
    if device == "cpu" and "openvino" in backends:
        return "openvino", "by rule: OpenVINO is installed"
    return backends[0], ""


def resolved_device(machine: Machine, device: str) -> str:
    """torch's name of the device that a user means; of several the first."""
    asked = parse_device(device)
    return ("cuda" if machine.cuda else "cpu") if asked.kind == "auto" else asked.names[0]


def tiles_a_batch(count: int) -> str:
    """A number of tiles, in words."""
    return f"{count} tile{'' if count == 1 else 's'} a batch"


def _explain(machine: Machine, execution: Execution, why: str) -> str:
    line = f"{execution.device}, {execution.precision}, {execution.backend}, {tiles_a_batch(execution.batch)}"
    on_cpu = execution.device == "cpu"
    reasons = [why] if why else []
    if execution.precision == "fp32" and not machine.fast("bf16", execution.device):
        reasons.append("no AMX or AVX-512 bf16 instructions" if on_cpu else "no bf16 on this GPU")
    return f"{line} ({'; '.join(reasons)})" if reasons else line
