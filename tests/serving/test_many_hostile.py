"""Thousands of hostile requests from a seed, against a service in a process of its own.

2,000 by default. HOSTILE_REQUESTS=10000 sends as many (over a minute on two cores), HOSTILE_SEED others.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.serving.hostile_requests import KINDS, Hostile, hostile
from tests.serving.running import Running, drawn
from tests.serving.test_hostile import received, split, statuses

COUNT = int(os.environ.get("HOSTILE_REQUESTS", "2000"))
SEED = int(os.environ.get("HOSTILE_SEED", "0"))
#: Bytes that the service may take on top of what it takes for ordinary images, and in the second half of the requests.
ROOM, LATE_ROOM = 640 << 20, 200 << 20


@dataclass
class Process:
    """A service in another process."""

    running: Running
    process: psutil.Process

    def memory(self) -> int:
        return int(self.process.memory_info().rss)


@pytest.fixture(scope="module")
def service(rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "scenes").mkdir()
    command = [sys.executable, "-m", "tests.serving.limited", str(rgb_bundle), str(folder)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child,
    ):
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        assert url.startswith("http://"), (folder / "log").read_text()
        yield Process(Running(url, None, None), psutil.Process(child.pid))  # type: ignore[arg-type]
        child.terminate()
        assert child.wait(60) == 0
    assert "Traceback" not in (folder / "log").read_text()


def answers_to(port: int, case: Hostile) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with suppress(ConnectionError):  # it may have answered, and read no more
            connection.sendall(case.content)
        return received(connection, case.requests)


@pytest.mark.slow
def test_each_is_answered_within_memory_and_the_service_goes_on(service: Process) -> None:
    port = service.running.port
    for seed in range(8):
        assert service.running.infer(drawn(seed=seed)).status_code == 200
    before, ended = service.memory(), threading.Event()
    taken: list[int] = []

    def watch() -> None:
        while not ended.wait(0.05):
            taken.append(service.memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    cases = list(hostile(SEED, COUNT))
    assert sum(case.requests for case in cases) == COUNT and {case.kind for case in cases} == set(KINDS)
    started = time.monotonic()
    # Slow requests wait by themselves; they have clients of their own.
    with ThreadPoolExecutor(8) as quick, ThreadPoolExecutor(64) as slow:
        sent = [(case, (slow if case.seconds else quick).submit(answers_to, port, case)) for case in cases]
        found = [(case, one.result()) for case, one in sent]
    spent = time.monotonic() - started
    ended.set()
    watcher.join()
    counts = Counter[int]()
    for case, answers in found:
        codes = statuses(answers)
        assert len(codes) >= case.requests, (case.kind, case.content[:300], codes)
        assert all(code < 500 for code in codes), (case.kind, case.content[:300], split(answers))
        assert case.kind != "slow" or codes == [408], (case.content[:200], codes)
        counts.update(codes)
    more, late = max(taken) - before, max(taken) - max(taken[: len(taken) // 2])
    print(f"{COUNT} requests in {spent:.1f} s, {more >> 20} MiB more, {late >> 20} late; {json.dumps(counts)}")
    assert more < ROOM and late < LATE_ROOM
    assert service.running.infer(drawn()).status_code == 200
    for name in ("requests_in_progress", "bytes_in_progress"):
        assert service.running.metric(f"geosod_{name}") == 0


def test_the_same_seed_is_the_same_requests() -> None:
    assert list(hostile(7, 100)) == list(hostile(7, 100)) != list(hostile(8, 100))
    assert sum(case.requests for case in hostile(7, 1234)) == 1234
