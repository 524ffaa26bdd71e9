"""Devices: what may be asked for, what is refused and when, and which device each detector gets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import torch

import geosod
from geosod.config import make_config
from geosod.detectors import devices
from geosod.detectors.devices import check_device, device_count, local_devices
from geosod.detectors.execution import batches_at_once, own_stream, resolve
from geosod.detectors.ways import Machine
from geosod.device import Device, detectors_per_device, kind_of, parse_device
from geosod.errors import ConfigError
from geosod.results import Execution
from geosod.running import local_engine, planning
from geosod.running.detect import make_job
from geosod.running.engines import check_engine, engine_of
from geosod.running.job import load_fitting
from geosod.running.ray_engine.claims import claims
from tests.rasters import noise, write_tif
from tests.running.helpers import RAY, detect, tables

NO_GPU = not torch.cuda.is_available()


@pytest.mark.parametrize(
    ("text", "kind", "indices", "names"),
    [
        ("auto", "auto", (), ("auto",)),
        (" CPU ", "cpu", (), ("cpu",)),
        ("cuda", "cuda", (), ("cuda",)),
        ("gpu:2", "cuda", (2,), ("cuda:2",)),
        ("cuda:0,2", "cuda", (0, 2), ("cuda:0", "cuda:2")),
        ("npu:1", "npu", (1,), ("npu:1",)),
        ("mps", "mps", (), ("mps",)),
    ],
)
def test_devices_as_written(text, kind, indices, names) -> None:
    device = parse_device(text)
    assert (device.kind, device.indices, device.names) == (kind, indices, names)
    assert parse_device(str(device)) == device and make_config(device=text).device == str(device)
    assert kind_of(names[-1]) == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpu", "must be one of auto, cpu, cuda"),
        ("cuda:", "must be one of"),
        ("cuda:-1", "must be one of"),
        ("cuda:1.5", "must be one of"),
        ("", "must be one of"),
        ("cpu:0", "cpu takes no number"),
        ("auto:1", "auto takes no number"),
        ("gpu:1,1", "names a device twice"),
    ],
)
def test_what_is_no_device(text, message) -> None:
    with pytest.raises(ConfigError, match=f"device = '{text}': {message}"):
        make_config(device=text)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        pytest.param(
            "cuda", "torch sees no CUDA GPU here; use --device cpu or auto", marks=pytest.mark.skipif("not NO_GPU")
        ),
        ("mps", "needs macOS on Apple silicon"),
        ("xpu:0", "means Intel GPUs.*Kunlunxin's chips, which PaddleX calls xpu, are not supported"),
        ("npu", "install Ascend's plug-in torch_npu"),
        ("mlu:1", "install Cambricon's plug-in torch_mlu"),
    ],
)
@pytest.mark.parametrize("engine", ["auto", "serial", "local", "ray"])
def test_a_device_that_is_not_there_is_refused_before_scenes_are_opened(
    device, message, engine, rgb_bundle, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(planning, "open_scene", lambda *_, **__: pytest.fail("a scene was opened"))
    scene = write_tif(tmp_path / "s.tif", noise(3, 64, 64))
    if ray.is_initialized():
        ray.shutdown()
    if (engine, device) == ("ray", "mps"):
        message = "device 'mps': Ray does not schedule such devices"
    if engine == "ray" and ":" in device:
        message = f"device '{device}': Ray chooses the devices of its detectors; use --device {kind_of(device)}"
    with pytest.raises(ConfigError, match=message):
        geosod.detect(scene, model=rgb_bundle, out=tmp_path / "out", device=device, engine=engine)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="asked for, but"):
        geosod.load_model(rgb_bundle, device=device)


def fake_npus(count: int) -> Any:
    return SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)


def test_plugins_are_imported_and_their_devices_counted(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch, "npu", fake_npus(2), raising=False)
    (tmp_path / "torch_npu.py").write_text("import builtins\nbuiltins.npu_was_imported = True\n")
    assert device_count("npu") == 2 and __builtins__["npu_was_imported"]  # type: ignore[index]
    check_device(Device("npu", (0, 1)))
    with pytest.raises(ConfigError, match="device 'npu:0,2' asked for, but torch has no npu:2, only npu:0 to npu:1"):
        check_device(Device("npu", (0, 2)))
    assert local_devices(Device("npu")) == ("npu:0", "npu:1")
    assert local_devices(Device("npu", (1,))) == ("npu:1",)
    monkeypatch.setattr(torch, "npu", fake_npus(1))
    assert local_devices(Device("npu")) == ("npu",)
    with pytest.raises(ConfigError, match=r"torch has no npu:1, only npu:0$"):
        check_device(Device("npu", (1,)))
    monkeypatch.delitem(sys.modules, "torch_npu")
    (tmp_path / "torch_npu.py").write_text("raise OSError('libhccl.so: cannot open shared object file')\n")
    with pytest.raises(ConfigError, match=r"torch_npu cannot be imported: libhccl\.so: cannot open"):
        check_device(Device("npu"))


def test_all_gpus_unless_some_are_named(monkeypatch) -> None:
    monkeypatch.setattr(devices, "device_count", lambda kind: {"cuda": 3, "cpu": 1}[kind])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert local_devices(parse_device("auto")) == local_devices(parse_device("gpu")) == ("cuda:0", "cuda:1", "cuda:2")
    assert local_devices(parse_device("cuda:2,0")) == ("cuda:2", "cuda:0")
    assert local_devices(parse_device("cpu")) == ("cpu",)


def test_detectors_on_a_device() -> None:
    shares = [None, 1, 0.6, 0.5, 0.34, 1 / 3, 0.333, 0.25, 0.1]
    assert [detectors_per_device(share) for share in shares] == [1, 1, 1, 2, 2, 3, 3, 4, 10]


def test_how_other_devices_run() -> None:
    server = Machine(cuda=True, cuda_bf16=True, cpu_bf16=True, amx=True, compiler=True)
    chosen = {d: resolve(server, tile=(512, 512), device=d)[0] for d in ("auto", "cuda:1", "gpu:2,3", "xpu", "cpu")}
    assert [e.device for e in chosen.values()] == ["cuda", "cuda:1", "cuda:2", "xpu", "cpu"]
    assert [e.precision for e in chosen.values()] == ["bf16", "bf16", "bf16", "fp32", "bf16"]
    assert [e.backend for e in chosen.values()] == ["eager"] * 5
    assert [e.batch for e in chosen.values()] == [32, 32, 32, 32, 4]
    assert resolve(server, tile=(512, 512), device="npu:1", precision="bf16")[0].precision == "bf16"
    assert batches_at_once("npu:1") == batches_at_once("cpu") == 1
    with own_stream("xpu:0"):
        pass


def test_detectors_of_the_local_engine_take_turns_on_the_devices(rgb_bundle, tmp_path, monkeypatch) -> None:
    """Two names of the one CPU there is, which torch takes for devices of their own."""
    loaded: list[str] = []

    def loading(job: Any, execution: Execution | None = None) -> Any:
        detector, line = load_fitting(job, execution)
        loaded.append(detector.execution.device)
        return detector, line

    monkeypatch.setattr(local_engine, "local_devices", lambda _: ("cpu", "cpu:0"))
    monkeypatch.setattr(local_engine, "load_fitting", loading)
    scene = write_tif(tmp_path / "s.tif", noise(3, 900, 900))
    detect(scene, rgb_bundle, tmp_path / "serial")
    detect(scene, rgb_bundle, tmp_path / "local", engine="local", device="auto", workers=3, unit=(1, 1))
    assert sorted(loaded) == ["cpu", "cpu", "cpu:0"]
    # Which of several equal devices found a box is not recorded.
    assert tables(tmp_path / "local") == tables(tmp_path / "serial")


def test_a_share_of_a_gpu_makes_several_detectors_on_each(rgb_bundle) -> None:
    count = local_engine._workers
    gpus = ("cuda:0", "cuda:1")
    assert count(make_job(rgb_bundle), gpus) == 2
    assert count(make_job(rgb_bundle, gpus_per_detector=0.25), gpus) == 8
    assert count(make_job(rgb_bundle, gpus_per_detector=0.25, workers=3), gpus) == 3
    with pytest.raises(ConfigError, match=r"gpus_per_detector = 0\.5: detectors run on the CPU"):
        make_job(rgb_bundle, gpus_per_detector=0.5, device="cpu")
    for wrong in (0, 1.5):
        with pytest.raises(ConfigError, match="gpus_per_detector"):
            make_config(gpus_per_detector=wrong)


def test_devices_do_not_change_the_digest_and_outputs_record_the_kind(rgb_bundle) -> None:
    jobs = [make_job(rgb_bundle, device=d) for d in ("auto", "cpu", "cuda:1", "npu")]
    assert len({job.config_digest for job in jobs}) == 1
    execution = Execution("cuda:1", "eager", "fp32", 4, 1)
    assert jobs[2].provenance(execution).execution == Execution("cuda", "eager", "fp32", 4, 1)


def test_single_gpus_are_none_of_rays_business(rgb_bundle, monkeypatch) -> None:
    from geosod.running import engines

    monkeypatch.setattr(engines, "_large", lambda: True)
    assert engine_of(make_job(rgb_bundle, device="cuda:1"), in_process=False) is local_engine.run
    assert engine_of(make_job(rgb_bundle, device="cuda"), in_process=False) is not local_engine.run


@pytest.fixture
def two_gpus() -> Iterator[None]:
    if ray.is_initialized():
        ray.shutdown()
    ray.init(**RAY | {"num_cpus": 2}, num_gpus=2, resources={"NPU": 1})
    yield
    ray.shutdown()


@ray.remote
class Claimant:
    """An actor that reports what Ray gave it."""

    def resources(self) -> tuple[dict[str, float], list[str]]:
        context = ray.get_runtime_context()
        return context.get_assigned_resources(), context.get_accelerator_ids()["GPU"]


@pytest.mark.parametrize("engine", ["ray"])
def test_ray_is_asked_for_shares_of_gpus(two_gpus, rgb_bundle, tmp_path, engine) -> None:
    def shape(**settings: Any) -> tuple[dict[str, Any], int, bool]:
        found = claims(make_job(rgb_bundle, **settings))
        return found.options, found.workers, found.on_gpu

    assert shape()[1:] == (2, True) and shape()[0]["num_gpus"] == 1
    options, workers, _ = shape(gpus_per_detector=0.5, device="cuda")
    assert workers == 4 and options["num_gpus"] == 0.5
    assert shape(gpus_per_detector=0.25, workers=3)[1] == 3
    assert shape(device="cpu")[2] is False
    assert shape(device="npu")[0]["resources"] == {"NPU": 1.0}
    remote: Any = Claimant
    actors = [remote.options(**options).remote() for _ in range(workers)]
    given = ray.get([actor.resources.remote() for actor in actors], timeout=120)
    assert all(claim["GPU"] == 0.5 for claim, _ in given)
    assert sorted(ids for _, ids in given) == [["0"], ["0"], ["1"], ["1"]]
    # Exactly as many fit.
    more = remote.options(**options).remote()
    assert not ray.wait([more.resources.remote()], timeout=2)[0]
    for actor in (*actors, more):
        ray.kill(actor)
    for settings, message in [
        ({"workers": 3}, "3 detectors need a GPU each, but Ray has 2"),
        ({"workers": 5, "gpus_per_detector": 0.5}, r"5 detectors need 0\.5 of a GPU each, but Ray has 2"),
        ({"device": "npu", "workers": 2}, "2 detectors need a NPU each, but Ray has 1"),
        ({"device": "mlu"}, "device 'mlu': Ray does not schedule such devices; use --engine local"),
    ]:
        with pytest.raises(ConfigError, match=message):
            shape(**settings)
        with pytest.raises(ConfigError, match=message):
            check_engine(make_job(rgb_bundle, **({"device": "cuda", "engine": engine} | settings)), in_process=False)
    with pytest.raises(ConfigError, match="device 'cuda:1': Ray chooses"):
        check_engine(make_job(rgb_bundle, device="gpu:1", engine=engine), in_process=False)
    # What this machine lacks others of a cluster may have.
    check_engine(make_job(rgb_bundle, device="cuda", engine=engine), in_process=False)
    _detects_as_the_serial_engine(rgb_bundle, tmp_path)


def _detects_as_the_serial_engine(bundle: Path, folder: Path) -> None:
    scene = write_tif(folder / "s.tif", noise(3, 400, 400))
    detect(scene, bundle, folder / "serial")
    shared = {"engine": "ray", "device": "auto", "workers": 2, "gpus_per_detector": 0.5}
    assert detect(scene, bundle, folder / "ray", **shared).exit_code == 0
    assert tables(folder / "ray") == tables(folder / "serial")
    table = pq.read_table(next((folder / "ray/detections").rglob("*.parquet")))
    assert json.loads(table.schema.metadata[b"geosod"])["execution"]["device"] in ("cpu", "cuda")
