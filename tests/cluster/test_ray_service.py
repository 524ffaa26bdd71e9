"""The RayService: its manifest and the configuration of Ray Serve in it, strictly validated, and what it serves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from geosod.errors import ConfigError
from geosod.serving.ray_serve.application import service
from tests.cluster.kube import KUBERNETES, built, closed, validate, whole_service

MANIFEST = KUBERNETES / "service" / "rayservice" / "rayservice.yaml"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").glob("*-service"))


def configuration() -> dict[str, Any]:
    """What Ray Serve is to deploy."""
    return dict(yaml.safe_load(yaml.safe_load(MANIFEST.read_text())["spec"]["serveConfigV2"]))


def check(found: dict[str, Any]) -> None:
    """jsonschema's ValidationError where Ray Serve would drop a field without a word."""
    jsonschema.Draft202012Validator(closed(ServeDeploySchema.model_json_schema())).validate(found)
    ServeDeploySchema.model_validate(found)
    for application in found["applications"]:
        for deployment in application["deployments"]:
            # The schema lets any mapping through here.
            unknown = deployment["autoscaling_config"].keys() - AutoscalingConfig.model_fields.keys()
            assert not unknown, unknown


def test_a_typo_in_the_manifest_is_found() -> None:
    right = whole_service(MANIFEST)
    validate(right)
    for name, typo in (("serveConfigV2", "serveConfigV3"), ("excludeHeadPodFromServeSvc", "excludeHeadPodFromServe")):
        wrong = copy.deepcopy(right)
        wrong["spec"][typo] = wrong["spec"].pop(name)
        with pytest.raises(jsonschema.ValidationError, match=typo):
            validate(wrong)


def test_a_typo_in_the_configuration_of_ray_serve_is_found() -> None:
    check(configuration())
    wrong = configuration()
    wrong["applications"][0]["deployments"][0]["autoscaling_config"]["max_replica"] = 5
    with pytest.raises(AssertionError, match="max_replica"):
        check(wrong)
    for path, name, typo in (
        ((), "http_options", "http_option"),
        (("http_options",), "port", "ports"),
        (("applications", 0), "import_path", "import_paths"),
        (("applications", 0, "deployments", 0), "ray_actor_options", "actor_options"),
        (("applications", 0, "deployments", 0, "ray_actor_options"), "num_gpus", "gpus"),
    ):
        wrong = configuration()
        place: Any = wrong
        for key in path:
            place = place[key]
        place[typo] = place.pop(name)
        with pytest.raises(jsonschema.ValidationError):
            check(wrong)


def test_its_application_is_that_of_geosod() -> None:
    (given,) = configuration()["applications"]
    module, _, name = given["import_path"].partition(":")
    assert (module, name) == (service.__module__, service.__name__)
    service(given["args"])
    with pytest.raises(ConfigError, match="modell"):
        service(given["args"] | {"modell": "x"})
    (deployment,) = given["deployments"]
    assert deployment["name"] in {one.name for one in [service(given["args"])._bound_deployment]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_its_cluster_is_that_of_its_overlay_with_the_port_and_the_token(overlay: str) -> None:
    assert len(OVERLAYS) == 3
    (found,) = [m for m in built(KUBERNETES / "overlays" / overlay) if m["kind"] == "RayService"]
    (plain,) = [
        m for m in built(KUBERNETES / "overlays" / overlay.removesuffix("-service")) if m["kind"] == "RayCluster"
    ]
    cluster, expected = found["spec"]["rayClusterConfig"], plain["spec"]
    port = configuration()["http_options"]["port"]
    detectors = expected["workerGroupSpecs"][1]["template"]["spec"]
    for pod in (expected["headGroupSpec"]["template"]["spec"], detectors):
        pod["containers"][0]["ports"].append({"name": "serve", "containerPort": port})
    detectors["volumes"].append({"name": "token", "secret": {"secretName": "geosod-service"}})
    detectors["containers"][0]["volumeMounts"].append({"name": "token", "mountPath": "/etc/geosod", "readOnly": True})
    assert cluster == expected
    assert cluster["authOptions"] == {"mode": "token"}
    (given,) = configuration()["applications"]
    assert Path(given["args"]["token_file"]).parent == Path("/etc/geosod"), "a replica reads the token that is mounted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_replica_fits_a_machine_and_only_clients_reach_it(overlay: str) -> None:
    manifests = built(KUBERNETES / "overlays" / overlay)
    (found,) = [m for m in manifests if m["kind"] == "RayService"]
    readers, detectors = found["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    limits = detectors["template"]["spec"]["containers"][0]["resources"]["limits"]
    (deployment,) = configuration()["applications"][0]["deployments"]
    claimed, scaling = deployment["ray_actor_options"], deployment["autoscaling_config"]
    assert claimed["num_gpus"] == int(limits["nvidia.com/gpu"]) and claimed["num_cpus"] <= int(limits["cpu"])
    assert 1 <= scaling["min_replicas"] <= scaling["max_replicas"] <= detectors["maxReplicas"]
    policies = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"}
    (rule,) = policies["geosod-service"]["ingress"]
    assert rule["ports"] == [{"port": configuration()["http_options"]["port"], "protocol": "TCP"}]
    assert found["spec"]["excludeHeadPodFromServeSvc"] and readers["minReplicas"] == 0
