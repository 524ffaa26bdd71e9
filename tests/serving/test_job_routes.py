"""Jobs: the same files as `geosod detect`, also after the service was killed in the middle."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import requests

import geosod
from geosod.errors import ConfigError
from geosod.serving.job_store import JobStore
from geosod.serving.options import Limits
from tests.rasters import write_tif
from tests.serving.running import SETTINGS, Running, check_envelope, drawn, running


def scene(folder: Path, name: str = "june", size: int = 200) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    return write_tif(folder / f"{name}.tif", np.moveaxis(drawn(size, size), 2, 0))


def ended(url: str, job: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    end = time.monotonic() + seconds
    assert "status" in job, job
    while job["status"] in ("queued", "running"):
        assert time.monotonic() < end, job
        time.sleep(0.1)
        job = requests.get(url + job["links"]["self"], timeout=30).json()
    return job


def test_a_job_from_its_submission_to_its_files(served: Running, rgb_bundle: Path, tmp_path: Path) -> None:
    folder = served.service.options.scene_folders[0]
    path = scene(folder)
    submitted = served.post("/jobs", data=f'{{"scenes": ["{path}"], "settings": {{"threshold": 0.55}}}}')
    assert submitted.status_code == 202, submitted.text
    job = submitted.json()
    assert submitted.headers["location"] == job["links"]["self"] == f"/jobs/{job['jobId']}"
    assert job["status"] in ("queued", "running") and job["scenes"] == 1
    job = ended(served.url, job)
    assert (job["status"], job["scenesDone"], job["progress"], job["failures"]) == ("done", 1, 1.0, [])
    settings = SETTINGS | {"batch": 1}
    geosod.detect(path, model=rgb_bundle, out=tmp_path / "out", threshold=0.55, **settings)  # type: ignore[arg-type]
    expected = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*.*") if p.is_file()}
    links = {name: link for name, link in job["links"].items() if name != "self"}
    assert links.keys() == {name for name in expected if not name.startswith((".", "_"))}
    for name, link in links.items():
        content = served.get(link).content
        if name.endswith(".parquet"):
            assert content == expected[name].read_bytes()
    rows = geopandas.read_parquet(
        io.BytesIO(served.get(next(v for k, v in links.items() if "detections" in k)).content)
    )
    assert len(rows) == job["detections"] > 0 and rows["score"].min() >= 0.55
    assert [one["jobId"] for one in served.get("/jobs").json()["jobs"]].count(job["jobId"]) == 1
    assert requests.delete(served.url + job["links"]["self"], timeout=30).status_code == 200
    check_envelope(served.get(job["links"]["self"]), 404)
    assert not (served.service.options.jobs / job["jobId"]).exists()  # type: ignore[operator]


def test_scenes_that_jobs_may_not_name(served: Running, tmp_path: Path) -> None:
    folder = served.service.options.scene_folders[0]
    outside = scene(tmp_path)
    (folder / "link.tif").symlink_to(outside)
    for name in (
        str(outside), str(folder / ".." / outside.name), str(folder / "link.tif"), "june.tif", "/etc/passwd",
        "../june.tif", "file:///etc/passwd", "/vsicurl/http://127.0.0.1/a.tif", "http://127.0.0.1/a.tif",
        "s3://bucket/a.tif", "a\\u0000b", "@" + str(outside), str(folder) + "-other/a.tif", "x" * 5000,
    ):  # fmt: skip
        found = check_envelope(served.post("/jobs", data=f'{{"scenes": ["{name}"]}}'), 403)
        assert "--" in found["errorMsg"] or "only https" in found["errorMsg"]
    (folder / "notes.txt").write_text("x")
    for name in (str(folder / "notes.txt"), str(folder / "missing.tif"), str(folder)):
        check_envelope(served.post("/jobs", data=f'{{"scenes": ["{name}"]}}'), 422)


@pytest.mark.parametrize(
    "body",
    ["[]", "{}", '{"scenes": []}', '{"scenes": "a"}', '{"scenes": ["a"], "out": "/"}',
     '{"scenes": ["a"], "settings": {"trust": true}}', '{"scenes": ["a"], "settings": {"aoi": "/etc/passwd"}}'],
)  # fmt: skip
def test_malformed_jobs(served: Running, body: str) -> None:
    check_envelope(served.post("/jobs", data=body), 422)


def test_settings_are_checked_before_a_job_is_taken(served: Running) -> None:
    path = scene(served.service.options.scene_folders[0], "july")
    body = f'{{"scenes": ["{path}"], "settings": {{"tile": 77}}}}'
    assert "multiple of 32" in check_envelope(served.post("/jobs", data=body), 422)["errorMsg"]


def test_files_outside_the_results_are_not_served(served: Running) -> None:
    path = scene(served.service.options.scene_folders[0], "august", 128)
    job = ended(served.url, served.post("/jobs", data=f'{{"scenes": ["{path}"]}}').json())
    for name in (
        "../job.json",
        "..%2fjob.json",
        "%2e%2e/job.json",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "items/../../job.json",
        "",
    ):
        session = requests.Session()
        request = requests.Request("GET", "http://x").prepare()
        request.url = f"{served.url}/jobs/{job['jobId']}/files/{name}"
        check_envelope(session.send(request, timeout=30), 404)
    for job_id in ("..", "x", "%2e%2e", "0" * 36, job["jobId"].upper() + "x"):
        check_envelope(served.get(f"/jobs/{job_id}"), 404)


def test_a_scene_that_cannot_be_read_is_a_failure_of_the_job(served: Running) -> None:
    folder = served.service.options.scene_folders[0]
    good = scene(folder, "good", 128)
    (folder / "bad.tif").write_bytes(b"II*\0nothing")
    job = ended(served.url, served.post("/jobs", data=f'{{"scenes": ["{good}", "{folder}/bad.tif"]}}').json())
    assert job["status"] == "partial" and job["detections"] > 0
    (failure,) = job["failures"]
    assert failure["scene"].endswith("bad.tif") and failure["stage"] == "open"


def test_without_a_folder_there_are_no_jobs(rgb_bundle: Path) -> None:
    with running(rgb_bundle) as service:
        assert "--jobs" in check_envelope(service.get("/jobs"), 403)["errorMsg"]
        check_envelope(service.post("/jobs", data='{"scenes": ["a"]}'), 403)


def test_queued_jobs_are_bounded_and_cancelled(rgb_bundle: Path, tmp_path: Path) -> None:
    path = scene(tmp_path / "scenes", size=1500)
    folders = ((tmp_path / "scenes").resolve(),)
    with running(rgb_bundle, jobs=tmp_path / "jobs", scene_folders=folders, limits=Limits(queued_jobs=1)) as service:
        body = f'{{"scenes": ["{path}"]}}'
        first = service.post("/jobs", data=body).json()
        _wait(lambda: service.get(first["links"]["self"]).json()["status"] == "running")
        second = service.post("/jobs", data=body).json()
        refused = service.post("/jobs", data=body)
        check_envelope(refused, 429)
        assert int(refused.headers["retry-after"]) > 0
        for job in (second, first):
            requests.delete(service.url + job["links"]["self"], timeout=30)
            assert ended(service.url, job)["status"] == "cancelled"


def test_two_services_do_not_share_a_folder(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    with pytest.raises(ConfigError, match="another service"):
        JobStore(tmp_path)
    store.close()
    JobStore(tmp_path).close()


def test_damaged_records_are_no_jobs(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    kept = store.create(("a.tif",), {})
    for name, text in {"x": "{}", "y": "[]", "z": "{", "w": '{"failures": [], "scenes": [], "id": "../.."}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(text)
    assert store.load() == [kept]
    store.close()


def test_files_are_listed_while_folders_come_and_go(tmp_path: Path) -> None:
    """As staging folders do, and those of the records of units, while a job runs."""
    store = JobStore(tmp_path)
    job = store.create(("a.tif",), {})
    out = store.out(job.id)
    (out / "items").mkdir(parents=True)
    (out / "items/a.json").write_text("{}")
    (out / "items/.draft").write_text("{}")
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for k in range(8):
                (out / f"items/new-{k}/deep").mkdir(parents=True)
            for k in range(8):
                (out / f"items/new-{k}/deep").rmdir()
                (out / f"items/new-{k}").rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(500):
            assert list(store.results(job.id)) == ["items/a.json"]
    finally:
        stop.set()
        thread.join()
        store.close()


@contextmanager
def process(model: Path, folder: Path, *, stop: int = signal.SIGTERM) -> Iterator[str]:
    """`geosod serve` in a process of its own; it gets a signal when the block ends."""
    command = [sys.executable, "-m", "geosod", "serve", "-m", str(model), "--port", "0", "--jobs", str(folder / "jobs")]
    command += ["--scenes", str(folder / "scenes"), "--backend", "eager", "--precision", "fp32", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as child:
        assert child.stderr is not None
        try:
            line = next(line for line in child.stderr if line.startswith("listening on "))
            yield line.removeprefix("listening on ").partition(",")[0]
            child.send_signal(stop)
            code = child.wait(60)
            assert code == (-stop if stop == signal.SIGKILL else 0), child.stderr.read()
        finally:
            child.kill()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_survive_a_restart(rgb_bundle: Path, tmp_path: Path, stop: int) -> None:
    path = scene(tmp_path / "scenes", size=1500)
    after = scene(tmp_path / "scenes", "after", size=128)
    with process(rgb_bundle, tmp_path, stop=stop) as url:
        job = requests.post(f"{url}/jobs", json={"scenes": [str(path)]}, timeout=30).json()
        queued = requests.post(f"{url}/jobs", json={"scenes": [str(after)]}, timeout=30).json()
        _wait(lambda: requests.get(url + job["links"]["self"], timeout=30).json()["progress"] > 0.05)
        assert requests.get(url + job["links"]["self"], timeout=30).json()["status"] == "running"
    with process(rgb_bundle, tmp_path) as url:
        job, queued = ended(url, job), ended(url, queued)
        assert (job["status"], job["scenesDone"], queued["status"]) == ("done", 1, "done")
        link = next(link for name, link in job["links"].items() if name.startswith("detections"))
        content = requests.get(url + link, timeout=30).content
    settings = SETTINGS | {"batch": None}
    geosod.detect(path, model=rgb_bundle, out=tmp_path / "out", **settings)  # type: ignore[arg-type]
    (expected,) = (tmp_path / "out" / "detections").rglob("*.parquet")
    assert content == expected.read_bytes()


def _wait(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
