"""Two ingesters, which are paused and killed: every version is committed once, and the index never lies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import geosod.ingest.destination as destination
from geosod.ingest.ledger import Ledger
from geosod.ingest.status import ingest_status
from geosod.output.commit import commit_outputs
from tests.ingest.conftest import image
from tests.ingest.killed import run_with_kills
from tests.ingest.test_api import by_item


def counting(log: list[str]) -> Any:
    """`commit_outputs` that notes what it has committed."""

    def commit(folder: Any, outputs: Any, **more: Any) -> Any:
        result = commit_outputs(folder, outputs, **more)
        log.append(more["amend"]["properties"]["geosod:ingest_key"])
        return result

    return commit


@pytest.fixture
def sleeper(ledger_at, api, files, ingester, monkeypatch) -> Callable[[Callable[[], None]], tuple[Any, list[str]]]:
    """An ingester that is paused before its commit for longer than its lease, while another one runs; and the log."""

    def made(meanwhile: Callable[[], None]) -> tuple[Any, list[str]]:
        api.put("c", "a", image(files, "1.tif"))
        slow = ingester(api.url, hosts=(files.url,), ledger=ledger_at, lease=1)
        other = ingester(api.url, hosts=(files.url,), ledger=ledger_at, lease=1)
        monkeypatch.setattr("geosod.ingest.batch.prolonged", _not_prolonged)
        log: list[str] = []
        commit = counting(log)
        paused: list[int] = []

        def pausing(folder: Any, outputs: Any, **more: Any) -> Any:
            if not paused:
                paused.append(1)
                meanwhile()
                time.sleep(1.1)
                assert other.once().committed == 1
            return commit(folder, outputs, **more)

        monkeypatch.setattr(destination, "commit_outputs", pausing)
        return slow, log

    return made


def test_an_ingester_that_wakes_too_late_commits_nothing(sleeper, api, files, tmp_path) -> None:
    """Meanwhile another one commits a newer version."""
    slow, log = sleeper(lambda: api.put("c", "a", image(files, "2.tif", seed=2), datetime="2024-05-03T00:00:00Z"))
    result = slow.once()
    assert result.committed == 0 and result.problems == [] and len(log) == 1
    (item,) = by_item(tmp_path / "out").values()
    assert item["properties"]["datetime"] == "2024-05-03T00:00:00Z"
    assert len(list((tmp_path / "out" / "detections").rglob("*.parquet"))) == 1


def test_an_ingester_that_wakes_too_late_does_not_commit_again(sleeper) -> None:
    slow, log = sleeper(lambda: None)
    assert slow.once().committed == 0 and len(log) == 1


def test_what_was_committed_by_one_that_died_is_not_processed_again(
    ledger_at, api, files, ingester, tmp_path, monkeypatch
) -> None:
    """It dies between the commit and the ledger."""
    api.put("c", "a", image(files, "1.tif"))
    dying = ingester(api.url, hosts=(files.url,), ledger=ledger_at, lease=1)
    log: list[str] = []
    monkeypatch.setattr(destination, "commit_outputs", counting(log))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "committed", _dies)
        patch.setattr(Ledger, "release", lambda *_: None)
        patch.setattr(Ledger, "failed", lambda *_, **__: None)
        dying.once()
    assert len(log) == 1
    time.sleep(1.1)
    other = ingester(api.url, hosts=(files.url,), ledger=ledger_at)
    assert other.once().committed == 1 and len(log) == 1
    assert ingest_status(other.ledger).counts["committed"] == 1


def _dies(*_: Any, **__: Any) -> None:
    raise OSError("killed here")


class _not_prolonged:  # noqa: N801
    """A heartbeat of a process that is paused."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_items_come_change_and_go_while_ingesters_are_killed(ledger_at, api, files, tiny_bundle, tmp_path) -> None:
    quick = {"list_hours": 1e-5, "page_size": 7}
    run_with_kills(api, files, tmp_path, bundle=tiny_bundle, items=14, settings={"ledger": ledger_at} | quick)
