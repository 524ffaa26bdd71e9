"""A model in every way this machine can run it: speed, and how its boxes differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geosod.detections import Detections
from geosod.detectors.agreement import Agreement, agreement
from geosod.detectors.execution import default_batch
from geosod.detectors.measure import ROUNDS, Report, measure, possible_ways
from geosod.detectors.models import Model
from geosod.detectors.ways import Measured, Way
from geosod.errors import GeosodError
from geosod.results import Execution
from geosod.scene import TileBatch

#: What the others are compared with, if the model can run so; else with the first way that it can run.
REFERENCE = (Way("eager", "fp32"), Way("onnxruntime", "fp32"))


@dataclass(frozen=True, slots=True)
class Row:
    """One way of running a model.

    Attributes:
        way: backend and precision.
        seconds: for a tile, with detectors on several cores at once.
        tiles_per_s: tiles a second of all cores that took part.
        mpx_per_s: the same in million pixels.
        speedup: relative to the reference.
        boxes: compared with those of the reference.
    """

    way: Way
    seconds: float
    tiles_per_s: float
    mpx_per_s: float
    speedup: float
    boxes: Agreement


@dataclass(frozen=True, slots=True)
class Bench:
    """What `bench` found.

    Attributes:
        reference: the way that the others are compared with.
        rows: one for each way that could be run.
        measured: the times, for `geosod.detectors.measure.remember`.
    """

    reference: Way
    rows: tuple[Row, ...]
    measured: tuple[Measured, ...]


def bench(
    model: Model,
    tiles: TileBatch,
    *,
    device: str,
    threads: int = 1,
    batch: int | None = None,
    rounds: int = ROUNDS,
    report: Report | None = None,
) -> Bench:
    """Time a model in every way this machine can run it, and compare the boxes.

    Args:
        model: the model.
        tiles: what it is run on.
        device: "cpu" or "cuda".
        threads: CPU threads of one detector.
        batch: tiles in a forward pass; None for the usual number.
        rounds: how often each way is timed; the median counts.
        report: called with a line where a way cannot be run.

    Raises:
        GeosodError: the model cannot be run in any way.
    """
    height, width = tiles.pixels.shape[2:]
    size = batch or default_batch(device, (width, height))
    measured = measure(
        model, (width, height), device=device, threads=threads, batch=size, rounds=rounds, tiles=tiles, report=report
    )
    found = {
        Way(m.backend, m.precision): boxes_of(model, Execution(device, m.backend, m.precision, size, threads), tiles)
        for m in measured
    }
    if not found:
        tried = ", ".join(" ".join(way) for way in possible_ways(model, device)) or "none is possible on this machine"
        raise GeosodError(f"model {model.card.name!r}: could be run in no way: {tried}; see `geosod doctor`")
    reference = next((way for way in REFERENCE if way in found), next(iter(found)))
    base = next(m.seconds for m in measured if (m.backend, m.precision) == reference)
    mpx = width * height / 1e6
    rows = tuple(
        Row(way, m.seconds, 1 / m.seconds, mpx / m.seconds, base / m.seconds, agreement(found[reference], found[way]))
        for way, m in zip(found, measured, strict=True)
    )
    return Bench(reference, rows, measured)


def boxes_of(model: Model, execution: Execution, tiles: TileBatch) -> Sequence[Detections]:
    """The boxes of each tile, as an execution finds them."""
    return model.load(execution, rules=model.rules).detect_batch(tiles).per_tile()
