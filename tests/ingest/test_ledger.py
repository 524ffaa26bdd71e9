"""The ledger, over SQLite and PostgreSQL alike: leases, versions, crashes, and its own clock."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geosod.errors import ConfigError, LedgerError
from geosod.ingest.database import Database
from geosod.ingest.found import Found, instant, version_of
from geosod.ingest.lease import Lease
from geosod.ingest.ledger import Ledger
from geosod.ingest.status import ingest_status

Make = Callable[[], Ledger]


@pytest.fixture
def ledgers(ledger_at: str, tmp_path: Path) -> Iterator[Make]:
    """Opens the ledger of one dataset again and again, as different processes do."""
    made: list[Ledger] = []

    def make() -> Ledger:
        made.append(Ledger(ledger_at, str(tmp_path), busy_seconds=5))
        return made[-1]

    yield make
    for one in made:
        one.close()


def version(item: str, number: int, collection: str = "c") -> Found:
    updated = f"2024-01-01T00:00:{number:02}.000000Z"
    return Found(collection, item, updated, f"http://api/{item}", updated)


def discover(ledger: Ledger, *found: Found, model: str = "m", **more: Any) -> int:
    return ledger.discover(found, source="s", model_digest=model, config_digest="d", **more).new


def lease(ledger: Ledger, count: int = 10, *, seconds: float = 30, max_crashes: int = 3) -> tuple[Lease, ...]:
    return ledger.lease("s", count, seconds=seconds, max_crashes=max_crashes)


def states(ledger: Ledger) -> dict[str, int]:
    return {state: n for state, n in ingest_status(ledger).counts.items() if n}


def expire(ledger: Ledger) -> None:
    """Let leases of 0.2 s end."""
    time.sleep(0.3)


def test_a_version_is_known_once(ledgers: Make) -> None:
    ledger = ledgers()
    assert discover(ledger, version("a", 1), version("b", 1)) == 2
    assert discover(ledgers(), version("a", 1), version("a", 1), version("b", 1)) == 0
    # The same identifier in another collection, and another model, are others.
    assert discover(ledger, version("a", 1, "other")) == 1
    assert discover(ledger, version("a", 1), model="n") == 1
    assert states(ledger) == {"discovered": 3, "superseded": 1}


def test_a_newer_version_supersedes_one_that_waits_and_an_older_one_nothing(ledgers: Make) -> None:
    ledger = ledgers()
    discover(ledger, version("a", 1))
    assert discover(ledger, version("a", 3)) == 1
    found = ledger.discover([version("a", 2)], source="s", model_digest="m", config_digest="d")
    assert (found.new, found.outdated) == (0, 1)
    (one,) = lease(ledger)
    assert one.found == version("a", 3)


def test_several_versions_in_one_answer_leave_the_newest(ledgers: Make) -> None:
    ledger = ledgers()
    discover(ledger, version("a", 1), version("a", 3), version("a", 2))
    assert [one.found.version for one in lease(ledger)] == [version("a", 3).version]


def test_a_version_is_leased_by_one_of_many(ledgers: Make) -> None:
    discover(ledgers(), *(version(f"i{i}", 1) for i in range(60)))
    taken: list[Lease] = []
    opened = [ledgers() for _ in range(4)]

    def take(ledger: Ledger) -> None:
        while some := lease(ledger, 3):
            taken.extend(some)

    threads = [threading.Thread(target=take, args=(ledger,)) for ledger in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.found.item for one in taken) == sorted(f"i{i}" for i in range(60))


def test_the_lease_of_a_dead_ingester_ends_and_its_token_with_it(ledgers: Make) -> None:
    ledger, other = ledgers(), ledgers()
    discover(ledger, version("a", 1))
    (mine,) = lease(ledger, seconds=0.2)
    assert lease(other) == ()
    expire(other)
    (theirs,) = lease(other)
    assert theirs.id == mine.id and theirs.token != mine.token
    assert ledger.renew([mine]) == set() and other.renew([theirs]) == {theirs.id}
    assert not ledger.committed(mine, notify=False) and states(ledger) == {"leased": 1}
    ledger.failed(mine, "x", attempts=9, retry_seconds=0, state="dead")
    ledger.release([mine])
    assert states(ledger) == {"leased": 1}
    assert other.committed(theirs, notify=False) and states(ledger) == {"committed": 1}


def test_a_renewed_lease_lasts(ledgers: Make) -> None:
    ledger, other = ledgers(), ledgers()
    discover(ledger, version("a", 1))
    (mine,) = lease(ledger, seconds=0.5)
    for _ in range(4):
        time.sleep(0.2)
        assert ledger.renew([mine]) == {mine.id} and lease(other) == ()


def test_clocks_of_ingesters_do_not_matter(ledgers: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, other = ledgers(), ledgers()
    discover(ledger, version("a", 1))
    (mine,) = lease(ledger)
    for name in ("time", "monotonic"):
        monkeypatch.setattr(time, name, lambda: 4e9)
    assert lease(other) == () and ledger.renew([mine]) == {mine.id}


def test_a_clock_that_is_set_back_does_not_make_a_lease_last(ledgers: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledgers()
    discover(ledger, version("a", 1))
    now = Database.now
    with monkeypatch.context() as patch:
        patch.setattr(Database, "now", lambda self, connection: now(self, connection) + 86_400)
        lease(ledger)
    assert len(lease(ledger)) == 1


def test_what_kills_ingesters_is_taken_alone_and_dies(ledgers: Make) -> None:
    ledger = ledgers()
    discover(ledger, version("poison", 1), version("good", 1))
    assert len(lease(ledger, seconds=0.2)) == 2  # and its ingester is killed
    expire(ledger)
    killed = 0
    for _ in range(4):
        some = lease(ledger, seconds=0.2, max_crashes=3)
        assert len(some) <= 1
        for one in some:
            if one.found.item == "good":
                ledger.committed(one, notify=False)
            else:
                killed += 1
        expire(ledger)
    assert lease(ledger, max_crashes=3) == ()
    assert states(ledger) == {"committed": 1, "dead": 1} and killed == 2
    assert "died 3 times" in ingest_status(ledger).problems[0].error


def test_failures_wait_longer_each_time_and_dead_ones_are_replayed(ledgers: Make) -> None:
    ledger = ledgers()
    discover(ledger, version("a", 1), version("b", 1))
    for one in lease(ledger):
        ledger.failed(one, f"{one.found.item}: status 403", attempts=1, retry_seconds=0.4)
    assert lease(ledger) == ()
    time.sleep(0.5)
    again = lease(ledger)
    assert [one.attempts for one in again] == [1, 1]
    for one in again:
        ledger.failed(one, f"{one.found.item}: status 403", attempts=2, retry_seconds=0, state="dead")
    assert lease(ledger) == () and states(ledger) == {"dead": 2}
    assert ledger.replay(containing="100%_") == 0 and ledger.replay(scenes=["a"]) == 1
    assert [one.attempts for one in lease(ledger)] == [0]
    assert ledger.replay(containing="status 403") == 1


def test_a_version_that_comes_back_is_new_again(ledgers: Make) -> None:
    """Files have no `updated`: one that is put back as it was is not what the dataset has."""
    ledger = ledgers()
    first, second = (Found("c", "a", f"checksum {n}", "file") for n in (1, 2))
    for one in (first, second):
        assert discover(ledger, one) == 1
        assert ledger.committed(lease(ledger)[0], notify=False)
    assert states(ledger) == {"committed": 1, "superseded": 1}
    assert discover(ledger, first) == 1 and lease(ledger)[0].found == first


def test_live_versions_come_before_those_of_a_backfill(ledgers: Make) -> None:
    ledger = ledgers()
    discover(ledger, version("old", 1), priority=1)
    discover(ledger, version("new", 1))
    assert [one.found.item for one in lease(ledger)] == ["new", "old"]


def test_a_dry_run_changes_nothing(ledgers: Make) -> None:
    ledger = ledgers()
    assert discover(ledger, version("a", 1), dry_run=True) == 1 and ledger.is_empty()


def test_cursors_never_go_back(ledgers: Make) -> None:
    ledger = ledgers()
    assert ledger.cursors.get("s") == (None, None)
    ledger.cursors.polled("s", cursor="2024-02", listed=True)
    ledger.cursors.polled("s", cursor="2024-01", error="API down")
    cursor, age = ledger.cursors.get("s")
    assert cursor == "2024-02" and age is not None and 0 <= age < 5
    assert ingest_status(ledger).source_errors == ("API down",)


def test_a_locked_ledger_is_waited_for_and_then_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger"), "d", busy_seconds=0.2)
    other = sqlite3.connect(tmp_path / "ledger", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="locked; another program holds it"):
        discover(ledger, version("a", 1))
    threading.Timer(0.4, lambda: None).start()
    other.execute("ROLLBACK")
    assert discover(ledger, version("a", 1)) == 1
    other.close()
    ledger.close()


def test_a_lock_of_postgresql_is_waited_for_and_then_named(postgres: str) -> None:
    from sqlalchemy import create_engine, text

    ledger = Ledger(postgres, "locked", busy_seconds=0.2)
    other = create_engine(ledger.database.engine.url)
    with other.begin() as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({0x67656F736F64})"))
        with pytest.raises(LedgerError, match="another program holds it"):
            discover(ledger, version("a", 1))
    assert discover(ledger, version("a", 1)) == 1
    other.dispose()
    ledger.close()


def test_a_process_that_is_suspended_in_a_transaction_does_not_hold_up_others(postgres: str) -> None:
    """The server ends its transaction, of which nothing stays; it notices when it wakes up, and tries again."""
    sleeper, ledger = Ledger(postgres, "asleep", busy_seconds=0.2), Ledger(postgres, "asleep", busy_seconds=0.5)
    asleep, done = threading.Event(), []

    def sleeps(*_: Any) -> None:
        if not asleep.is_set():
            asleep.set()
            time.sleep(2.5)
        done.append(1)

    thread = threading.Thread(target=lambda: sleeper.database.change(sleeps))
    thread.start()
    asleep.wait(10)
    began = time.monotonic()
    assert discover(ledger, version("a", 1)) == 1 and time.monotonic() - began < 2.4
    thread.join()
    assert len(done) == 2, "once in vain"
    sleeper.close()
    ledger.close()


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger"), "d")
    discover(ledger, version("a", 1))

    def limit(pages: int) -> None:
        from sqlalchemy import event

        ledger.database.engine.dispose()
        event.listen(
            ledger.database.engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}"), insert=False
        )

    limit(1)
    with pytest.raises(LedgerError, match="full; free some space"):
        discover(ledger, *(version(f"b{i}", 1) for i in range(2000)))
    assert states(ledger) == {"discovered": 1}
    limit(1_000_000)
    assert discover(ledger, *(version(f"b{i}", 1) for i in range(2000))) == 2000
    ledger.close()


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(LedgerError, match="move the file away"):
        Ledger(str(tmp_path / "ledger"), "d")


@pytest.mark.parametrize("address", ["mysql://host/db", "http://x"])
def test_other_databases_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://HOST/DATABASE"):
        Database(address)


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(LedgerError, match="check that the server runs") as caught:
        Ledger("postgresql://me:s3cret@127.0.0.1:1/db", "d")
    assert "s3cret" not in str(caught.value)


def test_a_server_that_restarts_is_connected_again(postgres: str) -> None:
    from sqlalchemy import text

    ledger = Ledger(postgres, "restart")
    discover(ledger, version("a", 1))
    killer = Ledger(postgres, "restart")
    kill = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    killer.database.change(lambda connection, _: connection.execute(kill))
    assert len(lease(ledger)) == 1
    ledger.close()
    killer.close()


def test_a_connection_that_is_reset_is_made_again(ledger_at: str) -> None:
    """pg8000 raises what the socket does, which SQLAlchemy does not take for a lost connection."""
    from sqlalchemy import event

    ledger, resets = Ledger(ledger_at, "reset"), [1, 1]
    discover(ledger, version("a", 1))

    def reset(*_: object) -> None:
        if resets:
            resets.pop()
            raise ConnectionResetError(104, "Connection reset by peer")

    event.listen(ledger.database.engine, "begin", reset)
    assert len(lease(ledger)) == 1 and not resets
    ledger.close()


def test_versions_of_items() -> None:
    said = {"assets": {"a": {"href": "https://h/a.tif?sig=1"}}, "properties": {"datetime": "2024-01-01T00:00:00Z"}}
    again = {"assets": {"a": {"href": "https://h/a.tif?sig=2"}}, "properties": {"datetime": "2024-01-01T00:00:00Z"}}
    assert version_of(said) == version_of(again), "a new signature is no new version"
    other = {"assets": {"a": {"href": "https://h/b.tif"}}, "properties": {"datetime": "2024-01-01T00:00:00Z"}}
    assert version_of(other) != version_of(said)
    summed = {"assets": {"a": {"href": "x", "file:checksum": "1220aa"}}, "properties": {}}
    assert version_of(summed).startswith("checksum ")
    dated = summed | {"properties": {"updated": "2024-01-01T00:00:00Z"}}
    assert version_of(dated) == f"2024-01-01T00:00:00.000000Z {version_of(summed)}"
    for text in ("2024-01-01T01:00:00+01:00", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00.000Z"):
        assert instant(text) == "2024-01-01T00:00:00.000000Z"
    assert instant("soon") is None and instant(None) is None
    assert version_of({"properties": {"updated": 5}, "assets": None}).startswith("content ")
