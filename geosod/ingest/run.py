"""`ingest`: ask the source, process what is new, keep the index, notify; once, or until it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from geosod.config import RunConfig
from geosod.errors import ConfigError, GeosodError, LedgerError, SourceError
from geosod.ingest import index
from geosod.ingest.batch import Batches, Counted
from geosod.ingest.config import IngestConfig
from geosod.ingest.found import Found
from geosod.ingest.lease import Discovery
from geosod.ingest.ledger import Ledger
from geosod.ingest.notify import Notifier
from geosod.ingest.recovery import recover
from geosod.ingest.sources.open import open_source
from geosod.ingest.sources.source import Poll, Source
from geosod.ingest.withdrawal import mark_withdrawn, unmark_returned
from geosod.output.dataset_crs import check_dataset_crs
from geosod.output.folder import OutputFolder, open_output
from geosod.running.detect import make_job
from geosod.running.engines import check_engine
from geosod.running.events import Emit, Event, Note
from geosod.running.job import Job
from geosod.storage.place import is_address
from geosod.storage.s3 import pay_for_requests

#: Seconds after which a following ingester looks for scenes that are free again.
LOOK_SECONDS = 10.0
#: Groups of scenes in a row that all turned out to be outdated, after which a round ends.
MAX_IDLE = 5


@dataclass(slots=True)
class IngestResult:
    """What an ingestion came to: numbers of versions.

    Attributes:
        discovered: new at the source.
        committed, failed, dead, superseded: see `geosod.ingest.batch.Counted`.
        withdrawn: scenes that were marked.
        notified: notifications that arrived.
        problems: what was wrong outside of the scenes: the source, the output, the ledger, the engine.
    """

    discovered: int = 0
    committed: int = 0
    failed: int = 0
    dead: int = 0
    superseded: int = 0
    withdrawn: int = 0
    notified: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 3 where something failed."""
        return 3 if self.problems or self.failed or self.dead else 0


def ledger_address(config: IngestConfig, out: str | None) -> str:
    """Where the ledger is.

    Raises:
        ConfigError: it is not stated, and the output is in an object store.
    """
    if config.ledger is not None:
        return config.ledger
    if out is None:
        raise ConfigError("no output is given: add -o FOLDER, or `out: FOLDER` to the configuration")
    if is_address(out):
        raise ConfigError(f"{out}: a ledger cannot be in an object store; add --ledger PATH or postgresql://…")
    return str(Path(out).expanduser().absolute() / ".ingest" / "ledger.sqlite")


class Ingester:
    """One ingester; several may work on one dataset at a time.

    Args:
        config: settings of the ingestion.
        run: settings of detection; `model` and `out` are needed.
        on_event: called with the events of detection and with notes.

    Raises:
        UsageError: a setting, the model or the output is unusable.
        SourceError: the source cannot be asked what it is.
        LedgerError: the ledger cannot be used.
    """

    def __init__(self, config: IngestConfig, run: RunConfig, *, on_event: Emit | None = None) -> None:
        if run.out is None or run.out.lower().endswith(".parquet"):
            raise ConfigError(f"out is {run.out!r}; give a folder or an address for the dataset with -o")
        if run.overwrite:
            raise ConfigError("overwrite is of geosod detect; a scene is ingested anew when it changes, or by replay")
        address = ledger_address(config, run.out)
        if config.requester_pays:
            pay_for_requests()
        self.config, self._emit = config, on_event or _ignore
        self._notifier = Notifier(config)
        self.job: Job = make_job(None, run)
        check_engine(self.job, in_process=False)
        self.folder: OutputFolder = open_output(run.out)
        check_dataset_crs(self.folder, run.crs)
        self.ledger = Ledger(address, self.folder.place.address)
        self.source: Source = open_source(config, asset=run.asset)
        self._batches = Batches(
            config, self.job, self.ledger, self.folder, self.source, self._notifier.active, self._emit
        )
        self._prepare()

    def _prepare(self) -> None:
        """Bring ledger and index to the dataset, which is what counts."""
        if self.ledger.is_empty() and (found := recover(self.ledger, self.folder, source=self.config.source_digest)):
            self._say(f"the ledger is new, the dataset is not: {found} scenes were entered from it")
        missing = list(index.missing_scenes(self.folder))
        if missing or index.indexed_scenes(self.folder) is None:
            index.rebuild(self.folder, collection=self.config.collection_id)

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    # --- parts of a cycle

    def discover(
        self, *, start: str | None = None, end: str | None = None, everything: bool = False, dry_run: bool = False
    ) -> Discovery:
        """Ask the source, and enter what is new into the ledger.

        Args:
            start, end: acquisition times to list between, instead of asking for what is new.
            everything: list all that there is.
            dry_run: only count.

        Raises:
            SourceError: the source cannot be asked to its end; what came before is entered.
            LedgerError: the ledger cannot be used.
        """
        name, backfill = self.config.source_digest, start is not None or end is not None
        cursor, age = self.ledger.cursors.get(name)
        everything = not backfill and (everything or age is None or age > self.config.list_hours * 3600)
        everything = everything or self.source.lists_all
        seen: set[tuple[str, str]] = set()
        known = cache(lambda: self.ledger.known_keys(name))
        digests = self.job.model.digest, self.job.config_digest
        poll = Poll(cursor, everything, start, end, lambda one: one.key(*digests) in known(), self._warn)

        problem: list[SourceError] = []

        def found() -> Iterator[Found]:
            try:
                for one in self.source.poll(poll):
                    seen.add((one.collection, one.item))
                    yield one
            except SourceError as error:  # what came before it is entered
                problem.append(error)

        total = self._enter(found(), priority=int(backfill), dry_run=dry_run)
        if problem:
            if not dry_run:
                self.ledger.cursors.polled(name, error=str(problem[0])[:500])
            raise problem[0]
        if not dry_run and not backfill:
            marks = self.config.mark_withdrawn
            if everything and (marks if marks is not None else _is_stac(self.source)):
                self.withdrawn += mark_withdrawn(self.ledger, self.folder, self.source, name, seen, self._warn)
            unmark_returned(self.ledger, self.folder, name)
            self.ledger.cursors.polled(name, cursor=self.source.cursor(), listed=everything)
        return total

    withdrawn = 0

    def _enter(self, found: Iterable[Found], *, priority: int, dry_run: bool) -> Discovery:
        return self.ledger.discover(
            found,
            source=self.config.source_digest,
            model_digest=self.job.model.digest,
            config_digest=self.job.config_digest,
            priority=priority,
            dry_run=dry_run,
        )

    def work(self, counted: Counted) -> bool:
        """Process some scenes that wait; whether there were any."""
        config = self.config
        leases = self.ledger.lease(
            config.source_digest, config.at_once, seconds=config.lease, max_crashes=config.attempts
        )
        if leases:
            try:
                self._batches.process(leases, counted)
            finally:
                self.keep_index()
        return bool(leases)

    def _work_all(self, counted: Counted) -> None:
        """Process until nothing waits, or something is wrong outside of the scenes."""
        idle = 0
        while not counted.problems and idle < MAX_IDLE:
            before = counted.committed, counted.failed, counted.dead
            if not self.work(counted):
                return
            idle = 0 if before != (counted.committed, counted.failed, counted.dead) else idle + 1
        if not counted.problems:
            self._warn("items are different each time they are asked for; they are left for the next round")

    def keep_index(self) -> None:
        """Bring the index to what was committed, by this ingester or by one that died before it could."""
        while waiting := self.ledger.upkeep.unindexed():
            index.refresh(self.folder, set(waiting.values()), collection=self.config.collection_id)
            self.ledger.upkeep.indexed(waiting.keys())

    def notify(self) -> int:
        """Send the notifications that are due."""
        return self._notifier.send_due(self.ledger, self.folder, self._warn)

    # --- cycles

    def once(self) -> IngestResult:
        """Ask the source, and process until nothing waits that may be processed now.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        result, counted = IngestResult(), Counted()
        self.withdrawn = 0
        self._guarded(lambda: self._discover_into(result), result)
        self._guarded(lambda: self._work_all(counted), result)
        self._guarded(self.keep_index, result)
        result.notified = self.notify()
        result.withdrawn = self.withdrawn
        for name in ("committed", "failed", "dead", "superseded"):
            setattr(result, name, getattr(counted, name))
        result.problems += counted.problems
        return result

    def follow(
        self,
        *,
        on_cycle: Callable[[IngestResult], None] = lambda _: None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """Do so again and again, until an interrupt is raised in it. Outages are reported and waited for.

        Args:
            on_cycle: called with the result of each cycle.
            wait: sleeps.
        """
        while True:
            began = time.monotonic()
            try:
                on_cycle(self.once())
            except LedgerError as error:
                on_cycle(IngestResult(problems=[str(error)]))
            while (left := began + self.config.interval - time.monotonic()) > 0:
                wait(min(left, LOOK_SECONDS))
                counted = Counted()
                try:
                    if self.work(counted):
                        self.notify()
                except GeosodError as error:
                    counted.problems.append(str(error))
                if counted.committed or counted.dead or counted.problems:
                    on_cycle(
                        IngestResult(
                            committed=counted.committed,
                            failed=counted.failed,
                            dead=counted.dead,
                            superseded=counted.superseded,
                            problems=counted.problems,
                        )
                    )

    def _discover_into(self, result: IngestResult) -> bool:
        result.discovered += self.discover().new
        return True

    def _guarded(self, action: Callable[[], object], result: IngestResult) -> bool:
        """Do something; an outage is recorded, and does not keep the rest from being done."""
        try:
            return bool(action())
        except (LedgerError, ConfigError):
            raise
        except GeosodError as error:
            result.problems.append(str(error))
            return False

    def _say(self, text: str) -> None:
        self._emit(Note(text))

    def _warn(self, text: str) -> None:
        self._emit(Note(text, important=True))


def _ignore(_: Event) -> None:
    """Nobody listens."""


def _is_stac(source: Source) -> bool:
    from geosod.ingest.sources.listing import Folder, Prefix

    return not isinstance(source, Prefix | Folder)
