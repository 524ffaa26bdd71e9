"""Object stores that refuse some requests: what that costs, and what it must not."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from geosod.storage.place import open_place
from tests.remote.flaky import proxy
from tests.running.helpers import detect, tables
from tests.running.test_resume import SETTINGS, Interrupting

Refusing = Callable[[Callable[[BaseHTTPRequestHandler], str | None]], AbstractContextManager[str]]
LISTED = ".units: units that earlier runs have finished cannot be listed"


@pytest.fixture
def refusing(s3_service: str, monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """Puts a proxy in front of the service, which does to requests what a function says."""
    monkeypatch.setattr("geosod.storage.object_place.backoff", lambda _: 0.0)
    address = urllib.parse.urlsplit(s3_service)
    return lambda choose: proxy((address.hostname or "", address.port or 0), choose)


def bodies(s3: Any, prefix: str) -> dict[str, bytes]:
    found = s3.list_objects_v2(Bucket="images", Prefix=prefix).get("Contents", ())
    return {e["Key"]: s3.get_object(Bucket="images", Key=e["Key"])["Body"].read() for e in found}


@pytest.mark.parametrize(
    ("fault", "spared"),
    [("denied", "withdrawn"), ("garbled", "none"), ("denied", "none")],
    ids=["denied", "garbled", "all"],
)
def test_units_that_cannot_be_read_are_done_again(
    fault, spared, s3, refusing, scene, rgb_bundle, tmp_path: Path, monkeypatch
) -> None:
    """Listing what is kept is denied, or answered with half an XML document."""
    detect(scene, rgb_bundle, tmp_path / "expected", **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        detect(scene, rgb_bundle, "s3://images/out", on_event=Interrupting(4), **SETTINGS)

    def choose(request: BaseHTTPRequestHandler) -> str | None:
        refused = request.command == "GET" and ".units" in request.path and spared not in request.path
        return fault if refused else None

    events = Interrupting()
    with refusing(choose) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        result = detect(scene, rgb_bundle, "s3://images/out", engine="local", on_event=events, **SETTINGS)
    assert any(note.startswith(LISTED) for note in events.notes) and not events.settled[True], events.notes
    if (fault, spared) == ("denied", "none"):
        # What an earlier commit may have left is not known, so a new one could leave rows twice.
        assert result.exit_code == 3 and "access is denied" in result.failures[0].message
        return
    assert result.exit_code == 0
    expected = {f"out/{name}": body for name, body in tables(tmp_path / "expected").items()}
    assert {name: body for name, body in bodies(s3, "out/").items() if name.endswith(".parquet")} == expected


def test_a_scene_is_done_although_nothing_may_be_removed(s3, refusing, scene, rgb_bundle, monkeypatch) -> None:
    """Credentials that may write and not delete, from the moment on at which the run has begun."""
    begun = []

    def choose(request: BaseHTTPRequestHandler) -> str | None:
        return "denied" if begun and request.command == "POST" and "delete" in request.path else None

    class Begun(Interrupting):
        def __call__(self, event: object) -> None:
            super().__call__(event)
            begun.append(event)

    events = Begun()
    with refusing(choose) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        result = detect(scene, rgb_bundle, "s3://images/out", on_event=events, **SETTINGS)
    assert result.exit_code == 0 and result.scenes[0].status == "done"
    text = ".units: finished units of scenes that are done cannot be removed: s3://images/out: access is denied"
    assert any(note.startswith(text) for note in events.notes), events.notes
    left = bodies(s3, "out/.units/")
    monkeypatch.undo()
    assert left


def test_a_write_that_conflicts_with_another_is_repeated(s3, refusing, scene, rgb_bundle, monkeypatch) -> None:
    """S3 answers 409 to one of two conditional writes at once, although no file may come of the other."""
    conflicts: list[str] = []

    def choose(request: BaseHTTPRequestHandler) -> str | None:
        conditional = request.command == "PUT" and request.headers.get("If-None-Match") == "*"
        if not conditional or conflicts.count(request.path) >= 2:
            return None
        conflicts.append(request.path)
        return "conflict"

    with refusing(choose) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        result = detect(scene, rgb_bundle, "s3://images/out", **SETTINGS)
        place = open_place("s3://images/out")
        assert place.create("new", b"1") and not place.create("new", b"2") and place.read("new") == b"1"
    assert result.exit_code == 0 and conflicts.count("/images/out/items/scene.json") == 2
