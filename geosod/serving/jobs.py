"""Jobs: whole scenes, one job after another in a thread; one that a stop interrupts goes on after the next start."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from geosod.errors import GeosodError, one_line, redacted
from geosod.running.detect import configured, detect
from geosod.running.events import Event, SceneFinished, ScenePlanned, ScenesFound, UnitSettled
from geosod.serving.answers import JobRequest
from geosod.serving.job_scenes import allowed_scene, local_scene
from geosod.serving.job_store import JobRecord, JobStore
from geosod.serving.options import ServeOptions
from geosod.serving.refused import RefusedError, busy
from geosod.serving.served_model import Stopped

log = logging.getLogger("geosod.serving")
MAX_FAILURES = 100


class _Progress:
    """How far the job that runs is."""

    def __init__(self) -> None:
        self.scenes, self.planned, self.settled = 1, dict[str, int](), Counter[str]()
        self.finished: set[str] = set()

    @property
    def fraction(self) -> float:
        # A copy, since the thread of the run adds to it.
        running = (s for s in list(self.planned) if s not in self.finished)
        parts = sum(min(1.0, self.settled[s] / max(1, self.planned[s])) for s in running)
        return min(1.0, (len(self.finished) + parts) / max(1, self.scenes))

    def take(self, event: Event) -> None:
        match event:
            case ScenesFound():
                self.scenes = event.scenes
            case ScenePlanned():
                self.planned[event.scene_id] = event.tiles
            case UnitSettled():
                self.settled[event.scene_id] += event.tiles
            case SceneFinished():
                self.finished.add(event.result.scene_id)


class Jobs:
    """The jobs of a service.

    Args:
        store: where they are kept.
        options: what they may do.
    """

    def __init__(self, store: JobStore, options: ServeOptions) -> None:
        self._store, self._options = store, options
        self._changed = threading.Condition()
        self._records = {record.id: record for record in store.load()}
        self._stopping, self._cancelled = False, set[str]()
        self._progress = _Progress()
        self._thread = threading.Thread(target=self._run, name="geosod-jobs", daemon=True)
        self._thread.start()

    @property
    def all(self) -> list[JobRecord]:
        """All jobs, newest first."""
        with self._changed:
            return sorted(self._records.values(), key=lambda r: (r.created, r.id), reverse=True)

    def submit(self, request: JobRequest) -> JobRecord:
        """A new job.

        Raises:
            RefusedError: a scene is not allowed (403), or there is no room (429, 413).
            ConfigError: a setting is unusable.
        """
        limits = self._options.limits
        if len(request.scenes) > limits.scenes_per_job:
            raise RefusedError(
                413, f"{len(request.scenes)} scenes are over the limit of {limits.scenes_per_job}; submit several jobs"
            )
        scenes = tuple(allowed_scene(scene, self._options) for scene in request.scenes)
        settings = request.settings.model_dump(exclude_none=True)
        configured(**settings)
        with self._changed:
            waiting = sum(record.status == "queued" for record in self._records.values())
            if waiting >= limits.queued_jobs:
                raise busy(60)
            if len(self._records) >= limits.jobs:
                raise RefusedError(
                    429, f"{limits.jobs} jobs are kept; delete some that have ended", {"Retry-After": "60"}
                )
            record = self._store.create(scenes, settings)
            self._records[record.id] = record
            self._changed.notify()
        return record

    def find(self, job_id: str) -> JobRecord:
        """A job.

        Raises:
            RefusedError: there is none of that id (404).
        """
        with self._changed:
            return self._found(job_id)

    def progress(self, record: JobRecord) -> float:
        """The fraction of a job that is done."""
        if record.ended:
            return 1.0
        return self._progress.fraction if record.status == "running" else 0.0

    def results(self, record: JobRecord) -> dict[str, Path]:
        """The result files of a job by name; those of scenes that are committed."""
        return self._store.results(record.id)

    def remove(self, job_id: str) -> JobRecord:
        """Cancel a job that has not ended, or delete one that has, with its results."""
        with self._changed:
            record = self._found(job_id)
            if record.ended:
                del self._records[job_id]
                self._store.delete(job_id)
                return record
            self._cancelled.add(job_id)
            if record.status == "queued":
                record = self._update(record, status="cancelled")
        return record

    def stop(self) -> None:
        """Interrupt the job that runs, keep what it has finished, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._store.close()

    def _found(self, job_id: str) -> JobRecord:
        if job_id not in self._records:
            raise RefusedError(404, f"there is no job {ascii(job_id)[:60]}; GET /jobs lists those that are kept")
        return self._records[job_id]

    def _update(self, record: JobRecord, **changes: Any) -> JobRecord:
        changed = replace(record, **changes)
        self._records[record.id] = changed
        self._store.save(changed)
        return changed

    def _run(self) -> None:
        while (record := self._next()) is not None:
            try:
                self._work(record)
            except Exception:
                log.exception("job %s failed", record.id)

    def _next(self) -> JobRecord | None:
        def first() -> JobRecord | None:
            # One that was running when the service stopped goes on.
            return next((r for r in self._records.values() if not r.ended), None)

        with self._changed:
            self._changed.wait_for(lambda: self._stopping or first() is not None)
            record = None if self._stopping else first()
            if record is None:
                return None
            self._progress = _Progress()
            return self._update(record, status="running", scenes_done=0, detections=0, failures=(), message="")

    def _work(self, record: JobRecord) -> None:
        changes: dict[str, Any]
        try:
            changes = self._detected(record)
        except Stopped:
            if record.id not in self._cancelled:
                return
            changes = {"status": "cancelled"}
        except GeosodError as error:
            changes = {"status": "failed", "message": str(error)[:500]}
        except Exception as error:
            log.exception("job %s failed", record.id)
            changes = {"status": "failed", "message": redacted(one_line(error))[:500]}
        with self._changed:
            self._update(self._records[record.id], **changes)

    def _check(self, record: JobRecord) -> None:
        if self._stopping or record.id in self._cancelled:
            raise Stopped

    def _detected(self, record: JobRecord) -> dict[str, Any]:
        """What a job came to."""
        downloads = self._store.folder(record.id) / "scenes"
        scenes, failures = [], list[tuple[str, str, str]]()
        for i, scene in enumerate(record.scenes):
            self._check(record)
            try:
                scenes.append(local_scene(scene, downloads, i, self._options))
            except (GeosodError, OSError) as error:
                failures.append((redacted(scene), "open", redacted(one_line(error))[:500]))
        if not scenes:
            return {"status": "failed", "failures": tuple(failures[:MAX_FAILURES]), "message": "no scene can be read"}
        settings: dict[str, Any] = {k: v for k, v in self._options.settings.items() if v is not None} | record.settings
        result = detect(
            scenes, model=self._options.model, out=self._store.out(record.id), engine="local",
            on_event=self._listener(record), **settings,
        )  # fmt: skip
        failures += [(failure.uri, failure.stage, failure.message) for failure in result.failures]
        status = "done" if not failures else "partial" if result.exit_code != 2 else "failed"
        rows = result.total or 0
        return {"status": status, "detections": rows, "failures": tuple(failures[:MAX_FAILURES])}

    def _listener(self, record: JobRecord) -> Callable[[Event], None]:
        def on_event(event: Event) -> None:
            self._check(record)
            self._progress.take(event)
            if isinstance(event, SceneFinished):
                with self._changed:
                    current = self._records[record.id]
                    rows = current.detections + event.result.detections
                    self._update(current, scenes_done=current.scenes_done + 1, detections=rows)

        return on_event
