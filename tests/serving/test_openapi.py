"""The OpenAPI document: what it says is what the service does, whatever requests are made from it."""

from __future__ import annotations

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from geosod.serving.answers import InferAnswer
from tests.serving.running import Running, drawn

OPERATIONS = {
    "infer", "detect", "listModels", "health", "ready", "metrics", "submitJob", "listJobs", "getJob", "removeJob",
    "getJobFile",
}  # fmt: skip
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance, unsupported_method,
]  # fmt: skip


@pytest.fixture
def schema(served: Running) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def test_operations_and_their_statuses(served: Running) -> None:
    document = served.get("/openapi.json").json()
    found = {one["operationId"]: one for path in document["paths"].values() for one in path.values()}
    assert found.keys() == OPERATIONS
    infer = document["paths"]["/small-object-detection"]["post"]
    assert infer["operationId"] == "infer"
    assert {"200", "400", "401", "413", "415", "422", "429", "500", "503"} <= infer["responses"].keys()
    assert infer["requestBody"]["content"]["application/json"]["schema"]["required"] == ["image"]
    assert "Retry-After" in infer["responses"]["429"]["headers"]


def test_examples_are_valid(served: Running) -> None:
    document = served.get("/openapi.json").json()
    content = document["paths"]["/small-object-detection"]["post"]["requestBody"]["content"]["application/json"]
    jsonschema.validate(content["example"], content["schema"])
    assert served.post("/small-object-detection", json=content["example"]).status_code == 200
    InferAnswer.model_validate(served.infer(drawn()).json())
    answer = document["paths"]["/small-object-detection"]["post"]["responses"]["200"]["content"]["application/json"]
    InferAnswer.model_validate(answer["example"])


@pytest.mark.parametrize("operation_id", sorted(OPERATIONS))
def test_generated_requests_get_documented_answers(schema: schemathesis.BaseSchema, operation_id: str) -> None:
    operation = schema.find_operation_by_id(operation_id)

    @given(case=operation.as_strategy())
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=30)

    check()
