"""`detect`: the main job, from what a user names to the outputs of every scene."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from geosod.array_scene import ArrayScene, array_scenes
from geosod.config import RunConfig, make_config
from geosod.detectors.find_model import find_model
from geosod.errors import ConfigError
from geosod.output.commit import open_output, unusual_name
from geosod.output.dataset_crs import check_dataset_crs
from geosod.results import Failure, SceneResult
from geosod.running.automatic import as_before, measure_before
from geosod.running.destination import Destination, Folder, HandingSink, Memory
from geosod.running.engines import Engine, check_engine, engine_name, engine_of, process_count
from geosod.running.events import Emit, Note, ScenesFound
from geosod.running.job import Job, validate
from geosod.running.plan_ahead import end, failed, plan_ahead
from geosod.running.planning import ScenePlan
from geosod.running.result import Result
from geosod.scene import SceneRef
from geosod.scenes.sources import find_scenes
from geosod.settings import Settings

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector
    from geosod.output.scene_outputs import SceneOutputs

#: One scene: a path or URL, bands by name, or pixels.
SceneInput = str | Path | Mapping[str, Any] | ArrayScene | np.ndarray[Any, Any]


def detect(
    scenes: SceneInput | Sequence[SceneInput],
    *,
    model: str | Path | Detector | None = None,
    out: str | Path | None = None,
    config: str | Path | RunConfig | None = None,
    on_event: Emit | None = None,
    **settings: Unpack[Settings],
) -> Result:
    """Find the objects in scenes of any size, and write them as a map layer or return them.

    Args:
        scenes: GeoTIFFs, VRTs or STAC items: paths, folders, globs, ``https://`` and ``s3://`` addresses, or
            mappings of bands to files, see `geosod.scenes.sources.find_scenes`; or pixels: arrays (C, H, W), or
            (H, W, C) where only that fits the model's bands, and `geosod.ArrayScene` for arrays with a georeference.
        model: a shipped model's name, a bundle's folder, a detector (which runs in this process), or
            ``module:function`` with ``trust=True``; None takes that of `config`.
        out: the output folder, or an address such as ``s3://bucket/prefix``; with one scene also a name ending in
            ``.parquet``. None takes that of `config`; where there is none, nothing is written and the result holds
            what was found, ``result["scene"].detections``.
        config: a YAML file of settings, or settings already made.
        on_event: called in this thread with each `geosod.running.events.Event`.
        **settings: any setting of `RunConfig`, which override `config`.

    Returns:
        The outcome of each scene; `Result.exit_code` summarises it. A scene that fails is reported there and in
        ``failures.parquet``, and does not stop the others.

    Raises:
        UsageError: a setting, the model or the output is unusable; nothing was started.
        EngineError: Ray could not be started, or every detector was lost.
    """
    named, pixels = _inputs(scenes)
    job = make_job(model, configured(config, out=None if out is None else str(out), **settings))
    return _run(job, named, pixels, partial(_destination, job.config.out, job=job), on_event)


def detect_each(
    scenes: SceneInput | Sequence[SceneInput],
    take: Callable[[SceneOutputs], None],
    *,
    job: Job,
    on_event: Emit | None = None,
) -> Result:
    """As `detect`, but the outputs of each scene are handed on when it is done, and not kept: memory holds a few.

    Args:
        scenes: as for `detect`.
        take: called with the outputs of each scene, in the order in which they are done, by one thread at a time.
        job: model and settings, from `make_job`; without an output.
        on_event: called in this thread with each event.

    Raises:
        UsageError: a setting is unusable; nothing was started.
        EngineError: every detector was lost.
    """
    named, pixels = _inputs(scenes)
    return _run(job, named, pixels, lambda _: Memory(HandingSink(take=take)), on_event)


def _run(
    job: Job,
    named: list[str | Mapping[str, Any]],
    pixels: list[Any],
    destination: Callable[[int], Destination],
    on_event: Emit | None,
) -> Result:
    """Detect in scenes by name and in those that are pixels.

    Args:
        job: model and settings.
        named: scenes.
        pixels: scenes.
        destination: called with the number of scenes.
        on_event: called in this thread with each event.
    """
    started = time.monotonic()
    emit: Emit = on_event or (lambda _: None)
    for note in job.model.notes:
        emit(Note(note, important=True))
    c, out = job.config, job.config.out
    in_process = out is None or bool(pixels)
    check_engine(job, in_process=in_process)
    with array_scenes(pixels, bands=None if c.bands else len(job.model.card.bands), datetime=c.datetime) as arrays:
        refs: list[SceneRef] = list(arrays)
        missing: Sequence[Failure] = ()
        if named or not arrays:
            found, missing = find_scenes(named, datetime=c.datetime, bands=c.bands, asset=c.asset)
            refs += found
        # Choosing the engine may import torch, which would keep those waiting whose only scene is misspelt.
        if refs and engine_name(job, in_process=in_process) == "ray":
            from geosod.running.ray_engine import metered

            emit = metered(emit)
        place = destination(len(refs) + len(missing))
        if isinstance(place, Folder) and (about := unusual_name(place.folder)):
            emit(Note(about, important=True))
        with place:
            ended = detect_scenes(job, refs, place, emit, missing=missing, in_process=in_process)
    if isinstance(place, Folder) and (about := place.left_over(ended)):
        emit(Note(about, important=True))
    failures = tuple(failure for result in ended for failure in result.failures)
    outputs = place.outputs if isinstance(place, Memory) else {}
    total = place.total() if isinstance(place, Folder) else None
    return Result(tuple(ended), failures, out, time.monotonic() - started, total, outputs)


def detect_scenes(
    job: Job,
    refs: Sequence[SceneRef],
    place: Destination,
    emit: Emit,
    *,
    missing: Sequence[Failure] = (),
    in_process: bool = False,
) -> list[SceneResult]:
    """Take scenes through the engine to a destination that is open.

    Args:
        job: what they share.
        refs: the scenes.
        place: where their outputs go.
        emit: called with each event.
        missing: failures of inputs that name no scene.
        in_process: whether detectors must run in this process.

    Returns:
        How each scene ended, in the order they ended.

    Raises:
        EngineError: the engine could not be started, or every detector was lost.
    """
    ended: list[SceneResult] = []
    if place.note is not None:
        emit(Note(place.note, important=True))
    named = place.identified(refs, overwrite=job.config.overwrite)
    if named:  # like choosing the engine, it may import torch
        job = as_before(job, place.execution(job.model.digest), emit)
    emit(ScenesFound(len(refs) + len(missing)))
    for failure in missing:
        end(failed(failure), place, emit, ended)
    with closing(plan_ahead(job, named, place, emit, ended)) as plans:
        # No engine is started where no scene can be processed.
        first = next(plans, None)
        if first is not None:
            run_engine = _engine(job, first, len(refs), emit, in_process=in_process)
            for result in run_engine(job, chain([first], plans), place.sink, emit):
                end(result, place, emit, ended)
    return ended


def _engine(job: Job, first: ScenePlan, scenes: int, emit: Emit, *, in_process: bool) -> Engine:
    processes = process_count(job, first, scenes, in_process=in_process)
    if processes > 1:
        from geosod.running import process_engine

        return partial(process_engine.run, processes=processes, scenes=scenes)
    if engine_name(job, in_process=in_process) != "ray":
        measure_before(job, first, scenes, emit)
    return engine_of(job, in_process=in_process)


def _inputs(scenes: Any) -> tuple[list[str | Mapping[str, Any]], list[Any]]:
    """Scenes by name, and scenes that are pixels: arrays of numpy and whatever can become one.

    Raises:
        ConfigError: a scene is something else.
    """
    single = isinstance(scenes, str | Path | Mapping | ArrayScene) or hasattr(scenes, "__array__")
    named: list[str | Mapping[str, Any]] = []
    pixels: list[Any] = []
    for scene in [scenes] if single or not isinstance(scenes, Iterable) else scenes:
        if isinstance(scene, ArrayScene) or hasattr(scene, "__array__"):
            pixels.append(scene)
        elif isinstance(scene, str | Path | Mapping):
            named.append(scene if isinstance(scene, Mapping) else str(scene))
        else:
            raise ConfigError(
                f"a scene is a {type(scene).__name__}; pass paths, addresses, mappings of bands to files, or arrays"
            )
    return named, pixels


def configured(config: str | Path | RunConfig | None = None, **settings: Any) -> RunConfig:
    """Settings from a YAML file, or settings already made, with keywords that are not None on top.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    if isinstance(config, RunConfig):
        given = {name: value for name, value in settings.items() if value is not None}
        return make_config(**(config.model_dump(exclude_unset=True) | given))
    return make_config(config, **settings)


def make_job(
    model: str | Path | Detector | None = None,
    config: str | Path | RunConfig | None = None,
    **settings: Unpack[Settings],
) -> Job:
    """What the scenes of a run share, from what a user names.

    Raises:
        UsageError: a setting, a file that it names, or the model is unusable.
    """
    resolved = configured(config, **settings)
    chosen = resolved.model if model is None else model
    if chosen is None:
        raise ConfigError("no model is given: add --model NAME (model=), or `model: NAME` to the configuration")
    found = find_model(chosen, classifier=resolved.classifier, views=resolved.views, trust=resolved.trust)
    job = Job(found, resolved)
    validate(job)
    files = {f"mask {kind}": _file_digest(mask.path) for kind, mask in resolved.mask.items()}
    files |= {} if resolved.dem is None else {"dem": _file_digest(resolved.dem)}
    if resolved.aoi is None:
        return replace(job, files=files)
    from geosod.scenes.aoi import load_aoi, split_layer

    aoi = load_aoi(*split_layer(str(resolved.aoi)))
    files["aoi"] = hashlib.sha256(aoi.geometry.wkb + aoi.crs.encode()).hexdigest()
    return replace(job, aoi=aoi, files=files)


def _file_digest(name: str) -> str:
    """sha256 of a local file; of its name where it is remote, or differs from scene to scene.

    Raises:
        ConfigError: a local file is missing.
    """
    from geosod.scenes.aoi import split_layer

    if "{id}" in name or "://" in name:
        return hashlib.sha256(name.partition("?")[0].encode()).hexdigest()
    file, layer = split_layer(name)
    found = hashlib.sha256((layer or "").encode())
    parts = [Path(file)]
    if parts[0].is_dir():
        parts = sorted(part for part in parts[0].rglob("*") if part.is_file())
    elif parts[0].suffix.lower() == ".shp":
        parts += [part for end in (".dbf", ".prj", ".shx") if (part := parts[0].with_suffix(end)).exists()]
    try:
        for part in parts:
            with part.open("rb") as content:
                found.update(hashlib.file_digest(content, "sha256").digest())
        return found.hexdigest()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}; check the path of the mask or DEM") from error


def _destination(out: str | Path | None, scenes: int, *, job: Job) -> Destination:
    if out is None:
        return Memory()
    folder = open_output(out, scenes=scenes, overwrite=job.config.overwrite)
    check_dataset_crs(folder, job.config.crs)
    return Folder(folder)
