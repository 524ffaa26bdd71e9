"""Servers on loopback (a range server with faults, an S3 service, nginx), and a scene that they serve."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import rasterio.shutil

from tests.rasters import noise, write_tif
from tests.remote.server import Server, serving
from tests.running.helpers import detect, tables

KEY, SECRET, TOKEN = "AKIDEXAMPLEKEY", "s3cretKeyOfTheTests", "t0kenOfTheTests"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to be served, with a COG of 700 x 900 pixels."""
    root = tmp_path_factory.mktemp("site")
    draft = write_tif(root / "draft.tif", noise(3, 700, 900), block=64)
    rasterio.shutil.copy(draft, root / "scene.tif", driver="COG", blocksize=128, compress="DEFLATE")
    draft.unlink()
    return root


@pytest.fixture
def scene(site: Path, tmp_path: Path) -> Path:
    """The COG in a separate folder, which a test may change."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Path(shutil.copy2(site / "scene.tif", folder / "scene.tif"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers, which end with the test."""
    with ExitStack() as stack:
        yield lambda root, **settings: stack.enter_context(serving(Path(root), **settings))


@pytest.fixture(scope="session")
def local_tables(site: Path, rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of a run on the local file."""
    out = tmp_path_factory.mktemp("local")
    result = detect(site / "scene.tif", rgb_bundle, out, unit=(2, 3))
    assert result.exit_code == 0 and result.detections > 100
    return pixels_of(out)


def pixels_of(out: Path) -> dict[str, bytes]:
    """The rows of every table of a run. Files differ in the source that their metadata names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = {}
    for name in tables(out):
        table = pq.read_table(out / name).replace_schema_metadata(None)
        table = table.drop_columns([c for c in ("detection_id", "scene_id") if c in table.schema.names])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        found[name.replace("\\", "/")] = sink.getvalue().to_pybytes()
    return found


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without AWS credentials."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def s3_service() -> Iterator[str]:
    """Address of an S3 service."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def s3(s3_service: str, aws: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the service, with credentials in the environment; the bucket "images" is empty."""
    import boto3

    values = {"AWS_ENDPOINT_URL": s3_service, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    for name, value in (values | {"AWS_SESSION_TOKEN": TOKEN, "AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{s3_service}/moto-api/reset", method="POST")).close()
    client = boto3.client("s3")
    client.create_bucket(Bucket="images")
    return client


@pytest.fixture(scope="session")
def nginx(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an nginx that serves the site."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("nginx is not installed, which CI needs")
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = "".join(f"{n}_temp_path {folder}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = f"user {'root' if os.getuid() == 0 else ''};" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;"
        f"events {{}} http {{ access_log {folder}/access.log; {paths} sendfile on;"
        f"server {{ listen 127.0.0.1:{port}; root {site}; }} }}"
    )
    process = subprocess.Popen([program, "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()
