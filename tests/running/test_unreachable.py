"""Clusters that cannot be reached, memory that does not hold a batch, and detectors lost while they load."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import ray
import torch

import geosod
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.errors import ClusterError, EngineError, UsageError
from geosod.results import Execution
from geosod.running.detect import make_job
from geosod.running.job import load_fitting
from geosod.testing import BrightSpots, fake_card
from tests.rasters import noise, write_tif
from tests.running.helpers import RAY, detect, tables


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{port}", "no-such-host.invalid:6379", "[::1]:{port}", "127.0.0.1:99999"]
)
def test_a_head_that_is_gone_costs_one_line(address, tmp_path, rgb_bundle, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=free_port()))
    scene = write_tif(tmp_path / "a.tif", noise(3, 128, 128))
    started = time.monotonic()
    with pytest.raises(ClusterError, match="cannot be reached") as caught:
        detect(scene, rgb_bundle, tmp_path / "out", engine="ray")
    assert time.monotonic() - started < 30 and "\n" not in str(caught.value) and isinstance(caught.value, UsageError)
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("silent", [True, False])
def test_a_port_that_is_not_rays(silent, tmp_path, rgb_bundle, monkeypatch) -> None:
    """Somebody listens: who never says a word, or who answers HTTP."""
    import_module("geosod.running.ray_engine")
    monkeypatch.setattr(sys.modules["geosod.running.ray_engine.session"], "ANSWER_SECONDS", 6.0)
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            kept.append(connection)
            if not silent:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    scene = write_tif(tmp_path / "a.tif", noise(3, 128, 128))
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"port \d+ is open"):
        detect(scene, rgb_bundle, tmp_path / "out", engine="ray", ray_address=f"127.0.0.1:{server.getsockname()[1]}")
    assert time.monotonic() - started < 30
    server.close()


class Greedy(BrightSpots):
    """Wants more memory than there is for more than two tiles at a time."""

    def predict(self, images: torch.Tensor) -> RawBoxes:
        if len(images) > 2:
            torch.empty(1 << 52)
        return super().predict(images)


def greedy(execution: Execution) -> Detector:
    return Detector(fake_card(), Greedy(), execution)


def test_a_batch_that_memory_does_not_hold_is_halved(tmp_path) -> None:
    job = make_job("tests.running.test_unreachable:greedy", trust=True, batch=16, device="cpu")
    detector, line = load_fitting(job)
    assert detector.execution.batch == 2 and "2 tiles a batch, as memory holds no more" in line
    with pytest.raises(EngineError, match="does not hold a batch of 16"):
        load_fitting(job, Execution("cpu", "eager", "fp32", 16, 1))


@pytest.mark.slow
def test_a_detector_lost_while_it_loads_is_loaded_again(tmp_path, rgb_bundle, monkeypatch) -> None:
    """Its process is killed by the code that loads it, twice in all; the third goes through."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "fragile.py").write_text(
        "import os, pathlib, signal\n"
        "from geosod.testing import fake_detector\n"
        f"COUNT = pathlib.Path({str(tmp_path)!r})\n"
        "def make(execution):\n"
        "    if 'DRIVER' not in os.environ or os.environ['DRIVER'] != str(os.getpid()):\n"
        "        for i in range(2):\n"
        "            try:\n"
        "                (COUNT / f'died-{i}').touch(exist_ok=False)\n"
        "            except FileExistsError:\n"
        "                continue\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return fake_detector(execution)\n"
    )
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", f"{code}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("DRIVER", str(os.getpid()))
    pixels = noise(1, 300, 300) // 4
    pixels[0, 100:140, 100:150] = 250
    scene = write_tif(tmp_path / "a.tif", pixels)
    settings = {"trust": True, "device": "cpu", "batch": 1, "precision": "fp32", "backend": "eager"}
    geosod.detect(scene, model="fragile:make", out=tmp_path / "serial", engine="serial", **settings)
    ray.init(**RAY)
    try:
        result = geosod.detect(scene, model="fragile:make", out=tmp_path / "ray", engine="ray", workers=1, **settings)
    finally:
        ray.shutdown()
    assert result.exit_code == 0 and len(list(tmp_path.glob("died-*"))) == 2
    assert tables(tmp_path / "ray") == tables(tmp_path / "serial")
    assert signal.SIGKILL and not [p for p in psutil.Process().children(recursive=True) if "fragile" in p.name()]


@pytest.mark.parametrize("out", ["ftp://bucket/x", "https://host/x", "/vsis3/bucket/x", "file:///tmp/x"])
def test_outputs_go_to_folders_and_buckets(out, tmp_path, rgb_bundle, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = write_tif(tmp_path / "a.tif", noise(3, 128, 128))
    detect(scene, rgb_bundle, tmp_path / "good")
    for path in (out, Path(out)):
        with pytest.raises(geosod.GeosodError, match="give a local folder, or one of s3://"):
            detect(scene, rgb_bundle, path)
        with pytest.raises(geosod.GeosodError, match="give a local folder, or one of s3://"):
            geosod.deduplicate([tmp_path / "good"], out=path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "good"]


@pytest.mark.slow
def test_a_cluster_that_asks_for_its_token(tmp_path, rgb_bundle) -> None:
    """As docs/deploy.md starts one. Without the token a run costs one line that says what to do; with it, it runs."""
    homes = {name: tmp_path / name for name in ("head", "stranger")}
    for home in homes.values():
        home.mkdir()
    port, scene = free_port(), write_tif(tmp_path / "a.tif", noise(3, 200, 200))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    def run(home: str, *command: object, **more: str) -> subprocess.CompletedProcess[str]:
        environment = plain | {"HOME": str(homes[home])} | more
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)

    ray_command = (sys.executable, "-m", "ray.scripts.scripts")
    assert run("head", *ray_command, "get-auth-token", "--generate").returncode == 0
    start = (*ray_command, "start", "--head", "--port", port, "--num-cpus", 2, "--include-dashboard=false")
    # Paths of sockets may not be long.
    folder = tempfile.mkdtemp()
    start = (*start, "--temp-dir", folder, "--object-store-memory", 150 << 20)
    head = run("head", *start, RAY_AUTH_MODE="token")
    assert head.returncode == 0, head.stderr
    detect_command = (sys.executable, "pipelines/detect.py", scene, "-m", rgb_bundle, "--batch", 4, "--workers", 1)
    there = {"RAY_ADDRESS": f"127.0.0.1:{port}", "PYTHONPATH": str(Path.cwd())}
    try:
        for more in ({}, {"RAY_AUTH_MODE": "token"}):
            refused = run("stranger", *detect_command, "-o", tmp_path / "none", **there, **more)
            assert refused.returncode == 2, refused.stderr
            told = "another one than the head" if more else "set RAY_AUTH_MODE=token"
            line = refused.stderr.splitlines()[-1]
            assert told in line and "copy the head's ~/.ray/auth_token" in line and "healthy" not in line
            assert not (tmp_path / "none").exists()
        done = run("head", *detect_command, "-o", tmp_path / "out", RAY_AUTH_MODE="token", **there)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out/items/a.json").exists()
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if folder in " ".join(process.info["cmdline"] or []):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)
