"""The ledger: which versions of which items are known, and what has become of them.

A version is *discovered*, *leased* by an ingester, then *committed* to the dataset or *failed*; one that failed too
often is *dead* until someone replays it. A version that a newer one replaces is *superseded*. Leases end by the
ledger's own clock, so the clocks of ingesters do not matter.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any, TypeVar

from sqlalchemy import Connection, and_, insert, or_, select, update

from geosod.ingest.cursors import Cursors
from geosod.ingest.database import BUSY_SECONDS, Database
from geosod.ingest.found import Found
from geosod.ingest.lease import Discovery, Lease, found_of_row
from geosod.ingest.tables import BACK, MARKED, NOT_ASKED, SENT, THERE, TO_SEND, metadata, versions
from geosod.ingest.upkeep import Upkeep

#: Rows that one statement is about.
_CHUNK = 400
#: Characters of an error that are kept.
_ERROR_CHARS = 500
_WAITING = ("discovered", "failed")
_v = versions.c
_T = TypeVar("_T")


class Ledger:
    """The ledger of one dataset.

    Args:
        address: see `Database`.
        dataset: address of the dataset; a database may hold the ledgers of several.
        busy_seconds: how long to wait for others.

    Raises:
        LedgerError: it cannot be opened or created.
    """

    def __init__(self, address: str, dataset: str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.database, self.dataset = Database(address, busy_seconds=busy_seconds), dataset
        self.database.change(lambda connection, _: metadata.create_all(connection))
        #: What follows a commit, and how far sources were asked.
        self.upkeep, self.cursors = Upkeep(self.database, dataset), Cursors(self.database, dataset)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    # --- what sources have

    def discover(
        self,
        found: Iterable[Found],
        *,
        source: str,
        model_digest: str,
        config_digest: str,
        priority: int = 0,
        dry_run: bool = False,
    ) -> Discovery:
        """Add the versions that are new. Waiting versions of the same items are superseded by them.

        Args:
            found: versions, of which an item may have several.
            source: digest of the source.
            model_digest, config_digest: what they are to be processed with.
            priority: those of lower numbers are processed first.
            dry_run: only count.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        total = Discovery()
        for chunk in _chunks(found, _CHUNK):
            keyed = {one.key(model_digest, config_digest): one for one in chunk}
            total += self.database.change(
                lambda connection, now, keyed=keyed: self._discover(  # type: ignore[misc]
                    connection, now, keyed, {"source": source, "priority": priority}, dry_run
                )
            )
        return total

    def _discover(
        self, connection: Connection, now: float, keyed: dict[str, Found], more: dict[str, Any], dry_run: bool
    ) -> Discovery:
        before: dict[tuple[str, str], list[Any]] = {}
        items = {one.item for one in keyed.values()}
        asked = select(_v.id, _v.key, _v.collection, _v.item, _v.version, _v.updated, _v.state, _v.withdrawn)
        for row in connection.execute(asked.where(_v.dataset == self.dataset, _v.item.in_(items)).order_by(_v.id)):
            before.setdefault((row.collection, row.item), []).append(row)
        counts = {"new": 0, "known": 0, "outdated": 0}
        for key, one in keyed.items():
            rows = before.get((one.collection, one.item), [])
            same = next((row for row in rows if row.key == key), None)
            current = [row for row in rows if row.state != "superseded"]
            newest = max((row.updated for row in current if row.updated), default="")
            if one.updated is not None and one.updated < newest:
                counts["outdated"] += 1
                continue
            # A version that comes back after another one is new again; one that only other settings replaced is not.
            back = same is not None and same.state == "superseded" and all(r.version != one.version for r in current)
            if same is not None and not back:
                counts["known"] += 1
                if same is not None and same.withdrawn == MARKED and not dry_run:
                    connection.execute(update(versions).where(_v.id == same.id).values(withdrawn=BACK))
                continue
            counts["new"] += 1
            if not dry_run:
                self._add(connection, now, key, one, None if same is None else same.id, more)
            # The next version of this item in the same answer sees this one.
            as_row = SimpleNamespace(
                id=-1, key=key, version=one.version, updated=one.updated, state="discovered", withdrawn=THERE
            )
            before[one.collection, one.item] = [r for r in rows if r is not same and r.state == "committed"] + [as_row]
        return Discovery(**counts)

    def _add(
        self, connection: Connection, now: float, key: str, one: Found, row: int | None, more: dict[str, Any]
    ) -> None:
        own = and_(_v.dataset == self.dataset, _v.collection == one.collection, _v.item == one.item)
        superseded = {"state": "superseded", "changed_at": now}
        connection.execute(update(versions).where(own, _v.state.not_in(("committed", "superseded"))).values(superseded))
        values = {
            **{"state": "discovered", "attempts": 0, "crashes": 0, "not_before": 0.0, "error": None, "token": None},
            **{"discovered_at": now, "changed_at": now, "withdrawn": THERE, "notice": NOT_ASKED, "notice_attempts": 0},
            **more,
        }
        if row is not None:
            connection.execute(update(versions).where(_v.id == row).values(values))
            return
        about = {name: getattr(one, name) for name in one.__slots__} | {"scene_id": one.scene_id}
        connection.execute(insert(versions).values(dataset=self.dataset, key=key, **about, **values))

    # --- leases

    def lease(self, source: str, count: int, *, seconds: float, max_crashes: int) -> tuple[Lease, ...]:
        """Take versions that wait, or whose ingester has died: up to `count`.

        A version whose ingester has died is taken alone, so that one that kills ingesters takes no others with it.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        return self.database.change(
            lambda connection, now: self._lease(connection, now, source, count, seconds, max_crashes)
        )

    def _lease(
        self, connection: Connection, now: float, source: str, count: int, seconds: float, max_crashes: int
    ) -> tuple[Lease, ...]:
        # A clock that was set back would make leases last.
        lost = or_(_v.lease_until < now, _v.lease_until > now + 2 * _v.lease_seconds)
        dead = and_(_v.dataset == self.dataset, _v.state == "leased", lost)
        text = f"its ingester died {max_crashes} times; look at its log and memory, then replay it"
        connection.execute(update(versions).where(dead).values(crashes=_v.crashes + 1, state="discovered", token=None))
        gone = and_(_v.dataset == self.dataset, _v.state == "discovered", _v.crashes >= max_crashes)
        connection.execute(update(versions).where(gone).values(state="dead", error=text, changed_at=now))
        ready = and_(_v.dataset == self.dataset, _v.source == source, _v.state.in_(_WAITING), _v.not_before <= now)
        order = (_v.priority, _v.crashes, _v.id)
        rows = list(connection.execute(select(versions).where(ready).order_by(*order).limit(count)))
        rows = rows[:1] if rows and rows[0].crashes else [row for row in rows if not row.crashes]
        token = secrets.token_hex(16)
        held = {"state": "leased", "token": token, "lease_until": now + seconds, "lease_seconds": seconds}
        connection.execute(update(versions).where(_v.id.in_([row.id for row in rows])).values(changed_at=now, **held))
        return tuple(Lease(row.id, row.key, found_of_row(row), row.scene_id, row.attempts, token) for row in rows)

    def renew(self, leases: Sequence[Lease]) -> set[int]:
        """Prolong leases that are still held; the ids of these."""
        ids = [lease.id for lease in leases]
        tokens = {lease.token for lease in leases}

        def action(connection: Connection, now: float) -> set[int]:
            held = and_(_v.id.in_(ids), _v.token.in_(tokens), _v.state == "leased")
            connection.execute(update(versions).where(held).values(lease_until=now + _v.lease_seconds))
            return set(connection.execute(select(_v.id).where(held)).scalars())

        return self.database.change(action)

    def release(self, leases: Sequence[Lease]) -> None:
        """Give leases back, as if they had not been taken."""
        for lease in leases:
            self._end(lease, {"state": "discovered"}, only_held=True)

    def committed(self, lease: Lease, *, notify: bool) -> bool:
        """Record that a version is in the dataset. False where another ingester has the lease by now."""
        notice = TO_SEND if notify else NOT_ASKED

        def action(connection: Connection, now: float) -> bool:
            mine = and_(_v.id == lease.id, _v.token == lease.token)
            values = {"state": "committed", "token": None, "error": None, "changed_at": now, "notice": notice}
            values |= {"indexed": 0, "notice_attempts": 0, "not_before": 0.0, "withdrawn": THERE}
            done = connection.execute(update(versions).where(mine).values(values)).rowcount == 1
            older = and_(_v.dataset == self.dataset, _v.scene_id == lease.scene_id, _v.id != lease.id)
            if done:
                connection.execute(
                    update(versions).where(older, _v.state == "committed").values(state="superseded", changed_at=now)
                )
            return done

        return self.database.change(action)

    def failed(self, lease: Lease, error: str, *, attempts: int, retry_seconds: float, state: str = "failed") -> None:
        """Record that a version failed; it is tried again after a wait that grows.

        Args:
            lease: of the version.
            error: why.
            attempts: how often it has failed now.
            retry_seconds: the wait.
            state: "failed", or "dead" where it is not tried again.
        """
        values = {"state": state, "error": error[:_ERROR_CHARS], "attempts": attempts, "not_before": retry_seconds}
        self._end(lease, values, only_held=True)

    def superseded(self, lease: Lease) -> None:
        """Record that a version is not the item's any more."""
        self._end(lease, {"state": "superseded"}, only_held=True)

    def _end(self, lease: Lease, values: dict[str, Any], *, only_held: bool) -> None:
        def action(connection: Connection, now: float) -> None:
            mine = [_v.id == lease.id, _v.token == lease.token, *([_v.state == "leased"] if only_held else [])]
            wait = {"not_before": now + values["not_before"]} if "not_before" in values else {}
            connection.execute(update(versions).where(*mine).values(values | wait | {"token": None, "changed_at": now}))

        self.database.change(action)

    # --- for operators

    def replay(self, *, scenes: Collection[str] = (), containing: str = "") -> int:
        """Let dead versions be tried again; the number of them.

        Args:
            scenes: identifiers of scenes or items; none means all.
            containing: text that their errors have in them.
        """
        chosen = [_v.dataset == self.dataset, _v.state == "dead"]
        if scenes:
            chosen.append(or_(_v.scene_id.in_(scenes), _v.item.in_(scenes)))
        if containing:
            chosen.append(_v.error.contains(containing, autoescape=True))
        values = {"state": "discovered", "attempts": 0, "crashes": 0, "not_before": 0.0}
        return self.database.change(
            lambda connection, now: (
                connection.execute(update(versions).where(*chosen).values(changed_at=now, **values)).rowcount
            )
        )

    def record(self, rows: Sequence[dict[str, Any]]) -> int:
        """Enter versions that the dataset has and the ledger does not: as committed, with nobody notified again."""

        def action(connection: Connection, now: float) -> int:
            added = 0
            for chunk in _chunks(rows, _CHUNK):
                keys = [row["key"] for row in chunk]
                there = select(_v.key).where(_v.dataset == self.dataset, _v.key.in_(keys))
                known = set(connection.execute(there).scalars())
                new = [row for row in chunk if row["key"] not in known]
                fixed = {"dataset": self.dataset, "state": "committed", "discovered_at": now, "changed_at": now}
                fixed |= {"notice": SENT}
                if new:
                    connection.execute(insert(versions), [row | fixed for row in new])
                added += len(new)
            return added

        return self.database.change(action)

    def known_keys(self, source: str) -> frozenset[str]:
        """The keys of all versions of a source that nothing newer has replaced."""
        asked = select(_v.key).where(_v.dataset == self.dataset, _v.source == source, _v.state != "superseded")
        return self.database.read(lambda connection, _: frozenset(connection.execute(asked).scalars()))

    def is_empty(self) -> bool:
        """Whether it holds nothing of its dataset."""
        asked = select(_v.id).where(_v.dataset == self.dataset).limit(1)
        return self.database.read(lambda connection, _: connection.execute(asked).first() is None)


def _chunks(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    waiting = iter(values)
    while chunk := list(islice(waiting, size)):
        yield chunk
