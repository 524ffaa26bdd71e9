"""Runs as jobs of a Ray cluster: submitting, following the log, and submitting again what was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import RayError

from geosod.errors import ClusterError, ConfigError, EngineError, one_line
from geosod.running.ray_engine.session import token_remedy

#: Seconds between two questions to the job server.
POLL = 1.0
#: Seconds for which a job server may be silent before a job counts as lost.
PATIENCE = 300.0
#: Files and folders that are never sent: environments, caches, what git keeps, keys.
EXCLUDED = (".git/", ".venv/", "venv/", "__pycache__/", ".*_cache/", ".hypothesis/", ".env", "*.pem", "*.key")
#: The name under which a job carries the digest of its run.
RUN = "geosod_run"
#: Errors of the client for a server that is not there, or asks for a token.
_NO_ANSWER = (ConnectionError, requests.RequestException, RayError)
#: What `geosod detect` leaves with a job that need not be tried again: done, bad usage or input, some ground failed.
FINAL_CODES = (0, 2, 3)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What is submitted.

    Attributes:
        entrypoint: the command, as one line for the shell of the head.
        working_dir: a folder that is sent, and in which the command runs; None for none.
        excludes: what of it is not sent, as lines of a .gitignore.
        run: digest of the command and of the file of settings that is sent; jobs with one digest do the same.
    """

    entrypoint: str
    working_dir: Path | None = None
    excludes: tuple[str, ...] = ()
    run: str = ""


@dataclass(frozen=True, slots=True)
class JobState:
    """How far a job is.

    Attributes:
        name: its submission id.
        status: "PENDING", "RUNNING", "SUCCEEDED", "FAILED" or "STOPPED", as Ray calls it; "LOST" where the cluster
            does not know it any more.
        exit_code: that of its command; None where it has not ended by itself.
        message: Ray's explanation.
    """

    name: str
    status: str
    exit_code: int | None = None
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status not in ("PENDING", "RUNNING")

    @property
    def lost(self) -> bool:
        """Whether it ended in a way that another attempt may not: its process or its cluster died, or it has a bug."""
        if self.status in ("SUCCEEDED", "STOPPED") or not self.ended:
            return False
        return self.exit_code not in FINAL_CODES

    @property
    def code(self) -> int:
        """The exit code for whoever waited for it."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return 130
        return self.exit_code if self.exit_code in FINAL_CODES and self.exit_code else 1


class JobServer:
    """A cluster's job server."""

    def __init__(self, address: str | None) -> None:
        """Connect.

        Args:
            address: of the dashboard, ``http://HEAD:8265``; None takes RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the
                head of this machine.

        Raises:
            ConfigError: Ray's parts for jobs are not installed.
            ClusterError: no job server answers there.
        """
        self._address = address or "the default address"
        try:
            from ray.job_submission import JobSubmissionClient

            self._client: Any = JobSubmissionClient(address)
        except ImportError as error:
            raise ConfigError(f"jobs need Ray's job client ({error}); run: pip install 'geosod[cluster]'") from error
        except (*_NO_ANSWER, RuntimeError, ValueError) as error:
            raise self._unreachable(error) from error

    def submit(self, name: str, spec: JobSpec) -> bool:
        """Submit a job; whether it was new. One that exists under that name is left as it is.

        Raises:
            ConfigError: the working directory is too large, or has no such folder.
            ClusterError: the server refuses it.
        """
        if self.state(name).status != "LOST":
            return False
        environment: dict[str, Any] = {}
        if spec.working_dir is not None:
            environment = {"working_dir": str(spec.working_dir), "excludes": [*EXCLUDED, *spec.excludes]}
        try:
            self._client.submit_job(
                entrypoint=spec.entrypoint, submission_id=name, runtime_env=environment, metadata={RUN: spec.run}
            )
        except _NO_ANSWER as error:
            raise self._unreachable(error) from error
        except (RuntimeError, ValueError) as error:
            if self.state(name).status != "LOST":
                return False  # somebody else was faster
            text = one_line(error)
            if "exceeds the maximum size" in text or "Too Large" in text:
                raise ConfigError(
                    f"working directory {spec.working_dir}: {text}; list what is large in its .rayignore, or choose a "
                    "smaller folder"
                ) from error
            raise ClusterError(f"job {name!r} cannot be submitted to {self._address}: {text}") from error
        return True

    def twin(self, spec: JobSpec) -> str | None:
        """The name of a job that does the same run at this moment; None without one.

        Raises:
            ClusterError: the server does not answer.
        """
        try:
            jobs = self._client.list_jobs()
        except (*_NO_ANSWER, RuntimeError) as error:
            raise self._unreachable(error) from error
        same = [job for job in jobs if spec.run and (job.metadata or {}).get(RUN) == spec.run and job.submission_id]
        active = (job.submission_id for job in same if not JobState("", job.status.value).ended)
        return next(active, None)

    def state(self, name: str) -> JobState:
        """How far a job is; "LOST" where the cluster does not know it.

        Raises:
            ClusterError: the server does not answer.
        """
        try:
            found = self._client.get_job_info(name)
        except _NO_ANSWER as error:
            raise self._unreachable(error) from error
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                return JobState(name, "LOST", message="the cluster does not know it")
            raise self._unreachable(error) from error
        return JobState(name, found.status.value, found.driver_exit_code, one_line(found.message or ""))

    def follow(self, name: str, write: Callable[[str], None]) -> JobState:
        """Pass on a job's log as it grows, until the job has ended; connections that break are made again.

        Raises:
            EngineError: the server has not answered for `PATIENCE` seconds.
        """
        written, answered = 0, time.monotonic()
        while True:
            try:
                state = self.state(name)
                for text in self._new_log(name, written):
                    written += len(text)
                    write(text)
                answered = time.monotonic()
                if state.ended:
                    return state
            except ClusterError as error:
                if time.monotonic() - answered > PATIENCE:
                    raise EngineError(f"job {name!r} cannot be followed any longer: {error}") from error
            time.sleep(POLL)

    def _new_log(self, name: str, written: int) -> Iterator[str]:
        """The log from character `written` on; it ends with the job, or where the connection breaks."""
        from aiohttp import ClientError

        chunks = self._client.tail_job_logs(name)
        loop = asyncio.new_event_loop()
        try:
            while True:
                try:
                    text = loop.run_until_complete(anext(chunks))
                except (StopAsyncIteration, ClientError, OSError, RuntimeError):
                    return
                new = text[written:] if written else text
                written -= len(text) - len(new)
                if new:
                    yield new
        finally:
            loop.run_until_complete(chunks.aclose())
            loop.close()

    def _unreachable(self, error: Exception) -> ClusterError:
        text = one_line(error)
        if advice := token_remedy(text):
            return ClusterError(f"the job server at {self._address} refuses: {advice}")
        return ClusterError(
            f"no job server answers at {self._address}: {text}; check --address, that the head runs with its dashboard "
            "(pip install 'ray[default]' there), and that the dashboard's port is forwarded to this machine"
        )


def names(name: str, attempts: int) -> Sequence[str]:
    """The names of a job's attempts: ``name``, ``name-2``, …"""
    return [name, *(f"{name}-{i}" for i in range(2, attempts + 1))]


def run_job(
    server: JobServer,
    name: str,
    spec: JobSpec,
    *,
    attempts: int,
    say: Callable[[str], None],
    write: Callable[[str], None],
) -> JobState:
    """Run a job to its end: follow it where it exists already; submit it again, under another name, where it is lost.

    Where a job of another name does the same run at this moment, that one is followed, and nothing is submitted.

    Args:
        server: of the cluster.
        name: the submission id, which belongs to one run: a second call with it follows the first one's job.
        spec: what is submitted.
        attempts: how often, at most.
        say: takes lines about the attempts.
        write: takes the log.

    Raises:
        UsageError: it cannot be submitted.
        EngineError: the server is gone.
    """
    other = server.twin(spec) if server.state(name).status == "LOST" else None
    if other is not None:
        say(f"job {other} does the same run already, and is followed")
        return server.follow(other, write)
    for number, each in enumerate(names(name, attempts), start=1):
        new = server.submit(each, spec)
        state = server.state(each)
        say(f"job {each} is submitted" if new else f"job {each} exists: {state.status.lower()}")
        # The log of an earlier attempt that is over has been seen.
        if new or not (state.lost and number < attempts):
            state = server.follow(each, write)
        if not state.lost:
            break
        say(f"job {each} was lost: {state.message or state.status.lower()}")
    return state
