"""The Ray engine: the stages of many scenes at once, on all cores of a machine or on a cluster.

Readers (streaming tasks) cut tiles. Detectors (actors) take them in full batches, filled across units and scenes.
Settle and merge tasks follow each unit, and a last task on the driver's node commits a scene as soon as its tree is
merged. The driver only passes references on; it never holds pixels or boxes. Only this package imports ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from geosod.results import SceneResult
from geosod.running.destination import Sink
from geosod.running.events import Emit
from geosod.running.job import Job
from geosod.running.planning import ScenePlan
from geosod.running.ray_engine.claims import check_devices
from geosod.running.ray_engine.detectors import detectors
from geosod.running.ray_engine.flow import Flow
from geosod.running.ray_engine.metrics import metered
from geosod.running.ray_engine.ownership import shares
from geosod.running.ray_engine.session import describe, session, store_bytes

__all__ = ["check_devices", "describe", "metered", "run", "session"]


def run(job: Job, plans: Iterable[ScenePlan], sink: Sink, emit: Emit) -> Iterator[SceneResult]:
    """Detect on every planned scene, several at a time, and hand the outputs to `sink`; results as they come.

    Scenes are written where the driver is, unless every machine reaches the output. Those that another run on the
    cluster works on are left to it, and waited for in the end.

    Raises:
        EngineError: Ray cannot be reached, or no detector can be started.
        GeosodError: what loading a detector raised.
    """
    with session(job.config.ray_address, store_bytes(job)), shares(job, sink, emit) as shared:
        some = shared.own(plans)
        while True:
            # Detectors are started only where there is work, and ended before another run is waited for.
            first = next(some, None)
            if first is not None:
                with detectors(job, emit, rank=shared.rank) as pool:
                    for result in Flow(job, sink, emit, pool).run(chain([first], some)):
                        yield shared.end(result)
                        yield from shared.ended()
            yield from shared.ended()
            if not shared.left:
                return
            some = shared.wait()
