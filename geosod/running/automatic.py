"""How a run's detectors run where the user leaves it open: as before in this dataset, or as fast as was measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from geosod.detectors.models import BundleModel
from geosod.errors import ConfigError
from geosod.machine import usable_cpus
from geosod.running.events import Emit, Note
from geosod.running.job import Job, resolve_execution
from geosod.running.planning import ScenePlan

#: Seconds of a run that are worth measuring the backends for, which takes up to a minute.
WORTHWHILE = 300.0
#: Runs of fewer tiles for each core are not tried: the trial alone takes some tenths of a second.
MIN_TILES = 100
#: Side of the image of a trial, where the network takes any.
_TRIAL_SIDE = 256


def as_before(job: Job, recorded: Mapping[str, Any] | None, emit: Emit) -> Job:
    """The job with the backend and precision of the scenes that its dataset holds, where the user leaves them open
    and does not ask for these scenes to be redone.

    Args:
        job: of the run.
        recorded: the execution of a scene of the dataset, found with the same model; None where there is none.
        emit: takes a note where this machine cannot do the same.
    """
    config = job.config
    if recorded is None or config.overwrite or "auto" not in (config.backend, config.precision):
        return job
    asked = {name: getattr(config, name) for name in ("backend", "precision")}
    same = {name: recorded[name] if value == "auto" else value for name, value in asked.items()}
    before = replace(job, config=config.model_copy(update=same))
    try:
        execution, _ = resolve_execution(before)
    except ConfigError as error:
        emit(Note(f"earlier scenes of the output ran otherwise, which is not possible here: {error}", important=True))
        return job
    return before if execution.device == recorded["device"] else job


def measure_before(job: Job, plan: ScenePlan, scenes: int, emit: Emit) -> None:
    """Measure the ways to run the model, where that was not done before and the run will take minutes.

    Detectors take the fastest way when they are loaded, see `geosod.running.job.resolve_execution`.

    Args:
        job: of the run, whose engine is in this process.
        plan: of its first scene.
        scenes: number of its scenes.
        emit: takes a note.
    """
    tiles = scenes * sum(len(unit.windows) for unit in plan.units)
    if job.config.backend != "auto" or not isinstance(job.model, BundleModel) or tiles < MIN_TILES * usable_cpus():
        return
    from geosod.detectors.measure import known, measure, possible_ways, remember
    from geosod.detectors.ways import this_machine

    execution, _ = resolve_execution(job)
    threads, precision = execution.threads, execution.precision
    if execution.device != "cpu" or known(job.model, job.tile, device="cpu", threads=threads):
        return
    ways = [way for way in possible_ways(job.model, "cpu", compiled=this_machine().amx) if way.precision == precision]
    workers = job.config.workers or max(1, usable_cpus() // threads)
    seconds = tiles * _trial(job) / workers if len(ways) > 1 else 0.0
    if seconds < WORTHWHILE:
        return
    emit(Note(f"about {seconds / 60:.0f} minutes of work: measuring first which of {len(ways)} backends is fastest"))
    batch = execution.batch
    found = measure(job.model, job.tile, device="cpu", threads=threads, batch=batch, ways=ways, rounds=2)
    if found:
        remember(job.model, job.tile, found, device="cpu", threads=threads)


def fastest(job: Job, emit: Emit) -> Job:
    """The job with the backend and precision that were measured to be the fastest here; measured now if need be.

    Args:
        job: model and settings.
        emit: takes a note before anything is measured, which takes up to a minute.

    Raises:
        ConfigError: the model has only one way to run on this device, or the settings name one.
    """
    from geosod.detectors.measure import known, measure, possible_ways, remember
    from geosod.detectors.ways import abilities_of, this_machine

    config, name = job.config, job.model.card.name
    if (config.backend, config.precision) != ("auto", "auto"):
        raise ConfigError(
            f"the fastest backend is asked for, but also backend {config.backend!r} and precision "
            f"{config.precision!r}; leave these out"
        )
    execution, _ = resolve_execution(job)
    device, threads = execution.device, execution.threads
    automatic = abilities_of(job.model).automatic
    compiled = this_machine().amx or device != "cpu"
    ways = [way for way in possible_ways(job.model, device, compiled=compiled) if way.precision in automatic]
    if not isinstance(job.model, BundleModel) or len(ways) < 2:
        only = ", ".join(f"{way.backend} {way.precision}" for way in ways) or "none"
        raise ConfigError(
            f"model {name!r}: there is nothing faster on {device}, it has one way to run here ({only}); install others "
            "(pip install 'geosod[onnx,openvino]'), or leave out use_hpip"
        )
    if not known(job.model, job.tile, device=device, threads=threads):
        emit(Note(f"measuring which of {len(ways)} backends and precisions is fastest on {device}"))
        found = measure(job.model, job.tile, device=device, threads=threads, batch=execution.batch, ways=ways, rounds=2)
        remember(job.model, job.tile, found, device=device, threads=threads)
    chosen, _ = resolve_execution(job)
    return replace(job, config=config.model_copy(update={"backend": chosen.backend, "precision": chosen.precision}))


def _trial(job: Job) -> float:
    """Roughly the seconds of one core that a tile takes, from one image."""
    from geosod.detectors.measure import noise

    execution, _ = resolve_execution(job)
    detector = job.model.load(replace(execution, batch=1), rules=job.class_rules)
    width, height = job.tile
    side = (min(width, _TRIAL_SIDE), min(height, _TRIAL_SIDE)) if detector.any_size else job.tile
    tile = noise(job.model.card, side, 1)
    detector.detect_batch(tile)
    start = time.perf_counter()
    detector.detect_batch(tile)
    return (time.perf_counter() - start) * (width * height) / (side[0] * side[1])
