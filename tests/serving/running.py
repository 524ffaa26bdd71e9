"""A running service for tests: real sockets, real uvicorn, a small bundle."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from geosod.serving.app import make_app
from geosod.serving.options import Limits, ServeOptions
from geosod.serving.server import make_server
from geosod.serving.service import Service

SETTINGS: dict[str, object] = {"backend": "eager", "precision": "fp32", "threads": 1, "device": "cpu"}


@dataclass
class Running:
    """A service and where it listens."""

    url: str
    service: Service
    app: Any

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def infer(self, image: Any, **options: Any) -> requests.Response:
        body = json.dumps({"image": image if isinstance(image, str) else encoded(image)})
        return requests.post(f"{self.url}/small-object-detection", data=body, timeout=60, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=60, **options)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@contextmanager
def running(model: Path, *, limits: Limits | None = None, batch: int = 1, **fields: Any) -> Iterator[Running]:
    """A service in threads of this process, until the block ends."""
    settings = SETTINGS | {"batch": batch} | fields.pop("settings", {})
    options = ServeOptions(model=str(model), port=0, settings=settings, limits=limits or Limits(), **fields)
    services: list[Service] = []
    app = make_app(options, on_start=services.append)
    listening, found = threading.Event(), []

    def on_listening(url: str) -> None:
        found.append(url)
        listening.set()

    server = make_server(options, app, on_listening)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listening.wait(60)
        yield Running(found[0], services[0], app)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def drawn(height: int = 96, width: int = 120, seed: int = 0) -> np.ndarray:
    """(H, W, 3) noise with bright squares."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 90, (height, width, 3)).astype(np.uint8)
    for _ in range(8):
        y, x = rng.integers(0, height - 12), rng.integers(0, width - 12)
        image[y : y + 10, x : x + 10] = rng.integers(160, 255, 3)
    return image


def file_of(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The content of an image file."""
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, kind, **options)
    return file.getvalue()


def encoded(content: bytes | np.ndarray) -> str:
    """Base64 of a file, or of an image as a PNG file."""
    return base64.b64encode(content if isinstance(content, bytes) else file_of(content)).decode()


def check_envelope(response: requests.Response, status: int | None = None) -> dict[str, Any]:
    """Every error has the same three fields, and says how to go on."""
    import uuid

    assert status is None or response.status_code == status, response.text[:300]
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()
    assert found.keys() == {"logId", "errorCode", "errorMsg"}
    assert found["errorCode"] == response.status_code >= 400
    assert uuid.UUID(found["logId"]).version == 4
    assert found["errorMsg"].strip()
    return found
