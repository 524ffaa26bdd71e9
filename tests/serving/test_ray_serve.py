"""Replicas by Ray Serve: the answers of the service in one process, by its own tests, and what replicas add."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

import geosod
from geosod.serving.options import Limits
from tests.running.helpers import ray_workers, start_ray
from tests.serving.running import SETTINGS, Running, check_envelope, drawn, running
from tests.serving.test_detect import (  # noqa: F401
    scene,
    test_a_threshold,
    test_geojson_has_the_same_rows,
    test_geoparquet_is_what_detect_writes,
    test_refusals,
    test_without_georeference_boxes_are_in_pixels,
)
from tests.serving.test_hostile import BODY, post, raw, statuses, test_pipelined_requests_are_answered_in_order  # noqa: F401
from tests.serving.test_infer import (  # noqa: F401
    answered,
    detector,
    rows,
    test_an_image_larger_than_a_tile_is_detected_in_as_a_scene,
    test_base64_may_have_line_breaks,
    test_formats,
    test_grey_and_palette_images_become_colour,
    test_images_that_do_not_fit_the_model,
    test_json_is_read_whatever_the_header_says,
    test_refused_bodies,
    test_statuses_of_http_have_the_envelope_too,
    test_the_answer_field_by_field,
    test_transparent_pixels_are_invalid,
    test_what_the_service_says_of_itself,
)


@pytest.fixture(autouse=True)
def with_ray(cluster: None) -> None:
    """Every test here uses the shared Ray."""


@pytest.fixture(scope="module")
def served(rgb_bundle: Path) -> Iterator[Running]:
    start_ray()
    limits = Limits(body_bytes=1 << 20, pixels=1_000_000, body_seconds=5.0, seconds=30.0)
    with running(rgb_bundle, limits=limits, replicas=2) as service:
        yield service


def test_replicas_share_the_requests(served: Running, rgb_bundle: Path) -> None:
    local = geosod.load_model(rgb_bundle, batch=1, **SETTINGS)  # type: ignore[arg-type]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda seed: served.infer(drawn(seed=seed)), range(64)))
    for seed, answer in enumerate(answers):
        assert answered(answer) == rows(local.detect(np.moveaxis(drawn(seed=seed), 2, 0)))
    assert served.service.worker.replicas == 2
    workers = ray_workers("ServeReplica")
    assert len(workers) == 2 and all(sum(one.cpu_times()[:2]) > 0 for one in workers)


def test_rays_own_listener_is_not_there(served: Running) -> None:
    import ray

    names = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    assert any("Replica" in name for name in names) and not any("PROXY" in name for name in names), names
    with socket.socket() as client, pytest.raises(OSError):
        client.connect(("127.0.0.1", 8000))


def test_broken_http_has_the_envelope(served: Running) -> None:
    assert statuses(raw(served, b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\0\r\n\r\n")) == [400]
    assert statuses(raw(served, post(BODY, b"/small-object-detection", b"Content-Encoding: gzip"))) == [415]


def test_clients_that_go_cost_no_more_than_their_batches(served: Running) -> None:
    served.infer(drawn())
    served.infer(drawn())
    before = served.metric("geosod_batch_images_sum")
    clients = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(60)]
    end = time.monotonic() + 60
    for client in clients:
        client.sendall(post(BODY))
    while served.service.worker.waiting < 40:  # they are at the replicas
        assert time.monotonic() < end
        time.sleep(0.001)
    for client in clients:
        client.close()
    while served.service.budget.requests or served.service.worker.waiting:
        assert time.monotonic() < end
        time.sleep(0.05)
    for _ in range(4):
        assert served.infer(drawn()).status_code == 200
    assert served.metric("geosod_batch_images_sum") - before < 50


def test_a_replica_that_is_lost_takes_no_request_with_it(served: Running) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(served.infer, drawn(seed=seed)) for seed in range(60)]
        time.sleep(0.2)
        victim = ray_workers("ServeReplica")[0]
        victim.kill()
        assert [answer.result().status_code for answer in answers] == [200] * 60
    end = time.monotonic() + 60
    while len([p for p in ray_workers("ServeReplica") if p.pid != victim.pid]) < 2:
        assert time.monotonic() < end, "the replica is not started again"
        time.sleep(0.2)
    assert served.get("/readyz").status_code == 200


@pytest.mark.slow
def test_the_command_starts_ray_with_its_token_and_ends_it(rgb_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geosod", "serve", "-m", str(rgb_bundle), "--port", "0", "--engine", "ray"]
    command += ["--replicas", "1", "--backend", "eager", "--precision", "fp32", "--jobs", str(tmp_path / "jobs")]
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"HOME": str(home)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stderr is not None
        try:
            lines = []
            for line in child.stderr:
                lines.append(line)
                if line.startswith("listening on "):
                    break
            url = lines[-1].removeprefix("listening on ").partition(",")[0]
            assert url.startswith("http://127.0.0.1:"), lines
            assert (home / ".ray" / "auth_token").stat().st_size > 10
            own = psutil.Process(child.pid).children(recursive=True)
            assert any("ServeReplica" in " ".join(one.cmdline()) for one in own)
            assert requests.get(f"{url}/jobs", timeout=30).json() == {"jobs": []}
            check_envelope(requests.post(f"{url}/small-object-detection", data=b"{", timeout=30), 400)
            service = Running(url, None, None)  # type: ignore[arg-type]
            with ThreadPoolExecutor(4) as clients:
                answers = [clients.submit(service.infer, drawn(600, 600)) for _ in range(4)]
                end = time.monotonic() + 30
                while service.metric("geosod_requests_in_progress") < 4 and not all(one.done() for one in answers):
                    assert time.monotonic() < end
                child.send_signal(signal.SIGTERM)
                assert [answer.result().status_code for answer in answers] == [200] * 4
            assert child.wait(60) == 0, child.stderr.read()
            assert not psutil.wait_procs(own, timeout=20)[1]
        finally:
            child.kill()
