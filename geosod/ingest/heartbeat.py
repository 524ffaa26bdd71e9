"""Leases are prolonged while their scenes are processed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from geosod.errors import LedgerError
from geosod.ingest.lease import Lease
from geosod.ingest.ledger import Ledger


@contextmanager
def prolonged(ledger: Ledger, leases: Sequence[Lease], *, seconds: float) -> Iterator[None]:
    """Renew leases three times in their length until the block ends.

    A ledger that cannot be reached meanwhile is asked again; whether a lease was lost shows before the commit.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(seconds / 3):
            try:
                ledger.renew(leases)
            except LedgerError:
                continue

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
