"""Faults at random: whatever happens to runs, the last one leaves the bytes of an undisturbed run.

A seed decides what happens. CHAOS_SEEDS is the number of seeds: 8 by default, 40 by `make chaos`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import geosod
from geosod.running.events import DetectorsStarted, UnitSettled
from tests.cli.commands import forks
from tests.rasters import noise, write_tif
from tests.remote.conftest import KEY, SECRET, TOKEN
from tests.remote.flaky import flaky
from tests.running.helpers import HEAD, PLAIN, detect, kill_a_worker, tables

SEEDS = range(int(os.environ.get("CHAOS_SEEDS", "8")))
SETTINGS: dict[str, Any] = PLAIN | {"unit": (1, 2), "merge_threshold": 0.3}
#: Seconds after which a run counts as hanging.
WATCHDOG = 300
#: A node of Ray that may be lost.
WORKER: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 150 << 20}
#: What happened to the runs of all seeds, and how many finished units the last run of a seed took over.
happened: list[str] = []
taken_over: list[int] = []
pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[Path]:
    """Scenes of many units, one of few, and one whose end is missing."""
    folder = tmp_path_factory.mktemp("scenes")
    found = [write_tif(folder / f"s{i}.tif", noise(3, 500, 600, seed=i), block=64) for i in range(2)]
    found.append(write_tif(folder / "small.tif", noise(3, 150, 200), block=64))
    cut = write_tif(folder / "cut.tif", noise(3, 400, 500, seed=7), block=64)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    return [*found, cut]


@pytest.fixture(scope="module")
def expected(scenes, rgb_bundle, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    assert geosod.detect(scenes, model=rgb_bundle, out=out, engine="serial", **SETTINGS).exit_code == 3
    return tables(out)


def _run(scenes: list[str], model: str, out: str, engine: str, room: int | None, environment: dict[str, str]) -> None:
    """A run in a process of its own, in which files may grow up to a size."""
    import resource

    os.environ.update(environment)
    if room is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    result = geosod.detect(scenes, model=model, out=out, engine=engine, **SETTINGS)  # type: ignore[arg-type]
    os._exit(result.exit_code)


def run(chance: random.Random, scenes: list[Path], model: Path, out: str, environment: dict[str, str]) -> str:
    """One disturbed run; what happened to it."""
    engine = chance.choice(["serial", "local", "local"])
    room = chance.choice([None, None, None, 4_000, 20_000])
    process = forks.Process(target=_run, args=([*map(str, scenes)], str(model), out, engine, room, environment))
    process.start()
    after = chance.uniform(0.3, 6.0) if chance.random() < 0.8 else WATCHDOG
    process.join(after)
    if process.exitcode is None:
        assert after < WATCHDOG, f"{engine} hangs"
        os.kill(process.pid or 0, chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
        process.join(WATCHDOG)
        assert process.exitcode is not None, f"{engine} does not end"
        happened.append("killed")
        return f"{engine} killed after {after:.1f} s"
    happened.append(f"ended with {process.exitcode}")
    return f"{engine} ended with {process.exitcode}, room {room}"


def log(where: str, seed: int, faults: Iterable[object], result: geosod.Result) -> None:
    """A line of the table that `make chaos` prints: what happened in a seed, and how it ended."""
    units = f", {taken_over[-1]} units taken over" if where != "Ray" else ""
    print(f"\n| {where} | {seed} | {'; '.join(map(str, faults))} | ended with {result.exit_code}{units} |")


class Counting:
    """Counts the units that a run takes over from earlier ones."""

    def __init__(self) -> None:
        taken_over.append(0)

    def __call__(self, event: object) -> None:
        taken_over[-1] += isinstance(event, UnitSettled) and event.before


@pytest.mark.parametrize("seed", SEEDS)
def test_a_folder(seed, scenes, expected, rgb_bundle, tmp_path) -> None:
    """The process is killed or interrupted at a random moment, or its disk is full."""
    chance = random.Random(seed)
    faults = [run(chance, scenes, rgb_bundle, str(tmp_path / "out"), {}) for _ in range(chance.randint(2, 4))]
    last: dict[str, Any] = {"out": tmp_path / "out", "engine": "local", "on_event": Counting()}
    result = geosod.detect(scenes, model=rgb_bundle, **last, **SETTINGS)
    assert result.exit_code == 3 and {s.scene_id for s in result.scenes if s.failures} == {"cut"}, faults
    assert tables(tmp_path / "out") == expected, faults
    assert not (tmp_path / "out/.units").exists() and not list((tmp_path / "out").glob(".staging-*")), faults
    log("folder", seed, faults, result)


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed % 2 == 0])
def test_a_bucket(seed, scenes, expected, rgb_bundle, tmp_path, monkeypatch) -> None:
    """The object store refuses, loses and cuts off requests and answers, and runs are killed meanwhile."""
    moto, boto3 = pytest.importorskip("moto.server"), pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
    keys |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    client.create_bucket(Bucket="chaos")
    chance = random.Random(seed)
    try:
        with flaky(("127.0.0.1", port), seed) as address:
            environment = keys | {"AWS_ENDPOINT_URL": address}
            faults = [run(chance, scenes, rgb_bundle, "s3://chaos/out", environment) for _ in range(2)]
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            last: dict[str, Any] = {"out": "s3://chaos/out", "engine": "local", "on_event": Counting()}
            result = geosod.detect(scenes, model=rgb_bundle, **last, **SETTINGS)
        assert result.exit_code == 3 and {s.scene_id for s in result.scenes if s.failures} == {"cut"}, faults
        found = {}
        for entry in client.list_objects_v2(Bucket="chaos").get("Contents", ()):
            key = entry["Key"].removeprefix("out/")
            found[key] = client.get_object(Bucket="chaos", Key=entry["Key"])["Body"].read()
    finally:
        server.stop()
    assert {key: body for key, body in found.items() if key.endswith(".parquet")} == expected, faults
    # A run that is killed while it tries whether it may write may leave the small file that it tried that with.
    others = {key for key in found if not key.endswith(".parquet") and not key.startswith(".probe-")}
    assert others == {f"items/{p.stem}.json" for p in scenes}, faults
    log("bucket", seed, faults, result)


def test_something_has_happened() -> None:
    """The seeds above did kill runs, and the last ones did go on with what was there."""
    if len(happened) >= 10:
        print(happened, taken_over)
        assert happened.count("killed") >= len(happened) // 4 and sum(taken_over) > 0


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed % 8 == 1])
def test_workers_of_ray(seed, cluster, scenes, expected, rgb_bundle, tmp_path) -> None:
    """Readers, detectors and other workers are killed at random moments, while they start, too."""
    chance, over, killed = random.Random(seed), threading.Event(), []

    def kill() -> None:
        for _ in range(chance.randint(2, 4)):
            if over.wait(chance.uniform(0.5, 3.0)):
                return
            name = chance.choice(["read", "DetectorActor", "settle", "merge", "keep", "IDLE"])
            killed.append((name, kill_a_worker(name)))

    thread = threading.Thread(target=kill)
    thread.start()
    began = time.monotonic()
    try:
        result = detect(scenes, rgb_bundle, tmp_path / "out", engine="ray", **SETTINGS)
    finally:
        over.set()
        thread.join()
    assert time.monotonic() - began < WATCHDOG
    assert result.exit_code == 3 and {s.scene_id for s in result.scenes if s.failures} == {"cut"}, killed
    assert tables(tmp_path / "out") == expected, killed
    log("Ray", seed, [f"{name} killed" for name, found in killed if found], result)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head, where the driver is and no task runs, and two workers; others may be added in threads."""
    import ray
    from ray.cluster_utils import Cluster

    # Only the main thread may do that, and it need not.
    monkeypatch.setattr("ray._private.utils.set_sigterm_handler", lambda _: None)
    started = Cluster(initialize_head=True, head_node_args=HEAD)
    for _ in range(2):
        started.add_node(**WORKER)
    ray.init(address=started.address, log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed % 8 == 5])
def test_ray_loses_nodes(seed, nodes, scenes, expected, rgb_bundle, tmp_path) -> None:
    """Nodes are lost at random moments, perhaps all that there are, and another joins late."""
    chance, over, faults = random.Random(seed), threading.Event(), []

    def change() -> None:
        what = chance.choice(["lose join", "lose join lose", "join lose lose", "lose lose join"])
        for each in what.split():
            if over.wait(chance.uniform(0.2, 4.0)):
                return
            workers = sorted(nodes.worker_nodes, key=lambda node: node.node_id)
            faults.append(f"{each} with {len(workers)} nodes")
            if each == "join":
                nodes.add_node(**WORKER)
            elif workers:
                nodes.remove_node(chance.choice(workers), allow_graceful=False)
        over.wait()  # a node ends with the thread that started it

    thread = threading.Thread(target=change)
    began = time.monotonic()
    # Not before there is something to lose; detectors take seconds to load.
    start = lambda event: thread.ident or (isinstance(event, DetectorsStarted) and thread.start())  # noqa: E731
    try:
        result = detect(scenes, rgb_bundle, tmp_path / "out", engine="ray", workers=2, on_event=start, **SETTINGS)
    finally:
        over.set()
        thread.join()
    happened.append("; ".join(faults))
    assert time.monotonic() - began < WATCHDOG
    found = tables(tmp_path / "out")
    assert result.exit_code == 3 and found.keys() == expected.keys(), faults
    lost = {f"{s.scene_id}.parquet" for s in result.scenes if s.failures}
    # Bit for bit the same, or the ground that was lost is listed.
    assert {name for name in found if found[name] != expected[name]} <= {n for n in found if Path(n).name in lost}, (
        faults
    )
    log("Ray", seed, faults, result)
