"""Training with Ray Train: workers that share each batch, checkpoints in a place all of them reach, lost workers
replaced."""

from __future__ import annotations

import glob
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    Result,
    ScalingConfig,
    get_checkpoint,
    get_context,
    report,
)
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from geosod.detectors.bundle import shipped_models
from geosod.detectors.packing.huggingface import is_model_folder
from geosod.device import kind_of
from geosod.errors import ConfigError, TrainingError, one_line
from geosod.machine import usable_cpus
from geosod.running.ray_engine.session import session
from geosod.training.config import TrainConfig
from geosod.training.criterion import distributed_normaliser
from geosod.training.events import Emit, Event, Started, Stepped
from geosod.training.fit import Fit
from geosod.training.initialise import IMAGENET
from geosod.training.placement import loader_threads, training_device, training_precision
from geosod.training.prepared import Prepared, batch_maker, prepare
from geosod.training.state import State

#: File of a checkpoint in its folder.
_STATE = "checkpoint.pt"
#: Workers that are lost are replaced so many times in a run.
MAX_FAILURES = 8
#: Steps between checkpoints unless the settings say: workers must agree on them, and clocks do not.
SAVE_EVERY = 100
#: Checkpoints that are kept: one, and another in case that the last was not written to its end.
_KEPT = 2
_POLL_SECONDS = 0.5
#: Of a Ray that is started here; batches do not pass through it.
_STORE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class OnRay:
    """Where Ray Train keeps a run.

    Attributes:
        folder: reachable by every worker: a folder of this machine, a shared one, or an address such as ``s3://…``.
        name: of the run in it; one of the same name goes on from its last checkpoint.
    """

    folder: str
    name: str


def train_on_ray(ready: Prepared, place: OnRay, emit: Emit, *, address: str | None = None) -> State:
    """Train on `config.ray_workers` workers; the state after the last step, on this process's CPU.

    Each worker makes its share of every batch, and gradients are those of the whole batch: sums of losses are divided
    by the examples of all workers. Batch normalisation has statistics of each worker's share; networks with frozen or
    group normalisation give what one worker does, up to rounding.

    Args:
        ready: what is trained.
        place: for checkpoints.
        emit: called with events.
        address: of a cluster; None takes a connection that is open, RAY_ADDRESS, or starts Ray here.

    Raises:
        ConfigError: a setting has no meaning with several workers.
        TrainingError: training failed, or lost workers more often than is bearable.
    """
    config = ready.config
    if config.max_minutes is not None:
        raise ConfigError("max-minutes with ray-workers: workers have clocks of their own; give --steps")
    workers = config.ray_workers or 1
    if config.batch < workers:
        raise ConfigError(f"batch {config.batch} is less than {workers} workers; each needs an image")
    with session(address, _STORE_BYTES):
        events = _Events.options(num_cpus=0).remote()  # type: ignore[attr-defined]
        values = settings_for_workers(config)
        trainer = TorchTrainer(
            _work,
            train_loop_config={"config": values, "digest": ready.digest, "events": events},
            torch_config=TorchConfig(backend="nccl" if _on_gpus(config) else "gloo"),
            scaling_config=_scaling(config, workers),
            run_config=run_config(place),
        )
        result = _fitted(trainer, events, emit)
    return last_state(result, ready)


def run_config(place: OnRay) -> RayRunConfig:
    """Where Ray Train keeps a run, how much of it, and how many lost workers it bears."""
    return RayRunConfig(
        name=place.name,
        storage_path=place.folder,
        failure_config=FailureConfig(max_failures=MAX_FAILURES),
        checkpoint_config=CheckpointConfig(num_to_keep=_KEPT),
    )


def settings_for_workers(config: TrainConfig) -> dict[str, Any]:
    """The settings that were given, with absolute paths, since Ray changes workers to a folder of its own."""
    values = config.model_dump(mode="json", exclude_unset=True)
    for name in ("labels", "val", "images", "init", "network"):
        # A name means the same everywhere, also where a file here is called so.
        if values.get(name) is not None and not _is_name(name, values[name]):
            values[name] = _absolute(values[name])
    if "scenes" in values:
        values["scenes"] = [_absolute(scene) for scene in values["scenes"]]
    return values


def _is_name(setting: str, value: str) -> bool:
    if setting == "init":
        return value in (IMAGENET, *shipped_models())
    return setting == "network" and not is_model_folder(Path(value).expanduser())


def _absolute(text: str) -> str:
    """The absolute path of what exists here, or of a pattern that finds something; other texts as they are."""
    path = Path(text).expanduser()
    found = path.exists() or glob.glob(str(path), recursive=True)  # noqa: PTH207
    return str(path.absolute()) if found else text


def _on_gpus(config: TrainConfig) -> bool:
    return kind_of(config.device) == "cuda" or (config.device == "auto" and torch.cuda.is_available())


def _scaling(config: TrainConfig, workers: int) -> ScalingConfig:
    if _on_gpus(config):
        return ScalingConfig(num_workers=workers, use_gpu=True)
    cpus = config.threads or max(1, int(ray.cluster_resources().get("CPU", 1) * 0.9) // workers)
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": cpus})


@ray.remote
class _Events:
    """Events of the workers, until the driver asks for them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        """Add one."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """All that were added since the last time."""
        taken, self._events = self._events, []
        return taken


def _fitted(trainer: TorchTrainer, events: Any, emit: Emit) -> Result:
    """The result of a trainer, whose events are handed on while it runs."""
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        time.sleep(_POLL_SECONDS)
        for event in ray.get(events.take.remote()):
            emit(event)
    for event in ray.get(events.take.remote()):
        emit(event)
    if "error" in outcome:
        raise TrainingError(f"training on Ray failed: {one_line(outcome['error'])[:600]}") from outcome["error"]
    result: Result = outcome["result"]
    return result


def last_state(result: Result, ready: Prepared) -> State:
    """The state in the last checkpoint of a run, on the CPU; it says on what the workers trained.

    Raises:
        TrainingError: there is no checkpoint.
    """
    if result.checkpoint is None or result.metrics is None:
        raise TrainingError("training on Ray ended without a checkpoint; look at its logs")
    state = State.new(ready.criterion, ready.config, device=torch.device("cpu"), precision="fp32")
    with result.checkpoint.as_directory() as folder:
        state.load(Path(folder) / _STATE, settings=ready.digest)
    state.precision, state.trained_on = result.metrics["precision"], result.metrics["device"]
    return state


def _work(given: dict[str, Any]) -> None:
    """What each worker does."""
    config = TrainConfig(**given["config"])
    ready = prepare(config)
    context = get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = training_device(config.device) if not _on_gpus(config) else get_device()
    if device.type == "cpu":
        torch.set_num_threads(config.threads or max(1, usable_cpus() // workers))
    state = State.new(ready.criterion, config, device=device, precision=training_precision(config, device))
    checkpoint = get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state.load(Path(folder) / _STATE, settings=given["digest"])
    state.criterion.normaliser = distributed_normaliser
    module = torch.nn.parallel.DistributedDataParallel(state.criterion, find_unused_parameters=True)
    plan = ready.plan

    def tell(event: Event) -> None:
        if rank == 0:
            whole = replace(event, images=event.step * config.batch) if isinstance(event, Stepped) else event
            given["events"].put.remote(whole)

    tell(Started(state.step, plan.steps))

    def save(state: State) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if rank == 0:
                state.save(Path(folder) / _STATE, settings=given["digest"])
            metrics = {"step": state.step, "precision": state.precision, "device": state.trained_on}
            report(metrics, checkpoint=Checkpoint.from_directory(folder) if rank == 0 else None)

    Fit(
        state,
        plan,
        config,
        device,
        batch_maker(ready, config, rank=rank, workers=workers),
        tell,
        save=save,
        save_every=config.save_every or SAVE_EVERY,
        module=module,
        loaders=loader_threads(config, device, workers=context.get_local_world_size()),
    ).run()
