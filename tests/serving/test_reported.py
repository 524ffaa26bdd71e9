"""Situations in which users reported that other services failed."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geosod.serving.options import Limits
from tests.serving.running import Running, check_envelope, drawn, encoded, running
from tests.serving.test_batching import Gated, batcher, tiles_of
from tests.serving.test_hostile import BODY, post, received, split, statuses


class Slow:
    """An adapter that waits at a gate, in front of the real one."""

    def __init__(self, service: Running) -> None:
        turns: Any = service.service.worker.model.detector.adapter  # type: ignore[attr-defined]
        self.real, self.gate, self.images = turns._adapter, threading.Event(), 0
        self.any_size = getattr(self.real, "any_size", False)
        turns._adapter = self

    def predict(self, given: Any) -> Any:
        assert self.gate.wait(30)
        self.images += len(given)
        return self.real.predict(given)


@pytest.mark.parametrize(
    ("image", "status", "message"),
    [
        (encoded(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n" * 20), 422, "%PDF"),
        ("data:image/png;base64," + encoded(drawn()), 422, "data URL; send what follows its comma"),
        ("/data/upload/3/2bd44c48-IMG_1842.JPG", 422, "base64"),
        ("C:\\images\\a.jpg", 422, "URL"),
        ("b'" + encoded(drawn()) + "'", 422, "base64"),
        (json.dumps(encoded(drawn())), 422, "base64"),
    ],
    ids=["PDF", "data URL", "relative path", "path of Windows", "Python's bytes", "JSON in JSON"],
)
def test_what_is_no_image_gets_an_answer_that_helps(served: Running, image: str, status: int, message: str) -> None:
    assert message in check_envelope(served.infer(image), status)["errorMsg"]


def test_images_are_taken_in_the_order_in_which_they_came() -> None:
    adapter = Gated()
    found, detector = batcher(adapter, size=2)
    order: list[int] = []
    images = [drawn(60, 60, seed)[None, :, :, 0] for seed in range(9)]
    for number, tile in enumerate(tiles_of(detector.card, *images)):
        found.submit(tile).add_done_callback(lambda _, number=number: order.append(number))
    adapter.gate.set()
    found.close()
    assert order == list(range(9))


def test_a_client_that_goes_in_the_middle_of_its_body_is_no_error(
    served: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for end in (100, len(BODY) // 2, len(post(BODY)) - 1):
            with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
                client.sendall(post(BODY)[:end])
                time.sleep(0.05)
        _until(lambda: served.service.budget.requests == 0)
        assert served.infer(drawn()).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert served.metric('geosod_requests_total{operation="infer",status="500"}') == 0


def test_a_client_that_goes_while_its_batch_is_computed_does_not_end_the_batches(rgb_bundle: Path) -> None:
    with running(rgb_bundle) as service:
        slow = Slow(service)
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
            client.sendall(post(BODY))
            _until(lambda: service.service.budget.requests == 1 and service.service.worker.waiting == 0)
            time.sleep(0.2)
        _until(lambda: service.service.budget.requests == 0)
        slow.gate.set()
        assert service.infer(drawn()).status_code == 200 and slow.images == 2
        assert service.get("/readyz").status_code == 200


def test_a_request_takes_no_longer_than_is_allowed_and_no_shorter(rgb_bundle: Path) -> None:
    with running(rgb_bundle, limits=Limits(seconds=1.5)) as service:
        slow = Slow(service)
        started = time.monotonic()
        refused = check_envelope(service.infer(drawn()), 504)
        assert 1.4 < time.monotonic() - started < 10 and "1.5 s" in refused["errorMsg"]
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(service.infer, drawn())
            time.sleep(0.7)
            slow.gate.set()
            assert answer.result().status_code == 200


def test_hundreds_of_connections_at_once(served: Running) -> None:
    def asked(_: int) -> int:
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return statuses(received(client))[0]

    with ThreadPoolExecutor(200) as clients:
        found = list(clients.map(asked, range(600)))
    assert set(found) <= {200, 503} and found.count(200) > 60
    assert served.get("/healthz").status_code == 200


def test_more_images_at_once_than_memory_would_hold_wait_or_are_refused(rgb_bundle: Path) -> None:
    with (
        running(rgb_bundle, limits=Limits(requests=12, bytes_in_progress=8 << 20)) as service,
        ThreadPoolExecutor(24) as clients,
    ):
        answers = list(clients.map(lambda seed: service.infer(drawn(300, 300, seed)), range(48)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429} and all("Retry-After" in a.headers for a in answers if a.status_code == 429)
        assert service.service.budget.bytes == 0 and service.infer(drawn()).status_code == 200


def test_a_client_that_asks_before_it_sends_its_body(served: Running) -> None:
    """curl does with bodies over a mebibyte."""
    head, _, body = post(BODY, b"/small-object-detection", b"Expect: 100-continue").partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 100")
        client.sendall(body)
        assert statuses(received(client)) == [200]
    big = head.replace(b"Content-Length: %d" % len(body), b"Content-Length: 9999999")
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        client.sendall(big + b"\r\n\r\n")
        assert [status for status, _ in split(received(client))] == [413]


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 3)])
def test_images_of_hardly_any_pixels(served: Running, shape: tuple[int, int]) -> None:
    answer = served.infer(np.full((*shape, 3), 90, np.uint8))
    assert answer.status_code == 200, answer.text[:200]
    for found in answer.json()["result"]["detectedObjects"]:
        x0, y0, x1, y1 = found["bbox"]
        assert 0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0]


def _until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
