"""Strict validation of Kubernetes manifests: unknown fields fail, which a cluster would drop without a word."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes.client.models as models
import pytest
import yaml

from tests.conftest import SHARED

KUBERNETES = Path(__file__).parents[2] / "cluster" / "kubernetes"
CRDS = SHARED / "schemas" / "kuberay-1.7.0"
#: Kinds of Kubernetes itself → the client's model of them.
CORE = {
    "CronJob": "V1CronJob", "Namespace": "V1Namespace", "ServiceAccount": "V1ServiceAccount",
    "NetworkPolicy": "V1NetworkPolicy",
}  # fmt: skip


def validate(manifest: dict[str, Any]) -> None:
    """pydantic's or jsonschema's ValidationError where a manifest is not what its kind's schema says."""
    kind = manifest["kind"]
    if kind in CORE:
        getattr(models, CORE[kind]).model_validate(manifest, by_alias=True, by_name=False)
        return
    schema = _ray_schema(kind.lower(), manifest["apiVersion"].rpartition("/")[2])
    jsonschema.Draft202012Validator(schema).validate(manifest)


def whole_service(path: Path) -> dict[str, Any]:
    """A RayService from a file, with the base's cluster, which kustomize puts into it."""
    manifest: dict[str, Any] = yaml.safe_load(path.read_text())
    cluster = yaml.safe_load((KUBERNETES / "base" / "raycluster.yaml").read_text())
    return manifest | {"spec": manifest["spec"] | {"rayClusterConfig": cluster["spec"]}}


def built(folder: Path) -> list[dict[str, Any]]:
    """The manifests that kustomize makes of a folder; the test is skipped where kustomize is not installed."""
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    if shutil.which(command[0]) is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@lru_cache
def _ray_schema(kind: str, version: str) -> dict[str, Any]:
    if not CRDS.is_dir():
        pytest.skip("KubeRay's schemas are not beside the project")
    definition = yaml.safe_load((CRDS / f"ray.io_{kind}s.yaml").read_text())
    (found,) = [v for v in definition["spec"]["versions"] if v["name"] == version]
    schema = closed(found["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def closed(schema: Any) -> Any:
    """A schema in which objects have no other fields than those that are named."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not free:
        found["additionalProperties"] = False
    return found
