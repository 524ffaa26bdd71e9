"""The scenes that an ingester has leased, from their items to the dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from geosod.errors import GeosodError, LeaseLostError, LedgerError, OutputError, SourceError
from geosod.ingest.config import IngestConfig
from geosod.ingest.destination import Leased, LeasedSink
from geosod.ingest.heartbeat import prolonged
from geosod.ingest.lease import Lease
from geosod.ingest.ledger import Ledger
from geosod.ingest.sources.source import Source
from geosod.output.folder import OutputFolder
from geosod.results import Failure, SceneResult
from geosod.running.detect import detect_scenes
from geosod.running.events import Emit
from geosod.running.job import Job
from geosod.running.unit_store import open_store
from geosod.scene import SceneRef
from geosod.scenes.sources import versioned

#: Items that are asked for at once.
_THREADS = 8
#: Errors that are not of the scene: it is tried again, and that does not count.
_OUTSIDE = frozenset({OutputError.__name__, LedgerError.__name__, SourceError.__name__})
#: Waits after failures are not doubled further than to this, seconds.
_MAX_WAIT = 6 * 3600.0


@dataclass(slots=True)
class Counted:
    """What became of versions: numbers.

    Attributes:
        committed: in the dataset.
        failed: failed, and tried again later.
        dead: failed for the last time.
        superseded: replaced by a newer version, or gone, before they were processed.
        problems: what is wrong outside of the scenes.
    """

    committed: int = 0
    failed: int = 0
    dead: int = 0
    superseded: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batches:
    """Processes leased scenes.

    Attributes:
        config: settings of the ingestion.
        job: model and settings of detection.
        ledger, folder, source: of the ingestion.
        notify: whether someone is notified of each scene.
        emit: called with the events of detection.
        executions: see `Leased`.
    """

    config: IngestConfig
    job: Job
    ledger: Ledger
    folder: OutputFolder
    source: Source
    notify: bool
    emit: Emit
    executions: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def process(self, leases: Sequence[Lease], counted: Counted) -> None:
        """Take leased scenes to the dataset. What is not finished, whatever happens, is given back.

        Raises:
            EngineError: detectors cannot be started, or all were lost.
            LedgerError: the ledger cannot be used.
        """
        try:
            with prolonged(self.ledger, leases, seconds=self.config.lease):
                refs = self._refs(leases, counted)
                if not refs:
                    return
                store, note = open_store(self.folder)
                sink = LeasedSink(
                    store=store,
                    ledger=self.ledger.database.address,
                    leases={lease.scene_id: lease for lease in leases},
                    attempts=self.config.attempts,
                    collection=self.config.collection_id,
                    notify=self.notify,
                )
                with Leased(sink, self.executions, note=note) as place:
                    for result in detect_scenes(self.job, refs, place, self.emit):
                        self._end(sink.leases[result.scene_id], result, counted)
        finally:
            self.ledger.release(leases)

    def _refs(self, leases: Sequence[Lease], counted: Counted) -> list[SceneRef]:
        """The scenes of leases, as their items are now."""
        with ThreadPoolExecutor(_THREADS) as threads:
            found = list(threads.map(self._current, leases))
        refs = []
        for lease, one in zip(leases, found, strict=True):
            if isinstance(one, SceneRef):
                refs.append(one)
            elif isinstance(one, Exception):
                self._fail(lease, type(one).__name__, str(one), "open", counted)
            else:
                counted.superseded += 1
        return refs

    def _current(self, lease: Lease) -> SceneRef | Exception | None:
        """The scene of a lease; None where it is not to be processed any more, and an error where it cannot be."""
        try:
            now = self.source.current(lease.found)
            if now is None:
                self.ledger.superseded(lease)
                return None
            found, ref = now
            model, settings = self.job.model.digest, self.job.config_digest
            if found.key(model, settings) != lease.key:  # a newer version, or other settings
                self.ledger.superseded(lease)
                self.ledger.discover(
                    [found], source=self.config.source_digest, model_digest=model, config_digest=settings
                )
                return None
            return versioned(ref)
        except LedgerError:
            raise
        except GeosodError as error:
            return error

    def _end(self, lease: Lease, result: SceneResult, counted: Counted) -> None:
        if result.status != "failed":
            counted.committed += 1
            return
        failure: Failure = result.failures[0]
        self._fail(lease, failure.error, failure.message, failure.stage, counted)

    def _fail(self, lease: Lease, error: str, message: str, stage: str, counted: Counted) -> None:
        if error == LeaseLostError.__name__:
            counted.superseded += 1
            return
        outside = error in _OUTSIDE
        attempts = lease.attempts + (not outside)
        dead = stage == "plan" or attempts >= self.config.attempts
        if outside:
            counted.problems.append(message)
        counted.dead += dead
        counted.failed += not dead
        self.ledger.failed(
            lease,
            message,
            attempts=attempts,
            retry_seconds=min(self.config.retry_seconds * 2 ** min(lease.attempts, 20), _MAX_WAIT),
            state="dead" if dead else "failed",
        )
