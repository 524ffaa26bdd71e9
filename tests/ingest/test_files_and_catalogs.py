"""Folders that files arrive in, prefixes of buckets, and static catalogues."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geosod.errors import ConfigError, SourceError
from geosod.ingest.status import ingest_status
from geosod.running.events import Note
from tests.ingest.conftest import image
from tests.ingest.test_api import by_item, items
from tests.rasters import noise, write_tif
from tests.remote.conftest import aws, s3, s3_service

assert aws and s3 and s3_service


def arrive(folder: Path, name: str, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_tif(folder / name, noise(3, 64, 64, seed=seed), block=64)


def names(out: Path) -> set[str]:
    return {item for _, item in by_item(out)}


def test_a_file_is_taken_once_and_again_when_it_is_replaced(ingester, tmp_path) -> None:
    inbox = tmp_path / "in"
    arrive(inbox, "a.tif")
    arrive(inbox / "sub", "b.tif", 1)
    arrive(inbox, "a.tif").touch()
    one = ingester(str(inbox))
    assert one.once().committed == 2 and names(tmp_path / "out") == {"a.tif", "sub/b.tif"}
    assert one.once().discovered == 0
    arrive(inbox, "a.tif", 5)
    assert one.once().committed == 1 and len(items(tmp_path / "out")) == 2
    # Operators may clear the folder: by default nothing is marked.
    (inbox / "a.tif").unlink()
    assert one.once().withdrawn == 0


def test_unfinished_and_hidden_files_are_left_alone(ingester, tmp_path) -> None:
    inbox = tmp_path / "in"
    for name in (".hidden.tif", "x.tif.part", "y.tmp", "z.part/a.tif", "ok.tif"):
        whole = arrive(tmp_path / "made", "w.tif")
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole, inbox / name)
    one = ingester(str(inbox))
    assert one.once().discovered == 1 and names(tmp_path / "out") == {"ok.tif"}
    (inbox / "x.tif.part").rename(inbox / "x.tif")
    assert one.once().committed == 1


def test_a_file_that_still_grows_is_waited_for(ingester, tmp_path) -> None:
    whole = write_tif(tmp_path / "whole.tif", noise(3, 256, 256), block=64).read_bytes()
    inbox = tmp_path / "in"
    inbox.mkdir()
    (inbox / "a.tif").write_bytes(whole[:1000])
    one = ingester(str(inbox), settle=10)
    clock, waits = [0.0], []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds
        size = (inbox / "a.tif").stat().st_size
        if size < len(whole):
            (inbox / "a.tif").write_bytes(whole[: size + len(whole) // 3])

    one.source.clock, one.source.wait = lambda: clock[0], wait
    assert [one.discover().new for _ in range(5)] == [0, 0, 0, 1, 0]
    assert one.once().committed == 1 and waits == [10] * 4


def test_a_file_that_stays_incomplete_is_reported_and_fails_in_the_end(ingester, tmp_path) -> None:
    inbox, notes = tmp_path / "in", []
    whole = write_tif(tmp_path / "whole.tif", noise(3, 256, 256), block=64).read_bytes()
    inbox.mkdir()
    (inbox / "a.tif").write_bytes(whole[: len(whole) // 2])
    one = ingester(
        str(inbox), settle=10, attempts=1, on_event=lambda e: notes.append(e.text) if isinstance(e, Note) else None
    )
    clock = [0.0]
    one.source.clock, one.source.wait = lambda: clock[0], lambda s: clock.__setitem__(0, clock[0] + s)
    assert one.discover().new == 0 and "may not be complete" in notes[0]
    clock[0] = 200
    assert one.once().discovered == 1
    assert ingest_status(one.ledger).counts["committed"] == 0 or "partial" in str(items(tmp_path / "out"))


def test_a_folder_that_is_not_mounted_is_an_outage(ingester, tmp_path) -> None:
    arrive(tmp_path / "in", "a.tif")
    one = ingester(str(tmp_path / "in"), mark_withdrawn=True)
    one.once()
    (tmp_path / "in").rename(tmp_path / "away")
    result = one.once()
    assert result.exit_code == 3 and "not mounted" in result.problems[0] and result.withdrawn == 0


def test_objects_below_a_prefix(s3, ingester, tmp_path) -> None:
    made = arrive(tmp_path / "made", "w.tif").read_bytes()
    for key in ("in/a.tif", "in/b/c.tif", "in/notes.txt", "other/x.tif"):
        s3.put_object(Bucket="images", Key=key, Body=made)
    one = ingester("s3://images/in/", ledger=str(tmp_path / "ledger"), out="s3://images/out", mark_withdrawn=True)
    assert one.once().committed == 2 and one.once().discovered == 0
    listed = {e["Key"] for e in s3.list_objects_v2(Bucket="images", Prefix="out/")["Contents"]}
    assert {"out/index.parquet", "out/collection.json"} < listed
    s3.put_object(Bucket="images", Key="in/a.tif", Body=arrive(tmp_path / "made", "v.tif", 3).read_bytes())
    assert one.once().committed == 1
    s3.delete_object(Bucket="images", Key="in/b/c.tif")
    assert one.once().withdrawn == 1
    bodies = [
        json.loads(s3.get_object(Bucket="images", Key=e["Key"])["Body"].read())
        for e in s3.list_objects_v2(Bucket="images", Prefix="out/items/")["Contents"]
    ]
    marked = {b["properties"]["geosod:ingest_item"]: "geosod:withdrawn" in b["properties"] for b in bodies}
    assert marked == {"a.tif": False, "b/c.tif": True}


@pytest.mark.parametrize("paid", [True, False])
def test_a_bucket_whose_reader_pays(paid, s3, s3_service, ingester, tmp_path, monkeypatch) -> None:
    """The service refuses what does not say who pays: listing, probing, and the pixels that GDAL asks for."""
    from moto.server import DomainDispatcherApplication

    s3.put_object(Bucket="images", Key="in/a.tif", Body=arrive(tmp_path / "made", "w.tif").read_bytes())
    monkeypatch.setenv("AWS_REQUEST_PAYER", "")
    answer, agents = DomainDispatcherApplication.__call__, set()

    def answering(self: Any, environ: Any, start_response: Any) -> Any:
        if environ.get("HTTP_X_AMZ_REQUEST_PAYER") != "requester":
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        agents.add((environ["REQUEST_METHOD"], environ.get("HTTP_USER_AGENT", "").split("/")[0]))
        return answer(self, environ, start_response)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", answering)
    one = ingester("s3://images/in/", requester_pays=paid)
    result = one.once()
    if not paid:
        assert result.committed == 0 and "403" in result.problems[0]
        return
    assert result.committed == 1 and ingest_status(one.ledger).counts["dead"] == 0
    assert {"Boto3", "GDAL"} <= {agent for _, agent in agents}, agents


def catalog(root: Path, hrefs: dict[str, str]) -> Path:
    """A catalogue with a collection of items, one file each."""
    links = []
    for i, (name, href) in enumerate(hrefs.items()):
        value = {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "c", "geometry": None, "links": [],
            "bbox": [i, 0, i + 1, 1],
            "properties": {"datetime": f"2024-05-0{i + 1}T00:00:00Z"},
            "assets": {"image": {"href": href, "type": "image/tiff", "roles": ["data"]}},
        }  # fmt: skip
        (root / f"{name}.json").write_text(json.dumps(value))
        links.append({"rel": "item", "href": f"./{name}.json"})
    collection = {"type": "Collection", "id": "c", "links": [*links, {"rel": "root", "href": "./catalog.json"}]}
    (root / "collection.json").write_text(json.dumps(collection))
    children = [{"rel": "child", "href": "./collection.json"}, {"rel": "child", "href": "./catalog.json"}]
    (root / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "r", "links": children}))
    return root / "catalog.json"


@pytest.mark.parametrize("remote", [True, False])
def test_a_static_catalogue(remote, files, ingester, tmp_path) -> None:
    for i in range(3):
        image(files, f"i{i}.tif", seed=i)
    path = catalog(files.root, {f"i{i}": f"./i{i}.tif" for i in range(3)})
    one = ingester(f"{files.url}/catalog.json" if remote else str(path), bbox="1.5,0,9,1")
    assert one.once().committed == 2 and one.once().discovered == 0
    item = json.loads((files.root / "i2.json").read_text())
    item["properties"]["updated"] = "2024-07-01T00:00:00Z"
    (files.root / "i2.json").write_text(json.dumps(item))
    catalog_links = json.loads((files.root / "collection.json").read_text())
    catalog_links["links"] = [x for x in catalog_links["links"] if "i1" not in x["href"]]
    (files.root / "collection.json").write_text(json.dumps(catalog_links))
    (files.root / "i1.json").unlink()
    result = one.once()
    assert (result.committed, result.withdrawn) == (1, 1)


def test_a_branch_that_cannot_be_read_withdraws_nothing(files, ingester, tmp_path) -> None:
    for i in range(2):
        image(files, f"i{i}.tif", seed=i)
    path = catalog(files.root, {f"i{i}": f"./i{i}.tif" for i in range(2)})
    one = ingester(str(path))
    one.once()
    (files.root / "i1.json").write_text("{ half")
    result = one.once()
    assert result.withdrawn == 0 and "cannot be read" in result.problems[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bbox": "1,2,3"}, "west,south,east,north"),
        ({"collections": "a"}, "files have none of them"),
        ({"source_kind": "api"}, "cannot be of the kind api"),
        ({"since": "yesterday"}, "no time in RFC 3339"),
        ({"notify_url": "https://x"}, "needs notify_key_file"),
        ({"asset_hosts": "s3://"}, "write https://HOST"),
    ],
)
def test_settings_that_cannot_be_are_named(given, message, ingester, tmp_path) -> None:
    from geosod.config import make_config
    from geosod.ingest.config import split_config
    from geosod.ingest.run import Ingester

    (tmp_path / "in").mkdir()
    with pytest.raises((ConfigError, SourceError), match=message):
        own, _ = split_config({"source": str(tmp_path / "in")} | given, "x.yaml")
        if "asset_hosts" in given:
            from geosod.ingest.sources.stac_items import hosts_of

            hosts_of(own)
        made = ingester(str(tmp_path / "in"))
        Ingester(own, make_config(model=made.job.config.model, out=str(tmp_path / "o2")))


def test_boxes_across_the_antimeridian() -> None:
    from geosod.ingest.sources.catalog import _touch

    rng = np.random.default_rng(0)
    lon = np.arange(-1800, 1801) / 10
    for _ in range(300):
        a, b = (list(np.round(rng.uniform(-180, 180, 2), 1)) for _ in range(2))
        inside = [(lon >= w) & (lon <= e) if w <= e else (lon >= w) | (lon <= e) for w, e in (a, b)]
        assert _touch([a[0], 0, a[1], 1], (b[0], 0, b[1], 1)) == bool((inside[0] & inside[1]).any())
