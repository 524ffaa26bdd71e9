"""`detect`: the main job, from what a user names to committed scenes."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from geosod.config import RunConfig, make_config
from geosod.detectors import open_bundle
from geosod.errors import ConfigError, GeosodError, ModelError, OutputError, UsageError, redacted
from geosod.output.commit import (
    OutputFolder,
    check_dataset_crs,
    committed,
    known_sources,
    open_output,
    write_failures,
)
from geosod.output.stac_item import source_href
from geosod.results import Failure, SceneResult
from geosod.running.events import Emit, Failed, Note, SceneFinished, ScenePlanned
from geosod.running.job import Job, validate
from geosod.running.planning import ScenePlan, plan_scene
from geosod.scene import SceneRef
from geosod.scenes.sources import failed_id, find_scenes, with_unique_ids

#: Scenes whose headers are read before the engine asks for them.
PLANS_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to.

    Attributes:
        scenes: one result for each scene, in the order they ended.
        failures: everything that was lost, scenes that could not be opened included.
        out: the output folder or file.
        seconds: wall time.
    """

    scenes: tuple[SceneResult, ...]
    failures: tuple[Failure, ...]
    out: str
    seconds: float

    @property
    def detections(self) -> int:
        """Rows written by this run."""
        return sum(scene.detections for scene in self.scenes if scene.status != "skipped")

    @property
    def megapixels(self) -> float:
        """Size of the scenes this run worked on."""
        return sum(scene.megapixels for scene in self.scenes if scene.status in ("done", "partial"))

    @property
    def exit_code(self) -> int:
        """0: all done. 3: some ground or scenes failed. 2: nothing could be begun, the request is at fault."""
        if not self.failures:
            return 0
        begun = any(scene.status != "failed" for scene in self.scenes)
        at_fault = all(failure.stage in ("open", "plan") for failure in self.failures)
        return 2 if at_fault and not begun else 3


def recorded(failure: Failure) -> bool:
    """Whether a failure goes on record: not where a scene that is committed was refused to be done otherwise."""
    return failure.error != UsageError.__name__


def detect(
    scenes: str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]],
    *,
    model: str | Path,
    out: str | Path,
    config: str | Path | RunConfig | None = None,
    on_event: Emit | None = None,
    **settings: Any,
) -> Result:
    """Find the objects in scenes of any size, and write them as a map layer.

    Args:
        scenes: GeoTIFFs, VRTs or STAC items: paths, folders, globs, ``https://`` and ``s3://`` addresses, or
            mappings of bands to files; see `geosod.scenes.sources.find_scenes`.
        model: a shipped model's name or a bundle's folder.
        out: the output folder, or with one scene a name ending in ``.parquet``.
        config: a YAML file of settings, or settings already made.
        on_event: called in this thread with each `geosod.running.events.Event`.
        **settings: any setting of `RunConfig`, on top of `config`.

    Returns:
        What each scene came to; `Result.exit_code` sums it up. A scene that fails is told there and in
        ``failures.parquet``, and does not stop the others.

    Raises:
        UsageError: a setting, the model or the output place is unusable; nothing was done.
        EngineError: Ray could not be started, or every detector was lost.
    """
    started = time.monotonic()
    emit: Emit = on_event or (lambda _: None)
    listed = [scenes] if isinstance(scenes, str | Path | Mapping) else scenes
    inputs = [scene if isinstance(scene, Mapping) else str(scene) for scene in listed]
    job = _job(model, config, settings)
    c = job.config
    refs, missing = find_scenes(inputs, datetime=c.datetime, bands=c.bands, asset=c.asset)
    folder = open_output(out, scenes=len(refs) + len(missing), overwrite=job.config.overwrite)
    check_dataset_crs(folder, job.config.crs)
    ended: list[SceneResult] = []
    for failure in missing:
        _end(_failed(failure), folder, emit, ended)
    plans = _plans(job, _identified(folder, refs, job.config.overwrite), folder, emit, ended)
    # Nothing is started for a run in which no scene can be begun.
    first = next(plans, None)
    if first is not None:
        for result in _engine(job.config)(job, chain([first], plans), folder, emit):
            _end(result, folder, emit, ended)
    failures = tuple(failure for result in ended for failure in result.failures)
    return Result(tuple(ended), failures, str(out), time.monotonic() - started)


def _job(model: str | Path, config: str | Path | RunConfig | None, settings: dict[str, Any]) -> Job:
    if isinstance(config, RunConfig):
        settings = config.model_dump(exclude_unset=True) | settings
        config = None
    resolved = make_config(config, **settings)
    job = Job(open_bundle(model), resolved)
    validate(job)
    files = {f"mask {kind}": _file_digest(mask.path) for kind, mask in resolved.mask.items()}
    files |= {} if resolved.dem is None else {"dem": _file_digest(resolved.dem)}
    if resolved.aoi is None:
        return replace(job, files=files)
    from geosod.scenes.aoi import load_aoi

    aoi = load_aoi(resolved.aoi)
    files["aoi"] = hashlib.sha256(aoi.geometry.wkb + aoi.crs.encode()).hexdigest()
    return replace(job, aoi=aoi, files=files)


def _file_digest(name: str) -> str:
    """sha256 of a local file; of its name where it is remote, or differs from scene to scene.

    Raises:
        ConfigError: a local file is not there.
    """
    if "{id}" in name or "://" in name:
        return hashlib.sha256(name.partition("?")[0].encode()).hexdigest()
    found = hashlib.sha256()
    parts = [Path(name)]
    if parts[0].suffix.lower() == ".shp":
        parts += [part for end in (".dbf", ".prj", ".shx") if (part := parts[0].with_suffix(end)).exists()]
    try:
        for part in parts:
            with part.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}; check the path of the mask or DEM") from error


def _engine(config: RunConfig) -> Any:
    if config.engine == "serial":
        from geosod.running import serial

        return serial.run
    from geosod.running import ray_engine

    return ray_engine.run


def _identified(folder: OutputFolder, refs: Sequence[SceneRef], overwrite: bool) -> Sequence[SceneRef]:
    """Scenes under the identifiers they were committed by before, or under new ones of their own.

    Raises:
        OutputError: the output is one file, and holds another scene.
    """
    known = known_sources(folder)
    uris = {source_href(ref.uri): ref.uri for ref in refs}
    if folder.name is None:
        return with_unique_ids(refs, {uris.get(source, source): name for source, name in known.items()})
    if not overwrite and any(source not in uris for source in known):
        raise OutputError(
            f"{folder.item('').with_suffix('.parquet')}: holds the scene {next(iter(known))}; add --overwrite to "
            "replace it, or choose another name"
        )
    return refs


def _plans(
    job: Job, refs: Sequence[SceneRef], folder: OutputFolder, emit: Emit, ended: list[SceneResult]
) -> Iterator[ScenePlan]:
    """Plan scenes as the engine asks for them; those that need or allow no work go to `ended` at once."""
    for ref, outcome in _ahead(partial(_plan, job, folder), refs):
        if isinstance(outcome, SceneResult):
            _end(outcome, folder, emit, ended)
            continue
        plan = outcome
        if plan.warning:
            emit(Note(redacted(plan.warning), important=True))
        emit(ScenePlanned(ref.id, len(plan.units), plan.tiles, plan.scene.megapixels))
        yield plan


def _plan(job: Job, folder: OutputFolder, ref: SceneRef) -> ScenePlan | SceneResult:
    """The plan of a scene, or how it ended already."""
    try:
        return _skipped(job, ref, folder) or plan_scene(job, ref)
    except Exception as error:
        # Whatever a file makes a library raise, the other scenes go on.
        return _failed(_plan_failure(ref, error))


def _ahead(
    function: Callable[[SceneRef], ScenePlan | SceneResult], refs: Iterable[SceneRef]
) -> Iterator[tuple[SceneRef, ScenePlan | SceneResult]]:
    """Each scene and what `function` makes of it, in order, with the next ones under way in threads.

    A header that comes over a network takes a second; the engine should not stand still meanwhile.
    """
    waiting: deque[tuple[SceneRef, Future[ScenePlan | SceneResult]]] = deque()
    threads = ThreadPoolExecutor(PLANS_AHEAD, thread_name_prefix="plan")
    try:
        for ref in refs:
            waiting.append((ref, threads.submit(function, ref)))
            if len(waiting) > PLANS_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _plan_failure(ref: SceneRef, error: Exception) -> Failure:
    message = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, GeosodError):
        message = f"{ref.uri}: cannot be planned: {type(error).__name__}: {message}"
    stage = "plan" if isinstance(error, ModelError | UsageError) else "open"
    return Failure(ref.id, ref.uri, None, stage, type(error).__name__, message)


def _skipped(job: Job, ref: SceneRef, folder: OutputFolder) -> SceneResult | None:
    """The result of a scene that is already committed, unless its file changed since or some of its ground failed.

    Raises:
        UsageError: it was committed with another model or other settings.
    """
    item = None if job.config.overwrite else committed(folder, ref.id)
    p = {} if item is None else item["properties"]
    if p.get("geosod:status") != "done" or p.get("geosod:source_version") != ref.version:
        return None
    asked = job.config.model_dump(include={"device", "backend", "precision", "batch"})
    ran = p["geosod:execution"]
    same = all(value in (None, "auto", ran[name]) for name, value in asked.items())
    same = same and p["geosod:model_digest"] == job.bundle.digest and p["geosod:config_digest"] == job.config_digest
    if not same:
        raise UsageError(
            f"{ref.uri}: is already in the output as {ref.id!r}, made with model {p['geosod:model']} or settings "
            "that differ from this run's; add --overwrite to redo it, or choose another output folder"
        )
    return SceneResult(ref.id, ref.uri, "skipped", p["geosod:detections"])


def _failed(failure: Failure) -> SceneResult:
    return SceneResult(failure.scene_id, failure.uri, "failed", failures=(failure,))


def _end(result: SceneResult, folder: OutputFolder, emit: Emit, ended: list[SceneResult]) -> None:
    """Record a result. A scene that was committed has put its failures on record itself."""
    lost = [failure for failure in result.failures if recorded(failure)]
    if result.status == "failed" and lost:
        write_failures(folder, lost)
    elif result.status != "failed" and folder.failures.exists():
        names = [failed_id(result.uri)]
        write_failures(folder, (), scenes=[*names, result.scene_id] if result.status == "skipped" else names)
    for failure in result.failures:
        emit(Failed(failure))
    emit(SceneFinished(result))
    ended.append(result)
