"""Runs as jobs of a real cluster with its job server and token authentication, and what is sent along."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from ray.job_submission import JobSubmissionClient

from geosod.cli.submit import job_spec
from geosod.errors import ConfigError
from geosod.running.ray_engine.jobs import JobSpec, JobState, names, run_job
from geosod.running.ray_engine.metrics import METRICS
from tests.rasters import noise, write_tif
from tests.running.helpers import PLAIN, detect, tables
from tests.running.test_unreachable import free_port

ROOT = Path(__file__).parents[2]


# --- what is sent


def spec_of(*arguments: object, working_dir: Path | None = None) -> JobSpec:
    with ExitStack() as stack:
        return job_spec([str(word) for word in arguments], working_dir, stack)


def test_a_local_file_of_settings_is_checked_and_sent_alone(tmp_path: Path) -> None:
    file = tmp_path / "my run.yaml"
    file.write_text("scenes: [s3://bucket/a.tif]\nout: s3://bucket/out\nmodel: demo-harbour\n")
    with ExitStack() as stack:
        spec = job_spec(["--config", str(file)], None, stack)
        assert spec.entrypoint == "python -m geosod detect --config 'my run.yaml'"
        assert spec.working_dir is not None and [f.name for f in spec.working_dir.iterdir()] == ["my run.yaml"]
    assert not spec.working_dir.exists()
    file.write_text("modle: demo-harbour\n")
    with pytest.raises(ConfigError, match="modle"):
        spec_of("--config", file)


def test_scenes_and_outputs_of_a_working_directory_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("out: results\n")
    spec = spec_of("--config", file, working_dir=tmp_path)
    assert spec.working_dir == tmp_path and {"*.tif", "*.TIF", "*.jp2", "*.parquet", "/results"} <= set(spec.excludes)
    assert "/other" in spec_of(f"--config={file}", "-o", "other", working_dir=tmp_path).excludes
    assert not [e for e in spec_of("x", "-o", "s3://bucket/out", working_dir=tmp_path).excludes if "out" in e]
    with pytest.raises(ConfigError, match="does not lie in"):
        spec_of("--config", file, working_dir=Path(__file__).parent)
    with pytest.raises(ConfigError, match="not a folder"):
        spec_of("x", working_dir=tmp_path / "none")


# --- what a job's end means


@pytest.mark.parametrize(
    ("state", "lost", "code"),
    [
        (JobState("a", "SUCCEEDED", 0), False, 0),
        (JobState("a", "FAILED", 3), False, 3),
        (JobState("a", "FAILED", 2), False, 2),
        (JobState("a", "FAILED", 1), True, 1),
        (JobState("a", "FAILED", -9), True, 1),
        (JobState("a", "FAILED", None), True, 1),
        (JobState("a", "STOPPED", -15), False, 130),
        (JobState("a", "LOST"), True, 1),
        (JobState("a", "RUNNING"), False, 1),
    ],
)
def test_what_is_worth_another_attempt(state: JobState, lost: bool, code: int) -> None:
    assert state.lost == lost and (state.code == code or not state.ended)


class Server:
    """A job server by a table: how each job that is submitted will end."""

    def __init__(self, endings: dict[str, JobState], known: tuple[str, ...] = ()) -> None:
        self.endings, self.known, self.submitted = endings, set(known), []

    def submit(self, name: str, spec: JobSpec) -> bool:
        if name in self.known:
            return False
        self.known.add(name)
        self.submitted.append(name)
        return True

    def twin(self, spec: JobSpec) -> str | None:
        return spec.run if spec.run in self.known else None

    def state(self, name: str) -> JobState:
        return self.endings[name] if name in self.known else JobState(name, "LOST")

    def follow(self, name: str, write: object) -> JobState:
        return self.endings[name]


@pytest.mark.parametrize(
    ("codes", "known", "submitted", "last"),
    [
        ({"a": 0}, (), ["a"], "a"),
        ({"a": 0}, ("a",), [], "a"),
        ({"a": 3}, (), ["a"], "a"),
        ({"a": -9, "a-2": 0}, (), ["a", "a-2"], "a-2"),
        ({"a": -9, "a-2": 3}, ("a", "a-2"), [], "a-2"),
        ({"a": None, "a-2": -9, "a-3": 1}, ("a",), ["a-2", "a-3"], "a-3"),
    ],
)
def test_a_lost_run_is_submitted_again_under_another_name(codes, known, submitted, last) -> None:
    endings = {n: JobState(n, "FAILED" if code != 0 else "SUCCEEDED", code) for n, code in codes.items()}
    server = Server(endings, known)
    said: list[str] = []
    state = run_job(server, "a", JobSpec("x"), attempts=3, say=said.append, write=said.append)  # type: ignore[arg-type]
    assert server.submitted == submitted and state == endings[last] and said
    assert list(names("a", 3)) == ["a", "a-2", "a-3"]


def test_a_run_that_another_job_does_is_followed() -> None:
    server = Server({"b": JobState("b", "SUCCEEDED", 0)}, ("b",))
    state = run_job(server, "a", JobSpec("x", run="b"), attempts=3, say=str, write=str)  # type: ignore[arg-type]
    assert state.name == "b" and server.submitted == []


# --- on a cluster


@dataclass(frozen=True)
class Running:
    """A cluster with a job server, and the environment of whoever submits to it."""

    url: str
    metrics_port: int
    env: dict[str, str]


#: A head with a dashboard, in a process of its own: how Ray authenticates is fixed once in each process.
_HEAD = """
import sys
from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster

port, metrics, temp_dir = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 2, "object_store_memory": 200 << 20, "include_dashboard": True, "dashboard_port": port,
    "metrics_export_port": metrics, "temp_dir": temp_dir, "_system_config": {"metrics_report_interval_ms": 1000}})
write_ray_address(cluster.address, temp_dir)  # as `ray start` does, for jobs to find it
print("ready", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A cluster that asks for the token of this HOME."""
    # The `python` of a job's command is the one that nodes have on their PATH.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT), "PATH": path}
    generate = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"]
    subprocess.run(generate, env=env, check=True, capture_output=True)
    port, metrics = free_port(), free_port()
    # A job finds its cluster by a file in this folder, which is not that of others on the machine. Its path is part of
    # those of sockets, which are short.
    temp_dir = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    command = [sys.executable, "-c", _HEAD, str(port), str(metrics), temp_dir]
    head = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert head.stdout is not None and any(line == "ready\n" for line in head.stdout), "the head has not started"
    yield Running(f"http://127.0.0.1:{port}", metrics, env)
    head.communicate(timeout=60)
    shutil.rmtree(temp_dir, ignore_errors=True)


def words_of(scene: object, bundle: Path, out: Path) -> list[str]:
    flags = [word for name, value in PLAIN.items() for word in (f"--{name}", str(value))]
    return [str(scene), "-m", str(bundle), "-o", str(out), "--workers", "1", *flags]


def submit(running: Running, name: str, *words: object, code: int = 0, options: tuple[str, ...] = ()) -> str:
    """What `geosod submit` prints."""
    command = [sys.executable, "-m", "geosod", "submit", name, "--address", running.url, *options, "--", *words]
    done = subprocess.run(
        [str(word) for word in command], env=running.env, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_ray_job_submit_runs_a_file_of_settings_once(running, rgb_bundle, tmp_path: Path) -> None:
    """As the documentation has it: by Ray's own command, twice with one submission id; then by geosod's."""
    scene = write_tif(tmp_path / "s.tif", noise(3, 300, 400))
    detect(scene, rgb_bundle, tmp_path / "serial")
    folder = tmp_path / "sent"
    folder.mkdir()
    shutil.copytree(ROOT / "pipelines", folder / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    settings = PLAIN | {"workers": 1, "model": str(rgb_bundle), "out": str(tmp_path / "out"), "scenes": [str(scene)]}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", running.url),
        *("--submission-id", "june", "--working-dir", str(folder), "--"),
        *("python", "-m", "pipelines.detect", "--config", "run.yaml"),
    ]
    first = subprocess.run(command, env=running.env, capture_output=True, text=True, check=False, timeout=280)
    log = first.stdout + first.stderr
    assert first.returncode == 0, log
    assert re.search(r"^s: done, [\d,]+ detections$", log, re.MULTILINE) and "1 detector(s), the first ready" in log
    assert tables(tmp_path / "out") == tables(tmp_path / "serial")
    second = subprocess.run(command, env=running.env, capture_output=True, text=True, check=False, timeout=120)
    assert second.returncode != 0 and "already exists" in second.stdout + second.stderr
    # geosod's own command follows the job that there is.
    again = submit(running, "june", *words_of(scene, rgb_bundle, tmp_path / "out"))
    assert "job june exists: succeeded" in again and "s: done" in again and again.endswith("job june: done\n")
    token = Path(running.env["HOME"], ".ray", "auth_token").read_text()
    client = JobSubmissionClient(running.url, headers={"Authorization": f"Bearer {token}"})
    assert [job.submission_id for job in client.list_jobs()] == ["june"]
    _metrics_are_exported(running)


def _metrics_are_exported(running: Running) -> None:
    """Those that a run without failures has, by the names of the dashboard."""
    expected = {
        f"ray_{name}_total" for name in METRICS if name.split("_", 1)[1] in ("tiles", "boxes", "pixel_bytes", "scenes")
    }
    deadline = time.monotonic() + 40
    names_found: set[str] = set()
    while time.monotonic() < deadline and not expected <= names_found:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.metrics_port}/metrics", timeout=10) as answer:
            names_found |= set(re.findall(r"^(ray_geosod_\w+)", answer.read().decode(), re.MULTILINE))
        time.sleep(0.3)
    assert expected <= names_found, names_found


@pytest.mark.slow
def test_two_submissions_of_one_run_do_each_scene_once(running, rgb_bundle, tmp_path: Path) -> None:
    """At one time the second follows the first; later it skips what is committed. A bad scene ends a run with 3."""
    scene = write_tif(tmp_path / "s.tif", noise(3, 300, 400))
    (tmp_path / "bad.tif").write_bytes(b"II*\x00 not a file")
    words = words_of(scene, rgb_bundle, tmp_path / "out")
    assert "is submitted" in submit(running, "a-run", tmp_path / "bad.tif", *words, options=("--no-wait",))
    first = submit(running, "another-name", tmp_path / "bad.tif", *words, code=3)
    assert "job a-run does the same run already" in first and "job a-run-2" not in first
    assert first.endswith("job a-run: finished, but some ground or scenes failed\n")
    before = tables(tmp_path / "out/detections")
    second = submit(running, "the-same", *words)
    assert "1 scene skipped (done before)" in second and tables(tmp_path / "out/detections") == before


@pytest.mark.slow
def test_a_run_that_is_killed_is_submitted_again(running, rgb_bundle, tmp_path: Path) -> None:
    scenes = [write_tif(tmp_path / f"s{i}.tif", noise(3, 300, 400, seed=i)) for i in range(2)]
    detect(scenes, rgb_bundle, tmp_path / "serial")
    words = words_of(tmp_path, rgb_bundle, tmp_path / "out")
    command = [sys.executable, "-m", "geosod", "submit", "killed", "--address", running.url, "--", *words]
    submitter = subprocess.Popen(command, env=running.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    driver = None
    while driver is None and time.monotonic() < deadline:
        driver = next((p for p in psutil.process_iter(["cmdline"]) if _is_driver(p, tmp_path)), None)
        time.sleep(0.1)
    assert driver is not None
    driver.kill()
    out, _ = submitter.communicate(timeout=280)
    assert submitter.returncode == 0, out
    assert "job killed was lost" in out and "job killed-2 is submitted" in out and out.endswith("job killed-2: done\n")
    assert tables(tmp_path / "out") == tables(tmp_path / "serial")


def _is_driver(process: psutil.Process, folder: Path) -> bool:
    words = process.info["cmdline"] or []
    return "detect" in words[:4] and str(folder) in words and "submit" not in words


@pytest.mark.slow
def test_without_the_token_nothing_is_submitted(running, tmp_path: Path) -> None:
    env = running.env | {"HOME": str(tmp_path)}
    env.pop("RAY_AUTH_TOKEN", None)
    other = Running(running.url, running.metrics_port, env)
    printed = submit(other, "foreign", "s.tif", "-m", "demo-harbour", "-o", "out", code=2)
    assert printed.count("\n") <= 3 and "token" in printed


@pytest.mark.slow
def test_a_server_that_is_not_there_costs_one_line(running) -> None:
    nobody = Running(f"http://127.0.0.1:{free_port()}", 0, running.env)
    printed = submit(nobody, "a", "s.tif", code=2)
    assert printed.startswith("geosod: no job server answers at http://127.0.0.1:") and printed.count("\n") == 1
