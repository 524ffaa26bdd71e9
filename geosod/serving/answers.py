"""Answers: the envelope of every error, and the schemas and examples of the OpenAPI document."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from geosod.serving.refused import MEANINGS

SUCCESS = "Success"
GEOJSON, PARQUET = "application/geo+json", "application/vnd.apache.parquet"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorAnswer(_Answer):
    """Every answer with a status of 400 or more."""

    logId: str = Field(description="UUID of the request, which the log of the service names.")  # noqa: N815
    errorCode: int = Field(description="The HTTP status.")  # noqa: N815
    errorMsg: str = Field(description="What was wrong, and how to fix it.")  # noqa: N815


class DetectedObject(_Answer):
    """One object."""

    bbox: list[float] = Field(min_length=4, max_length=4, description="x0, y0, x1, y1 in pixels of the image.")
    categoryId: int = Field(ge=0, description="Class, an index into `classes` of the model.")  # noqa: N815
    score: float = Field(ge=0, le=1)


class InferResult(_Answer):
    """What was found in an image."""

    detectedObjects: list[DetectedObject] = Field(description="Highest score first.")  # noqa: N815
    image: str = Field(description="The image with its boxes: a JPEG, in base64.")


class InferAnswer(_Answer):
    """The answer of `infer`."""

    logId: str  # noqa: N815
    errorCode: Literal[0]  # noqa: N815
    errorMsg: Literal["Success"]  # noqa: N815
    result: InferResult


class InferRequest(_Answer):
    """The body of `infer`; it is read as JSON whatever the header says."""

    image: str = Field(min_length=1, description="Base64 of a GeoTIFF, JPEG or PNG, or its URL on an allowed host.")


class ServedModelAnswer(_Answer):
    """A model of the service."""

    name: str
    digest: str = Field(description="sha256 of card and weights.")
    classes: list[str]
    bands: list[str]
    dtype: str
    gsd: float | None = Field(description="Metres a pixel it was trained at.")
    tile: list[int] = Field(description="Width and height of a tile in pixels.")
    threshold: float
    execution: str = Field(description="How it runs here.")


class ModelsAnswer(_Answer):
    """The models of the service."""

    models: list[ServedModelAnswer]


class HealthAnswer(_Answer):
    """That the service lives, or is ready."""

    status: Literal["ok"]


class JobSettings(_Answer):
    """Settings of a job; each is as for `geosod detect`."""

    threshold: float | dict[str, float] | None = None
    classes: list[str] | None = Field(None, min_length=1)
    bands: list[str] | None = Field(None, min_length=1)
    tile: int | None = None
    overlap: float | None = Field(None, ge=0)
    datetime: str | None = None


class JobRequest(_Answer):
    """The body of `submitJob`."""

    scenes: list[str] = Field(min_length=1, description="Paths in an allowed folder, or URLs on an allowed host.")
    settings: JobSettings = Field(default_factory=lambda: JobSettings.model_validate({}))


class JobFailure(_Answer):
    """Something of a job that failed."""

    scene: str
    stage: str
    message: str


class JobAnswer(_Answer):
    """A job and how far it is."""

    jobId: str  # noqa: N815
    status: Literal["queued", "running", "done", "partial", "failed", "cancelled"]
    created: str
    scenes: int
    scenesDone: int  # noqa: N815
    progress: float = Field(ge=0, le=1, description="Of the scenes and tiles.")
    detections: int
    failures: list[JobFailure]
    message: str = Field(description="Why it failed; empty where it did not.")
    links: dict[str, str] = Field(description="`self`, and the result files by name.")


class JobsAnswer(_Answer):
    """All jobs, newest first."""

    jobs: list[JobAnswer]


def new_log_id() -> str:
    """The UUID of a request."""
    return str(uuid.uuid4())


def error_bytes(log_id: str, status: int, message: str) -> bytes:
    """The envelope of an error."""
    return as_json({"logId": log_id, "errorCode": status, "errorMsg": message})


def as_json(value: Any) -> bytes:
    """JSON in ASCII, so that no text of a client can fail to be encoded; NaN is refused."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as the body of an answer."""
    return Response(as_json(value), status, headers=dict(headers or {}), media_type="application/json")


def error_answer(log_id: str, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The envelope of an error as an answer."""
    return Response(error_bytes(log_id, status, message), status, dict(headers or {}), "application/json")


def documented_answers(success: dict[str, Any], *statuses: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The answers of an operation for the OpenAPI document.

    Args:
        success: that with `status`.
        statuses: of errors, besides those that any operation may have.
        status: of success.
    """
    documented: dict[int | str, dict[str, Any]] = {status: success}
    for code in sorted({*statuses, 400, 401, 403, 500, 503}):
        example = {"logId": "5f0c5c2e-6d1a-4c3a-9a51-0f7e8a0c1f11", "errorCode": code, "errorMsg": MEANINGS[code]}
        documented[code] = {
            "model": ErrorAnswer,
            "description": MEANINGS[code],
            "content": {"application/json": {"example": example}},
        }
        if code == 429:
            documented[code]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
            }
    return documented


def json_body(model: type[BaseModel], example: Any) -> dict[str, Any]:
    """The request body of an operation that reads it itself, for the OpenAPI document."""
    schema = model.model_json_schema(ref_template=f"#/components/schemas/{model.__name__}" + "/$defs/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
