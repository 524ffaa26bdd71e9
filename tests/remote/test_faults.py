"""Servers with transient and permanent faults, wrong responses and endless bodies."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio

from geosod.running.events import ScenePlanned, UnitSettled
from geosod.storage import gdal_env
from tests.rasters import noise, write_tif
from tests.remote.conftest import pixels_of
from tests.remote.server import Fault, Request
from tests.running.helpers import detect, files, kill_a_worker

UNIT = (2, 3)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are a tenth as long, and recorded."""
    waits: list[float] = []

    def backoff(attempt: int) -> float:
        waits.append(attempt)
        return 0.05 * 2**attempt

    for module in ("storage.retry", "scenes.fetch"):
        monkeypatch.setattr(f"geosod.{module}.backoff", backoff)
    monkeypatch.setitem(gdal_env._GDAL, "GDAL_HTTP_RETRY_DELAY", 0.02)  # type: ignore[index]
    return waits


def for_pixels(request: Request) -> bool:
    return request.span is not None and request.span[0] > 4000


def at_first(fault: Fault, times: int) -> Callable[[Request], Fault | None]:
    """Some ranges fail the first `times` times they are requested; the header at most twice."""
    seen = Counter[tuple[int, int] | None]()

    def schedule(request: Request) -> Fault | None:
        seen[request.span] += 1
        if not for_pixels(request):
            return fault if seen[request.span] <= min(times, 2) else None
        assert request.span is not None
        return fault if seen[request.span] <= times and request.span[0] // 16384 % 4 == 0 else None

    return schedule


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (Fault(status=503), 5),
        (Fault(status=429), 3),
        (Fault(status=500), 1),
        (Fault(reset=True), 4),
        (Fault(truncate=True), 1),
        (Fault(length=10**9), 1),
    ],
)
def test_transient_errors_do_not_change_the_result(
    fault, times, scene, serve, rgb_bundle, local_tables, tmp_path
) -> None:
    server = serve(scene.parent)
    server.fault = at_first(fault, times)
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out", unit=UNIT)
    assert not result.failures
    assert pixels_of(tmp_path / "out") == local_tables


def test_an_outage_of_a_second_does_not_change_the_result(
    scene, serve, rgb_bundle, local_tables, tmp_path, monkeypatch
) -> None:
    """The server refuses requests for pixels for a second."""
    monkeypatch.setitem(gdal_env._GDAL, "GDAL_HTTP_MAX_RETRY", 0)  # type: ignore[index]
    for module in ("storage.retry", "scenes.fetch"):
        monkeypatch.setattr(f"geosod.{module}.backoff", lambda attempt: 0.4 * 2**attempt)
    server = serve(scene.parent)
    since: list[float] = []

    def out_of_order(request: Request) -> Fault | None:
        if not for_pixels(request):
            return None
        since.append(time.monotonic())
        return Fault(status=503) if since[-1] - since[0] < 1.0 else None

    server.fault = out_of_order
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out", unit=UNIT)
    assert not result.failures and pixels_of(tmp_path / "out") == local_tables


@pytest.mark.slow
def test_transient_errors_do_not_change_the_result_with_ray(
    cluster, scene, serve, rgb_bundle, local_tables, tmp_path
) -> None:
    server = serve(scene.parent)
    server.fault = at_first(Fault(status=503), 5)
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out", unit=UNIT, engine="ray")
    assert not result.failures and pixels_of(tmp_path / "out") == local_tables


@pytest.mark.slow
def test_a_reader_that_is_killed_while_it_reads_does_not_matter(
    cluster, scene, serve, rgb_bundle, local_tables, tmp_path
) -> None:
    server, killed = serve(scene.parent), []

    def kill_who_asks(request: Request) -> None:
        if for_pixels(request) and not killed:
            killed.append(kill_a_worker("read"))

    server.fault = kill_who_asks
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out", unit=UNIT, engine="ray")
    assert killed == [True] and not result.failures and pixels_of(tmp_path / "out") == local_tables


@pytest.mark.parametrize("status", [401, 403, 404])
def test_permanent_errors_are_not_retried(status, scene, serve, rgb_bundle, tmp_path, short_waits) -> None:
    """The server refuses everything from the second unit on."""
    server = serve(scene.parent)
    seen = [0]

    def refuse(request: Request) -> Fault | None:
        seen[0] += for_pixels(request)
        return Fault(status=status) if seen[0] > 3 else None

    server.fault = refuse
    started = time.monotonic()
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out", unit=UNIT)
    assert result.exit_code == 3 and result.scenes[0].status == "partial"
    assert time.monotonic() - started < 10 and not short_waits
    assert f"{status}" in " ".join(f.message for f in result.failures)
    assert len(server.requests) < 120
    coverage = geopandas.read_parquet(next((tmp_path / "out/coverage").glob("*.parquet")))
    share = coverage.groupby("status").area_km2.sum() / coverage.area_km2.sum()
    assert share["failed"] > 0.3 and share["inspected"] > 0.05


def test_a_server_that_dies_stops_retries(scene, serve, rgb_bundle, tmp_path, short_waits) -> None:
    server = serve(scene.parent)
    seen = [0]

    def die(request: Request) -> Fault | None:
        seen[0] += for_pixels(request)
        return Fault(reset=True) if seen[0] > 3 else None

    server.fault = die
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out", unit=UNIT)
    assert result.exit_code == 3
    assert len(short_waits) < 200, "waits"


def test_only_the_unreadable_block_is_lost(scene, serve, rgb_bundle, tmp_path) -> None:
    with rasterio.open(scene) as dataset:
        assert dataset.block_shapes[0] == (128, 128)
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_2_3", "TIFF", bidx=1))
        size = int(dataset.get_tag_item("BLOCK_SIZE_2_3", "TIFF", bidx=1))
    # The block is damaged, so that it cannot be decoded; nothing is wrong with the server.
    content = bytearray(scene.read_bytes())
    content[offset : offset + size] = bytes(size)
    scene.write_bytes(content)
    result = detect(scene, rgb_bundle, tmp_path / "local", unit=UNIT)
    server = serve(scene.parent)
    there = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "remote", unit=UNIT)
    assert result.exit_code == there.exit_code == 3
    windows = [{f.window for f in r.failures} for r in (result, there)]
    assert windows[0] == windows[1] and len(windows[0]) >= 1
    remote_tables = pixels_of(tmp_path / "remote")
    assert {n: t for n, t in pixels_of(tmp_path / "local").items() if "failures" not in n} == {
        n: t for n, t in remote_tables.items() if "failures" not in n
    }


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_file_that_changes_during_a_run_is_detected(where, scene, serve, rgb_bundle, tmp_path) -> None:
    """Old and new bytes are never mixed: units after the change fail, those before are kept."""
    other = write_tif(tmp_path / "other.tif", noise(3, 700, 900, seed=9), block=128)
    server = serve(scene.parent)
    name = str(scene) if where == "local" else f"{server.url}/scene.tif"
    events: list[object] = []

    def change(event: object) -> None:
        events.append(event)
        if isinstance(event, UnitSettled) and sum(isinstance(e, UnitSettled) for e in events) == 2:
            shutil.copy(other, scene)

    result = detect(name, rgb_bundle, tmp_path / "out", unit=UNIT, on_event=change)
    assert result.exit_code == 3 and result.scenes[0].status == "partial"
    assert all("changed while it was read" in f.message for f in result.failures)
    rows = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    units = next(e.units for e in events if isinstance(e, ScenePlanned))
    assert len(rows) == units - 2
    again = detect(name, rgb_bundle, tmp_path / "out", unit=UNIT)
    assert again.exit_code == 0 and "failures.parquet" not in files(tmp_path / "out")
    fresh = tmp_path / "fresh"
    detect(other, rgb_bundle, fresh, unit=UNIT)
    mine, theirs = pixels_of(tmp_path / "out"), pixels_of(fresh)
    assert list(mine.values()) == list(theirs.values()), "what comes after a change is the new file alone"


def test_a_change_inside_a_unit_fails_the_unit(scene, serve, rgb_bundle, tmp_path) -> None:
    other = write_tif(tmp_path / "other.tif", noise(3, 700, 900, seed=9), block=128)
    server = serve(scene.parent)
    changed: list[bool] = []

    def change(request: Request) -> Fault | None:
        if for_pixels(request) and not changed:
            changed.append(True)
            other.replace(scene)  # at once, or the server could find it empty
        return None

    server.fault = change
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out", unit=(0, 0))
    assert result.exit_code == 3
    assert "changed while it was read" in result.failures[0].message
    coverage = geopandas.read_parquet(next((tmp_path / "out/coverage").glob("*.parquet")))
    assert set(coverage.status) == {"failed"} and result.detections == 0


@pytest.mark.parametrize(
    ("settings", "fault", "message"),
    [
        ({"ranges": False}, None, "answers no range requests"),
        ({}, Fault(endless=True), "cannot be opened as a raster"),
        ({"ranges": False}, Fault(length=10**13), "answers no range requests"),
        ({}, Fault(body=b"<html>no such page, but 200</html>"), "cannot be opened as a raster"),
        ({}, Fault(body=b""), "cannot be"),
        ({}, Fault(status=302, location="/scene.tif"), "redirect"),
    ],
)
def test_unsuitable_servers_are_reported_and_not_used(
    settings, fault, message, scene, serve, rgb_bundle, tmp_path
) -> None:
    server = serve(scene.parent, **settings)
    server.fault = lambda _: fault
    started = time.monotonic()
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out")
    assert result.exit_code == 2 and message in result.failures[0].message.lower() + result.failures[0].message
    assert server.sent < 20 << 20 and time.monotonic() - started < 10


def test_a_missing_server_is_reported(rgb_bundle, tmp_path, short_waits) -> None:
    result = detect("http://127.0.0.1:9/scene.tif", rgb_bundle, tmp_path / "out")
    assert result.exit_code == 2 and "refused" in result.failures[0].message
    assert short_waits == [0, 1, 2]


@pytest.mark.slow
def test_a_slow_server_fails(scene, serve, rgb_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(gdal_env._GDAL, "GDAL_HTTP_LOW_SPEED_TIME", 1)  # type: ignore[index]
    monkeypatch.setitem(gdal_env._GDAL, "GDAL_HTTP_MAX_RETRY", 0)  # type: ignore[index]
    monkeypatch.setattr("geosod.scenes.fetch.PATIENCE", 1)
    server = serve(scene.parent)
    server.fault = lambda r: Fault(delay=3.0) if for_pixels(r) else None
    started = time.monotonic()
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out", unit=(0, 0))
    assert result.exit_code == 3 and time.monotonic() - started < 60


def huge(side: int, block: int) -> bytes:
    """The header of a tiled TIFF of impossible size, without pixels."""
    import struct

    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, block), (323, 4, 1, block), (324, 4, 1, 4096), (325, 4, 1, 100)]
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", 0)).ljust(8192, b"\0")


@pytest.mark.parametrize(
    ("side", "block", "message"),
    [(10**9, 512, "cannot be opened"), (10**6, 4096, "claims"), (65536, 65536, "one block decodes")],
)
def test_impossible_sizes_are_refused_before_anything_is_allocated(
    side, block, message, serve, rgb_bundle, tmp_path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/huge.tif").write_bytes(huge(side, block))
    server = serve(tmp_path / "site")
    result = detect(f"{server.url}/huge.tif", rgb_bundle, tmp_path / "out")
    assert result.exit_code == 2 and message in result.failures[0].message


def test_failures_are_not_cached(scene, serve, rgb_bundle, tmp_path) -> None:
    """GDAL caches failures of a name, which a long-lived process must not do."""
    server = serve(scene.parent)
    server.fault = lambda r: Fault(status=404) if "python" not in r.headers.get("user-agent", "") else None
    assert detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out").exit_code == 2
    server.fault = lambda _: None
    assert detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "out").exit_code == 0
    assert np.all([r.method for r in server.requests])
