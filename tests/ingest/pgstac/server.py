"""A STAC API as it is in the field: stac-fastapi with pgstac on PostgreSQL, in an environment of its own."""

from __future__ import annotations

import datetime as dt
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy.engine import make_url

from tests.ingest.api_server import stac_item

ENVIRONMENT = Path(__file__).parents[3] / ".pgstac"
_SQUARE = {"type": "Polygon", "coordinates": [[[4, 52], [5, 52], [5, 53], [4, 53], [4, 52]]]}


@dataclass
class Pgstac:
    """The service, and what its items should be; changed through its own transactions, as providers do.

    Attributes:
        url: of the landing page.
        items: collection and identifier → the item.
        collections: those that were made.
    """

    url: str
    items: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    collections: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, collection: str, item: str, href: str, **properties: Any) -> None:
        """Add or change an item; `updated` is now."""
        if collection not in self.collections:
            self._create(collection)
        now = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
        value = stac_item(collection, item, href, **({"updated": now} | properties))
        value |= {"geometry": _SQUARE, "bbox": [4, 52, 5, 53]}
        with self.lock:
            if (collection, item) in self.items:
                self._ask("PUT", f"collections/{collection}/items/{item}", value)
            else:
                self._ask("POST", f"collections/{collection}/items", value)
            self.items[collection, item] = value

    def remove(self, collection: str, item: str) -> None:
        """Withdraw an item."""
        with self.lock:
            self._ask("DELETE", f"collections/{collection}/items/{item}")
            del self.items[collection, item]

    def _create(self, collection: str) -> None:
        extent = {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [["2024-01-01T00:00:00Z", None]]},
        }
        value = {
            "type": "Collection",
            "stac_version": "1.0.0",
            "id": collection,
            "description": "d",
            "license": "other",
        }
        self._ask("POST", "collections", value | {"links": [], "extent": extent})
        self.collections.add(collection)

    def _ask(self, method: str, path: str, value: Any = None) -> None:
        requests.request(method, f"{self.url}/{path}", json=value, timeout=30).raise_for_status()


@contextmanager
def serving_pgstac(postgres: str, programs: Path, log: Path) -> Iterator[Pgstac]:
    """Serve an empty API from a database of its own; the test is skipped where a part of it is not installed.

    Args:
        postgres: address of a server.
        programs: folder of its programs.
        log: file for what the service says.
    """
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        pytest.skip("pgstac is not installed (make test-pgstac)")
    asked = subprocess.run([programs / "pg_config", "--sharedir"], check=True, capture_output=True, text=True)
    if not (Path(asked.stdout.strip()) / "extension" / "postgis.control").exists():
        pytest.skip("PostGIS is not installed (apt-get install postgresql-15-postgis-3)")
    url = make_url(postgres)
    name = f"pgstac{time.monotonic_ns()}"
    where = {"PGHOST": url.host, "PGPORT": str(url.port), "PGUSER": url.username, "PGPASSWORD": "none"}
    where |= {"PGOPTIONS": "-c client_min_messages=warning"}
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | where
    run = partial(subprocess.run, env=env, check=True, stdout=subprocess.DEVNULL)
    run([programs / "createdb", name])
    (schema,) = ENVIRONMENT.glob("lib/*/site-packages/pypgstac/migrations/pgstac.0.10.0.sql")
    extensions = "; ".join(f"CREATE EXTENSION {one}" for one in ("postgis", "btree_gist"))
    psql = [programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", name]
    run([*psql, "-c", extensions])
    run([*psql, "-f", schema])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env |= {"PGDATABASE": name, "ENABLE_TRANSACTIONS_EXTENSIONS": "TRUE", "WEB_CONCURRENCY": "1"}
    app = ["stac_fastapi.pgstac.app:create_app", "--factory", "--port", str(port), "--log-level", "warning"]
    with log.open("w") as out:
        process = subprocess.Popen([python, "-m", "uvicorn", *app], env=env, stdout=out, stderr=out)
    try:
        yield Pgstac(_answering(f"http://127.0.0.1:{port}", process, log))
    finally:
        process.terminate()
        process.wait(10)


def _answering(url: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """The address of a service, once it answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(url, timeout=5).ok:
                return url
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"stac-fastapi does not answer: {log.read_text()[-2000:]}")
