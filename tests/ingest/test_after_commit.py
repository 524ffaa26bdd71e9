"""The index, the collection, and notifications."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from geosod.errors import ConfigError
from geosod.ingest import index
from geosod.ingest.notify import signature
from geosod.ingest.status import ingest_status
from geosod.ingest.upkeep import Upkeep
from geosod.output import commit
from geosod.output.folder import open_output
from tests.ingest.conftest import image
from tests.ingest.test_api import items


def test_the_index_is_stac_geoparquet(api, files, ingester, tmp_path) -> None:
    """Read back by another implementation, its rows are the items; only relative links start elsewhere."""
    rustac = pytest.importorskip("rustac")
    for i in range(3):
        api.put("c", f"i{i}", image(files, f"i{i}.tif", seed=i))
    ingester(api.url, hosts=(files.url,), collection_id="ships").once()

    async def whole() -> Any:
        return await rustac.read(str(tmp_path / "out" / "index.parquet"))

    read = asyncio.run(whole())
    found = {item["id"]: item for item in read["features"]}
    expected = items(tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, item in expected.items():
        got = found[name]
        assert got["collection"] == item["collection"] == "ships"
        assert got["bbox"] == pytest.approx(item["bbox"]) and got["geometry"]["type"] == item["geometry"]["type"]
        for key, value in item["properties"].items():
            if value is not None:
                assert str(got["properties"][key])[:19] == str(value)[:19], key
        href = got["assets"]["detections"]["href"]
        assert (tmp_path / "out" / href).is_file()
    collection = json.loads((tmp_path / "out" / "collection.json").read_text())
    assert collection["id"] == "ships" and collection["links"] == []
    west, south, east, north = collection["extent"]["spatial"]["bbox"][0]
    for item in expected.values():
        assert west <= item["bbox"][0] and south <= item["bbox"][1] and east >= item["bbox"][2] <= north + 180
    assert collection["extent"]["temporal"]["interval"] == [["2024-05-01T10:00:00Z"] * 2]


def test_geopandas_and_the_validator_read_the_index(api, files, ingester, tmp_path) -> None:
    import geopandas

    api.put("c", "a", image(files, "a.tif"))
    ingester(api.url, hosts=(files.url,)).once()
    frame = geopandas.read_parquet(tmp_path / "out" / "index.parquet")
    assert len(frame) == 1 and frame.crs.to_epsg() in (4326, None) and frame.geometry.iloc[0].is_valid


def test_the_index_never_names_a_scene_that_is_not_there(api, files, ingester, tmp_path, monkeypatch) -> None:
    """Looked at whenever a file is put into place or removed, while a scene is replaced."""
    api.put("c", "a", image(files, "a.tif"))
    api.put("c", "b", image(files, "b.tif", seed=1))
    one = ingester(api.url, hosts=(files.url,))
    one.once()
    out, looks = tmp_path / "out", []

    def look() -> None:
        named = set(pq.read_table(out / "index.parquet")["id"].to_pylist())
        looks.append((named, {p.stem for p in (out / "items").glob("*.json")}))

    place = type(one.folder.place)
    for name in ("put", "remove"):
        original = getattr(place, name)

        def looking(self: Any, *args: Any, original: Any = original) -> None:
            original(self, *args)
            look()

        monkeypatch.setattr(place, name, looking)
    api.put("c", "a", image(files, "a2.tif", seed=7), datetime="2024-05-04T00:00:00Z")
    assert one.once().committed == 1
    assert len(looks) > 4 and any(len(there) == 1 for _, there in looks)
    assert all(named <= there for named, there in looks), looks
    assert looks[-1][0] == looks[-1][1]


def test_an_ingester_that_dies_before_the_index_leaves_it_to_the_next(
    api, files, ingester, tmp_path, monkeypatch
) -> None:
    api.put("c", "a", image(files, "a.tif"))
    one = ingester(api.url, hosts=(files.url,))
    other = ingester(api.url, hosts=(files.url,))
    with monkeypatch.context() as patch:
        patch.setattr(index, "refresh", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            one.once()
    assert index.indexed_scenes(one.folder) == set() and len(items(tmp_path / "out")) == 1
    other.once()
    assert index.indexed_scenes(one.folder) == set(items(tmp_path / "out"))


def test_an_index_that_is_damaged_is_made_anew(api, files, ingester, tmp_path) -> None:
    api.put("c", "a", image(files, "a.tif"))
    ingester(api.url, hosts=(files.url,)).once()
    (tmp_path / "out" / "index.parquet").write_bytes(b"PAR1 not at all")
    ingester(api.url, hosts=(files.url,))
    assert index.indexed_scenes(open_output(tmp_path / "out")) == set(items(tmp_path / "out"))


class Receiver:
    """An http server that notes what is posted to it."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, str]] = []
        self.refuse = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.refuse -= 1
                if receiver.refuse < 0:
                    receiver.got.append((body, self.headers["X-Geosod-Signature"]))
                self.send_response(204 if receiver.refuse < 0 else 503)
                self.end_headers()

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?token=s3cret"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


def test_each_committed_scene_is_notified_once_signed_and_retried(api, files, ingester, tmp_path, monkeypatch) -> None:
    key = tmp_path / "key"
    key.write_text("a key of more than 16 bytes\n")
    receiver = Receiver()
    receiver.refuse = 1
    for i in range(3):
        api.put("c", f"i{i}", image(files, f"i{i}.tif", seed=i))
    notes: list[str] = []
    one = ingester(
        api.url, hosts=(files.url,), notify_url=receiver.url, notify_key_file=key,
        on_event=lambda e: notes.append(str(e)),
    )  # fmt: skip
    result = one.once()
    assert result.committed == 3 and result.notified == 2
    assert any("status 503" in note for note in notes) and "s3cret" not in str(notes)
    assert ingest_status(one.ledger).notices == {"waiting": 1, "given_up": 0}
    now = Upkeep.claim_notices
    monkeypatch.setattr(Upkeep, "claim_notices", lambda self, n, **more: now(self, n, **(more | {"retry_seconds": 0})))
    one.ledger.database.change(lambda c, _: c.exec_driver_sql("UPDATE geosod_ingest_versions SET not_before = 0"))
    assert one.once().notified == 1 and one.once().notified == 0
    receiver.server.shutdown()
    said = [json.loads(body) for body, _ in receiver.got]
    assert sorted(one["item"] for one in said) == ["i0", "i1", "i2"] and len({one["id"] for one in said}) == 3
    for body, header in receiver.got:
        seconds, mac = (part.split("=")[1] for part in header.split(","))
        expected = hmac.new(b"a key of more than 16 bytes", f"{seconds}.".encode() + body, hashlib.sha256)
        assert mac == expected.hexdigest()
    assert Path(said[0]["stac_item"]).is_file()


def test_a_command_gets_each_scene_and_no_shell(api, files, ingester, tmp_path) -> None:
    script = tmp_path / "note.py"
    script.write_text(f"import sys; open({str(tmp_path / 'said')!r}, 'a').write(sys.stdin.read() + chr(10))")
    api.put("c", "a; touch x", image(files, "a.tif"))
    one = ingester(api.url, hosts=(files.url,), notify_command=f"{sys.executable} {script}")
    assert one.once().notified == 1
    assert json.loads((tmp_path / "said").read_text())["item"] == "a; touch x"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"notify_command": "'open"}, "No closing quotation"),
        ({"notify_command": " "}, "is empty"),
        ({"notify_url": "https://h/x", "notify_key_file": "missing"}, "cannot be read"),
    ],
)
def test_notifications_that_cannot_be_sent_are_refused_at_once(given, message, api, ingester) -> None:
    with pytest.raises(ConfigError, match=message):
        ingester(api.url, **given)


def test_signatures_are_as_documented() -> None:
    expected = hmac.new(b"k", b"17.{}", hashlib.sha256).hexdigest()
    assert signature(b"k", b"{}", 17) == f"t=17,v1={expected}" and commit
