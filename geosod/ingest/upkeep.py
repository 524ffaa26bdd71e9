"""What follows a commit, as the ledger has it: the index, notifications, and items that are gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, select, update

from geosod.ingest.database import Database
from geosod.ingest.lease import Lease, found_of_row
from geosod.ingest.tables import GIVEN_UP, SENT, THERE, TO_SEND, versions

_v = versions.c


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is to be done for committed versions.

    Attributes:
        database, dataset: of the ledger.
    """

    database: Database
    dataset: str

    def unindexed(self, limit: int = 1000) -> dict[int, str]:
        """Scenes whose rows in the index are not those of the dataset: id of the version → identifier of the scene."""
        asked = select(_v.id, _v.scene_id).where(_v.dataset == self.dataset, _v.indexed == 0).limit(limit)
        return self.database.read(lambda connection, _: {row.id: row.scene_id for row in connection.execute(asked)})

    def indexed(self, ids: Collection[int]) -> None:
        """Record that the index has these versions."""
        change = update(versions).where(_v.id.in_(list(ids))).values(indexed=1)
        self.database.change(lambda connection, _: connection.execute(change))

    def claim_notices(self, count: int, *, attempts: int, retry_seconds: float) -> list[Any]:
        """Committed versions that someone is to be notified of; nobody else gets them until the wait is over."""

        def action(connection: Connection, now: float) -> list[Any]:
            due = and_(_v.dataset == self.dataset, _v.notice == TO_SEND, _v.not_before <= now)
            given_up = and_(due, _v.notice_attempts >= attempts)
            connection.execute(update(versions).where(given_up).values(notice=GIVEN_UP))
            rows = list(connection.execute(select(versions).where(due).order_by(_v.id).limit(count)))
            for row in rows:
                wait = {"not_before": now + retry_seconds * 2**row.notice_attempts}
                values = wait | {"notice_attempts": row.notice_attempts + 1}
                connection.execute(update(versions).where(_v.id == row.id).values(values))
            return rows

        return self.database.change(action)

    def notified(self, row_id: int) -> None:
        """Record that the notification of a version arrived."""
        change = update(versions).where(_v.id == row_id).values(notice=SENT)
        self.database.change(lambda connection, _: connection.execute(change))

    def present(self, source: str, withdrawn: int = THERE) -> list[Lease]:
        """The committed versions of a source, as leases that nobody holds."""
        chosen = and_(_v.dataset == self.dataset, _v.state == "committed", _v.withdrawn == withdrawn)
        asked = select(versions).where(chosen, _v.source == source).order_by(_v.id)
        return self.database.read(
            lambda connection, _: [
                Lease(row.id, row.key, found_of_row(row), row.scene_id, 0, "") for row in connection.execute(asked)
            ]
        )

    def set_withdrawn(self, row_id: int, withdrawn: int) -> None:
        """Record whether the item of a committed version is gone, and that the index is to say so."""
        change = update(versions).where(_v.id == row_id).values(withdrawn=withdrawn, indexed=0)
        self.database.change(lambda connection, _: connection.execute(change))
