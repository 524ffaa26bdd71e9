"""Plans scenes while the engine works on others, and ends those that need or allow no work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from geosod.errors import GeosodError, ModelError, SceneError, UsageError, one_line, redacted
from geosod.results import Failure, SceneResult
from geosod.running.destination import Destination
from geosod.running.events import Emit, Failed, Note, SceneFinished, ScenePlanned
from geosod.running.job import Job
from geosod.running.planning import ScenePlan, plan_scene
from geosod.scene import SceneRef

#: Scenes whose headers are read before the engine asks for them.
PLANS_AHEAD = 2


def plan_ahead(
    job: Job, refs: Sequence[SceneRef], place: Destination, emit: Emit, ended: list[SceneResult]
) -> Generator[ScenePlan, None, None]:
    """Plan scenes as the engine asks for them; those that need or allow no work are ended at once.

    Scenes outside the AOI wait until one lies in it: where none does, the AOI is wrong, and they fail.
    """
    outside: list[ScenePlan] = []
    hit = job.aoi is None
    for outcome in _ahead(partial(_plan, job, place), refs):
        if isinstance(outcome, SceneResult):
            end(outcome, place, emit, ended)
            hit |= outcome.status == "skipped"
        elif outcome.outside:
            outside.append(outcome)
        else:
            hit = True
            yield announced(outcome, emit)
        while hit and outside:
            yield announced(outside.pop(0), emit)
    for plan in outside:
        ref = plan.scene.ref
        message = f"{ref.uri}: lies outside the AOI, as every scene of this run; check the AOI's CRS and position"
        end(failed(Failure(ref.id, ref.uri, None, "plan", SceneError.__name__, message)), place, emit, ended)


def announced(plan: ScenePlan, emit: Emit) -> ScenePlan:
    """The plan, after its notes and its size were emitted."""
    for note in plan.notes:
        emit(Note(redacted(note), important=True))
    for kind in (kind for kind, area in plan.masks.items() if area.is_empty):
        emit(Note(f"{plan.scene.id}: the mask {kind!r} masks nothing here"))
    if plan.outside:
        emit(Note(f"{plan.scene.id}: lies outside the AOI; nothing is searched", important=True))
    emit(ScenePlanned(plan.scene.id, len(plan.units), plan.tiles, plan.scene.megapixels))
    return plan


def _plan(job: Job, place: Destination, ref: SceneRef) -> ScenePlan | SceneResult:
    """The plan of a scene, or how it ended already."""
    try:
        return place.skipped(job, ref) or plan_scene(job, ref)
    except Exception as error:
        # Whatever a file makes a library raise, the other scenes go on.
        return failed(plan_failure(ref, error))


def _ahead(
    function: Callable[[SceneRef], ScenePlan | SceneResult], refs: Iterable[SceneRef]
) -> Iterator[ScenePlan | SceneResult]:
    """What `function` returns for each scene, in order, with the next ones under way in threads.

    A header that comes over a network takes a second; the engine should not wait for it.
    """
    waiting: deque[Future[ScenePlan | SceneResult]] = deque()
    threads = ThreadPoolExecutor(PLANS_AHEAD, thread_name_prefix="plan")
    try:
        for ref in refs:
            waiting.append(threads.submit(function, ref))
            if len(waiting) > PLANS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def plan_failure(ref: SceneRef, error: Exception) -> Failure:
    """The failure of a scene that could not be planned, whatever was raised."""
    message = one_line(error) or type(error).__name__
    if not isinstance(error, GeosodError):
        message = f"{ref.uri}: cannot be planned: {type(error).__name__}: {message}"
    stage = "plan" if isinstance(error, ModelError | UsageError) else "open"
    return Failure(ref.id, ref.uri, None, stage, type(error).__name__, message)


def failed(failure: Failure) -> SceneResult:
    """The result of a scene of which nothing could be done."""
    return SceneResult(failure.scene_id, failure.uri, "failed", failures=(failure,))


def end(result: SceneResult, place: Destination, emit: Emit, ended: list[SceneResult]) -> None:
    """Record how a scene ended, and tell of it."""
    for text in place.record(result):
        emit(Note(text, important=True))
    for failure in result.failures:
        emit(Failed(failure))
    emit(SceneFinished(result))
    ended.append(result)
