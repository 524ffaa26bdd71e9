"""Where the outputs of a run go: into an output folder, or to the caller."""

from __future__ import annotations

import json
import reprlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from geosod.errors import OutputError, UsageError
from geosod.output.commit import (
    OutputFolder,
    asset_paths,
    commit_outputs,
    committed,
    known_sources,
    read_items,
    write_failures,
)
from geosod.output.failures import failures_from
from geosod.output.scene_outputs import SceneOutputs, scene_result
from geosod.output.stac_item import source_href
from geosod.results import SceneResult, recorded
from geosod.running.job import EXECUTION, Job
from geosod.running.unit_store import SceneUnits, UnitStore, open_store, unfinished
from geosod.scene import SceneRef
from geosod.scenes.sources import failed_id, with_unique_ids

#: Settings that are files → what they are called.
_FILES = {"aoi": "area of interest", "dem": "heights", "mask": "masks"}


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
        if units is not None:
            units.store.remove(units.scene_id)
        return result


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

    def record(self, result: SceneResult) -> None:
        """Record the failures of a scene, and remove its earlier ones."""
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

    def record(self, result: SceneResult) -> None:
        """See `Destination`."""


class Folder(AbstractContextManager["Folder"]):
    """Outputs are committed to an output folder, scene by scene."""

    def __init__(self, folder: OutputFolder) -> None:
        self.folder = folder
        self.sink = FolderSink(open_store(folder))

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
        known = known_sources(folder)
        uris = {source_href(ref.uri): ref.uri for ref in refs}
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
        item = None if job.config.overwrite else committed(self.folder, ref.id)
        p = {} if item is None else item["properties"]
        if p.get("geosod:status") != "done" or p.get("geosod:source_version") != ref.version:
            return None
        assert item is not None
        changed = self._differences(job, item)
        if changed:
            raise UsageError(
                f"{ref.uri}: is already in the output as {ref.id!r}, with other settings: {', '.join(changed)}; add "
                "--overwrite to redo it, or choose another output folder"
            )
        if ref.id in self.sink.store.begun:
            self.sink.store.remove(ref.id)  # a run was killed between the commit and this
        return SceneResult(ref.id, ref.uri, "skipped", p["geosod:detections"])

    def execution(self, model_digest: str) -> Mapping[str, Any] | None:
        """See `Destination`."""
        for item in read_items(self.folder):
            p = item["properties"]
            if p.get("geosod:model_digest") == model_digest:
                recorded: Mapping[str, Any] = p["geosod:execution"]
                return recorded
        of_units = (one.about for one in unfinished(self.folder) if one.about["model_digest"] == model_digest)
        about: Mapping[str, Any] = next(of_units, {})
        return about.get("execution")

    def total(self) -> int:
        """Number of detections in the whole dataset, those of earlier runs included."""
        return sum(int(item["properties"]["geosod:detections"]) for item in read_items(self.folder))

    def left_over(self, ended: Sequence[SceneResult]) -> str | None:
        """What to say of recorded failures that are of other scenes and inputs than those of this run."""
        place, path = self.folder.place, self.folder.failures
        recorded_ids = set(failures_from(place.read(path), where=place.at(path))["scene_id"].to_pylist())
        others = len(recorded_ids - {result.scene_id for result in ended})
        if not others:
            return None
        return (
            f"failures of {others} scene(s) or input(s) that are not in this run remain in "
            f"{path}; delete it once they are dealt with"
        )

    def _differences(self, job: Job, item: Mapping[str, Any]) -> list[str]:
        """What of model and settings differs from those of a committed scene, a few words each."""
        p, ran = item["properties"], item["properties"]["geosod:execution"]
        asked = job.config.model_dump(include=set(EXECUTION))
        found = [f"{n} {ran[n]!r}, now {v!r}" for n, v in asked.items() if v not in (None, "auto", ran[n])]
        if p["geosod:model_digest"] != job.model.digest:
            name = job.model.card.name
            found.append(f"model {p['geosod:model']!r}, now {name if name != p['geosod:model'] else 'changed'!r}")
        if p["geosod:config_digest"] == job.config_digest:
            return found
        path = asset_paths(self.folder, item)[0]
        before, now = (self.folder.metadata(path) or {}).get("options", {}), json.loads(json.dumps(job.options()))
        names = [n for n in sorted({*before, *now}) if before.get(n) != now.get(n)]
        return found + [_difference(n, before.get(n), now.get(n)) for n in names] or [*found, "settings"]

    def record(self, result: SceneResult) -> None:
        """See `Destination`. A scene that was committed has recorded its failures with the commit."""
        lost = [failure for failure in result.failures if recorded(failure.error)]
        if result.status == "failed" and lost:
            write_failures(self.folder, lost)
        elif result.status != "failed" and self.folder.place.exists(self.folder.failures):
            names = [failed_id(result.uri)]
            scenes = [*names, result.scene_id] if result.status == "skipped" else names
            write_failures(self.folder, (), scenes=scenes)


def _difference(name: str, before: Any, now: Any) -> str:
    """How a setting differs, in a few words; files are recorded by their content."""
    if name in _FILES:
        words = ("none before" if not before else "none now") if not (before and now) else "another"
        return f"{_FILES[name]} ({words})"
    return f"{name} {reprlib.repr(before)}, now {reprlib.repr(now)}"
