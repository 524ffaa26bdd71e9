"""The Kubernetes manifests, strictly validated, and what their readers rely on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.kube import CORE, KUBERNETES, built, validate, whole_service

RAY_KINDS = ("RayCluster", "RayCronJob", "RayJob", "RayService")
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())


def manifests(*, core: bool) -> list[Path]:
    """The files that hold manifests, of kinds of Kubernetes itself or of KubeRay."""
    found = [path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"]
    return [path for path in sorted(found) if (yaml.safe_load(path.read_text())["kind"] in CORE) == core]


def cluster_of(overlay: str) -> dict[str, Any]:
    """The spec of an overlay's RayCluster, its own or that of its RayJob or RayService."""
    (found,) = [m for m in built(KUBERNETES / "overlays" / overlay) if m["kind"] in RAY_KINDS]
    spec = found["spec"].get("jobTemplate") or found["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("path", [*manifests(core=True), *manifests(core=False)], ids=lambda p: p.name)
def test_manifests_are_valid(path: Path) -> None:
    validate(whole_service(path) if path.name == "rayservice.yaml" else yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_valid(overlay: str) -> None:
    found = built(KUBERNETES / "overlays" / overlay)
    for manifest in found:
        validate(manifest)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "geosod"
    kinds = [m["kind"] for m in found if m["kind"] in RAY_KINDS]
    ending = overlay.rpartition("-")[2]
    assert kinds == [{"ingest": "RayCronJob", "job": "RayJob", "service": "RayService"}.get(ending, "RayCluster")]


def test_a_typo_in_a_ray_cluster_is_found() -> None:
    right = yaml.safe_load((KUBERNETES / "base" / "raycluster.yaml").read_text())
    validate(right)
    for path, name, typo in (
        (("spec",), "enableInTreeAutoscaling", "enableInTreeAutoScaling"),
        (("spec", "workerGroupSpecs", 0), "maxReplicas", "maxReplica"),
        (("spec", "workerGroupSpecs", 1, "template", "spec"), "tolerations", "toleration"),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0), "volumeMounts", "volumeMount"),
    ):
        wrong = copy.deepcopy(right)
        place: Any = wrong
        for key in path:
            place = place[key]
        place[typo] = place.pop(name)
        with pytest.raises(jsonschema.ValidationError, match=typo):
            validate(wrong)


def test_a_typo_in_a_kind_of_kubernetes_is_found() -> None:
    wrong = yaml.safe_load((KUBERNETES / "base" / "networkpolicy.yaml").read_text())
    wrong["spec"]["ingres"] = wrong["spec"].pop("ingress")
    with pytest.raises(ValueError, match=r"spec\.ingres\n  Extra inputs"):
        validate(wrong)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined_and_of_one_image(overlay: str) -> None:
    spec = cluster_of(overlay)
    assert spec["authOptions"] == {"mode": "token"}, "whoever reaches the head could run code"
    images = set()
    for pod in pods(spec):
        (container,) = pod["containers"]
        context = container["securityContext"]
        images.add(container["image"])
        assert pod["securityContext"]["runAsUser"] == 1000 and context["runAsNonRoot"]
        assert not context["allowPrivilegeEscalation"] and context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    assert len(images) == 1 and "/" in images.pop()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_head_without_work_and_workers_that_come_and_go(overlay: str) -> None:
    spec = cluster_of(overlay)
    readers, detectors = spec["workerGroupSpecs"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0" and spec["enableInTreeAutoscaling"]
    assert [g["minReplicas"] for g in (readers, detectors)] == [0, 0]
    assert [_gpus(g) for g in (spec["headGroupSpec"], readers, detectors)] == [0, 0, 1]


def _gpus(group: dict[str, Any]) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name.endswith("-job")])
def test_a_job_has_the_cluster_of_its_overlay(overlay: str) -> None:
    (job,) = [m for m in built(KUBERNETES / "overlays" / overlay) if m["kind"] == "RayJob"]
    spec = job["spec"]
    assert spec["rayClusterSpec"] == cluster_of(overlay.removesuffix("-job"))
    assert spec["entrypoint"].startswith("python -m pipelines.detect --config s3://")
    (submitter,) = spec["submitterPodTemplate"]["spec"]["containers"]
    assert submitter["image"] == pods(spec["rayClusterSpec"])[0]["containers"][0]["image"]


def test_ingestion_is_scheduled_on_the_cluster_of_its_overlay() -> None:
    (cron,) = [m for m in built(KUBERNETES / "overlays" / "on-premises-ingest") if m["kind"] == "RayCronJob"]
    spec = cron["spec"]["jobTemplate"]
    assert len(cron["spec"]["schedule"].split()) == 5 and spec["shutdownAfterJobFinishes"]
    assert spec["entrypoint"] == "python -m pipelines.ingest --config /etc/geosod/ingest.yaml --once"
    head = pods(spec["rayClusterSpec"])[0]
    assert {"name": "ingest", "mountPath": "/etc/geosod", "readOnly": True} in head["containers"][0]["volumeMounts"]
    assert {"name": "ingest", "configMap": {"name": "geosod-ingest"}} in head["volumes"]
    for pod in pods(spec["rayClusterSpec"])[:2]:
        (password,) = pod["containers"][0]["env"]
        assert password["valueFrom"] == {"secretKeyRef": {"name": "geosod-ledger", "key": "password"}}
    (submitter,) = spec["submitterPodTemplate"]["spec"]["containers"]
    assert submitter["image"] == head["containers"][0]["image"]


def test_ingestion_in_one_pod_is_never_started_twice() -> None:
    """Kubernetes' CronJob forbids it. KubeRay's has no such field, so that one job may overlap the next."""
    (cron,) = built(KUBERNETES / "ingest-cronjob")
    validate(cron)
    assert cron["spec"]["concurrencyPolicy"] == "Forbid" and cron["metadata"]["namespace"] == "geosod"
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["geosod", "ingest", "run", "--config", "/etc/geosod/ingest.yaml", "--once"]
    assert "/" in container["image"] and container["securityContext"]["runAsNonRoot"]
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    wrong = copy.deepcopy(cron)
    wrong["spec"]["concurencyPolicy"] = wrong["spec"].pop("concurrencyPolicy")
    with pytest.raises(ValueError, match="concurencyPolicy"):
        validate(wrong)
    other = yaml.safe_load((KUBERNETES / "ingest" / "raycronjob" / "raycronjob.yaml").read_text())
    other["spec"]["concurrencyPolicy"] = "Forbid"
    with pytest.raises(jsonschema.ValidationError, match="concurrencyPolicy"):
        validate(other)


def test_no_secret_is_in_a_file() -> None:
    for path in KUBERNETES.rglob("*.yaml"):
        text = path.read_text()
        assert "kind: Secret\n" not in text and "secretGenerator" not in text, path
    for pod in pods(cluster_of("on-premises")):
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "geosod-object-store"}}]
