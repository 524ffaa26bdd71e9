"""`create_pipeline`: a detector by name or YAML file, called as PaddleX's pipelines are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosod.errors import ConfigError, GeosodError, SceneError, UsageError
from geosod.machine import keep_freed_memory
from geosod.output.scene_outputs import SceneOutputs
from geosod.predict.configuration import PipelineConfig, checked_threshold, pipeline_config
from geosod.predict.inputs import Color, Image, check_input, images
from geosod.predict.result import DetectionResult, Found
from geosod.predict.saving import Names
from geosod.results import Failure
from geosod.running.assemble import failed_result
from geosod.running.automatic import fastest, measure_before
from geosod.running.destination import MemorySink
from geosod.running.detect import configured, make_job
from geosod.running.engines import check_engine, engine_of
from geosod.running.events import Emit, Failed
from geosod.running.job import Job, load_fitting
from geosod.running.plan_ahead import announced, plan_failure
from geosod.running.planning import ScenePlan, plan_scene
from geosod.scene import SceneRef
from geosod.storage.uris import is_remote

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector

#: Images of more tiles are detected by the engine of large scenes, with a detector on every core.
MAX_TILES = 16
#: Settings of a run that pipelines do not have.
_NOT_HERE = {"model": "pipeline", "out": "save_to_json and others of the results", "overwrite": "another save_path"}
#: Failures that the message of an error lists.
_MAX_LISTED = 10


def create_pipeline(
    pipeline: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    device: str | None = None,
    use_hpip: bool = False,
    **settings: Any,
) -> Pipeline:
    """Make a pipeline, as PaddleX's function of the same name does.

        pipeline = geosod.create_pipeline(pipeline="small_object_detection")
        for res in pipeline.predict(input="harbour.jpg", threshold=0.5):
            res.print()
            res.save_to_img(save_path="./output/")
            res.save_to_json(save_path="./output/")

    Args:
        pipeline: ``small_object_detection``, the name of a shipped model, the path of a pipeline's YAML file, a
            bundle's folder, or a model file.
        config: the content of such a YAML file; it wins over `pipeline`, and then the names must agree.
        device: ``cpu``, ``gpu:0`` and others, see docs/models.md; None takes a GPU where there is one.
        use_hpip: run with the backend and precision that were measured to be the fastest on this machine; they are
            measured at the first call.
        **settings: any setting of `geosod.RunConfig`, such as ``bands`` or ``tile_gsd``.

    Raises:
        UsageError: there is no such pipeline, model or device, or a setting is unusable.
    """
    chosen = pipeline_config(pipeline, config)
    for name in _NOT_HERE.keys() & settings.keys():
        raise ConfigError(f"{name} is no setting of a pipeline; use {_NOT_HERE[name]}")
    given = {"threshold": chosen.threshold, "batch": chosen.batch_size, "device": device}
    given |= {name: value for name, value in settings.items() if value is not None}
    job = make_job(chosen.model, None, **given)  # type: ignore[arg-type]
    check_engine(job, in_process=True)
    return Pipeline(chosen, job, use_hpip=bool(use_hpip))


class Pipeline:
    """A detector that takes images of any kind and size, and returns their results one after the other.

    Attributes:
        config: what it was made from.
        job: its model and settings.
    """

    def __init__(self, config: PipelineConfig, job: Job, *, use_hpip: bool) -> None:
        self.config, self.job = config, job
        self._use_hpip = use_hpip
        self._fastest: dict[str, Job] = {}
        self._detectors: dict[str, Detector] = {}
        if use_hpip:
            # Refused now rather than at the first image.
            self._prepared(job, _silent)

    def predict(
        self,
        input: Any,
        device: str | None = None,
        threshold: float | Mapping[int, float] | Mapping[str, float] | None = None,
        *,
        color: Color = "bgr",
        on_event: Emit | None = None,
    ) -> Iterator[DetectionResult]:
        """Detect objects in images, each when its result is asked for.

        Args:
            input: a path, an ``https://`` or ``s3://`` address, a folder, a glob, a numpy array (H, W, bands), a
                `geosod.ArrayScene`, whose bands are in the model's order, or a list of these. GeoTIFFs may have any
                size. Of a file of several images each is a result of its own.
            device: as in `create_pipeline`; None takes that of the pipeline.
            threshold: minimum score; or those of classes by id or name, where others keep the pipeline's; None takes
                the pipeline's.
            color: order of the colours in arrays of three bands: ``bgr`` as in PaddleX and OpenCV, or ``rgb``.
            on_event: called with each `geosod.running.events.Event`.

        Returns:
            A generator of results in the order of the inputs. An image that fails does not stop the others: the
            generator raises the error after the last result.

        Raises:
            UsageError: an argument is unusable, or no image could be opened.
            SceneError: some images, or parts of them, could not be read or processed.
        """
        check_input(input)
        if color not in ("bgr", "rgb"):
            raise ConfigError(f"color {color!r}: use 'bgr' or 'rgb'")
        emit = on_event or _silent
        job = self._prepared(self._with(device, threshold), emit)
        names = Names()
        return self._results(images(input, job, color=color, written=names.written), names, emit)

    def _with(self, device: str | None, threshold: Any) -> Job:
        """The job with the arguments of a call."""
        changed: dict[str, Any] = {}
        if threshold is not None:
            given: Any = checked_threshold(threshold, "threshold")
            rules = self.job.model.rules.changed(threshold=self.job.config.threshold).changed(threshold=given)
            changed["threshold"] = dict(zip(rules.model_names, rules.thresholds, strict=True))
        if device is not None:
            changed["device"] = device
        if not changed:
            return self.job
        job = replace(self.job, config=configured(self.job.config, **changed))
        if device is not None:
            check_engine(job, in_process=True)
        return job

    def _prepared(self, job: Job, emit: Emit) -> Job:
        """The job with the fastest backend, where that is wanted."""
        if not self._use_hpip:
            return job
        device = job.config.device
        if device not in self._fastest:
            self._fastest[device] = fastest(job, emit)
        found = self._fastest[device].config
        return replace(
            job, config=job.config.model_copy(update={"backend": found.backend, "precision": found.precision})
        )

    def _results(self, given: Iterator[Image | Failure], names: Names, emit: Emit) -> Iterator[DetectionResult]:
        failures, number = list[Failure](), 0
        only: Exception | None = None
        for image in given:
            if isinstance(image, Failure):
                failures.append(image)
                emit(Failed(image))
                continue
            if image.ref is not None and not is_remote(image.ref.uri):
                names.inputs.update(Path(file.uri).resolve() for file in image.ref.files or (image.ref,))
            try:
                outputs = self._detected(image, emit)
            except _FailedImageError as error:
                failures.append(error.failure)
                only = error.__cause__ if isinstance(error.__cause__, GeosodError) else None
                emit(Failed(error.failure))
                continue
            number += 1
            failures += outputs.failures
            yield DetectionResult(Found(image, outputs, names, number, names.unique(image.stem)))
        if failures:
            if number == 0 and len(failures) == 1 and only is not None:
                raise only
            raise _error(failures, number)

    def _detected(self, image: Image, emit: Emit) -> SceneOutputs:
        ref = image.ref or SceneRef("array", image.stem)
        plan: ScenePlan | None = None
        try:
            with image.opened() as ref:
                plan = plan_scene(image.job, ref)
                announced(_without_pages(plan, image), emit)
                if plan.tiles <= MAX_TILES:
                    from geosod.running.serial import detect_scene

                    return detect_scene(image.job, plan, self._detector(image.job), emit)
                return _in_engine(image.job, plan, emit)
        except _FailedImageError:
            raise
        except Exception as error:
            # Whatever goes wrong with one image, the others go on.
            failure = plan_failure(ref, error) if plan is None else failed_result(plan.scene, error).failures[0]
            raise _FailedImageError(failure) from error

    def _detector(self, job: Job) -> Detector:
        """The detector of a device, loaded once, unless a lower score is asked for than it was loaded with."""
        key = f"{job.config.device} {job.config.backend} {job.config.precision}"
        loaded = self._detectors.get(key)
        if loaded is None or job.class_rules.min_score < loaded.threshold:
            keep_freed_memory()
            loaded, _ = load_fitting(job)
            self._detectors[key] = loaded
        return loaded.with_rules(job.class_rules)


class _FailedImageError(Exception):
    """An image that failed, and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _silent(event: object) -> None:
    """Take an event that nobody asked for."""


def _without_pages(plan: ScenePlan, image: Image) -> ScenePlan:
    """Without the note that a file holds several images, each of which has a result here."""
    if image.page_index is None:
        return plan
    return replace(plan, notes=tuple(note for note in plan.notes if "--page" not in note))


def _in_engine(job: Job, plan: ScenePlan, emit: Emit) -> SceneOutputs:
    """What an engine finds in a large scene.

    Raises:
        _FailedImageError: nothing.
    """
    measure_before(job, plan, 1, emit)
    sink = MemorySink()
    results = list(engine_of(job, in_process=True)(job, [plan], sink, emit))
    if plan.scene.id not in sink.outputs:
        raise _FailedImageError(results[0].failures[0])
    return sink.outputs[plan.scene.id]


def _error(failures: list[Failure], results: int) -> GeosodError:
    """One error about all that failed, at the end of a call."""
    lines = [failure.message for failure in failures[:_MAX_LISTED]]
    if len(failures) > _MAX_LISTED:
        lines.append(f"and {len(failures) - _MAX_LISTED:,} more")
    text = "; ".join(lines) if len(failures) == 1 else f"{len(failures):,} failures: " + "; ".join(lines)
    at_fault = all(failure.stage in ("open", "plan") for failure in failures)
    return UsageError(text) if at_fault and results == 0 else SceneError(text)
