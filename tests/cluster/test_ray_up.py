"""The files for `ray up`: by Ray's own schema, and what they hand to a cloud by that cloud's own descriptions."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.exceptions import ParamValidationError
from botocore.validate import validate_parameters
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster"
CLOUDS = ("aws", "gcp")
#: What Ray itself adds to a node's configuration when it starts one.
_ADDED = {"MinCount": 1, "MaxCount": 1}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def check(config: dict[str, Any]) -> None:
    """As `ray up` checks a file, and what Ray does not look into: `node_config`."""
    validate_config(prepare_config(copy.deepcopy(config)))
    for kind in config.get("available_node_types", {}).values():
        if config["provider"]["type"] == "aws":
            ec2 = botocore.session.get_session().get_service_model("ec2")
            validate_parameters(kind["node_config"] | _ADDED, ec2.operation_model("RunInstances").input_shape)
        else:
            check_resource(kind["node_config"], google("compute", "v1"), "Instance")


def google(api: str, version: str) -> dict[str, Any]:
    """The description of a Google API, which its client brings with it."""
    documents = files("googleapiclient") / "discovery_cache" / "documents"
    return json.loads((documents / f"{api}.{version}.json").read_text())


def check_resource(value: Any, api: dict[str, Any], kind: str) -> None:
    schemas = {name: strict(schema) for name, schema in api["schemas"].items()}
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schemas}).validate(value)


def strict(schema: Any) -> Any:
    """Google's schemas are those of JSON Schema, but for references, and keywords of their own."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    found = {k: strict(v) for k, v in schema.items() if k in ("type", "properties", "items", "additionalProperties")}
    if "enum" in schema:
        found["enum"] = schema["enum"]
    if found.get("type") == "any":
        del found["type"]
    if "properties" in found:
        found["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.parametrize("name", [*CLOUDS, "on-premises"])
def test_files_are_valid(name: str) -> None:
    check(load(name))


@pytest.mark.parametrize(
    ("name", "path", "right", "wrong"),
    [
        ("aws", (), "max_workers", "max_worker"),
        ("aws", ("provider", "security_group"), "GroupName", "Groupname"),
        ("aws", ("available_node_types", "reader"), "min_workers", "min_worker"),
        ("aws", ("available_node_types", "detector", "node_config"), "InstanceMarketOptions", "InstanceMarketOption"),
        ("gcp", (), "idle_timeout_minutes", "idle_timeout_minute"),
        ("gcp", ("available_node_types", "detector", "node_config"), "scheduling", "schedule"),
        ("gcp", ("available_node_types", "detector", "node_config", "scheduling"), "provisioningModel", "provisioning"),
        ("on-premises", ("docker",), "run_options", "run_option"),
    ],
)
def test_a_typo_is_found(name: str, path: tuple[str, ...], right: str, wrong: str) -> None:
    config = load(name)
    place = config
    for key in path:
        place = place[key]
    place[wrong] = place.pop(right)
    with pytest.raises((jsonschema.ValidationError, ParamValidationError), match=wrong):
        check(config)


def test_spot_is_spelled_as_the_cloud_spells_it() -> None:
    config = load("gcp")
    config["available_node_types"]["detector"]["node_config"]["scheduling"]["provisioningModel"] = "spot"
    with pytest.raises(jsonschema.ValidationError, match="'spot' is not one of"):
        check(config)


@pytest.mark.parametrize("name", CLOUDS)
def test_a_head_without_work_and_workers_that_come_and_go(name: str) -> None:
    kinds = load(name)["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0} and "GPU" not in kinds["reader"]["resources"]
    assert kinds["detector"]["resources"]["GPU"] == 1
    assert [kinds[k]["min_workers"] for k in ("reader", "detector")] == [0, 0]


@pytest.mark.parametrize("name", [*CLOUDS, "on-premises"])
def test_the_token_is_asked_for_on_every_node(name: str) -> None:
    config = load(name)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/geosod/.ray/auth_token": "~/.ray/auth_token"}
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
