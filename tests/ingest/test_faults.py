"""What goes wrong at the source, at the assets and at the ledger: nothing is lost, and nothing is taken for another."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest

from geosod.errors import SourceError
from geosod.ingest.status import ingest_status
from geosod.running.events import Note
from tests.ingest.api_server import ApiFault
from tests.ingest.conftest import image
from tests.ingest.test_api import by_item, items
from tests.remote.server import Fault


def schedule(*faults: ApiFault | None, path: str = "/search"):
    """Each fault once, in order, for requests of a path."""
    waiting = list(faults)
    return lambda _, asked: waiting.pop(0) if asked == path and waiting else None


def fill(api, files, count: int) -> None:
    for i in range(count):
        api.put("c", f"i{i}", image(files, f"i{i}.tif", seed=i))


@pytest.mark.parametrize(
    "fault",
    [
        ApiFault(429, headers={"Retry-After": "1"}),
        ApiFault(500),
        ApiFault(503),
        ApiFault(half=True),
        ApiFault(body=b'{"type": "FeatureCollection", "features": ['),
    ],
    ids=["429", "500", "503", "half", "cut"],
)
def test_a_fault_of_the_api_that_passes_is_overcome(fault, api, files, ingester) -> None:
    fill(api, files, 3)
    one = ingester(api.url, hosts=(files.url,), page_size=2)
    api.fault = schedule(None, fault)
    assert one.discover().new == 3


def test_an_api_that_stays_away_keeps_its_cursor(api, files, ingester, monkeypatch) -> None:
    """The second page fails for good: the first is entered, and the next poll asks for both."""
    monkeypatch.setattr("geosod.storage.api.backoff", lambda _: 0.0)
    fill(api, files, 4)
    one = ingester(api.url, hosts=(files.url,), page_size=2)
    pages = iter([None, *[ApiFault(502)] * 4])
    api.fault = lambda _, path: next(pages, None) if path == "/search" else None
    result = one.once()
    assert result.committed == 2 and result.exit_code == 3 and "status 502" in result.problems[0]
    assert one.ledger.cursors.get(one.config.source_digest) == (None, None)
    assert "502" in ingest_status(one.ledger).source_errors[0]
    assert one.once().committed == 2 and ingest_status(one.ledger).source_errors == ()


def test_an_api_that_does_not_answer_in_time(api, files, ingester, monkeypatch) -> None:
    monkeypatch.setattr("geosod.storage.api.backoff", lambda _: 0.0)
    monkeypatch.setattr("geosod.storage.api.READ_SECONDS", 0.2)
    fill(api, files, 1)
    one = ingester(api.url, hosts=(files.url,))
    api.fault = schedule(ApiFault(delay=0.6), ApiFault(delay=0.6))
    assert one.discover().new == 1


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (lambda page: page | {"links": [{"rel": "next", "href": "http://127.0.0.2/search"}]}, "another host"),
        (lambda page: page | {"features": "many"}, "no item collection"),
        (lambda page: page | {"features": [], "links": [{"rel": "next", "href": "/search?token=0"}]}, "leads back"),
    ],
)
def test_an_api_that_answers_nonsense_is_named(page, message, api, files, ingester) -> None:
    one = ingester(api.url, hosts=(files.url,))
    api.page = page
    with pytest.raises(SourceError, match=message):
        one.discover()


def test_pages_that_are_empty_or_end_with_a_next_link_are_followed(api, files, ingester) -> None:
    fill(api, files, 2)
    one = ingester(api.url, hosts=(files.url,))
    number = iter(range(4))

    def page(found):
        n = next(number)
        link = {"rel": "next", "href": f"/search?token=0&n={n}", "method": "GET"}
        return found | {"features": [] if n < 2 else found["features"], "links": [link] if n < 3 else []}

    api.page = page
    assert one.discover().new == 2


def test_a_next_link_may_be_a_post_that_is_merged(api, files, ingester) -> None:
    fill(api, files, 3)
    one = ingester(api.url, hosts=(files.url,), page_size=2)
    searches = iter(range(9))

    def page(found):
        if next(searches) == 0:
            found["links"] = [{"rel": "next", "href": "search", "method": "POST", "merge": True,
                               "body": {"token": 2, "limit": 2}}]  # fmt: skip
        return found

    api.page = page
    assert one.discover().new == 3 and api.requests[-1] == ("POST", "/search", {"token": 2, "limit": 2})


def test_entries_that_are_no_items_are_left_out_and_reported(api, files, ingester) -> None:
    fill(api, files, 1)
    notes: list[str] = []
    one = ingester(api.url, hosts=(files.url,), on_event=lambda e: notes.append(e.text) if isinstance(e, Note) else 0)
    api.page = lambda page: page | {"features": [None, {"id": 5}, {"id": "x", "collection": None}, *page["features"]]}
    assert one.discover().new == 1 and sum("left out" in note for note in notes) == 3


def test_items_without_updated_are_known_by_what_they_say(api, files, ingester, tmp_path) -> None:
    api.put("c", "a", image(files, "a.tif"), updated=False)
    api.put("c", "b", image(files, "b.tif"), updated=False, asset={"file:checksum": "1220" + "ab" * 32})
    api.outgoing = lambda item: _signed(item, str(len(api.requests)))
    one = ingester(api.url, hosts=(files.url,), list_hours=1e-9)
    assert one.once().committed == 2 and one.once().discovered == 0
    api.put("c", "b", image(files, "b.tif", seed=5), updated=False, asset={"file:checksum": "1220" + "cd" * 32})
    assert one.once().committed == 1
    assert by_item(tmp_path / "out")["c", "b"]["properties"]["geosod:ingest_version"].startswith("checksum")


def test_items_that_are_different_each_time_do_not_keep_an_ingester_for_ever(api, files, ingester) -> None:
    api.put("c", "a", image(files, "a.tif"), updated=False)
    api.outgoing = lambda item: item | {"properties": item["properties"] | {"asked": len(api.requests)}}
    notes: list[str] = []
    one = ingester(api.url, hosts=(files.url,), on_event=lambda e: notes.append(e.text) if isinstance(e, Note) else 0)
    result = one.once()
    assert result.committed == 0 and "different each time" in notes[-1]


def test_an_updated_in_the_future_does_not_hide_what_comes_after_it(api, files, ingester) -> None:
    api.put("c", "a", image(files, "a.tif"), updated="2199-01-01T00:00:00Z")
    one = ingester(api.url, hosts=(files.url,))
    one.once()
    cursor, _ = one.ledger.cursors.get(one.config.source_digest)
    assert cursor is not None and cursor < "2100"


def test_items_that_appear_late_with_an_earlier_updated_are_found_by_the_overlap(api, files, ingester) -> None:
    """They were being written while the poll before went past their time."""
    api.put("c", "a", image(files, "a.tif"), updated="2024-06-01T12:00:00Z")
    one = ingester(api.url, hosts=(files.url,), poll_overlap=600)
    assert one.once().committed == 1
    api.put("c", "late", image(files, "l.tif"), updated="2024-06-01T11:55:00Z")
    api.put("c", "older", image(files, "o.tif"), updated="2024-06-01T11:00:00Z")
    assert one.once().committed == 1
    assert api.searches()[-1]["filter"] == "updated >= '2024-06-01T11:50:00.000000Z'"
    one.discover(everything=True)
    assert one.once().committed == 1


def test_an_asset_that_is_missing_fails_its_scene_only_and_is_tried_again(api, files, ingester, tmp_path) -> None:
    fill(api, files, 2)
    api.put("c", "gone", f"{files.url}/gone.tif")
    one = ingester(api.url, hosts=(files.url,), attempts=5, retry_seconds=1.5)
    result = one.once()
    assert (result.committed, result.failed, result.exit_code) == (2, 1, 3)
    assert "404" in ingest_status(one.ledger).problems[0].error
    image(files, "gone.tif")
    time.sleep(1.6)
    assert one.once().committed == 1 and len(items(tmp_path / "out")) == 3


def test_an_asset_that_stays_missing_is_dead_until_it_is_replayed(api, files, ingester) -> None:
    api.put("c", "gone", f"{files.url}/gone.tif")
    one = ingester(api.url, hosts=(files.url,), attempts=2)
    result = one.once()
    assert (result.failed, result.dead) == (1, 1) and one.once().dead == 0
    image(files, "gone.tif")
    assert one.once().committed == 0 and one.ledger.replay(scenes=["gone"]) == 1
    assert one.once().committed == 1


def test_a_scene_that_does_not_fit_the_model_is_dead_at_once(api, files, ingester) -> None:
    from tests.rasters import noise, write_tif

    write_tif(files.root / "one.tif", noise(1, 64, 64))
    api.put("c", "a", f"{files.url}/one.tif")
    one = ingester(api.url, hosts=(files.url,), attempts=5)
    assert one.once().dead == 1 and "band" in ingest_status(one.ledger).problems[0].error


def test_an_asset_that_changes_while_it_is_read_is_not_committed(api, files, ingester, tmp_path) -> None:
    api.put("c", "a", image(files, "a.tif", size=300))
    one = ingester(api.url, hosts=(files.url,), attempts=3, retry_seconds=60)
    read = iter([False, True])

    def fault(request):
        if request.span and request.span[1] - request.span[0] > 1024 and next(read, False):
            image(files, "a.tif", seed=9, size=300)
        return

    files.fault = fault
    result = one.once()
    assert result.committed == 0 and result.failed == 1 and items(tmp_path / "out") == {}
    assert "changed while it was read" in ingest_status(one.ledger).problems[0].error


@pytest.mark.parametrize("honest", [True, False])
def test_a_checksum_is_verified_where_that_is_asked_for(honest, api, files, ingester) -> None:
    href = image(files, "a.tif")
    right = hashlib.sha256((files.root / "a.tif").read_bytes()).hexdigest()
    stated = right if honest else right[:-2] + ("00" if right[-2:] != "00" else "11")
    api.put("c", "a", href, asset={"file:checksum": f"1220{stated}"})
    one = ingester(api.url, hosts=(files.url,), verify_checksums=True, attempts=1)
    result = one.once()
    assert (result.committed, result.dead) == ((1, 0) if honest else (0, 1))
    if not honest:
        assert "its item states" in ingest_status(one.ledger).problems[0].error


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_of_another_size_than_its_item_states_is_not_taken(verify, api, files, ingester) -> None:
    """It is still being uploaded; that shows without reading it."""
    href = image(files, "a.tif")
    whole = (files.root / "a.tif").read_bytes()
    about = {"file:size": len(whole), "file:checksum": f"1220{hashlib.sha256(whole).hexdigest()}"}
    api.put("c", "a", href, asset=about)
    (files.root / "a.tif").write_bytes(whole + b"later")
    one = ingester(api.url, hosts=(files.url,), verify_checksums=verify, attempts=3, retry_seconds=0.1)
    assert one.once().committed == 0
    assert f"has {len(whole) + 5} bytes" in ingest_status(one.ledger).problems[0].error
    (files.root / "a.tif").write_bytes(whole)
    time.sleep(0.5)
    one.ledger.replay()
    assert one.once().committed == 1


def test_a_checksum_that_changes_without_updated_is_a_new_version(api, files, ingester, tmp_path) -> None:
    """A catalogue that replaces files in place: the daily listing finds it, and the newer one replaces the scene."""
    moment = "2024-06-01T00:00:00Z"
    api.put("c", "a", image(files, "a.tif"), updated=moment, asset={"file:checksum": "1220" + "ab" * 32})
    one = ingester(api.url, hosts=(files.url,), list_hours=1e-9)
    assert one.once().committed == 1 and one.once().discovered == 0
    api.put("c", "a", image(files, "a.tif", seed=4), updated=moment, asset={"file:checksum": "1220" + "cd" * 32})
    assert one.once().committed == 1 and len(items(tmp_path / "out")) == 1
    assert one.once().discovered == 0


def test_a_link_that_expires_in_the_middle_is_signed_anew(api, files, ingester, tmp_path) -> None:
    """Links in the answers of the API carry a signature; the first one ends after the header was read."""
    href = image(files, "a.tif", size=400)
    api.put("c", "a", href)
    secret = ["first"]
    files.keys["/a.tif"] = "sig=first"
    api.outgoing = lambda item: _signed(item, secret[0])

    def fault(request):
        if request.span and request.span[1] - request.span[0] > 20_000 and secret[0] == "first":
            secret[0], files.keys["/a.tif"] = "second", "sig=second"
            return Fault(status=403)
        return None

    files.fault = fault
    one = ingester(api.url, hosts=(files.url,), attempts=3)
    result = one.once()
    assert (result.failed, result.committed) == (1, 1)
    text = (Path(one.ledger.database.address).read_bytes()) + b"".join(
        path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert b"sig=first" not in text and b"sig=second" not in text


def _signed(item: dict, secret: str) -> dict:
    for asset in item["assets"].values():
        asset["href"] += f"?sig={secret}"
    return item


def test_an_item_may_not_name_files_of_hosts_that_were_not_allowed(api, files, ingester) -> None:
    api.put("c", "a", image(files, "a.tif"))
    one = ingester(api.url, attempts=1)
    assert one.once().dead == 1
    assert "files of its own host" in ingest_status(one.ledger).problems[0].error


def test_withdrawn_items_are_kept_marked_and_unmarked_when_they_return(api, files, ingester, tmp_path) -> None:
    import pyarrow.parquet as pq

    fill(api, files, 3)
    one = ingester(api.url, hosts=(files.url,), list_hours=1e-9)
    one.once()
    item = api.items["c", "i1"]
    # A listing that leaves it out is not enough: it is still there by its name.
    api.page = lambda page: page | {"features": [f for f in page["features"] if f["id"] != "i1"]}
    assert one.once().withdrawn == 0
    api.page = lambda page: page
    api.remove("c", "i1")
    assert one.once().withdrawn == 1 and one.once().withdrawn == 0
    found = by_item(tmp_path / "out")
    assert len(found) == 3 and "geosod:withdrawn" in found["c", "i1"]["properties"]
    assert ingest_status(one.ledger).withdrawn == 1
    rows = {row["geosod:ingest_item"]: row for row in pq.read_table(tmp_path / "out" / "index.parquet").to_pylist()}
    assert {name for name, row in rows.items() if row["deprecated"]} == {"i1"}
    api.items["c", "i1"] = item
    one.once()
    assert "geosod:withdrawn" not in by_item(tmp_path / "out")["c", "i1"]["properties"]
    assert ingest_status(one.ledger).withdrawn == 0


def test_an_api_that_lists_nothing_all_of_a_sudden_is_not_believed(api, files, ingester, tmp_path) -> None:
    fill(api, files, 12)
    notes: list[str] = []
    one = ingester(
        api.url,
        hosts=(files.url,),
        list_hours=1e-9,
        at_once=20,
        on_event=lambda e: notes.append(e.text) if isinstance(e, Note) else None,
    )
    one.once()
    kept = dict(api.items)
    # Only the search lies: every item is still there by its name.
    api.page = lambda page: page | {"features": [], "links": []}
    assert one.once().withdrawn == 0
    api.items.clear()
    assert one.once().withdrawn == 0 and any("none is marked" in note for note in notes)
    api.page = lambda page: page
    api.items.update(kept)
    assert one.once().discovered == 0


def test_a_ledger_that_is_lost_is_made_from_the_dataset(ledger_at, api, files, ingester, tmp_path) -> None:
    fill(api, files, 4)
    api.put("c", "dead", f"{files.url}/dead.tif")
    one = ingester(api.url, hosts=(files.url,), ledger=ledger_at, attempts=1)
    assert one.once().committed == 4
    before = items(tmp_path / "out")
    one.close()
    if "://" in ledger_at:
        from sqlalchemy import delete

        from geosod.ingest.tables import cursors, versions

        for table in (versions, cursors):
            drop = delete(table).where(table.c.dataset == str(tmp_path / "out"))
            one.ledger.database.change(lambda connection, _, drop=drop: connection.execute(drop))
    else:
        for path in tmp_path.glob("ledger.sqlite*"):
            path.unlink()
    again = ingester(api.url, hosts=(files.url,), ledger=ledger_at, attempts=1)
    result = again.once()
    assert (result.discovered, result.committed, result.dead) == (1, 0, 1)
    assert items(tmp_path / "out") == before


def test_an_output_that_cannot_be_written_costs_no_scene_an_attempt(api, files, ingester, monkeypatch) -> None:
    from geosod.errors import OutputError
    from geosod.ingest import destination

    fill(api, files, 2)
    one = ingester(api.url, hosts=(files.url,), attempts=1)

    def full(*_: object, **__: object) -> None:
        raise OutputError("out: cannot be written (disk full); free some space")

    with monkeypatch.context() as patch:
        patch.setattr(destination, "commit_outputs", full)
        result = one.once()
    assert result.dead == 0 and result.failed == 2 and "disk full" in result.problems[0]
    assert one.once().committed == 2


@pytest.mark.parametrize("typed", [True, False])
def test_an_api_that_compares_times_in_one_way_only_is_asked_in_that(typed, api, files, ingester) -> None:
    api.typed = typed
    fill(api, files, 1)
    one = ingester(api.url, hosts=(files.url,))
    one.once()
    api.put("c", "x", image(files, "x.tif"))
    result = one.once()
    assert result.committed == 1 and result.problems == []


def test_the_cost_of_an_empty_poll_is_one_request(api, files, ingester) -> None:
    fill(api, files, 6)
    one = ingester(api.url, hosts=(files.url,), page_size=2, poll_overlap=0)
    one.once()
    one.once()
    api.requests.clear()
    assert one.once().discovered == 0
    assert [path for _, path, _ in api.requests] == ["/search"]


def test_a_dataset_without_its_index_gets_a_new_one(api, files, ingester, tmp_path) -> None:
    fill(api, files, 2)
    ingester(api.url, hosts=(files.url,)).once()
    (tmp_path / "out" / "index.parquet").unlink()
    shutil.rmtree(tmp_path / "out" / ".ingest")
    ingester(api.url, hosts=(files.url,))
    assert (tmp_path / "out" / "index.parquet").exists()
    assert json.loads((tmp_path / "out" / "collection.json").read_text())["type"] == "Collection"
