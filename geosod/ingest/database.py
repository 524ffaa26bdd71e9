"""The database of a ledger: a file of SQLite, or PostgreSQL. Errors are those of geosod."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from geosod.errors import ConfigError, LedgerError, one_line

try:
    from sqlalchemy import Connection, Engine, create_engine, event, text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError
    from sqlalchemy.pool import StaticPool
except ImportError as error:
    raise ConfigError(f"{error.name} is not installed; run: pip install 'geosod[ingest]'") from error

_T = TypeVar("_T")

#: Seconds that a transaction waits for the ones of others, and how often it is tried.
BUSY_SECONDS, ATTEMPTS = 20.0, 4
#: A transaction whose process does nothing for this many times as long is ended by the server.
IDLE = 3
#: Transactions of all ledgers in a database of PostgreSQL that change something take turns by this lock.
_TURN = 0x6765_6F73_6F64
_CLOCKS = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
}
#: What PostgreSQL says where the same may succeed in a moment: connections, locks, serialization, shutting down.
_PASSING_STATES = ("08", "40", "53300", "55P03", "57P0")


class Database:
    """Transactions on a ledger; may be used by several threads.

    Args:
        address: path of a file of SQLite, ``postgresql://user@host/database``, or ":memory:" for a ledger that is
            thrown away. The password may be in PGPASSWORD.

    Raises:
        ConfigError: the address is neither, or a driver is not installed.
    """

    def __init__(self, address: str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.address, self._busy = address, busy_seconds
        self.engine = _engine(address, busy_seconds)
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            reason = one_line(getattr(error, "orig", None) or error)[:300]
            raise LedgerError(f"ledger {self.address}: cannot be used: {reason}; {self._remedy(reason)}") from None

    def _remedy(self, reason: str) -> str:
        if "locked" in reason or "lock timeout" in reason:
            return "another program holds it; end that, or wait"
        if "full" in reason or "No space" in reason:
            return "free some space on its disk"
        if "malformed" in reason or "not a database" in reason:
            return "move the file away; a new ledger is made from the dataset"
        return "check its path" if self.is_sqlite else "check that the server runs, its address and the password"

    def change(self, action: Callable[[Connection, float], _T]) -> _T:
        """Run `action` in a transaction of its own, with the ledger's time; others that change something wait.

        It is called again where the database was busy or the connection lost, so it must do nothing else.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        with self._errors():
            for attempt in range(ATTEMPTS):
                try:
                    with self.engine.begin() as connection:
                        if not self.is_sqlite:
                            connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})
                        return action(connection, self.now(connection))
                except (DBAPIError, PoolTimeoutError) as error:
                    if attempt + 1 == ATTEMPTS or not _passing(error):
                        raise
                except ConnectionError:
                    # pg8000 passes on what the socket says; the other connections of the pool are as dead.
                    self.engine.dispose()
                    if attempt + 1 == ATTEMPTS:
                        raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def read(self, action: Callable[[Connection, float], _T]) -> _T:
        """As `change`, for an action that only reads."""
        return self.change(action)

    def now(self, connection: Connection) -> float:
        """Seconds by the ledger's own clock: that of the server, or of the one machine that a file is on."""
        return float(connection.execute(text(_CLOCKS[self.engine.dialect.name])).scalar_one())

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _passing(error: Exception) -> bool:
    if not isinstance(error, DBAPIError):
        return True
    original: Any = error.orig
    details = original.args[0] if original is not None and original.args else ""
    state = details.get("C", "") if isinstance(details, dict) else ""
    if state:
        return str(state).startswith(_PASSING_STATES)
    return error.connection_invalidated or (isinstance(error, OperationalError) and "locked" in str(original))


def _engine(address: str, busy_seconds: float) -> Engine:
    if address == ":memory:":
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        _by_hand(engine)
        return engine
    if "://" not in address:
        path = Path(address).expanduser().absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": busy_seconds, "check_same_thread": False})
        _by_hand(engine)
        return engine
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise ConfigError(f"ledger {address}: is no address of a database: {one_line(error)}") from None
    if url.drivername not in ("postgresql", "postgres"):
        raise ConfigError(
            f"ledger {address}: give a path for a file of SQLite, or postgresql://HOST/DATABASE for a server"
        )
    password = url.password or os.environ.get("PGPASSWORD")
    url = url.set(drivername="postgresql+pg8000", password=password)
    try:
        engine = create_engine(url, pool_pre_ping=True, connect_args={"timeout": 30})
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed; run: pip install 'geosod[ingest]'") from error
    _bounded(engine, busy_seconds)
    return engine


def _bounded(engine: Engine, busy_seconds: float) -> None:
    """Wait for others no longer than that, and let the server end the transaction of a process that was suspended."""
    limits = {"lock_timeout": busy_seconds, "idle_in_transaction_session_timeout": IDLE * busy_seconds}

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for name, seconds in limits.items():
            cursor.execute(f"SET {name} = {round(1000 * seconds)}")
        cursor.close()
        connection.commit()


def _by_hand(engine: Engine) -> None:
    """Begin transactions as writers, so that none fails in its middle because another one writes."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
