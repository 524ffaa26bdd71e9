"""How an ingestion stands, for people and for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, select

from geosod.ingest.ledger import Ledger
from geosod.ingest.tables import GIVEN_UP, MARKED, STATES, TO_SEND, cursors, versions

_v = versions.c
#: Problems that are listed.
MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """A version that failed.

    Attributes:
        scene_id, item: which one.
        state: "failed" or "dead".
        attempts: how often it failed; ingesters that died with it count too.
        age: seconds since it was discovered.
        error: what was wrong the last time.
    """

    scene_id: str
    item: str
    state: str
    attempts: int
    age: float
    error: str


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """How an ingestion stands. Ages are in seconds by the ledger's clock.

    Attributes:
        dataset: address of the dataset.
        counts: number of versions in each state.
        withdrawn: scenes whose item is gone from its source.
        lag: age of the oldest version that is neither committed nor dead; 0 where none waits.
        poll_age: seconds since a source was last asked to its end; the longest of all sources, None where none was.
        source_errors: what was wrong when a source was asked last.
        problems: failed and dead versions, oldest first; some of them where there are many.
        notices: notifications that wait, and those that were given up.
        committed_last_hour: versions.
    """

    dataset: str
    counts: dict[str, int]
    withdrawn: int
    lag: float
    poll_age: float | None
    source_errors: tuple[str, ...]
    problems: tuple[Problem, ...]
    notices: dict[str, int]
    committed_last_hour: int

    def beyond(self, *, max_lag: float | None, max_poll_age: float | None, max_dead: int | None) -> list[str]:
        """What is beyond the thresholds, in words."""
        found = []
        if max_lag is not None and self.lag > max_lag:
            found.append(f"the oldest scene has waited {self.lag:.0f} s, over {max_lag:g} s")
        if max_poll_age is not None and (self.poll_age is None or self.poll_age > max_poll_age):
            when = "never" if self.poll_age is None else f"{self.poll_age:.0f} s ago"
            found.append(f"the source was last asked to its end {when}, over {max_poll_age:g} s")
        if max_dead is not None and self.counts["dead"] > max_dead:
            found.append(f"dead scenes: {self.counts['dead']}, over {max_dead}")
        return found


def ingest_status(ledger: Ledger) -> IngestStatus:
    """How an ingestion stands; nothing is changed.

    Raises:
        LedgerError: the ledger cannot be used.
    """
    return ledger.database.read(lambda connection, now: _status(connection, now, ledger.dataset))


def _status(connection: Connection, now: float, dataset: str) -> IngestStatus:
    own = _v.dataset == dataset

    def count(*conditions: Any) -> int:
        return int(connection.execute(select(func.count()).where(own, *conditions)).scalar_one())

    counts = dict.fromkeys(STATES, 0)
    for state, number in connection.execute(select(_v.state, func.count()).where(own).group_by(_v.state)):
        counts[str(state)] = int(number)
    waiting = and_(own, _v.state.in_(("discovered", "leased", "failed")))
    oldest = connection.execute(select(func.min(_v.discovered_at)).where(waiting)).scalar_one()
    failed = select(versions).where(own, _v.state.in_(("failed", "dead"))).order_by(_v.discovered_at, _v.id)
    problems = tuple(
        Problem(r.scene_id, r.item, r.state, r.attempts + r.crashes, now - r.discovered_at, r.error or "")
        for r in connection.execute(failed.limit(MAX_SHOWN))
    )
    asked = list(connection.execute(select(cursors).where(cursors.c.dataset == dataset)))
    ages = [None if row.polled_at is None else now - row.polled_at for row in asked]
    return IngestStatus(
        dataset,
        counts,
        count(_v.withdrawn == MARKED, _v.state == "committed"),
        0.0 if oldest is None else max(0.0, now - float(oldest)),
        None if not ages or None in ages else max(age for age in ages if age is not None),
        tuple(row.error for row in asked if row.error),
        problems,
        {"waiting": count(_v.notice == TO_SEND), "given_up": count(_v.notice == GIVEN_UP)},
        count(_v.state == "committed", _v.changed_at > now - 3600),
    )
