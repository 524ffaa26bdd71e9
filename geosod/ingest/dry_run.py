"""What an ingestion would process."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from geosod.config import RunConfig
from geosod.ingest.config import IngestConfig
from geosod.ingest.lease import Discovery
from geosod.ingest.ledger import Ledger
from geosod.ingest.recovery import recover
from geosod.ingest.run import ledger_address
from geosod.ingest.sources.open import open_source
from geosod.ingest.sources.source import Poll
from geosod.output.folder import output_at
from geosod.running.detect import make_job
from geosod.running.events import Emit, Event, Note
from geosod.running.job import Job
from geosod.storage.s3 import pay_for_requests


def what_is_new(
    config: IngestConfig,
    run: RunConfig,
    *,
    start: str | None = None,
    end: str | None = None,
    on_event: Emit | None = None,
) -> Discovery:
    """What an ingestion would process; nothing is written, created or marked.

    Args:
        config, run: see `Ingester`.
        start, end: see `Ingester.discover`.
        on_event: called with notes.

    Raises:
        UsageError: a setting or the model is unusable.
        SourceError: the source cannot be asked.
        LedgerError: the ledger cannot be used.
    """
    emit = on_event or _ignore
    if config.requester_pays:
        pay_for_requests()
    job, folder = make_job(None, run), output_at(str(run.out))
    address = ledger_address(config, run.out)
    there = "://" in address or Path(address).expanduser().is_file()
    name = config.source_digest
    with closing(Ledger(address if there else ":memory:", folder.place.address)) as ledger:
        cursor, age = ledger.cursors.get(name)
        if ledger.is_empty():
            with closing(Ledger(":memory:", folder.place.address)) as recovered:
                recover(recovered, folder, source=name)
                return _count(recovered, config, job, run, Poll(None, True, start, end), emit)
        everything = age is None or age > config.list_hours * 3600
        return _count(ledger, config, job, run, Poll(cursor, everything, start, end), emit)


def _count(ledger: Ledger, config: IngestConfig, job: Job, run: RunConfig, poll: Poll, emit: Emit) -> Discovery:
    known = ledger.known_keys(config.source_digest)
    digests = job.model.digest, job.config_digest
    asked = replace(
        poll,
        is_known=lambda one: one.key(*digests) in known,
        say=lambda text: emit(Note(text, important=True)),
    )
    found = open_source(config, asset=run.asset).poll(asked)
    return ledger.discover(
        found, source=config.source_digest, model_digest=digests[0], config_digest=digests[1], dry_run=True
    )


def _ignore(_: Event) -> None:
    """Nobody listens."""
