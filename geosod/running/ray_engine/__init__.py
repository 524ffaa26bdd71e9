"""The Ray engine: the stages of many scenes at once, on all cores of a machine or on a cluster.

Readers (streaming tasks) cut tiles, detectors (actors) take them in full batches filled across units and
scenes, settle and merge tasks follow each unit, and a last task on the driver's node commits a scene as
soon as its tree is merged. The driver only passes references on; pixels and boxes never come to it.
This is the only package that imports ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from geosod.output.scene_outputs import SceneOutputs
from geosod.results import SceneResult
from geosod.running.events import Emit
from geosod.running.job import Job
from geosod.running.planning import ScenePlan
from geosod.running.ray_engine.detectors import detectors
from geosod.running.ray_engine.flow import Flow
from geosod.running.ray_engine.session import describe, session, store_bytes

__all__ = ["describe", "run", "session"]


def run(
    job: Job, plans: Iterable[ScenePlan], finish: Callable[[SceneOutputs], SceneResult], emit: Emit
) -> Iterator[SceneResult]:
    """Detect on every planned scene, several at a time; `finish` runs where the driver is, and its results are yielded.

    Raises:
        EngineError: Ray cannot be reached, or no detector can be started.
        GeosodError: what a detector raised while it was loaded.
    """
    with session(job.config.ray_address, store_bytes(job)), detectors(job, emit) as pool:
        yield from Flow(job, finish, emit, pool).run(iter(plans))
