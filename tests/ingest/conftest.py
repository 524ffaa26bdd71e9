"""Ledgers over both databases, an API with scenes, and ingesters in this process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geosod.config import RunConfig
from geosod.ingest.config import IngestConfig
from geosod.ingest.run import Ingester
from tests.ingest.api_server import Api, serving_api
from tests.rasters import noise, random_bundle, write_tif
from tests.remote.server import Server, serving
from tests.running.helpers import PLAIN


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The folder with the programs of PostgreSQL's server."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb") or (str(programs[-1] / "initdb") if programs else None)
    if found is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    return Path(found).resolve().parent


@pytest.fixture(scope="session")
def postgres(postgres_programs: Path) -> Iterator[str]:
    """Address of a PostgreSQL of its own, on loopback."""
    # Not below pytest's folder, which other users may not enter; the server refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="geosod-postgres-"))
    as_user: list[str] = []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
    quiet: dict[str, Any] = {"env": env, "cwd": folder, "stdout": subprocess.DEVNULL}
    initdb = str(postgres_programs / "initdb")
    subprocess.run([*as_user, initdb, "-D", str(data), "-A", "trust", "-U", "tests", "-N"], check=True, **quiet)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*as_user, str(postgres_programs / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run([*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, **quiet)
    yield f"postgresql://tests@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, **quiet)
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_at(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a ledger, in either database; datasets of tests differ, so that one server serves all."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    return str(request.getfixturevalue("postgres"))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with tiles of 64 pixels."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return random_bundle(folder, bands=("red", "green", "blue"), tile=64, top_k=5)


@pytest.fixture
def api() -> Iterator[Api]:
    with serving_api() as api:
        yield api


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Server]:
    """A server of files in ``site``."""
    (tmp_path / "site").mkdir()
    with serving(tmp_path / "site") as server:
        yield server


def image(server: Server, name: str, *, seed: int = 0, size: int = 64) -> str:
    """Write an image that the server has; its address."""
    write_tif(server.root / name, noise(3, size, size, seed=seed), block=64)
    return f"{server.url}/{name}"


@pytest.fixture
def ingester(tmp_path: Path, tiny_bundle: Path) -> Iterator[Callable[..., Ingester]]:
    """Makes ingesters with quick settings, into ``out`` unless another folder is given."""
    made: list[Ingester] = []

    def make(source: str, *, hosts: tuple[str, ...] = (), out: Any = None, on_event: Any = None, **given: Any) -> Any:
        quick = {"retry_seconds": 0, "settle": 0, "lease": 30}
        own = {n: given.pop(n) for n in list(given) if n in IngestConfig.model_fields}
        config = IngestConfig(**(quick | {"source": source, "asset_hosts": hosts} | own))
        out = str(out or tmp_path / "out")
        run = RunConfig(**({"model": str(tiny_bundle), "out": out, "engine": "serial"} | PLAIN | given))
        made.append(Ingester(config, run, on_event=on_event))
        return made[-1]

    yield make
    for one in made:
        with closing(one):
            pass
