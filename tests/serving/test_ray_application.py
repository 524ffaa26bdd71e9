"""Whole services behind Ray Serve's own listener, as KubeRay's RayService deploys them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import geosod
from geosod.errors import ConfigError, ModelError
from tests.running.helpers import start_ray
from tests.serving.running import SETTINGS, Running, check_envelope, drawn
from tests.serving.test_infer import answered, rows

MANIFEST = Path(__file__).parents[2] / "cluster" / "kubernetes" / "service" / "rayservice" / "rayservice.yaml"
TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def with_ray(cluster: None) -> None:
    """Every test here uses the shared Ray."""


def application() -> dict[str, Any]:
    """The application in the manifest."""
    manifest = yaml.safe_load(MANIFEST.read_text())
    (found,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    return dict(found)


@pytest.fixture(scope="module")
def served(rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The manifest's application on this machine, with another model, and one replica."""
    from ray import serve
    from ray._common.utils import import_attr

    start_ray()
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    given = application()
    arguments = (
        given["args"] | {"model": str(rgb_bundle), "token_file": str(token), "max_body_mb": 1, "batch": 4} | SETTINGS
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0.5}}
    app = import_attr(given["import_path"])(arguments)
    app._bound_deployment = app._bound_deployment.options(**options)
    serve.run(app, name=given["name"], route_prefix=given["route_prefix"])
    yield Running(f"http://127.0.0.1:{port}", None, None)  # type: ignore[arg-type]
    serve.shutdown()


def test_the_answers_are_those_of_the_service(served: Running, rgb_bundle: Path) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    detector = geosod.load_model(rgb_bundle, batch=1, **SETTINGS)  # type: ignore[arg-type]
    assert answered(served.infer(drawn(), headers=right)) == rows(detector.detect(np.moveaxis(drawn(), 2, 0)))
    check_envelope(served.infer(drawn()), 401)
    check_envelope(served.post("/small-object-detection", data=b"{", headers=right), 400)
    check_envelope(served.infer("AAAA", headers=right), 422)
    check_envelope(served.post("/small-object-detection", data=b"x" * (2 << 20), headers=right), 413)
    check_envelope(served.get("/nothing", headers=right), 404)
    check_envelope(served.get("/jobs", headers=right), 403)
    assert served.get("/readyz").json() == {"status": "ok"}
    (model,) = served.get("/models", headers=right).json()["models"]
    assert model["classes"] == ["ship", "car"]


def test_requests_share_batches(served: Running, rgb_bundle: Path) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    detector = geosod.load_model(rgb_bundle, batch=1, **SETTINGS)  # type: ignore[arg-type]

    def measured() -> list[float]:
        lines = [line.rsplit(" ", 1) for line in served.get("/metrics", headers=right).text.splitlines()]
        return [
            float(value) for name, value in lines if name in ("geosod_batch_images_sum", "geosod_batch_images_count")
        ]

    before = measured()
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda seed: served.infer(drawn(seed=seed), headers=right), range(64)))
    for seed, answer in enumerate(answers):
        best = detector.detect(np.moveaxis(drawn(seed=seed), 2, 0)).scores.max()
        assert answered(answer)[0][2] == pytest.approx(float(best), abs=1e-4)
    count, images = sorted(after - start for after, start in zip(measured(), before, strict=True))
    assert images == 64 and count < 60, "no two requests shared a batch"


def test_arguments_that_are_wrong_are_refused() -> None:
    from geosod.serving.ray_serve.application import service

    for arguments, message in (
        ({"model": "demo-harbour"}, "token_file"),
        ({"model": "demo-harbour", "anonymous": True, "max_mpxx": 5}, "max_mpxx"),
        ({"anonymous": True}, "model"),
        ({"model": "demo-harbour", "anonymous": True, "batch": 0}, "batch"),
    ):
        with pytest.raises(ConfigError, match=message):
            service(arguments)


def unloadable(_: object) -> geosod.Detector:
    """Where a model should be."""
    raise ModelError("the weights of this model are lost; find them")


def test_a_model_that_cannot_be_loaded_is_reported_at_the_start(served: Running) -> None:
    from geosod.serving.options import ServeOptions
    from geosod.serving.service import Service

    for model, settings, message in (
        (f"{__name__}:unloadable", SETTINGS | {"trust": True}, "find them"),
        ("demo-harbour", SETTINGS | {"device": "cuda"}, "GPU"),
    ):
        with pytest.raises((ConfigError, ModelError), match=message):
            Service(ServeOptions(model=model, replicas=1, settings=settings))
    assert served.get("/readyz").status_code == 200, "the application beside it goes on"
