"""The policies: AWS's by the actions that AWS has, and that none allows more than it needs."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.test_ray_up import check_resource, google, load

IAM = Path(__file__).parents[2] / "cluster" / "iam"
AWS = sorted(IAM.glob("aws-*.json"))
#: Actions of AWS that have no resource, or whose callers do not know it beforehand.
ANY_RESOURCE = ("ec2:Describe", "ecr:GetAuthorizationToken", "iam:GetInstanceProfile")
_FIELDS = {"Sid", "Effect", "Action", "Resource", "Condition"}


def known_actions() -> dict[str, set[str]]:
    """Service → its actions in lower case, from cfn-lint's copy of what AWS publishes."""
    text = (files("cfnlint") / "data" / "AdditionalSpecs" / "Policies.json").read_text()
    return {service: set(found["Actions"]) for service, found in json.loads(text).items()}


def check_policy(policy: dict[str, Any]) -> None:
    """ValueError where a policy has an unknown field or action, or allows too much."""
    if set(policy) != {"Version", "Statement"} or policy["Version"] != "2012-10-17":
        raise ValueError(f"a policy with {sorted(policy)}")
    known = known_actions()
    for statement in policy["Statement"]:
        if unknown := set(statement) - _FIELDS:
            raise ValueError(f"unknown {unknown}")
        actions, resources = (as_list(statement[name]) for name in ("Action", "Resource"))
        for action in actions:
            service, _, name = action.partition(":")
            if name.lower() not in known.get(service, ()):
                raise ValueError(f"{action}: no action of AWS")
            if "*" in resources and not action.startswith(ANY_RESOURCE):
                raise ValueError(f"{action}: on any resource")


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.mark.parametrize("path", AWS, ids=lambda p: p.stem)
def test_policies_of_aws(path: Path) -> None:
    check_policy(json.loads(path.read_text()))


def test_what_is_wrong_with_a_policy_is_found() -> None:
    right = json.loads((IAM / "aws-worker.json").read_text())
    for change in (
        {"Action": "s3:GetObjekt"},
        {"Action": "s3:*"},
        {"Resource": "*"},
        {"Actions": ["s3:GetObject"]},
    ):
        wrong = copy.deepcopy(right)
        wrong["Statement"][1] |= change
        with pytest.raises(ValueError):
            check_policy(wrong)


def test_only_what_the_cluster_started_can_be_ended() -> None:
    name = load("aws")["cluster_name"]
    for policy in ("aws-head", "aws-launcher"):
        for statement in json.loads((IAM / f"{policy}.json").read_text())["Statement"]:
            if "ec2:TerminateInstances" in statement["Action"]:
                assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": name}}
            if "iam:PassRole" in statement["Action"]:
                assert all(":role/geosod-" in resource for resource in as_list(statement["Resource"]))


@pytest.mark.parametrize("path", sorted(IAM.glob("gcp-*.yaml")), ids=lambda p: p.stem)
def test_roles_of_gcp(path: Path) -> None:
    role = yaml.safe_load(path.read_text())
    check_resource(role, google("iam", "v1"), "Role")
    assert all(p.count(".") == 2 and "*" not in p and "setIamPolicy" not in p for p in role["includedPermissions"])


def test_machines_have_these_roles_and_no_others() -> None:
    roles = {kind: node["node_config"]["IamInstanceProfile"]["Name"]
             for kind, node in load("aws")["available_node_types"].items()}  # fmt: skip
    assert roles == {"head": "geosod-head", "reader": "geosod-worker", "detector": "geosod-worker"}
    for node in load("gcp")["available_node_types"].values():
        assert node["node_config"]["serviceAccounts"][0]["email"].startswith("geosod-")
