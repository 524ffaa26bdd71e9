"""`train`: from labels to a model bundle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geosod.config import digest
from geosod.datasets.labels import Labels
from geosod.detectors.card import ModelCard
from geosod.errors import ConfigError
from geosod.machine import usable_cpus
from geosod.training.augment import Augmentation
from geosod.training.batches import BatchMaker
from geosod.training.config import TrainConfig
from geosod.training.criteria import criterion_of
from geosod.training.data import RunLabels, read_run_labels
from geosod.training.donors import object_donor
from geosod.training.events import Emit, Event, Noted
from geosod.training.fit import Fit, Plan
from geosod.training.networks import new_network
from geosod.training.new_card import first_card
from geosod.training.outcome import finish
from geosod.training.pixels import PixelReader
from geosod.training.placement import training_device, training_precision
from geosod.training.pyramid import PyramidSampler
from geosod.training.run_folder import RunFolder
from geosod.training.samples import Sample, Sampler, SliceSampler
from geosod.training.state import State
from geosod.training.training_set import TrainingSet, open_set
from geosod.training.validate import validate
from geosod.version import __version__

#: Validations in the course of a run whose settings do not say.
_VALIDATIONS = 5


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run came to.

    Attributes:
        folder: of the run.
        bundle: folder of the model; None where the run was stopped before its end.
        step, steps: number of steps that are done, and of all.
        figures: of the last validation.
        left_out: labels and images that could not be used.
    """

    folder: Path
    bundle: Path | None
    step: int
    steps: int
    figures: dict[str, float]
    left_out: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 where all is done; 3 where the run is not complete, or something was left out."""
        return 3 if self.bundle is None or self.left_out else 0


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that training needs.

    Attributes:
        config: the settings.
        labels: read.
        data: images to train on.
        card: of the model to be.
        criterion: with the network, started from the weights that were asked for.
        digest: of settings and labels.
        notes: what a user should know.
    """

    config: TrainConfig
    labels: RunLabels
    data: TrainingSet
    card: ModelCard
    criterion: torch.nn.Module
    digest: str
    notes: tuple[str, ...]

    @property
    def plan(self) -> Plan:
        """How long the run is."""
        return plan_of(self.data, self.config)


def prepare(config: TrainConfig) -> Prepared:
    """Read labels, open images, and make the network.

    Raises:
        UsageError: a setting, the labels, the images or the initial weights are unusable.
    """
    labels = read_run_labels(config)
    torch.manual_seed(config.seed)
    made = new_network(labels.train, config, lambda **spec: first_card(labels.train, config, **spec))
    data = open_set(labels.train, made.card, config, labels.problems)
    if not len(data.objects):
        raise ConfigError("the labels hold no object to learn; check them with geosod dataset check")
    criterion = criterion_of(made.network, **config.loss)
    settings = digest({"settings": config.options(), "labels": labels.digest, "version": __version__})
    return Prepared(config, labels, data, made.card, criterion, settings, (*labels.notes, *made.notes))


def train(config: TrainConfig, *, on_event: Emit | None = None) -> TrainResult:
    """Train a model, or go on with a run that was interrupted.

    Args:
        config: the settings; `out` is the folder of the run.
        on_event: called in this thread with each event.

    Raises:
        UsageError: a setting, the labels or the output is unusable.
        TrainingError: training cannot go on.
    """
    emit: Emit = on_event or (lambda _: None)
    if config.out is None:
        raise ConfigError("no output is given: add --out FOLDER, or `out: FOLDER` to the configuration")
    folder = RunFolder(Path(config.out).expanduser())
    ready = prepare(config)
    for note in ready.notes:
        emit(Noted(note))
    folder.begin(config.options(), ready.digest, overwrite=config.overwrite)
    if folder.finished:
        emit(Noted(f"{folder.path}: the run is complete; nothing is left to do"))
        return _complete(folder, ready)
    return _run(ready, folder, emit)


def _complete(folder: RunFolder, ready: Prepared) -> TrainResult:
    record = folder.read_record()
    steps = int(record["steps"])
    return TrainResult(folder.path, folder.model, steps, steps, dict(record["validation"]), left_out(ready))


def _run(ready: Prepared, folder: RunFolder, emit: Emit) -> TrainResult:
    config, plan = ready.config, ready.plan
    device = training_device(config.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or usable_cpus())
    try:
        state = State.new(ready.criterion, config, device=device, precision=training_precision(config, device))
        if folder.checkpoint.is_file():
            state.load(folder.checkpoint, settings=ready.digest)
            emit(Noted(f"going on from step {state.step} of {plan.steps}"))
        folder.keep_log_before(state.step)

        def report(event: Event) -> None:
            folder.record(event)
            emit(event)

        fit = Fit(
            state,
            plan,
            config,
            device,
            batch_maker(ready, config),
            report,
            validate=lambda state: _validated(ready, state, folder),
            save=lambda state: state.save(folder.checkpoint, settings=ready.digest),
            loaders=_loaders(config, device),
        )
        if not fit.run():
            emit(Noted(f"stopped after {config.max_minutes:g} minutes; the same command goes on"))
            return TrainResult(folder.path, None, state.step, plan.steps, {}, left_out(ready))
        figures = finish(ready.card, state, ready.labels, config, folder, report, detecting=detecting(config))
    finally:
        torch.set_num_threads(threads)
    return TrainResult(folder.path, folder.model, state.step, plan.steps, figures, left_out(ready))


def _validated(ready: Prepared, state: State, folder: RunFolder) -> dict[str, float]:
    result = validate(
        ready.card, state.weights(), ready.labels.val, folder.path / ".validation", **detecting(ready.config)
    )
    return result.figures


def detecting(config: TrainConfig) -> dict[str, Any]:
    """Settings with which the model is run in a validation."""
    return {"bands": config.bands, "alpha": config.alpha, "device": config.device, "engine": "local"}


def left_out(ready: Prepared) -> tuple[str, ...]:
    """Labels and images that could not be used, in words."""
    problems = ready.labels.problems
    more = problems.count - len(problems.found)
    return (*map(str, problems.found), *((f"{more:,} more",) if more else ()))


def batch_maker(ready: Prepared, config: TrainConfig, *, rank: int = 0, workers: int = 1) -> BatchMaker:
    """What makes the batches of a run, or a worker's share of each."""
    reader = PixelReader(ready.data, cache_mb=config.cache_mb)
    sampler = sampler_of(ready.data, config)
    donor = object_donor(ready.data, reader, config) if config.copy_paste else None
    augmentation = Augmentation.of(config, donor=donor, fill=ready.card.input.fill)
    skip = config.on_error == "skip"
    choose: Callable[[int], list[Sample]] = lambda step: sampler.batch(step)[rank::workers]  # noqa: E731
    return BatchMaker(ready.data, reader, choose, augmentation, min_visible=config.min_visible, skip=skip)


def sampler_of(data: TrainingSet, config: TrainConfig) -> Sampler:
    """What chooses the samples."""
    return SliceSampler(data, config) if config.levels is None else PyramidSampler(data, config)


def plan_of(data: TrainingSet, config: TrainConfig) -> Plan:
    """The number of steps: of an epoch, as many slices as cover all images once, and of the run."""
    tiles = tiles_of(data.labels, config.tile)
    epoch = max(1.0, tiles / config.batch)
    steps = config.steps or max(1, round(config.epochs * epoch))
    return Plan(steps, epoch, config.validate_every or max(1, math.ceil(steps / (_VALIDATIONS + 1))))


def tiles_of(labels: Labels, tile: tuple[int, int]) -> int:
    """Number of tiles without overlap that cover all images."""
    return sum(math.ceil(image.width / tile[0]) * math.ceil(image.height / tile[1]) for image in labels.images)


def _loaders(config: TrainConfig, device: torch.device) -> int:
    if config.loaders is not None:
        return config.loaders
    return 1 if device.type == "cpu" else max(1, min(8, usable_cpus() - 1))
