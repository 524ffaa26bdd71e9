"""`infer` and `detect`: images and GeoTIFFs in the body of a request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from geosod.serving.answers import (
    GEOJSON,
    PARQUET,
    SUCCESS,
    InferAnswer,
    InferRequest,
    documented_answers,
    json_body,
)
from geosod.serving.refused import RefusedError
from geosod.serving.requests import read_body, while_connected
from geosod.serving.scene_answers import media_type
from geosod.serving.service import Service

_BODY_ERRORS = (408, 413, 415, 422, 429, 504)
#: A grey PNG of 1 x 1 pixels.
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
_FOUND = {
    "logId": "5f0c5c2e-6d1a-4c3a-9a51-0f7e8a0c1f11",
    "errorCode": 0,
    "errorMsg": SUCCESS,
    "result": {
        "detectedObjects": [{"bbox": [10.5, 20.0, 31.25, 44.0], "categoryId": 1, "score": 0.87}],
        "image": "/9j/",
    },
}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "The content of a GeoTIFF.",
        "content": {
            "image/tiff": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_FEATURES: dict[str, Any] = {
    "schema": {
        "type": "object",
        "required": ["type", "features"],
        "properties": {"type": {"const": "FeatureCollection"}, "features": {"type": "array"}},
    },
    "example": {"type": "FeatureCollection", "features": []},
}
#: Not forms with a percent-encoded body: curl gives a file that name.
_NOT_RAW = ("multipart/", "application/json")


def image_routes(service: Service) -> APIRouter:
    """The operations on images."""
    router, limits = APIRouter(), service.options.limits

    @router.post(
        "/small-object-detection",
        operation_id="infer",
        summary="Detect objects in an image.",
        responses=documented_answers(
            {"model": InferAnswer, "content": {"application/json": {"example": _FOUND}}}, *_BODY_ERRORS
        ),
        openapi_extra=json_body(InferRequest, {"image": _PIXEL}),
    )
    async def infer(request: Request) -> Response:
        with service.budget.request() as share:
            body = await read_body(request, limits, share)
            work = service.worker.infer(body, share, request.scope["state"]["log_id"])
            answer = await while_connected(request, work, limits.seconds)
        return Response(answer, media_type="application/json")

    @router.post(
        "/detect",
        operation_id="detect",
        summary="Detect objects in a GeoTIFF; its body is the file.",
        responses=documented_answers(
            {
                "description": "The objects, as GeoJSON or GeoParquet.",
                "content": {GEOJSON: _FEATURES, PARQUET: {"schema": {"type": "string", "format": "binary"}}},
            },
            406,
            *_BODY_ERRORS,
        ),
        response_class=Response,
        openapi_extra=_UPLOAD,
    )
    async def detect(
        request: Request,
        threshold: Annotated[
            float | None, Query(ge=0, le=1, description="Minimum score. Default: the model's.")
        ] = None,
    ) -> Response:
        wanted = media_type(request.headers.get("accept", ""))
        given = request.headers.get("content-type", "").lower()
        if given.startswith(_NOT_RAW):
            raise RefusedError(
                415, f"a body of {given[:60]!r} is not read; send the file itself: curl --data-binary @scene.tif"
            )  # fmt: skip
        with service.budget.request() as share:
            body = await read_body(request, limits, share)
            work = service.worker.detect(body, threshold, wanted)
            answer = await while_connected(request, work, limits.seconds)
        return Response(answer, media_type=wanted)

    return router
