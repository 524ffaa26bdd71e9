"""`train`: from labels to a model bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geosod.errors import ConfigError
from geosod.setting_errors import make_settings
from geosod.training.board import Board
from geosod.training.config import TrainConfig, make_train_config
from geosod.training.events import Emit, Event, Noted, Started
from geosod.training.fit import Fit
from geosod.training.outcome import finish, try_weights
from geosod.training.placement import (
    device_or_auto,
    loader_threads,
    torch_threads,
    training_device,
    training_precision,
)
from geosod.training.prepared import Prepared, batch_maker, left_out, prepare
from geosod.training.run_folder import RunFolder
from geosod.training.state import State


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


def train(
    labels: str | Path | None = None,
    *,
    val: str | Path | None = None,
    out: str | Path | None = None,
    config: str | Path | TrainConfig | None = None,
    on_event: Emit | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a model on labelled images, or go on with a run that was interrupted.

        result = geosod.train("train.json", val="val.json", out="runs/ships", network="S", epochs=40)
        geosod.detect("scene.tif", model=result.bundle)

    Args:
        labels: file or folder of labels, in any format that `geosod dataset` reads.
        val: labels to validate on; None holds out a share of the images.
        out: folder of the run.
        config: a YAML file of settings, or settings already made.
        on_event: called in this thread with each event of `geosod.training.events`.
        **settings: any setting of `geosod.training.config.TrainConfig`, which override `config`.

    Raises:
        UsageError: a setting, the labels or the output is unusable.
        TrainingError: training cannot go on.
    """
    given = {"labels": labels, "val": val, "out": out} | settings
    if isinstance(config, TrainConfig):
        # None among the keywords is "not given"; None in settings already made is a value.
        base = {name: getattr(config, name) for name in config.model_fields_set}
        given = {name: value for name, value in given.items() if value is not None}
        made = make_settings(TrainConfig, base, None, given)
    else:
        made = make_train_config(config, **given)
    return run_training(made, on_event=on_event)


def run_training(config: TrainConfig, *, on_event: Emit | None = None) -> TrainResult:
    """As `train`, with its settings.

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
    return (_run if config.ray_workers is None else _run_on_ray)(ready, folder, emit)


def _complete(folder: RunFolder, ready: Prepared) -> TrainResult:
    record = folder.read_record()
    steps = int(record["steps"])
    return TrainResult(folder.path, folder.model, steps, steps, dict(record["validation"]), left_out(ready))


def _run(ready: Prepared, folder: RunFolder, emit: Emit) -> TrainResult:
    config, plan = ready.config, ready.plan
    device = training_device(config.device)
    state = State.new(ready.criterion, config, device=device, precision=training_precision(config, device))
    if folder.checkpoint.is_file():
        state.load(folder.checkpoint, settings=ready.digest)
    with _logged(folder, emit) as report, torch_threads(config):
        report(Started(state.step, plan.steps))
        fit = Fit(
            state,
            plan,
            config,
            device,
            batch_maker(ready, config),
            report,
            validate=lambda state: try_weights(ready, state.weights(), folder, report).figures,
            save=lambda state: state.save(folder.checkpoint, settings=ready.digest),
            loaders=loader_threads(config, device),
            save_every=config.save_every,
        )
        if not fit.run():
            emit(Noted(f"stopped after {config.max_minutes:g} minutes; the same command goes on"))
            return TrainResult(folder.path, None, state.step, plan.steps, {}, left_out(ready))
        figures = finish(ready, state, folder, report)
    return TrainResult(folder.path, folder.model, state.step, plan.steps, figures, left_out(ready))


def _run_on_ray(ready: Prepared, folder: RunFolder, emit: Emit) -> TrainResult:
    from geosod.training.ray_train import OnRay, train_on_ray

    place = OnRay(str(folder.ray.parent.resolve()), folder.ray.name)
    with _logged(folder, emit) as report:
        state = train_on_ray(ready, place, report, address=ready.config.ray_address)
        # Workers may have GPUs where this process has none, and it is this one that validates.
        here = {"device": device_or_auto(ready.config.device)}
        ready = replace(ready, config=ready.config.model_copy(update=here))
        figures = finish(ready, state, folder, report)
    return TrainResult(folder.path, folder.model, state.step, ready.plan.steps, figures, left_out(ready))


@contextmanager
def _logged(folder: RunFolder, emit: Emit) -> Iterator[Emit]:
    """`emit` for events that also go to the logs of a run."""
    with closing(Board(folder.board)) as board:

        def report(event: Event) -> None:
            folder.record(event)
            board.record(event)
            if isinstance(event, Started) and event.step:
                emit(Noted(f"going on from step {event.step} of {event.steps}"))
            emit(event)

        yield report
