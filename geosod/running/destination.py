"""Where the outputs of a run go: into an output folder, or to the caller."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from geosod.errors import OutputError, reason
from geosod.output.commit import OutputFolder, commit_outputs, committed
from geosod.output.failures import failures_from, write_failures
from geosod.output.scene_outputs import SceneOutputs, scene_result
from geosod.output.stac_item import source_href
from geosod.results import SceneResult, recorded
from geosod.running.committed_scenes import CommittedScenes, scene_of
from geosod.running.job import Job
from geosod.running.skipping import skipped_result
from geosod.running.unit_store import SceneUnits, UnitStore, open_store, unfinished
from geosod.scene import SceneRef
from geosod.scenes.sources import failed_id, with_unique_ids


class Sink(Protocol):
    """Takes what an engine has finished."""

    @property
    def store(self) -> UnitStore | None:
        """Where finished units are kept, if they are."""
        ...

    @property
    def shared(self) -> bool:
        """Whether it can be used on every machine of a cluster."""
        ...

    def finish(self, outputs: SceneOutputs, units: SceneUnits | None) -> SceneResult:
        """Take the outputs of a scene; records of its units are needed no more."""
        ...

    def committed(self, job: Job, ref: SceneRef) -> SceneResult | None:
        """The result of a scene that another run has committed, so that it need not be done; else None.

        Raises:
            UsageError: it was committed with another model or other settings.
        """
        ...


@dataclass(frozen=True, slots=True)
class MemorySink:
    """Keeps the outputs of scenes, by identifier, for the caller."""

    outputs: dict[str, SceneOutputs] = field(default_factory=dict)

    @property
    def store(self) -> None:
        """Nothing is kept for another run."""
        return

    @property
    def shared(self) -> bool:
        """It is an object of this process."""
        return False

    def finish(self, outputs: SceneOutputs, units: SceneUnits | None) -> SceneResult:  # noqa: ARG002
        """See `Sink`."""
        self.outputs[outputs.scene.id] = outputs
        return scene_result(outputs)

    def committed(self, job: Job, ref: SceneRef) -> None:
        """See `Sink`."""


@dataclass(frozen=True, slots=True)
class HandingSink(MemorySink):
    """Hands the outputs of each scene on, and keeps none.

    Attributes:
        take: called with them, by one thread at a time.
    """

    take: Callable[[SceneOutputs], None] = field(kw_only=True)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def finish(self, outputs: SceneOutputs, units: SceneUnits | None) -> SceneResult:  # noqa: ARG002
        """See `Sink`."""
        with self.lock:
            self.take(outputs)
        return scene_result(outputs)


@dataclass(frozen=True, slots=True)
class FolderSink:
    """Commits scenes to an output folder, and keeps finished units there meanwhile. It can be pickled."""

    store: UnitStore

    @property
    def shared(self) -> bool:
        """Whether the folder is in an object store."""
        return self.store.folder.place.shared

    def finish(self, outputs: SceneOutputs, units: SceneUnits | None) -> SceneResult:
        """See `Sink`."""
        result = commit_outputs(self.store.folder, outputs)
        # The scene is committed, whatever becomes of the records.
        left_over = () if units is None else units.store.remove(units.scene_id)
        return replace(result, left_over=result.left_over + left_over) if left_over else result

    def committed(self, job: Job, ref: SceneRef) -> SceneResult | None:
        """See `Sink`."""
        item = None if job.config.overwrite else committed(self.store.folder, ref.id)
        scene = None if item is None else scene_of(self.store.folder, item)
        return None if scene is None else skipped_result(self.store, job, ref, scene)


class Destination(AbstractContextManager["Destination"], Protocol):
    """Takes the outputs of a run; a context in which the run takes place."""

    def identified(self, refs: Sequence[SceneRef], *, overwrite: bool) -> Sequence[SceneRef]:
        """The scenes under identifiers that are unique there."""
        ...

    def skipped(self, job: Job, ref: SceneRef) -> SceneResult | None:
        """The result of a scene whose outputs exist and need not be made again; else None."""
        ...

    def execution(self, model_digest: str) -> Mapping[str, Any] | None:
        """The recorded execution of a scene of the destination that was found with a model; None without one."""
        ...

    @property
    def sink(self) -> Sink:
        """What an engine hands its results to."""
        ...

    @property
    def note(self) -> str | None:
        """What to say of it before a run."""
        ...

    def record(self, result: SceneResult) -> Sequence[str]:
        """Record the failures of a scene, and remove its earlier ones.

        Returns:
            What to say of records that cannot be written or removed, each text once a run.
        """
        ...


class Memory(AbstractContextManager["Memory"]):
    """Outputs are returned to the caller, and nothing is written."""

    def __init__(self, sink: MemorySink | None = None) -> None:
        self.sink = sink or MemorySink()

    @property
    def outputs(self) -> dict[str, SceneOutputs]:
        """Those of each scene, by its identifier."""
        return self.sink.outputs

    def __exit__(self, *_: object) -> None:
        """Nothing is left to be done."""

    def identified(self, refs: Sequence[SceneRef], *, overwrite: bool) -> Sequence[SceneRef]:  # noqa: ARG002
        """See `Destination`."""
        return with_unique_ids(refs, {})

    def skipped(self, job: Job, ref: SceneRef) -> None:
        """See `Destination`."""

    def execution(self, model_digest: str) -> None:
        """See `Destination`."""

    @property
    def note(self) -> None:
        """There is nothing to say."""
        return

    def record(self, result: SceneResult) -> tuple[()]:  # noqa: ARG002
        """See `Destination`."""
        return ()


class Folder(AbstractContextManager["Folder"]):
    """Outputs are committed to an output folder, scene by scene."""

    def __init__(self, folder: OutputFolder) -> None:
        self.folder = folder
        store, self.note = open_store(folder)
        self.sink = FolderSink(store)
        self._scenes = CommittedScenes(folder)
        self._said: set[str] = set()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the folder again where the run failed before it wrote anything."""
        if kind is not None and self.folder.name is None:
            self.folder.place.remove_empty()

    def identified(self, refs: Sequence[SceneRef], *, overwrite: bool) -> Sequence[SceneRef]:
        """Scenes under the identifiers they were committed by before, or under new ones.

        Raises:
            OutputError: the output is one file, and holds another scene.
        """
        folder = self.folder
        uris = {source_href(ref.uri): ref.uri for ref in refs}
        known = self._scenes.read(() if overwrite else uris)
        if folder.name is None:
            return with_unique_ids(refs, {uris.get(source, source): name for source, name in known.items()})
        if not overwrite and any(source not in uris for source in known):
            raise OutputError(
                f"{folder.place.at(f'{folder.name}.parquet')}: holds the scene {next(iter(known))}; add --overwrite to "
                "replace it, or choose another name"
            )
        return refs

    def skipped(self, job: Job, ref: SceneRef) -> SceneResult | None:
        """The result of a scene that is committed, unless its file changed since or some of its ground failed.

        Raises:
            UsageError: it was committed with another model or other settings.
        """
        scene = None if job.config.overwrite else self._scenes.take(ref.id)
        return None if scene is None else skipped_result(self.sink.store, job, ref, scene)

    def execution(self, model_digest: str) -> Mapping[str, Any] | None:
        """See `Destination`."""
        ran = self._scenes.executions.get(model_digest)
        if ran is not None:
            return ran
        if not self.sink.store.begun:
            return None
        try:
            of_units = (one.about for one in unfinished(self.folder) if one.about.get("model_digest") == model_digest)
            about: Mapping[str, Any] = next(of_units, {})
        except OSError:
            return None  # whatever is wrong there is noted where units are taken up
        return about.get("execution")

    def total(self) -> int | None:
        """Number of detections in the whole dataset, those of other runs included; None where it cannot be read."""
        try:
            return self._scenes.total()
        except OSError:
            return None

    def left_over(self, ended: Sequence[SceneResult]) -> str | None:
        """What to say of recorded failures that are of other scenes and inputs than those of this run."""
        place, path = self.folder.place, self.folder.failures
        try:
            recorded_ids = set(failures_from(place.read(path), where=place.at(path))["scene_id"].to_pylist())
        except (OSError, OutputError) as error:
            return f"{path}: cannot be read: {reason(error)}; what earlier runs have recorded is not known"
        others = len(recorded_ids - {result.scene_id for result in ended})
        if not others:
            return None
        return (
            f"failures of {others} scene(s) or input(s) that are not in this run remain in "
            f"{path}; delete it once they are dealt with"
        )

    def record(self, result: SceneResult) -> Sequence[str]:
        """See `Destination`. A scene that was committed has recorded its failures with the commit."""
        texts = list(result.left_over)
        try:
            self._record(result)
        except OutputError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            texts.append(
                f"{self.folder.failures}: failures of this run cannot be recorded: {reason(cause)}; they are in its "
                "messages and summary only"
            )
        new = [text for text in dict.fromkeys(texts) if text not in self._said]
        self._said.update(new)
        return new

    def _record(self, result: SceneResult) -> None:
        if result.status in ("done", "partial"):
            self._scenes.add(result.scene_id, result.detections)
        lost = [failure for failure in result.failures if recorded(failure.error)]
        if result.status == "failed" and lost:
            write_failures(self.folder, lost)
        elif result.status != "failed":
            names = [failed_id(result.uri)]
            scenes = [*names, result.scene_id] if result.status == "skipped" else names
            write_failures(self.folder, (), scenes=scenes)
