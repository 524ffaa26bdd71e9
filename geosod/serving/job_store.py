"""Jobs on disk: a folder for each, with its record and its results, so that they survive a restart of the service."""

from __future__ import annotations

import dataclasses
import datetime as dt
import fcntl
import json
import os
import re
import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from geosod.errors import ConfigError

Status = Literal["queued", "running", "done", "partial", "failed", "cancelled"]
ENDED = ("done", "partial", "failed", "cancelled")
RECORD = "job.json"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job.

    Attributes:
        id: UUID.
        scenes: paths and URLs, as they were allowed.
        settings: of `RunConfig`.
        created: ISO 8601, UTC.
        status: "queued", "running", "done", "partial" (some ground or scenes failed), "failed" or "cancelled".
        scenes_done: scenes that are committed or have failed.
        detections: rows written.
        failures: scene, stage and message of each.
        message: why it failed.
    """

    id: str
    scenes: tuple[str, ...]
    settings: dict[str, Any]
    created: str
    status: Status = "queued"
    scenes_done: int = 0
    detections: int = 0
    failures: tuple[tuple[str, str, str], ...] = field(default=())
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ENDED


class JobStore:
    """The folder of all jobs, which one service uses at a time.

    Args:
        folder: it is created if need be.

    Raises:
        ConfigError: it cannot be written, or another service uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[bytes] = (folder / ".lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: another service uses this folder of jobs; give each its own --jobs"
            ) from error
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written: {error.strerror}; choose another --jobs") from error

    def close(self) -> None:
        """Let another service use the folder."""
        self._lock.close()

    def create(self, scenes: tuple[str, ...], settings: dict[str, Any]) -> JobRecord:
        """A new job, queued and on disk."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        record = JobRecord(str(uuid.uuid4()), scenes, settings, now)
        self.folder(record.id).mkdir()
        self.save(record)
        return record

    def save(self, record: JobRecord) -> None:
        """Replace the record of a job, whole or not at all."""
        folder = self.folder(record.id)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", delete=False) as file:
            json.dump(dataclasses.asdict(record), file)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(folder / RECORD)

    def load(self) -> list[JobRecord]:
        """All jobs, oldest first; folders without a readable record are none."""
        found = [record for path in self._folder.glob(f"*/{RECORD}") if (record := _read(path)) is not None]
        return sorted(found, key=lambda record: (record.created, record.id))

    def delete(self, job_id: str) -> None:
        """Remove a job and its results."""
        # Without its record it is no job, even where the rest is only removed in part.
        (self.folder(job_id) / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def folder(self, job_id: str) -> Path:
        """The folder of a job."""
        return self._folder / job_id

    def out(self, job_id: str) -> Path:
        """The output folder of a job."""
        return self.folder(job_id) / "out"

    def results(self, job_id: str) -> dict[str, Path]:
        """The result files of a job, by their names relative to its output folder."""
        out = self.out(job_id)
        found = list[Path]()
        # Folders that a run removes meanwhile are no error of os.walk.
        for folder, below, files in os.walk(out):
            below[:] = [name for name in below if name[0] not in "._"]
            found += [Path(folder, name) for name in files if name[0] not in "._"]
        return {path.relative_to(out).as_posix(): path for path in sorted(found) if not path.is_symlink()}


def _read(path: Path) -> JobRecord | None:
    try:
        values = json.loads(path.read_bytes())
        failures = tuple((str(a), str(b), str(c)) for a, b, c in values.pop("failures"))
        record = JobRecord(**(values | {"scenes": tuple(values["scenes"]), "failures": failures}))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if record.id == path.parent.name and _ID.fullmatch(record.id) else None
