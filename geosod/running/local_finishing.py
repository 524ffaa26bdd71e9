"""The end of the local engine's work: units are settled, and the scenes whose units all are, merged and written.

Every method is called in the engine's thread, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from geosod.machine import give_back_memory
from geosod.results import Execution, SceneResult
from geosod.running.assemble import assemble_scene, failed_result
from geosod.running.destination import Sink
from geosod.running.events import Emit, Event, Note, UnitSettled, Writing
from geosod.running.job import Job
from geosod.running.local_progress import SceneInProgress, UnitInProgress
from geosod.running.stages import TileOutcome, merge_units, settle_unit
from geosod.running.threads import Threads
from geosod.running.unit_store import UnitRecord
from geosod.scenes.read import ReadSummary


class Finisher:
    """Settles, merges and writes, in the threads called "other"; scenes of one unit in those called "small".

    Attributes:
        scenes: number of scenes in progress.
    """

    def __init__(self, job: Job, sink: Sink, emit: Emit, threads: Threads[SceneResult | None]) -> None:
        self._job, self._sink, self._emit, self._threads = job, sink, emit, threads
        self._execution: Execution | None = None
        #: Scenes that can be merged before it is known how detectors run, which outputs record.
        self._early: list[SceneInProgress] = []
        self._reasons: set[str] = set()
        self.scenes = 0

    def begin(self, execution: Execution) -> None:
        """Merge and write from now on."""
        self._execution = execution
        for scene in self._early:
            self._start(scene)

    def add(self, scene: SceneInProgress) -> None:
        """Take note of a scene, and merge it where all of its units are settled already."""
        self.scenes += 1
        if not scene.waiting:
            self._start(scene)

    def note_once(self, text: str) -> None:
        """Tell of something, the first time that it is said."""
        if text not in self._reasons:
            self._reasons.add(text)
            self._emit(Note(text, important=True))

    def settle_if_done(self, unit: UnitInProgress) -> None:
        """Settle a unit that is read and of which no tile is outstanding; after a scene's last one, end the scene."""
        if unit.summary is None or unit.outstanding:
            return
        # In any order: what is merged is put into one of its own.
        settle, scene = partial(self._settle, unit, unit.summary, unit.outcomes), unit.scene
        unit.summary, unit.outcomes = None, []
        if scene.waiting == 1 and scene.error is None and self._execution is not None:
            # For the last unit, the only one of a small scene, one task: each is handed over twice.
            group = "small" if len(scene.plan.units) == 1 else "other"
            self._threads.start(group, partial(self._finish, unit, settle), partial(self._end, scene))
        else:
            self._threads.start("other", settle, partial(self._end_settling, unit))

    def _settle(self, unit: UnitInProgress, read: ReadSummary, outcomes: list[TileOutcome]) -> UnitRecord:
        """In another thread."""
        settled, summary = settle_unit(self._job.rule, unit.level, unit.unit, read, outcomes)
        units = unit.scene.units
        if units is not None and (problem := units.keep(unit.unit.id, settled, summary)):
            self._threads.say(lambda: self.note_once(problem))
        return settled, summary

    def _finish(self, unit: UnitInProgress, settle: Callable[[], UnitRecord]) -> SceneResult:
        """In another thread."""
        scene = unit.scene
        _, summary = scene.records[unit.unit.id] = settle()
        return self._assemble(scene, UnitSettled(scene.plan.scene.id, summary.tiles, summary.empty))

    def _end_settling(self, unit: UnitInProgress, record: UnitRecord | Exception) -> SceneResult | None:
        scene = unit.scene
        scene.waiting -= 1
        if isinstance(record, Exception):
            scene.error = record
        else:
            scene.records[unit.unit.id] = record
            self._emit(UnitSettled(scene.plan.scene.id, record[1].tiles, record[1].empty))
        if scene.waiting:
            return None
        if scene.error is not None:
            return self._end(scene, scene.error)
        self._start(scene)
        return None

    def _start(self, scene: SceneInProgress) -> None:
        if self._execution is None:
            self._early.append(scene)
        else:
            self._threads.start("other", partial(self._assemble, scene), partial(self._end, scene))

    def _assemble(self, scene: SceneInProgress, *events: UnitSettled) -> SceneResult:
        """In another thread."""
        plan, execution = scene.plan, self._execution
        assert execution is not None
        if len(plan.units) > 1:
            give_back_memory()  # what reading and detecting have left; tables take other blocks
        merged = merge_units(plan, self._job.rule, {name: settled for name, (settled, _) in scene.records.items()})
        outputs = assemble_scene(self._job, plan, execution, merged, [scene.records[u.id][1] for u in plan.units])
        self._threads.say(partial(self._emit_all, (*events, Writing(plan.scene.id))))
        return self._sink.finish(outputs, scene.units)

    def _emit_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self._emit(event)

    def _end(self, scene: SceneInProgress, result: SceneResult | Exception) -> SceneResult:
        self.scenes -= 1
        return failed_result(scene.plan.scene, result) if isinstance(result, Exception) else result
