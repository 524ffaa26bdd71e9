"""Finished units of scenes that are not committed yet, kept beside the output so that an interrupted run can go on.

A unit's record lies at ``.units/SCENE/KEY/UNIT.arrow``. The key is a digest of everything that can change what is found
in the units of a scene, so records of other settings are never used. They are removed when their scene is committed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from geosod.config import digest
from geosod.detectors.models import ObjectModel
from geosod.device import kind_of
from geosod.errors import OutputError, identity, reason
from geosod.merging.components import Settled
from geosod.output.folder import OutputFolder
from geosod.results import Execution
from geosod.running.events import Emit, Note, UnitSettled
from geosod.running.job import Job
from geosod.running.planning import ScenePlan
from geosod.running.stages import UnitSummary
from geosod.running.unit_record import about_of, from_bytes, to_bytes
from geosod.scene import Window
from geosod.version import __version__

#: Records that are read at once.
_READING = 8
#: Digits of a digest that name a folder.
_DIGITS = 16
_SUFFIX = ".arrow"
UnitRecord = tuple[Settled, UnitSummary]


@dataclass(frozen=True, slots=True)
class UnitStore:
    """Records of finished units in an output folder. It can be pickled; processes of one run share it.

    Attributes:
        folder: the output.
        begun: ids of scenes that had records when the run began.
    """

    folder: OutputFolder
    begun: frozenset[str]

    def remove(self, scene_id: str) -> tuple[str, ...]:
        """Remove the records of a scene that is committed, whatever their settings; what could not be, and why."""
        try:
            self.folder.place.remove_folder(f"{self.folder.units}/{scene_id}")
        except OSError as error:
            about = f"{self.folder.units}: finished units of scenes that are done cannot be removed: {reason(error)}"
            return (f"{about}; the next run tries again",)
        return ()


@dataclass(frozen=True, slots=True)
class SceneUnits:
    """The records of the units of one scene, cut and searched in one way.

    Attributes:
        store: where they are.
        scene_id: the scene.
        key: of everything that can change what is found in a unit.
        about: what is noted in the records, for people and for a run that goes on.
    """

    store: UnitStore
    scene_id: str
    key: str
    about: Mapping[str, Any]

    def kept(self, plan: ScenePlan) -> tuple[dict[str, UnitRecord], str | None]:
        """The records of an earlier run that can be used, by the unit's id; and why some cannot be read, or None."""
        if self.scene_id not in self.store.begun:
            return {}, None
        paths = {f"{self._folder}/{unit.id}{_SUFFIX}": unit.id for unit in plan.units}
        try:
            there = [path for path in self.store.folder.place.names(self._folder) if path in paths]
        except OSError as error:
            return {}, reason(error)
        with ThreadPoolExecutor(_READING) as threads:
            found = dict(zip(there, threads.map(self._read, there), strict=True))
        problem = next((record for record in found.values() if isinstance(record, str)), None)
        return {paths[path]: record for path, record in found.items() if isinstance(record, tuple)}, problem

    def _read(self, path: str) -> UnitRecord | str | None:
        """A record; why it cannot be read; or None where it is gone or broken."""
        try:
            content = self.store.folder.place.read(path)
            return None if content is None else from_bytes(content)
        except OSError as error:
            return reason(error)
        except OutputError:
            return None  # a disk that lost power may leave such a file; the unit is done again

    def keep(self, unit_id: str, settled: Settled, summary: UnitSummary) -> str | None:
        """Make the record of a finished unit durable, unless some of its ground failed.

        Returns:
            Why that was not possible, or None. A run goes on without.
        """
        if summary.failures:
            return None  # the next run tries it again
        place = self.store.folder.place
        try:
            with place.staging() as stage:
                (stage / "unit").write_bytes(to_bytes(settled, summary, self.about))
                place.flush(stage / "unit")
                place.put({stage / "unit": f"{self._folder}/{unit_id}{_SUFFIX}"})
        except OSError as error:
            return f"finished units cannot be kept, an interrupted run would do them again: {reason(error)}"
        return None

    @property
    def _folder(self) -> str:
        return f"{self.store.folder.units}/{self.scene_id}/{self.key}"


def take_up(
    store: UnitStore | None, job: Job, plan: ScenePlan, execution: Execution, emit: Emit
) -> tuple[SceneUnits | None, dict[str, UnitRecord]]:
    """Where the units of a scene are kept, and those that an earlier run has finished.

    Those that cannot be read are done again, after a note.

    Args:
        store: of the run's output; None where nothing is kept.
        job, plan: of the scene.
        execution: how detectors will run.
        emit: called with the events of units that are taken over.
    """
    units = None if store is None else scene_units(store, job, plan, execution)
    records, problem = ({}, None) if units is None else units.kept(plan)
    if problem is not None:
        about = f"{plan.scene.id}: units that an earlier run has finished cannot be read, and are done again"
        emit(Note(f"{about}: {problem}", important=True))
    if records:
        emit(Note(f"{plan.scene.id}: {len(records)} of {len(plan.units)} units were finished by an earlier run"))
    for _, summary in records.values():
        emit(UnitSettled(plan.scene.id, summary.tiles, summary.empty, before=True))
    return units, records


def scene_units(store: UnitStore, job: Job, plan: ScenePlan, execution: Execution) -> SceneUnits | None:
    """The units of a scene; None where no record of them is kept.

    That is where it has one unit at most, and where the weights of a detector object may have changed unnoticed.
    """
    unknown = isinstance(job.model, ObjectModel) and not job.model.card.weights_digest
    if len(plan.units) < 2 or unknown:
        return None
    scene, ran = plan.scene, asdict(replace(execution, device=kind_of(execution.device)))
    files = [[file.uri, file.band, file.version] for file in scene.ref.files]
    parts = {
        "version": __version__,
        "source": [identity(scene.ref.uri), scene.ref.image, scene.ref.version, files],
        "scene": [scene.width, scene.height, list(scene.scale), scene.dtype, list(plan.bands), plan.limits],
        "levels": [[level.scale, list(map(str, level.sizes))] for level in plan.levels],
        "units": _windows_digest(plan),
        "model": job.model.digest,
        "settings": job.config_digest,
        "execution": ran,
    }
    about = {
        "scene_id": scene.id,
        "uri": identity(scene.ref.uri),
        "source_version": scene.ref.version,
        "units": len(plan.units),
        "tiles": plan.tiles,
        "model": job.model.card.name,
        "model_digest": job.model.digest,
        "config_digest": job.config_digest,
        "execution": ran,
        "version": __version__,
    }
    return SceneUnits(store, scene.id, digest(parts)[:_DIGITS], about)


def _windows_digest(plan: ScenePlan) -> str:
    found = hashlib.sha256()
    for unit in plan.units:
        windows = [_numbers(window) for window in (unit.core, *unit.windows)]
        found.update(json.dumps([unit.id, unit.level, windows]).encode())
    return found.hexdigest()


def _numbers(window: Window) -> list[int]:
    return [window.col, window.row, window.width, window.height]


def open_store(folder: OutputFolder) -> tuple[UnitStore, str | None]:
    """The store of an output, after one look at what earlier runs have left; and what to say where that failed."""
    try:
        return UnitStore(folder, frozenset(path.split("/")[1] for path in folder.place.names(folder.units))), None
    except OSError as error:
        about = f"{folder.units}: units that earlier runs have finished cannot be listed, and are done again"
        return UnitStore(folder, frozenset()), f"{about}: {reason(error)}"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A scene of which an earlier run has finished some units.

    Attributes:
        about: what was noted of the scene, see `scene_units`.
        finished: number of units whose record is kept.
    """

    about: Mapping[str, Any]
    finished: int


def unfinished(folder: OutputFolder) -> Iterator[Unfinished]:
    """Scenes with kept records, by name; one for each way they were searched.

    Raises:
        OSError: they cannot be listed or read.
    """
    of: dict[str, list[str]] = {}
    for path in folder.place.names(folder.units):
        if path.endswith(_SUFFIX):
            of.setdefault(path.rpartition("/")[0], []).append(path)
    for parent in sorted(of):
        try:
            with folder.place.open(min(of[parent])) as file:
                about = about_of(file)
        except FileNotFoundError:
            continue  # the scene has just been committed
        if about is not None:
            yield Unfinished(about, len(of[parent]))
