"""Images of several requests share a batch, and what nobody waits for costs nothing."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geosod
from geosod.detectors.detector import Detector
from geosod.results import Execution
from geosod.serving.batching import Batcher
from geosod.testing import BrightSpots, fake_card
from tests.serving.running import drawn, encoded, running


class Gated:
    """An adapter that waits at a gate, and counts the images that come to it."""

    def __init__(self) -> None:
        self.gate, self.sizes, self.spots = threading.Event(), list[int](), BrightSpots()

    def predict(self, images: Any) -> Any:
        assert self.gate.wait(30)
        self.sizes.append(len(images))
        if (images[:, 0, 0, 0] == 1).any():
            raise ValueError("a bad image")
        return self.spots.predict(images)


def tiles_of(card: Any, *images: np.ndarray) -> list[Any]:
    from geosod.detectors.arrays import tiles_of

    return [next(tiles_of(image, card, any_size=False)) for image in images]


def images(count: int) -> list[np.ndarray]:
    return [drawn(60, 60, seed)[None, :, :, 0] for seed in range(count)]


def batcher(adapter: Gated, size: int = 4, backend: str = "eager") -> tuple[Batcher, Detector]:
    detector = Detector(fake_card(), adapter, Execution("cpu", backend, "fp32", size, 1))
    return Batcher(detector), detector


def test_images_that_wait_share_batches() -> None:
    adapter = Gated()
    found, detector = batcher(adapter)
    futures = [found.submit(tile) for tile in tiles_of(detector.card, *images(10))]
    time.sleep(0.1)  # the first is taken alone
    adapter.gate.set()
    results = [future.result(30) for future in futures]
    found.close()
    assert sum(adapter.sizes) == 10 and len(adapter.sizes) <= 4 and max(adapter.sizes) == 4
    for image, result in zip(images(10), results, strict=True):
        assert result.to_arrow().equals(detector.detect(image).to_arrow())


def test_a_graph_of_one_size_gets_padded_batches() -> None:
    adapter = Gated()
    adapter.gate.set()
    found, detector = batcher(adapter, backend="onnxruntime")
    found.submit(tiles_of(detector.card, *images(1))[0]).result(30)
    found.close()
    assert adapter.sizes == [4]


def test_an_image_that_fails_takes_no_other_with_it() -> None:
    adapter = Gated()
    found, detector = batcher(adapter)
    bad = np.zeros((1, 60, 60), np.uint8)
    bad[0, 0, 0] = 255
    futures = [found.submit(tile) for tile in tiles_of(detector.card, *images(2), bad, *images(1))]
    adapter.gate.set()
    assert len(futures[0].result(30)) and len(futures[1].result(30)) and len(futures[3].result(30))
    with pytest.raises(ValueError, match="bad image"):
        futures[2].result(30)
    assert found.alive
    found.close()


def test_cancelled_images_cost_nothing() -> None:
    adapter = Gated()
    found, detector = batcher(adapter, size=1)
    futures = [found.submit(tile) for tile in tiles_of(detector.card, *images(6))]
    time.sleep(0.1)
    assert [future.cancel() for future in futures[1:5]] == [True] * 4
    adapter.gate.set()
    futures[5].result(30)
    found.close()
    assert len(adapter.sizes) == 2


def test_a_client_that_goes_costs_no_more_than_its_batch(rgb_bundle: Path) -> None:
    with running(rgb_bundle) as service:
        adapter: Any = service.service.worker.model.detector.adapter
        real, gate, seen = adapter._adapter, threading.Event(), list[int]()

        class Slow:
            any_size = getattr(real, "any_size", False)

            def predict(self, given: Any) -> Any:
                assert gate.wait(30)
                seen.append(len(given))
                return real.predict(given)

        adapter._adapter = Slow()
        body = b'{"image": "' + encoded(drawn()).encode() + b'"}'
        head = f"POST /small-object-detection HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(8)]
        for client in clients:
            client.sendall(head.encode() + body)
        _until(lambda: len(service.service.worker.model.batcher) == 7)
        for client in clients:
            client.close()
        _until(lambda: service.service.budget.requests == 0)
        gate.set()
        assert service.infer(drawn()).status_code == 200
        assert sum(seen) == 2


def test_batches_across_requests_over_http(rgb_bundle: Path) -> None:
    detector = geosod.load_model(rgb_bundle, backend="eager", precision="fp32", batch=1, threads=1, device="cpu")
    with running(rgb_bundle, batch=4) as service, ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda seed: service.infer(drawn(seed=seed)), range(64)))
        batches = service.metric("geosod_batch_images_count")
        assert service.metric("geosod_batch_images_sum") == 64
    assert batches < 60, "no two requests shared a batch"
    for seed, answer in enumerate(answers):
        best = detector.detect(np.moveaxis(drawn(seed=seed), 2, 0)).scores.max()
        assert answer.json()["result"]["detectedObjects"][0]["score"] == pytest.approx(float(best), abs=1e-4)


def _until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
