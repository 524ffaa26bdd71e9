"""The HTTP service compared with the bare model: images a second and latencies under 1, 8 and 64 clients.

The clients are a process of their own, on the same cores as the service. Every answer is checked to be a success.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from benchmarks.options import Options, say
from benchmarks.scenes import demo_scene
from benchmarks.table import Table

SIDE, CLIENTS = 512, (1, 8, 64)
_COMMAND = [sys.executable, "-m", "geosod", "serve", "--port", "0"]


def run(options: Options) -> list[Table]:
    import rasterio

    with rasterio.open(demo_scene(options, options.pick(4096, 1024))) as scene:
        pixels = scene.read()
    grid = range(0, pixels.shape[1] - SIDE + 1, SIDE)
    images = [pixels[:3, row : row + SIDE, col : col + SIDE] for row in grid for col in grid]
    seconds = options.pick(12.0, 2.0)
    bare = _bare(options, images, seconds)
    rows = [{"": "bare model", "clients": None, "images/s": bare, "of the bare model": 1.0}]
    with _Service(options) as service:
        for clients in CLIENTS:
            say(f"{clients} clients")
            rows.append(_measured(service.url, images, clients, seconds, bare))
        batches = service.mean_batch()
    return [Table.of("serve", f"`geosod serve`, JPEGs of {SIDE} x {SIDE} pixels; {batches:.2f} images a batch", rows)]


def _bare(options: Options, images: list[np.ndarray], seconds: float) -> float:
    """Images a second of `Detector.detect` on arrays, a full batch at once, with one thread or all cores.

    In a thread, as in the service: in the main one, two threads of torch take longer on a machine that others use.
    """
    from geosod.machine import usable_cpus

    with ThreadPoolExecutor(1) as pool:
        counts = sorted({1, usable_cpus()})
        return max(pool.submit(_rate, options.model, images, count, seconds).result() for count in counts)


def _rate(model: str, images: list[np.ndarray], threads: int, seconds: float) -> float:
    import geosod

    detector = geosod.load_model(model, threads=threads)
    size = detector.execution.batch
    batches = [np.stack(images[i : i + size]) for i in range(0, len(images) - size + 1, size)]
    detector.detect(batches[0])
    done, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        detector.detect(batches[done % len(batches)])
        done += 1
    return done * size / spent


class _Service:
    """A running service; `url` says where."""

    def __init__(self, options: Options) -> None:
        self._process = subprocess.Popen(
            [*_COMMAND, "--model", options.model], stderr=subprocess.PIPE, text=True, env=os.environ
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            say(line.strip())
            if line.startswith("listening on "):
                self.url = line.removeprefix("listening on ").partition(",")[0]
                return
        raise AssertionError("the service did not start")

    def __enter__(self) -> _Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def mean_batch(self) -> float:
        import requests

        lines = requests.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return float(found["geosod_batch_images_sum"]) / float(found["geosod_batch_images_count"])


def _measured(
    url: str, images: list[np.ndarray], clients: int, seconds: float, bare: float
) -> dict[str, str | int | float | None]:
    bodies = [_body(image) for image in images]
    taken, spent = asyncio.run(_clients(url, bodies, clients, seconds))
    p50, p95, p99 = (1000 * float(np.percentile(taken, q)) for q in (50, 95, 99))
    rate = len(taken) / spent
    return {
        "": "geosod serve", "clients": clients, "images/s": rate, "of the bare model": rate / bare,
        "p50 ms": p50, "p95 ms": p95, "p99 ms": p99,
    }  # fmt: skip


def _body(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.moveaxis(image, 0, 2)).save(file, "JPEG", quality=90)
    return json.dumps({"image": base64.b64encode(file.getvalue()).decode()}).encode()


async def _clients(url: str, bodies: list[bytes], clients: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each request in the measured time, and how long that was."""
    host, _, port = url.removeprefix("http://").partition(":")
    taken: list[float] = []
    begin = time.perf_counter() + 2  # of warming up
    end = begin + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        turn = number
        while (started := time.perf_counter()) < end:
            await _request(reader, writer, bodies[turn % len(bodies)], host)
            turn += clients
            ended = time.perf_counter()
            if begin <= ended <= end:
                taken.append(ended - started)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return taken, seconds


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, host: str) -> None:
    head = f"POST /small-object-detection HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
